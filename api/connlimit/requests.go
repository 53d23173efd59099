package connlimit

import (
	"errors"
	"io"
	"net/http"
	"time"
)

// Requests lifts the server's ReadTimeout from each request that has come whole, so that it bounds slow requests only: otherwise it
// would end answers that take longer, too. A handler that leaves the body alone keeps the timeout, because net/http reads the rest.
func Requests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := &request{ReadCloser: r.Body, control: http.NewResponseController(w)}
		if r.ContentLength == 0 {
			body.complete()
		}
		r.Body = body
		next.ServeHTTP(w, r)
	})
}

// request is a body that notices its end.
type request struct {
	io.ReadCloser
	control *http.ResponseController
}

// Read implements io.Reader.
func (r *request) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	if errors.Is(err, io.EOF) {
		r.complete()
	}
	return n, err
}

func (r *request) complete() {
	_ = r.control.SetReadDeadline(time.Time{}) // it fails for a client that has gone
}
