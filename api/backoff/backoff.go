// Package backoff makes the pauses between attempts at the same thing. There is one rule for all of them: a time doubles from a
// first to a longest one, and a pause is a random part of it, from half to all, so that those who lost the same thing at once do not
// come back at once.
//
// The arithmetic is wait.Backoff of k8s.io/apimachinery, which client-go's retries use. It is a plain value: it has no clock and no
// goroutine, so the caller keeps its own select, and a copy of the first value begins anew. Queues of objects that fail have
// client-go's workqueue instead, which keeps a time for each object.
//
// It must never import anything else of k8sm.
package backoff

import (
	"math"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// Pauses are the pauses to come; their Step is the next one.
type Pauses = wait.Backoff

// Between returns pauses whose times double from first to longest. One goroutine may use them. A longest below first counts as first.
func Between(first, longest time.Duration) Pauses {
	// wait.Backoff adds its jitter to the time, also at the cap: half of a time and as much again at the most is all of it.
	return Pauses{Duration: first / 2, Factor: 2, Jitter: 1, Steps: math.MaxInt, Cap: max(first, longest) / 2}
}
