package scheduler

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	breakerFirst  = 10 * time.Second // how long nothing is tried after a first failure
	breakerBrief  = time.Second      // and after one that is mostly over in a moment
	breakerLast   = 10 * time.Minute // and at most after many
	breakerForget = 10 * time.Minute // a failure counts for nothing when nobody has tried for so long
)

// breaker keeps tasks off an agent after they have failed there, as a circuit breaker does: it is open, so that nothing is
// tried, ever longer; then one task is tried, and when that goes well it is closed.
type breaker struct {
	failures int
	since    time.Time // the last one
	until    time.Time // when the next task may be tried
	open     bool      // that is still to come
	trial    types.UID // the pod that is being tried, or the task if it has no pod; "" for none
	why      string    // the last failure
}

// fail counts the failure of a task that was launched at the given time. Of tasks that fail together one counts.
func (b *breaker) fail(now, launched time.Time, first time.Duration, why string) bool {
	b.why = why
	if b.failures > 0 && !launched.After(b.since) {
		return false
	}
	b.until = now.Add(min(first<<min(b.failures, 10), breakerLast))
	b.failures++
	b.since, b.open, b.trial = now, true, ""
	return true
}

// takes tells whether a task may be tried now.
func (b *breaker) takes() bool { return b.failures == 0 || !b.open && b.trial == "" }

// try notes who is being tried.
func (b *breaker) try(who types.UID) {
	if b.failures > 0 {
		b.trial = who
	}
}

// end notes that who was tried has gone without a result; it returns whether that changes anything.
func (b *breaker) end(who types.UID) bool {
	if b.trial != who || who == "" {
		return false
	}
	b.trial = ""
	return true
}

// due ends the time in which nothing is tried when it is over; it returns whether that is now.
func (b *breaker) due(now time.Time) bool {
	if !b.open || now.Before(b.until) {
		return false
	}
	b.open = false
	return true
}

// String tells how it stands; "" if nothing has failed.
func (b *breaker) String() string {
	switch {
	case b.failures == 0:
		return ""
	case b.open:
		return fmt.Sprintf("%s; tried again at %s (failure %d)", b.why, b.until.UTC().Format(time.RFC3339), b.failures)
	case b.trial != "":
		return fmt.Sprintf("%s; one pod is being tried (failure %d)", b.why, b.failures)
	}
	return fmt.Sprintf("%s; the next pod is a try (failure %d)", b.why, b.failures)
}
