package backoff

import (
	"testing"
	"time"
)

func TestPausesAreHalfToAllOfATimeThatDoublesUpToTheLongest(t *testing.T) {
	pauses := Between(time.Second, 10*time.Second)
	for i, all := range []time.Duration{1, 2, 4, 8, 10, 10, 10} {
		all *= time.Second
		if got := pauses.Step(); got < all/2 || got > all {
			t.Errorf("pause %d is %s, want half of %s to all of it", i, got, all)
		}
	}
}

func TestPausesAreRandom(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 10 {
		pauses := Between(time.Hour, time.Hour)
		seen[pauses.Step()] = true
	}
	if len(seen) == 1 {
		t.Errorf("ten pauses are the same: %v", seen)
	}
}

func TestCopyBeginsAnew(t *testing.T) {
	begin := Between(time.Second, time.Hour)
	pauses := begin
	for range 20 {
		pauses.Step()
	}
	if pauses = begin; pauses.Step() > time.Second {
		t.Error("a copy of the first value does not begin with the first pause")
	}
}

func TestLongestIsNeverBelowFirst(t *testing.T) {
	pauses := Between(time.Second, time.Millisecond)
	for range 3 {
		if got := pauses.Step(); got < time.Second/2 || got > time.Second {
			t.Errorf("pause is %s", got)
		}
	}
}
