package read

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/k8sm/k8sm/contrib/logs/receive"
	"github.com/k8sm/k8sm/contrib/logs/store"
)

// queries runs queries of a tenant, in what a request may read.
type queries func(ctx context.Context, query string, each func(store.Block) error) error

// writer is a container of a pod, or a component of a node.
type writer struct{ node, namespace, pod, uid, container, component string }

// chunk is a part of a file: entries that begin in a range of bytes.
type chunk struct {
	restart, number int64
	file            string
	begin, end      int64     // of offsets
	first, last     time.Time // of all entries
	count           int       // of entries
	reached         int64     // offset of the last entry
}

// chunks are the chunks of a writer, in the order in which they were written.
type chunks map[writer][]chunk

// Bounds of a chunk's size, in bytes of a file. All writers together have up to budget in memory.
const (
	budget   = 32 << 20
	maxChunk = 4 << 20
	minChunk = 16 << 10
)

// list finds the chunks of what a filter selects.
func list(ctx context.Context, q queries, filter string, size int64) (chunks, error) {
	query := fmt.Sprintf("%s | stats by (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s:%d) min(_time) as first, max(_time) as last, max(%s) as reached, count() as count", filter,
		receive.FieldNode, receive.FieldNamespace, receive.FieldPod, receive.FieldUID, receive.FieldContainer, receive.FieldComponent,
		receive.FieldRestart, receive.FieldNumber, receive.FieldFile, receive.FieldOffset, size, receive.FieldOffset)
	found := chunks{}
	err := q(ctx, query, func(b store.Block) error {
		r := newRow(b)
		for r.i = range b.Len() {
			w := writer{
				node: r.text(receive.FieldNode), namespace: r.text(receive.FieldNamespace), pod: r.text(receive.FieldPod), uid: r.text(receive.FieldUID),
				container: r.text(receive.FieldContainer), component: r.text(receive.FieldComponent),
			}
			c := chunk{
				restart: r.number(receive.FieldRestart), number: r.number(receive.FieldNumber), file: r.text(receive.FieldFile),
				begin: r.number(receive.FieldOffset), first: r.time("first"), last: r.time("last"), count: int(r.number("count")), reached: r.number("reached"),
			}
			c.end = c.begin + size
			if r.err != nil {
				return r.err
			}
			found[w] = append(found[w], c)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, all := range found {
		slices.SortFunc(all, func(a, b chunk) int {
			return cmp.Or(cmp.Compare(a.restart, b.restart), cmp.Compare(a.number, b.number), cmp.Compare(a.begin, b.begin))
		})
	}
	return found, nil
}

// count returns how many writers a filter selects.
func count(ctx context.Context, q queries, filter string) (n int64, err error) {
	query := filter + fmt.Sprintf(" | stats count_uniq(%s, %s, %s, %s) as n", receive.FieldNode, receive.FieldUID, receive.FieldContainer, receive.FieldComponent)
	err = q(ctx, query, func(b store.Block) error {
		r := newRow(b)
		for r.i = range b.Len() {
			n = r.number("n")
		}
		return r.err
	})
	return n, err
}

// sizeFor returns the size of chunks for so many writers.
func sizeFor(writers int64) int64 {
	return min(max(budget/max(writers, 1), minChunk), maxChunk)
}

// last returns the last chunks, which have at least n entries together.
func last(all []chunk, n int) []chunk {
	have := 0
	for i := len(all) - 1; i >= 0; i-- {
		if have += all[i].count; have >= n {
			return all[i:]
		}
	}
	return all
}

// beforeLast returns the chunks of the run before the last one.
func beforeLast(all []chunk) []chunk {
	if len(all) == 0 {
		return nil
	}
	end := slices.IndexFunc(all, func(c chunk) bool { return c.restart == all[len(all)-1].restart })
	if end == 0 {
		return nil
	}
	begin := slices.IndexFunc(all, func(c chunk) bool { return c.restart == all[end-1].restart })
	return all[begin:end]
}

// Line is a line, or a part of a long one.
type Line struct {
	Time      time.Time `json:"time"`
	Namespace string    `json:"namespace,omitempty"`
	Pod       string    `json:"pod,omitempty"`
	UID       string    `json:"uid,omitempty"`
	Container string    `json:"container,omitempty"`
	Component string    `json:"component,omitempty"`
	Node      string    `json:"node,omitempty"`
	Stream    string    `json:"stream,omitempty"`
	Restart   int64     `json:"restart,omitempty"`
	// Message is the text. If it is no valid UTF-8, it is in Raw and not in Message.
	Message string `json:"message,omitempty"`
	Raw     []byte `json:"raw,omitempty"`
	// More says that the line goes on with the next one of the container and stream.
	More bool `json:"more,omitempty"`
	// Lost is why lines are missing here.
	Lost      string `json:"lost,omitempty"`
	LostLines int64  `json:"lostLines,omitempty"`
	LostBytes int64  `json:"lostBytes,omitempty"`
	// Unchecked says that nobody knows any more whether the pod was on the node.
	Unchecked bool `json:"unchecked,omitempty"`

	offset int64
}

// load returns the lines of a chunk, in order.
func load(ctx context.Context, q queries, filter string, w writer, c chunk) ([]Line, error) {
	f := filterOf(w, c)
	query := filter + " " + f + fmt.Sprintf(" | fields _time, %s, %s, %s, %s, %s, %s, %s, %s, %s", receive.FieldOffset, receive.FieldStream, receive.FieldMore,
		store.Time, receive.FieldLost, receive.FieldLostLines, receive.FieldLostBytes, receive.FieldUnchecked, store.Message)
	lines := make([]Line, 0, c.count)
	err := q(ctx, query, func(b store.Block) error {
		r := newRow(b)
		for r.i = range b.Len() {
			l := Line{
				Time: r.time("_time"), Namespace: w.namespace, Pod: w.pod, UID: w.uid, Container: w.container, Component: w.component, Node: w.node,
				Stream: r.text(receive.FieldStream), Restart: c.restart, More: r.text(receive.FieldMore) != "", Lost: r.text(receive.FieldLost),
				LostLines: r.number(receive.FieldLostLines), LostBytes: r.number(receive.FieldLostBytes), Unchecked: r.text(receive.FieldUnchecked) != "",
				offset: r.number(receive.FieldOffset),
			}
			l.setMessage(r.text(store.Message))
			if at := r.text(store.Time); at != "" {
				l.Time = time.Unix(0, r.number(store.Time)).UTC()
			}
			lines = append(lines, l)
		}
		return r.err
	})
	slices.SortStableFunc(lines, func(a, b Line) int { return cmp.Compare(a.offset, b.offset) })
	return lines, err
}

func filterOf(w writer, c chunk) string {
	var labels []string
	for name, value := range map[string]string{
		receive.FieldNode: w.node, receive.FieldUID: w.uid, receive.FieldContainer: w.container, receive.FieldComponent: w.component,
	} {
		if value != "" {
			labels = append(labels, store.Quote(name)+"="+store.Quote(value))
		}
	}
	return fmt.Sprintf("{%s} %s:=%d %s:=%d %s:=%s %s:range[%d,%d) _time:[%s,%s]", strings.Join(labels, ","), receive.FieldRestart, c.restart,
		receive.FieldNumber, c.number, receive.FieldFile, store.Quote(c.file), receive.FieldOffset, c.begin, c.end,
		c.first.Format(time.RFC3339Nano), c.last.Format(time.RFC3339Nano))
}

// row reads the values of a block's rows, and keeps the first error.
type row struct {
	columns map[string][]string
	i       int
	err     error
}

func newRow(b store.Block) *row {
	r := &row{columns: map[string][]string{}}
	for name, values := range b.Columns {
		r.columns[strings.Clone(name)] = values
	}
	return r
}

// text returns a copy of a value.
func (r *row) text(name string) string {
	if values := r.columns[name]; values != nil {
		return strings.Clone(values[r.i])
	}
	return ""
}

func (r *row) number(name string) int64 {
	text := r.text(name)
	if text == "" {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 64)
	r.keep(name, err)
	return n
}

func (r *row) time(name string) time.Time {
	at, err := time.Parse(time.RFC3339Nano, r.text(name))
	r.keep(name, err)
	return at
}

func (r *row) keep(name string, err error) {
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("cannot read %s of an entry: %w", name, err)
	}
}
