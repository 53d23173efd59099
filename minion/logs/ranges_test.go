package logs

import (
	"math/rand/v2"
	"testing"

	"github.com/k8sm/k8sm/api/logs"
)

// Ranges are compared with a set of bytes.
func TestRangesAreASetOfBytes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var r ranges
		var set [64]bool
		for range random.IntN(12) {
			begin := random.IntN(60)
			n := logs.Range{Begin: int64(begin), End: int64(min(64, begin+random.IntN(9)))}
			r.add(n)
			for i := n.Begin; i < n.End; i++ {
				set[i] = true
			}
		}
		compare(t, r, set)
		from := random.Int64N(64)
		want := from
		for want < 64 && set[want] {
			want++
		}
		next := r.advance(from)
		if next != want {
			t.Fatalf("advanced from %d to %d, not to %d", from, next, want)
		}
		clear(set[:next])
		compare(t, r, set)
	}
}

func compare(t *testing.T, r ranges, set [64]bool) {
	t.Helper()
	size := int64(0)
	for i, n := range r {
		if n.End <= n.Begin || i > 0 && n.Begin <= r[i-1].End {
			t.Fatalf("%v is empty, out of order or touches", r)
		}
	}
	gaps := r.missing(0, 64)
	for i, has := range set {
		end, covered := r.end(int64(i))
		if covered != has || covered && end < 64 && set[end] {
			t.Fatalf("byte %d of %v is in a range up to %d: %t, want %t", i, r, end, covered, has)
		}
		if _, gap := gaps.end(int64(i)); gap == has {
			t.Fatalf("byte %d of %v is missing: %t", i, r, gap)
		}
		if has {
			size++
		}
	}
	if r.size() != size {
		t.Fatalf("%v has the size %d, want %d", r, r.size(), size)
	}
}
