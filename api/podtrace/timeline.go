package podtrace

import (
	"cmp"
	"slices"
	"time"
)

// What is not recorded, but follows from what is: the rows that fill the time between spans.
const (
	Retry   = "wait before the next attempt"
	Begins  = "begin to watch the node's pods"                // the minion, which may have to start the kubelet first
	Prepare = "volumes, cgroups"                              // the kubelet, before it calls the runtime
	Between = "images, configuration, end of init containers" // between its calls
	Report  = "report the status"
	Probe   = "wait until the containers are ready"
	Unknown = "not known: no spans of this pod"
)

// Row is a line of a timeline. Its times count from the timeline's beginning.
type Row struct {
	Who    string        `json:"who"`
	What   string        `json:"what"`
	Begin  time.Duration `json:"beginNs"`
	End    time.Duration `json:"endNs"`
	Depth  int           `json:"depth,omitempty"`  // of a row within another one
	Open   bool          `json:"open,omitempty"`   // it goes on: End is now
	Failed bool          `json:"failed,omitempty"` // it ended in vain
}

// Moment says that the row has no duration.
func (r Row) Moment() bool { return r.Begin == r.End && !r.Open }

// Timeline is how a pod came to run.
type Timeline struct {
	Begin   time.Time     `json:"begin"` // of what is known
	Running time.Duration `json:"runningNs,omitempty"`
	Ready   time.Duration `json:"readyNs,omitempty"`
	Rows    []Row         `json:"rows"`
	// Skew is how far the clock of the node is behind that of the scheduler, at least. The rows are in the scheduler's time.
	Skew time.Duration `json:"skewNs,omitempty"`
	// Missing is how many spans were not kept.
	Missing int `json:"missing,omitempty"`
}

// Join makes a timeline of what the scheduler and the pod's minion have of one pod. Either may be nil, not both. The rows of depth 0
// cover all the time until the pod runs, or until now.
func Join(scheduler, node *Trace, now time.Time) Timeline {
	var t Timeline
	var spans []Span
	if scheduler != nil {
		spans = slices.Clone(scheduler.Spans)
		t.Missing += scheduler.Missing
	}
	if node != nil {
		t.Skew = skew(spans, node.Spans)
		for _, s := range node.Spans {
			spans = append(spans, s.later(t.Skew))
		}
		t.Missing += node.Missing
	}
	if len(spans) == 0 {
		return t
	}
	slices.SortStableFunc(spans, func(a, b Span) int {
		return cmp.Or(a.Begin.Compare(b.Begin), -a.ended(now).Compare(b.ended(now)))
	})
	t.Begin = spans[0].Begin
	t.addSpans(spans, now)
	t.fill(known{scheduler != nil, node != nil}, now)
	return t
}

// ended returns when a span ended; now if it goes on.
func (s Span) ended(now time.Time) time.Time {
	if s.End.IsZero() {
		return now
	}
	return s.End
}

func (s Span) later(by time.Duration) Span {
	s.Begin = s.Begin.Add(by)
	if !s.End.IsZero() {
		s.End = s.End.Add(by)
	}
	return s
}

// skew returns how far the node's clock is behind: the executor takes a task while it is being launched.
func skew(scheduler, node []Span) time.Duration {
	took := slices.IndexFunc(node, func(s Span) bool { return s.What == Take })
	if took < 0 {
		return 0
	}
	at := node[took].Begin
	for _, s := range scheduler {
		switch {
		case s.What != Launch || s.Failed || s.End.IsZero():
		case at.Before(s.Begin):
			return s.Begin.Sub(at)
		case at.After(s.End):
			return s.End.Sub(at)
		default:
			return 0
		}
	}
	return 0
}

// addSpans adds a row for each span, and notes when the pod ran.
func (t *Timeline) addSpans(spans []Span, now time.Time) {
	var within []time.Time // the ends of the spans around the next one
	for _, s := range spans {
		end := s.ended(now)
		row := Row{Who: s.Who, What: s.What, Begin: s.Begin.Sub(t.Begin), End: end.Sub(t.Begin), Open: s.End.IsZero(), Failed: s.Failed}
		for len(within) > 0 && end.After(within[len(within)-1]) {
			within = within[:len(within)-1]
		}
		if !row.Moment() {
			row.Depth = len(within)
			within = append(within, end)
			if s.What == Ahead && row.Depth == 0 { // nobody waits for it
				row.Depth, within = 1, append(within, end)
			}
		}
		t.Rows = append(t.Rows, row)
		switch {
		case s.What == Running && (t.Running == 0 || s.Who == APIServer):
			t.Running = row.Begin
		case s.What == Ready:
			t.Ready = row.Begin
		}
	}
}

// known says whose spans there are.
type known struct{ scheduler, node bool }

// fill adds rows for the time in which no span says who works for the pod.
func (t *Timeline) fill(of known, now time.Time) {
	finish := cmp.Or(t.Running, now.Sub(t.Begin))
	var holes []Row
	fill := func(from, to time.Duration, open bool) {
		for _, hole := range t.name(from, to, finish, of) {
			hole.Open = open && hole.End == to
			if hole.Begin < hole.End {
				holes = append(holes, hole)
			}
		}
	}
	covered := time.Duration(0)
	for _, r := range t.Rows {
		if r.Depth > 0 || r.Moment() || r.Begin >= finish {
			continue
		}
		fill(covered, r.Begin, false)
		covered = max(covered, r.End)
	}
	fill(covered, finish, t.Running == 0)
	if t.Running > 0 && t.Ready > t.Running {
		holes = append(holes, Row{Who: Kubelet, What: Probe, Begin: t.Running, End: t.Ready})
	}
	t.Rows = append(t.Rows, holes...)
	slices.SortStableFunc(t.Rows, func(a, b Row) int { return cmp.Compare(a.Begin, b.Begin) })
}

// name says who works for the pod between two times, at most three rows.
func (t *Timeline) name(from, to, finish time.Duration, of known) []Row {
	binds, bound, first, last := finish, finish, finish, time.Duration(0)
	for _, r := range t.Rows {
		switch {
		case r.What == Bound:
			bound = r.Begin
		case r.What == Bind && !of.node:
			binds, bound = r.End, r.End
		case r.What == Bind:
			binds = r.End
		case r.Who == Runtime && r.Depth == 0 && r.Begin < finish:
			first, last = min(first, r.Begin), max(last, r.End)
		}
	}
	before := Row{Who: Scheduler, What: Retry, Begin: from, End: min(to, max(from, min(binds, bound)))}
	if !of.scheduler {
		before.What = Unknown
	}
	unseen := Row{Who: Minion, What: Begins, Begin: before.End, End: min(to, max(before.End, bound))}
	after := Row{Who: Kubelet, What: Between, Begin: unseen.End, End: to}
	switch {
	case !of.node:
		after.What = Unknown
	case to <= first:
		after.What = Prepare
	case from >= last:
		after.What = Report
	}
	return []Row{before, unseen, after}
}
