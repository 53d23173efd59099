package localmesos

import (
	"container/heap"
	"net/http"
	"time"

	"github.com/k8sm/k8sm/contrib/localmesos/wire"
)

// event is an input of a state machine.
type event any

// action is an output of a state machine. The actions common to master and agent are here; masterNode and agentNode perform
// their own.
type action any

type (
	// send puts an API event into a stream.
	send struct {
		stream string
		event  wire.Message
		kind   string
	}
	// hangUp ends a stream after sending its queue.
	hangUp struct{ stream string }
	// answer is the HTTP answer to the call that was this step's event.
	answer struct {
		status int
		text   string
	}
	// note is a log line for operators.
	note struct {
		text   string
		fields map[string]any
	}
)

// tick has no meaning but its time.
type tick struct{}

// streamClosed: the other side has closed a stream.
type streamClosed struct{ stream string }

var accepted = answer{status: http.StatusAccepted}

func refused(text string) answer { return answer{status: http.StatusBadRequest, text: text} }

// timers holds events that a state machine sends to itself later. A timer is never cancelled; its handler checks whether it still
// applies.
type timers struct{ queue timerQueue }

type timer struct {
	at    time.Time
	event event
}

func (t *timers) add(at time.Time, e event) { heap.Push(&t.queue, timer{at, e}) }

// next returns when the first timer is due; zero without timers.
func (t *timers) next() time.Time {
	if len(t.queue) == 0 {
		return time.Time{}
	}
	return t.queue[0].at
}

// due removes and returns the events that are due.
func (t *timers) due(now time.Time) []event {
	var out []event
	for len(t.queue) > 0 && !t.queue[0].at.After(now) {
		out = append(out, heap.Pop(&t.queue).(timer).event)
	}
	return out
}

// timerQueue implements heap.Interface.
type timerQueue []timer

func (q timerQueue) Len() int           { return len(q) }
func (q timerQueue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q timerQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *timerQueue) Push(x any)        { *q = append(*q, x.(timer)) }
func (q *timerQueue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}
