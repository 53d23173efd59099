package main

import (
	"os"
	"testing"
	"time"
)

func TestPercentileIsNotExceededByThatManyPercent(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(100-i)*time.Millisecond)
	}
	for percent, want := range map[int]float64{50: 50, 99: 99, 100: 100} {
		if got := percentile(hundred, percent); got != want {
			t.Errorf("percentile %d is %v, not %v", percent, got, want)
		}
	}
	if got := percentile([]time.Duration{3 * time.Millisecond}, 99); got != 3 {
		t.Errorf("of one duration the percentile is %v", got)
	}
}

func TestUsageOfThisProcessIsSomething(t *testing.T) {
	for range 1 << 26 { // burns some processor time
	}
	u, err := readUsage(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if u.own <= 0 || u.resident < u.own || u.cpu < 0 {
		t.Errorf("it uses %+v", u)
	}
}
