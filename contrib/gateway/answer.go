package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api/v1beta1"
)

// answerTimeout is how long a client may take to read a whole answer.
const answerTimeout = time.Minute

// answer is a whole answer, which has JSON.
type answer struct {
	code int
	body []byte
}

// write sends the answer. A client that takes too long is cut off.
func (a answer) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	send(w, a.code, a.body)
}

func send(w http.ResponseWriter, code int, body []byte) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout)) // without one the server's own deadline holds
	w.WriteHeader(code)
	_, _ = w.Write(body) // a client that has gone wants no answer
}

// text answers in plain text.
func text(w http.ResponseWriter, code int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	send(w, code, []byte(body))
}

// notFound is the answer to what is no resource and no method of one.
func notFound(w http.ResponseWriter, r *http.Request) {
	text(w, http.StatusNotFound, fmt.Sprintf("Not Found: %q", r.RequestURI))
}

// answerOf encodes an object, or a Status with its code.
func answerOf(o v1beta1.Object) (answer, error) {
	body, err := json.Marshal(o)
	if err != nil {
		return answer{}, fmt.Errorf("cannot encode the answer: %w", err)
	}
	if s, ok := o.(*v1beta1.Status); ok && s.Code != 0 {
		return answer{s.Code, body}, nil
	}
	return answer{http.StatusOK, body}, nil
}

func answerObject(w http.ResponseWriter, o v1beta1.Object) error {
	a, err := answerOf(o)
	if err == nil {
		a.write(w)
	}
	return err
}

// answerError answers what failed.
func answerError(w http.ResponseWriter, version string, s *v1beta1.Status) {
	s.APIVersion = version
	if s.Code == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
		w.Header().Set("Connection", "close") // net/http would wait for the rest of the body
	}
	if s.Code == http.StatusTooManyRequests || s.Code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	if answerObject(w, s) != nil {
		text(w, http.StatusInternalServerError, s.Message) // a Status can be encoded: this is for a mistake here
	}
}

// badRequest is the answer to what cannot be read.
func badRequest(format string, args ...any) error {
	return v1beta1.NewStatus(http.StatusBadRequest, metav1.StatusReasonBadRequest, format, args...)
}

// busy is the answer when too much is under way.
func busy(format string, args ...any) error {
	return v1beta1.NewStatus(http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests, format, args...)
}

// statusOf is the answer to an error: of this package, of api/v1beta1, of the API server, or of the way there. The object is the one
// that the call was about.
func statusOf(err error, r v1beta1.Resource, id string) *v1beta1.Status {
	var own *v1beta1.Status
	if errors.As(err, &own) {
		return own
	}
	var theirs apierrors.APIStatus
	switch {
	case errors.Is(err, errNotThere):
		return v1beta1.NotFound(r.Singular, id)
	case errors.Is(err, errUnwritable):
		return v1beta1.NewStatus(http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "%s cannot be written like this: use the Kubernetes API", r.Name)
	case errors.As(err, &theirs):
		status := theirs.Status()
		return v1beta1.FromV1Status(&status, r, id)
	case errors.Is(err, context.DeadlineExceeded):
		return v1beta1.NewStatus(http.StatusGatewayTimeout, metav1.StatusReasonTimeout, "the cluster did not answer in time; what was asked for may still be done")
	}
	return v1beta1.NewStatus(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "cannot reach the cluster's API server: %v", err)
}

// patient is a writer to a client that takes what it is sent in its own time. One that does not take a piece within sendTimeout is cut
// off.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
}

func patiently(w http.ResponseWriter) *patient {
	return &patient{ResponseWriter: w, control: http.NewResponseController(w)}
}

// Write implements http.ResponseWriter.
func (p *patient) Write(data []byte) (n int, err error) {
	const piece = 32 << 10
	for len(data) > 0 {
		if err := p.control.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
			return n, err
		}
		done, err := p.ResponseWriter.Write(data[:min(piece, len(data))])
		n, data = n+done, data[done:]
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// flush sends what has been written.
func (p *patient) flush() error {
	if err := p.control.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	return p.control.Flush()
}

// Unwrap is for http.ResponseController.
func (p *patient) Unwrap() http.ResponseWriter { return p.ResponseWriter }
