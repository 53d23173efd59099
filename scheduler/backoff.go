package scheduler

import "time"

// backoff spaces out failing attempts: 1 s, 2 s, 4 s and so on, at most a minute.
type backoff struct {
	failures int
	until    time.Time
}

// fail counts a failure and sets until.
func (b *backoff) fail(now time.Time) {
	b.until = now.Add(min(time.Second<<min(b.failures, 10), time.Minute))
	b.failures++
}
