package docs

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/minion/cri"
	"github.com/k8sm/k8sm/minion/figures"
)

// expand returns the names that a text with {a,b} stands for.
func expand(text string) []string {
	before, rest, open := strings.Cut(text, "{")
	inside, after, closed := strings.Cut(rest, "}")
	if !open || !closed {
		return []string{text}
	}
	var names []string
	for choice := range strings.SplitSeq(inside, ",") {
		names = append(names, expand(before+choice+after)...)
	}
	return names
}

func TestFalconPageListsAllMetrics(t *testing.T) {
	sent := map[string]bool{}
	var pods figures.Pods
	for second := range 2 { // CPU usage begins with the second reading
		c := cri.ContainerUsage{ID: "c", Name: "main", At: time.Unix(int64(second), 0)}
		for _, e := range pods.Elements([]cri.PodUsage{{Network: &cri.Traffic{}, Containers: []cri.ContainerUsage{c}}}, []*corev1.Pod{{}}, 1) {
			sent[e.Metric] = true
		}
	}
	source, err := os.ReadFile(filepath.Join(root, "scheduler/run/falcon.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range regexp.MustCompile(`Gauge\("([^"]+)"`).FindAllStringSubmatch(string(source), -1) {
		sent[found[1]] = true
	}
	listed := map[string]bool{}
	for _, table := range page(t, "docs/falcon.md").Tables() {
		if table.Header[0] != "metric" {
			continue
		}
		for _, row := range table.Rows {
			for _, found := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[0], -1) {
				for _, name := range expand(found[1]) {
					listed[name] = true
				}
			}
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(sent)), slices.Sorted(maps.Keys(listed))); diff != "" || len(sent) < 20 {
		t.Errorf("-sent +listed:\n%s", diff)
	}
}
