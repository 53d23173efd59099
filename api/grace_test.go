package api

import (
	"math"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

func TestGracePeriodNeverOverflows(t *testing.T) {
	longest := math.MaxInt64 / time.Second * time.Second
	for seconds, want := range map[int64]time.Duration{
		0: 0, 7: 7 * time.Second, -1: time.Second, math.MaxInt64: longest, math.MaxInt64 / 1_000_000_000: longest, 10_000_000_000: longest,
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{TerminationGracePeriodSeconds: &seconds}}
		if got := GracePeriod(pod); got != want {
			t.Errorf("%d seconds are %s, want %s", seconds, got, want)
		}
	}
	if got := GracePeriod(&v1.Pod{}); got != 30*time.Second {
		t.Errorf("without a period it is %s", got)
	}
	if got := Seconds(math.MinInt64); got != -longest {
		t.Errorf("the least number of seconds is %s", got)
	}
}
