package receive

import (
	"context"
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/k8sm/k8sm/api/logs"
	"github.com/k8sm/k8sm/contrib/logs/store"
)

// reader makes what is stored of a batch.
type reader struct {
	server  *Server
	ctx     context.Context // of the request
	node    *node
	entries []store.Entry
	receipt logs.Receipt

	places  map[string]Place // by the pod's UID and names
	last    *origin          // of the last entry
	told    map[logs.FileID]bool
	dropped map[logs.Source]*dropped
	lines   map[string]int // by namespace
	bytes   map[string]int
}

// dropped are entries of a file that are more than their namespace may write.
type dropped struct {
	at     int64
	lost   logs.Lost
	ranges []logs.Range
}

func (s *Server) newReader(ctx context.Context, node *node) *reader {
	return &reader{
		server: s, ctx: ctx, node: node, places: map[string]Place{}, told: map[logs.FileID]bool{}, dropped: map[logs.Source]*dropped{},
		lines: map[string]int{}, bytes: map[string]int{},
	}
}

// place returns what is known of an entry's pod.
func (b *reader) place(s logs.Source) Place {
	if s.IsComponent() {
		return b.node.component(s.Container)
	}
	key := s.UID + "\x00" + s.Namespace + "\x00" + s.Pod
	p, known := b.places[key]
	if !known {
		p = b.server.places.Place(b.ctx, b.node.name, s.Namespace, s.Pod, s.UID)
		b.places[key] = p
	}
	return p
}

// origin returns that of a source.
func (b *reader) origin(s logs.Source) *origin {
	if b.last == nil || b.last.source != s {
		b.last = newOrigin(b.node.name, s, b.place(s))
	}
	return b.last
}

// component returns what becomes of a component's entries. A node has other components than the control plane.
func (n *node) component(name string) Place {
	if n.own || slices.Contains(logs.NodeComponents(), name) {
		return Place{}
	}
	return Place{Verdict: Refused, Why: fmt.Sprintf("nodes have no component %q", name)}
}

// add takes an entry.
func (b *reader) add(s logs.Source, e *logs.Entry) error {
	if len(e.Message) > maxMessage {
		return fmt.Errorf("a message has %d bytes, of which at most %d are allowed", len(e.Message), maxMessage)
	}
	from := b.origin(s)
	if from.place.Verdict != Taken {
		b.refuse(s.FileID, from.place)
		return nil
	}
	if e.Lost == nil && !s.IsComponent() && !b.server.limit.allow(s.Namespace) {
		b.drop(s, e)
		return nil
	}
	b.lines[s.Namespace]++
	b.bytes[s.Namespace] += len(e.Message)
	b.entries = append(b.entries, from.convert(e))
	return nil
}

// refuse tells once of a file that its entries are not taken.
func (b *reader) refuse(file logs.FileID, place Place) {
	if b.told[file] {
		return
	}
	b.told[file] = true
	if place.Verdict == Deferred {
		b.receipt.Deferred = append(b.receipt.Deferred, file)
		return
	}
	b.receipt.Refused = append(b.receipt.Refused, logs.Refusal{FileID: file, Why: place.Why})
}

// drop drops an entry, and remembers that.
func (b *reader) drop(s logs.Source, e *logs.Entry) {
	d := b.dropped[s]
	if d == nil {
		d = &dropped{at: e.Time, lost: logs.Lost{Why: b.server.limit.reason(s.Namespace)}}
		b.dropped[s] = d
	}
	d.lost.Lines++
	for r := range e.Covers {
		d.ranges = append(d.ranges, r)
		d.lost.Bytes += r.End - r.Begin
	}
}

// end adds an entry for each file of which entries were dropped.
func (b *reader) end() {
	for s, d := range b.dropped {
		ranges := merge(d.ranges)
		e := logs.Entry{Time: d.at, Offset: ranges[0].Begin, End: ranges[len(ranges)-1].End, Holes: gaps(ranges), Lost: &d.lost}
		b.entries = append(b.entries, b.origin(s).convert(&e))
	}
}

// count counts a batch that was taken.
func (b *reader) count() {
	c := &b.server.counts
	for namespace, n := range b.lines {
		c.lines.WithLabelValues(namespace).Add(float64(n))
		c.bytes.WithLabelValues(namespace).Add(float64(b.bytes[namespace]))
	}
	for s, d := range b.dropped {
		c.dropped.WithLabelValues(s.Namespace).Add(float64(d.lost.Lines))
	}
	c.refusedSources.Add(float64(len(b.receipt.Refused)))
}

func newCounts() counts {
	byNamespace := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"namespace"})
	}
	return counts{
		lines:   byNamespace("k8sm_logs_received_lines_total", "Lines of containers that the log store has taken."),
		bytes:   byNamespace("k8sm_logs_received_bytes_total", "Bytes of those lines."),
		dropped: byNamespace("k8sm_logs_dropped_lines_total", "Lines that were more than --logs-namespace-rate allows."),
		refusedRequests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "k8sm_logs_failed_requests_total", Help: "Requests of minions that were not answered with 200.",
		}, []string{"code"}),
		refusedSources: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "k8sm_logs_refused_files_total", Help: "Log files that a minion sent and that are of no pod on its node.",
		}),
	}
}

func (c *counts) all() []prometheus.Collector {
	return []prometheus.Collector{c.lines, c.bytes, c.dropped, c.refusedRequests, c.refusedSources}
}
