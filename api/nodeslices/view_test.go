package nodeslices

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// published are the objects of two slices and their summary.
func published(t *testing.T, renewed time.Time) map[string]*corev1.ConfigMap {
	t.Helper()
	texts := Texts{"nodes-0": encoded(t, numbered(1), numbered(2)), "nodes-1": encoded(t, numbered(3))}
	objects := map[string]*corev1.ConfigMap{Summary: SummaryObject(texts, 3, renewed)}
	for name, text := range texts {
		objects[name] = Object(name, text)
	}
	return objects
}

func TestSlicesAreExactOnlyAsTheSummarySays(t *testing.T) {
	for what, test := range map[string]struct {
		spoil func(map[string]*corev1.ConfigMap)
		nodes int
		exact bool
	}{
		"all of it":        {func(map[string]*corev1.ConfigMap) {}, 3, true},
		"a slice missing":  {func(all map[string]*corev1.ConfigMap) { delete(all, "nodes-0") }, 1, false},
		"a slice too many": {func(all map[string]*corev1.ConfigMap) { all["nodes-2"] = Object("nodes-2", encoded(t, numbered(4))) }, 4, false},
		"a new text": {func(all map[string]*corev1.ConfigMap) {
			all["nodes-1"] = Object("nodes-1", encoded(t, numbered(3), numbered(4)))
		}, 4, false},
		"another name":      {func(all map[string]*corev1.ConfigMap) { all["nodes-0"].Name = "nodes-7" }, 3, false},
		"no summary":        {func(all map[string]*corev1.ConfigMap) { delete(all, Summary) }, 3, false},
		"an empty summary":  {func(all map[string]*corev1.ConfigMap) { all[Summary].Data = nil }, 3, false},
		"not renewed":       {func(all map[string]*corev1.ConfigMap) { delete(all[Summary].Data, "renewed") }, 3, false},
		"a slice is broken": {func(all map[string]*corev1.ConfigMap) { all["nodes-0"].Data["nodes"] = "{" }, 1, false},
		"of another format": {func(all map[string]*corev1.ConfigMap) {
			texts := Texts{"nodes-0": "agent-1 192.0.2.1\n"}
			clear(all)
			all["nodes-0"], all[Summary] = Object("nodes-0", texts["nodes-0"]), SummaryObject(texts, 1, start)
		}, 0, false},
	} {
		all := published(t, start)
		test.spoil(all)
		var objects []*corev1.ConfigMap
		for _, object := range all {
			objects = append(objects, object)
		}
		if v := Read(objects); len(v.Nodes) != test.nodes || v.Exact != test.exact {
			t.Errorf("%s: %d nodes, exact: %v", what, len(v.Nodes), v.Exact)
		}
	}
	if v := Read(nil); v.Exact || len(v.Nodes) > 0 || v.Renewed != "" {
		t.Errorf("nothing is %+v", v)
	}
}

func TestSlicesAreTrustedWhileTheirSummaryMoves(t *testing.T) {
	const patience = time.Minute
	for what, test := range map[string]struct{ story, want string }{
		// A step is the seconds since the start and the renewal that is seen: "-" for none, "?" after it if the slices are others; "!" says
		// that no API server can be reached. Of each it says whether the slices are kept (k) and whether they are given up (x).
		"no scheduler":                       {"0- 30-", "x x"},
		"a new reader":                       {"0a 15b 30c", ". k k"},
		"a stale summary":                    {"0a 30a 59a 60a 90a", ". . . x x"},
		"the scheduler dies":                 {"0a 15b 74b 75b", ". k k x"},
		"and comes back":                     {"0a 15b 80b 90c 100c", ". k x k k"},
		"it leads but cannot write":          {"0a 15b 30c? 45d? 75e?", ". k k k x"},
		"half of it is seen for a moment":    {"0a 15b 30c? 31c 90c", ". k k k k"},
		"a first scheduler comes":            {"0- 30a 45b", "x . k"},
		"somebody deletes the summary":       {"0a 15b 20- 30c", ". k k k"},
		"and no scheduler makes it again":    {"0a 15b 20- 75-", ". k k x"},
		"a restored snapshot has an old one": {"0a 15b 30c 40a 99a 100a", ". k k k k x"},
		"the API server is away":             {"0a 15b 70! 75b 129b 130c 191c", ". k k k k k x"},
		"it was away for long":               {"0a 15b 74! 130! 189b 190b", ". k k k k x"},
	} {
		trust := NewTrust(start, patience)
		var got []string
		for step := range strings.FieldsSeq(test.story) {
			var seconds int
			var seen string
			if _, err := fmt.Sscanf(step, "%d%s", &seconds, &seen); err != nil {
				t.Fatal(err)
			}
			now := start.Add(time.Duration(seconds) * time.Second)
			switch renewed, other := strings.CutSuffix(seen, "?"); renewed {
			case "!":
				trust.Excuse(now)
			case "-":
				trust.See(now, View{})
			default:
				trust.See(now, View{Renewed: renewed, Exact: !other})
			}
			state := "."
			if trust.Kept(now) {
				state = "k"
			} else if trust.Lapsed(now) {
				state = "x"
			}
			got = append(got, state)
		}
		if text := strings.Join(got, " "); text != test.want {
			t.Errorf("%s: %s is %s, want %s", what, test.story, text, test.want)
		}
	}
}
