package receive

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// burst is how many seconds' lines a namespace may write at once.
const burst = 60

// limiter bounds how many lines each namespace writes.
type limiter struct {
	rate int

	mu      sync.Mutex // guards buckets
	buckets map[string]*rate.Limiter
}

func newLimiter(lines int) *limiter {
	return &limiter{rate: lines, buckets: map[string]*rate.Limiter{}}
}

// allow takes a line of a namespace.
func (l *limiter) allow(namespace string) bool {
	if l.rate <= 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[namespace]
	if b == nil {
		b = rate.NewLimiter(rate.Limit(l.rate), burst*l.rate)
		l.buckets[namespace] = b
	}
	return b.AllowN(time.Now(), 1)
}

// reason is what is stored in the place of lines that were dropped.
func (l *limiter) reason(namespace string) string {
	return fmt.Sprintf("namespace %s writes more than %d lines a second (--logs-namespace-rate)", namespace, l.rate)
}
