package read

import (
	"container/heap"
	"context"
	"time"
	"unicode/utf8"
)

func (l *Line) setMessage(text string) {
	if utf8.ValidString(text) {
		l.Message = text
	} else {
		l.Raw = []byte(text)
	}
}

// source gives the lines of a writer, in order.
type source struct {
	w      writer
	chunks []chunk
	lines  []Line
	skip   int // lines at the beginning
}

// at is when the next line was written, or not before when if its chunk is not loaded yet.
func (s *source) at() time.Time {
	if len(s.lines) > 0 {
		return s.lines[0].Time
	}
	return s.chunks[0].first
}

// sources are a heap of those that have more lines, the earliest one first (https://pkg.go.dev/container/heap).
type sources []*source

// Len implements heap.Interface.
func (s sources) Len() int { return len(s) }

// Less implements heap.Interface.
func (s sources) Less(i, j int) bool { return s[i].at().Before(s[j].at()) }

// Swap implements heap.Interface.
func (s sources) Swap(i, j int) { s[i], s[j] = s[j], s[i] }

// Push implements heap.Interface.
func (s *sources) Push(x any) { *s = append(*s, x.(*source)) }

// Pop implements heap.Interface.
func (s *sources) Pop() any {
	last := (*s)[len(*s)-1]
	*s = (*s)[:len(*s)-1]
	return last
}

// merge calls each with all lines by time; those of a writer stay in the order in which they were written.
func merge(ctx context.Context, q queries, filter string, all sources, each func(Line) error) error {
	heap.Init(&all)
	for len(all) > 0 {
		s := all[0]
		if len(s.lines) == 0 {
			var err error
			if s.lines, err = load(ctx, q, filter, s.w, s.chunks[0]); err != nil {
				return err
			}
			s.chunks = s.chunks[1:]
			dropped := min(s.skip, len(s.lines))
			s.lines, s.skip = s.lines[dropped:], s.skip-dropped
		} else {
			if err := each(s.lines[0]); err != nil {
				return err
			}
			s.lines = s.lines[1:]
		}
		if len(s.lines) == 0 && len(s.chunks) == 0 {
			heap.Pop(&all)
		} else {
			heap.Fix(&all, 0)
		}
	}
	return nil
}
