package scheduler

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	breakerFirst  = 10 * time.Second // the pause after a first failure
	breakerBrief  = time.Second      // the pause after one that is usually over in a moment
	breakerLast   = 10 * time.Minute // the longest pause
	breakerForget = 10 * time.Minute // a rejection is forgotten if nothing was tried for this long after its pause
)

// breaker is a circuit breaker that keeps tasks off an agent after some failed there. While open, nothing is tried; each failure
// doubles that pause. Then one task is tried, and if it succeeds the breaker closes.
type breaker struct {
	failures int
	since    time.Time // the last failure
	until    time.Time // when the next task may be tried
	open     bool      // the pause is not over
	trial    types.UID // the pod being tried, or the task if it has no pod; "" for none
	why      string    // the last failure
}

// fail counts the failure of a task that was launched at the given time, and reports whether it counts: tasks that fail together
// count once.
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

// takes reports whether a task may be launched now.
func (b *breaker) takes() bool { return b.failures == 0 || !b.open && b.trial == "" }

// try notes the trial if there was a failure.
func (b *breaker) try(who types.UID) {
	if b.failures > 0 {
		b.trial = who
	}
}

// end ends the trial without a result, and reports whether who was the trial.
func (b *breaker) end(who types.UID) bool {
	if b.trial != who || who == "" {
		return false
	}
	b.trial = ""
	return true
}

// due ends the pause if it is over, and reports whether it did.
func (b *breaker) due(now time.Time) bool {
	if !b.open || now.Before(b.until) {
		return false
	}
	b.open = false
	return true
}

// String describes the last failure and the next try; "" if nothing has failed.
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
