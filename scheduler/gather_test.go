package scheduler

import (
	"strings"
	"testing"
	"time"
)

func TestManyAgentsAreCalledForLessOften(t *testing.T) {
	for agents, want := range map[int]time.Duration{
		1: 100 * time.Millisecond, 100: 100 * time.Millisecond, 400: 400 * time.Millisecond, 50_000: time.Second,
	} {
		if got := reviveFirst(agents); got != want {
			t.Errorf("%d agents: %s, want %s", agents, got, want)
		}
	}
}

func TestLeasesOfManyAgentsAreRenewedLessOften(t *testing.T) {
	for agents, want := range map[int]time.Duration{
		1: 10 * time.Second, 2_500: 10 * time.Second, 3_000: 12 * time.Second, 50_000: 20 * time.Second,
	} {
		if got := leaseEvery(agents); got != want {
			t.Errorf("%d agents: %s, want %s", agents, got, want)
		}
	}
}

func TestPodsAreNotGatheredForLongerThanMesosTakesToOffer(t *testing.T) {
	cfg := testConfig()
	for gather, ok := range map[time.Duration]bool{-1: false, 0: true, time.Second: true, 2 * time.Second: false} {
		cfg.Gather = gather
		if err := cfg.Validate(); (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "--batch-idle-duration") {
			t.Errorf("%s: %v", gather, err)
		}
	}
}
