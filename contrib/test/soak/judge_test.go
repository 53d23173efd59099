package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestWhatHasGrownIsNamed(t *testing.T) {
	before := sample{values: map[string]float64{"memory kubelet": 60, "containers": 12, "disk logs": 10, "iptables rules": 300}}
	for _, test := range []struct {
		name  string
		after map[string]float64
		grown string
	}{
		{"nothing", map[string]float64{"memory kubelet": 60, "containers": 12, "iptables rules": 300}, ""},
		{"less than the margin", map[string]float64{"memory kubelet": 78}, ""},
		{"memory", map[string]float64{"memory kubelet": 80}, "memory kubelet has grown from 60.0 to 80.0"},
		{"one container", map[string]float64{"containers": 13}, "containers has grown from 12.0 to 13.0"},
		{"a rule", map[string]float64{"iptables rules": 301}, "iptables rules has grown from 300.0 to 301.0"},
		{"a process of a role that was not there", map[string]float64{"processes km": 1}, "processes km has grown from 0.0 to 1.0"},
		{"a store, which is not judged", map[string]float64{"disk logs": 500}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := judge(io.Discard, before, sample{values: test.after})
			if got := errorText(err); got != test.grown {
				t.Errorf("judge says %q, want %q", got, test.grown)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestTableHasTheIdleSamplesAndFiveUnderLoad(t *testing.T) {
	var s samples
	s.all = append(s.all, sample{"warm-up", 0, map[string]float64{"pods": 9}}, sample{"idle before", time.Minute, map[string]float64{"pods": 1}})
	for n := range 101 {
		s.all = append(s.all, sample{"load", time.Duration(n+2) * time.Minute, map[string]float64{"pods": float64(n)}})
	}
	s.all = append(s.all, sample{"idle after", 200 * time.Minute, map[string]float64{"pods": 2}})
	path := filepath.Join(t.TempDir(), "table.md")
	if err := s.write(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := "| pods | 1.0 | 0.0 | 25.0 | 50.0 | 75.0 | 100.0 | 2.0 |"; !strings.Contains(string(text), want) {
		t.Errorf("the table has no line %q:\n%s", want, text)
	}
}

func TestFlagsThatMakeNoSenseAreRefused(t *testing.T) {
	good := soak{nodes: 3, pace: 5, long: time.Hour, every: time.Minute, cutEvery: 10 * time.Minute, cutFor: time.Minute}
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for flag, spoil := range map[string]func(*soak){
		"-nodes": func(s *soak) { s.nodes = 1 }, "-pace": func(s *soak) { s.pace = 0 }, "-duration": func(s *soak) { s.long = 0 },
		"-cut-for": func(s *soak) { s.cutFor = time.Hour },
	} {
		bad := good
		spoil(&bad)
		if err := bad.check(); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("a bad %s: %v", flag, err)
		}
	}
}
