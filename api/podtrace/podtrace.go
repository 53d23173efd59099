// Package podtrace has the spans of pods' starts: who did what for a pod, and when. Each part of a cluster that works for pods keeps
// those of its latest pods in a Book, and serves them; Join makes one timeline of what the scheduler and the pod's minion tell.
//
// A span has times and names, and nothing else of a pod: who may read the pod may read its spans.
//
// Start reading at Book, then at Join. The package has no clock that decides anything, and does no I/O.
package podtrace

import (
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
)

// Who did something for a pod.
const (
	Scheduler = "scheduler"
	Mesos     = "Mesos"
	Executor  = "executor"
	Minion    = "minion"
	Kubelet   = "kubelet"
	Runtime   = "runtime" // the CRI server
	Engine    = "Docker Engine"
	Network   = "network"
	APIServer = "API server" // whose watch shows the node a moment
)

// What the scheduler and Mesos do for a pod, in this order.
const (
	Place  = "find an agent and an offer"
	Offer  = "offer resources"
	Launch = "launch the task"
	Take   = "take the task"
	Bind   = "bind the pod"
)

// What the runtime does for a pod, besides its calls.
const (
	Ahead = "make the sandbox ahead" // while others make the pod wait
	Turn  = "wait for other starts"
)

// Moments of a pod, as the watch of its node shows them.
const (
	Bound   = "pod is bound"
	Running = "pod runs"
	Ready   = "pod is ready"
)

// maxSpans bounds the spans of a pod: one that keeps crashing goes on making them.
const maxSpans = 64

// Pod says whose span it is.
type Pod struct {
	api.PodKey
	UID types.UID
}

// Span is what somebody did for a pod. A moment begins and ends at the same time.
type Span struct {
	Who   string    `json:"who"`
	What  string    `json:"what"`
	Begin time.Time `json:"begin"`
	End   time.Time `json:"end,omitzero"` // zero while it goes on
	// Failed says that it ended in vain. Why is in the pod's events.
	Failed bool `json:"failed,omitempty"`
}

// Trace is what a Book has of one pod.
type Trace struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid"`
	Node      string    `json:"node,omitempty"` // as far as the Book's owner knows
	Spans     []Span    `json:"spans"`          // in the order in which they began
	// Missing is how many spans came after those that are kept.
	Missing int `json:"missing,omitempty"`
}

// Book keeps the spans of the pods that came last. Its methods may be called concurrently. A nil Book keeps nothing.
type Book struct {
	limit int

	mu     sync.Mutex // guards the fields below, and what pages has
	pages  map[types.UID]*Trace
	oldest []types.UID // of pages
}

// NewBook returns a Book for so many pods.
func NewBook(pods int) *Book { return &Book{limit: pods, pages: map[types.UID]*Trace{}} }

// Open begins a page for a pod, unless it has one. Then the Book has the spans of that pod; those of a pod without a page are dropped.
func (b *Book) Open(pod Pod) {
	if b == nil || pod.UID == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pages[pod.UID] != nil {
		return
	}
	for len(b.oldest) >= b.limit {
		delete(b.pages, b.oldest[0])
		b.oldest = b.oldest[1:]
	}
	b.pages[pod.UID] = &Trace{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}
	b.oldest = append(b.oldest, pod.UID)
}

// Runs notes the node of a pod.
func (b *Book) Runs(pod types.UID, node string) {
	b.on(pod, func(t *Trace) { t.Node = node })
}

// Add adds a span.
func (b *Book) Add(pod types.UID, span Span) {
	b.on(pod, func(t *Trace) { t.add(span) })
}

// Moment adds a moment, unless the pod had such a one before.
func (b *Book) Moment(pod types.UID, who, what string, at time.Time) {
	b.on(pod, func(t *Trace) {
		if !slices.ContainsFunc(t.Spans, func(s Span) bool { return s.Who == who && s.What == what }) {
			t.add(Span{Who: who, What: what, Begin: at, End: at})
		}
	})
}

// Start adds a span that goes on, unless such a one does already. End ends it.
func (b *Book) Start(pod types.UID, who, what string, at time.Time) {
	b.on(pod, func(t *Trace) {
		if t.open(what) == nil {
			t.add(Span{Who: who, What: what, Begin: at})
		}
	})
}

// End ends what Start has begun. It does nothing if that has ended.
func (b *Book) End(pod types.UID, what string, at time.Time, failed bool) {
	b.on(pod, func(t *Trace) {
		if s := t.open(what); s != nil {
			s.End, s.Failed = at, failed
		}
	})
}

// open returns the span that goes on; nil if none does.
func (t *Trace) open(what string) *Span {
	for i := range t.Spans {
		if t.Spans[i].What == what && t.Spans[i].End.IsZero() {
			return &t.Spans[i]
		}
	}
	return nil
}

// Begin adds a span that goes on until the caller calls end, with what came of it.
func (b *Book) Begin(pod types.UID, who, what string) (end func(error)) {
	end = func(error) {}
	b.on(pod, func(t *Trace) {
		if !t.add(Span{Who: who, What: what, Begin: time.Now()}) {
			return
		}
		at := len(t.Spans) - 1
		end = func(err error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			t.Spans[at].End, t.Spans[at].Failed = time.Now(), err != nil
		}
	})
	return end
}

// on calls do with the pod's page, if it has one.
func (b *Book) on(pod types.UID, do func(*Trace)) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.pages[pod]; t != nil {
		do(t)
	}
}

// add reports whether there was room for the span.
func (t *Trace) add(span Span) bool {
	if len(t.Spans) >= maxSpans {
		t.Missing++
		return false
	}
	t.Spans = append(t.Spans, span)
	return true
}

// Of returns what the Book has of the pods that have or had this name, the latest first.
func (b *Book) Of(name api.PodKey) []Trace {
	traces := []Trace{}
	if b == nil {
		return traces
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, uid := range slices.Backward(b.oldest) {
		t := b.pages[uid]
		if t.Namespace != name.Namespace || t.Name != name.Name {
			continue
		}
		found := *t
		found.Spans = append([]Span{}, t.Spans...)
		slices.SortStableFunc(found.Spans, func(a, b Span) int { return a.Begin.Compare(b.Begin) })
		traces = append(traces, found)
	}
	return traces
}
