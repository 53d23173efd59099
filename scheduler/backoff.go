package scheduler

import "time"

// backoff spaces out attempts that keep failing.
type backoff struct {
	failures int
	until    time.Time
}

func (b *backoff) fail(now time.Time) {
	b.until = now.Add(min(time.Second<<min(b.failures, 10), time.Minute))
	b.failures++
}
