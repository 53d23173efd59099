package main

import (
	"strings"
	"testing"
	"time"
)

func TestFigurePrintsTheMedianBesideItsPeer(t *testing.T) {
	f := figure{name: "pod_create_running", unit: "ms", peer: []float64{100, 300, 200, 400}}
	for _, ms := range []time.Duration{900, 100, 500} {
		f.add(ms * time.Millisecond)
	}
	var out strings.Builder
	f.print(&out)
	want := "BENCH pod_create_running 500.0 ms peer=250.0 ratio=2.00 rounds=3 min=100.0 max=900.0\n"
	if out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
}

func TestFigureThatWasNotMeasuredIsNotPrinted(t *testing.T) {
	var out strings.Builder
	(&figure{name: "nothing", unit: "ms"}).print(&out)
	if out.Len() > 0 {
		t.Errorf("printed %q", out.String())
	}
}
