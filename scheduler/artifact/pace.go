package artifact

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/api/resource"
)

const (
	// maxConnections bounds the downloads at once, and maxPerClient those of one address. A fetcher has one connection.
	maxConnections = 1024
	maxPerClient   = 64
	// requestTimeout bounds the time in which a client sends its request.
	requestTimeout = 10 * time.Second
	// patience is how long a client may take nothing, and slowest how many bytes a second it must take on average beyond that. At
	// that pace the archive takes two hours: a fetcher would long have given up.
	patience = 30 * time.Second
	slowest  = 8 << 10
	// chunk is how much is sent at once.
	chunk = 32 << 10
)

// parseRate returns a limiter for all downloads together, nil for no limit.
func parseRate(text string) (*rate.Limiter, error) {
	if text == "" {
		return nil, nil
	}
	quantity, err := resource.ParseQuantity(text)
	if err != nil || quantity.Value() <= 0 {
		return nil, fmt.Errorf("cannot use --artifact-rate=%s: give bytes per second, such as 50M", text)
	}
	return rate.NewLimiter(rate.Limit(quantity.Value()), chunk), nil
}

// paced sends a response. It breaks the connection of a client that takes it too slowly, so that such clients cannot take all
// connections for ever. Waiting for the limit of all downloads does not count against the client.
type paced struct {
	http.ResponseWriter
	ctx   context.Context
	limit *rate.Limiter // nil for none

	sent  int64
	spent time.Duration // in which the client took that
}

// Write implements io.Writer.
func (p *paced) Write(b []byte) (written int, err error) {
	for len(b) > 0 && err == nil {
		var n int
		n, err = p.send(b[:min(len(b), chunk)])
		written, b = written+n, b[n:]
	}
	return written, err
}

func (p *paced) send(b []byte) (n int, err error) {
	if p.limit != nil {
		if err := p.limit.WaitN(p.ctx, len(b)); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	left := patience + time.Duration(p.sent)*time.Second/slowest - p.spent
	if err := http.NewResponseController(p.ResponseWriter).SetWriteDeadline(began.Add(left)); err != nil {
		return 0, err
	}
	n, err = p.ResponseWriter.Write(b)
	p.sent, p.spent = p.sent+int64(n), p.spent+time.Since(began)
	return n, err
}
