package logs

import (
	"slices"
	"sort"

	"github.com/k8sm/k8sm/api/logs"
)

// ranges are ranges of bytes in ascending order. Between two of them is at least one byte.
type ranges []logs.Range

// add adds a range.
func (r *ranges) add(n logs.Range) {
	if n.End <= n.Begin {
		return
	}
	all := *r
	first := sort.Search(len(all), func(i int) bool { return all[i].End >= n.Begin })
	last := first
	for ; last < len(all) && all[last].Begin <= n.End; last++ {
		n.Begin, n.End = min(n.Begin, all[last].Begin), max(n.End, all[last].End)
	}
	*r = slices.Replace(all, first, last, n)
}

// end returns the end of the range that has the byte at offset.
func (r ranges) end(offset int64) (int64, bool) {
	i := sort.Search(len(r), func(i int) bool { return r[i].End > offset })
	if i < len(r) && r[i].Begin <= offset {
		return r[i].End, true
	}
	return 0, false
}

// advance removes what is before offset, or joins it, and returns the offset behind that.
func (r *ranges) advance(offset int64) int64 {
	done := 0
	for _, n := range *r {
		if n.Begin > offset {
			break
		}
		offset = max(offset, n.End)
		done++
	}
	*r = slices.Delete(*r, 0, done)
	return offset
}

// missing returns the ranges between begin and end that are not there.
func (r ranges) missing(begin, end int64) (m ranges) {
	for _, n := range r {
		if n.End <= begin || n.Begin >= end {
			continue
		}
		if n.Begin > begin {
			m = append(m, logs.Range{Begin: begin, End: n.Begin})
		}
		begin = n.End
	}
	if begin < end {
		m = append(m, logs.Range{Begin: begin, End: end})
	}
	return m
}

// size is how many bytes the ranges have.
func (r ranges) size() (sum int64) {
	for _, n := range r {
		sum += n.End - n.Begin
	}
	return sum
}
