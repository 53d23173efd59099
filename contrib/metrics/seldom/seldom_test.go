package seldom

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestALineIsFreshOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Seen
		fresh := 0
		for range 120 {
			if s.Fresh("a") {
				fresh++
			}
			time.Sleep(15 * time.Second)
		}
		if fresh != 3 {
			t.Errorf("it is fresh %d times in 30 minutes", fresh)
		}
		if !s.Fresh("b") {
			t.Error("another is not fresh")
		}
	})
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	var s Seen
	for i := range 10 * maxRemembered {
		if !s.Fresh(fmt.Sprint(i)) {
			t.Errorf("%d is not fresh", i)
		}
	}
	if len(s.at) > maxRemembered {
		t.Errorf("%d are remembered", len(s.at))
	}
}
