package localmesos

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// recording has a real Mesos' answers in one case: testdata/recorded/NAME.json.
type recording struct {
	Must  []string
	Steps [][2]any
}

// recorder collects the local Mesos' answers in the same case.
type recorder struct {
	steps [][2]any
	words words
}

// log notes one step.
func (r *recorder) log(what string, got any) {
	data, err := json.Marshal(got)
	var tree any
	if err == nil {
		err = json.Unmarshal(data, &tree)
	}
	if err != nil {
		panic(err)
	}
	r.steps = append(r.steps, [2]any{what, r.words.replace(tree, "")})
}

// compare reports every difference from the recording.
func (r *recorder) compare(t *testing.T, name string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "recorded", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var want recording
	unmarshal(t, data, &want)
	if len(want.Steps) != len(r.steps) {
		t.Errorf("%d steps, recorded are %d", len(r.steps), len(want.Steps))
	}
	for i, step := range want.Steps {
		if i >= len(r.steps) {
			break
		}
		what := fmt.Sprint(step[0])
		if r.steps[i][0] != what {
			t.Errorf("step %d is %q, recorded is %q", i, r.steps[i][0], what)
			continue
		}
		c := comparison{must: want.Must}
		c.compare(what, step[1], r.steps[i][1])
		for _, line := range c.found {
			t.Error(line)
		}
	}
}

// words replaces values that change from run to run, each by the same word.
type words struct {
	names map[string]string
	count map[string]int
}

const uuidPattern = `[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`

var replaced = []struct {
	pattern *regexp.Regexp
	kind    string // numbered, or, in angle brackets, the same for all
}{
	{regexp.MustCompile(uuidPattern + `-O\d+`), "offer"},
	{regexp.MustCompile(uuidPattern + `-S\d+`), "agent"},
	{regexp.MustCompile(uuidPattern + `-\d{4}`), "framework"},
	{regexp.MustCompile(uuidPattern), "uuid"},
	{regexp.MustCompile(`(slave|master)(\(\d+\))?@[\d.]+:\d+`), "$1@<address>"},
	{regexp.MustCompile(`\b\d{1,3}(\.\d{1,3}){3}:\d+`), "<address>"},
	{regexp.MustCompile(`\b127\.0\.0\.1\b`), "<ip>"},
	{regexp.MustCompile(`(/[\w.@+<>-]+){3,}`), "<path>"},
}

var (
	timeKeys   = []string{"timestamp", "registered_time", "start_time", "elected_time", "reregistered_time", "unregistered_time", "nanoseconds"}
	numberKeys = []string{"port", "executor_pid"}
	addressed  = []string{"pid", "webui_url"}
	uuidKeys   = []string{"uuid", "status_update_uuid"}
)

func (w *words) text(s string) string {
	for _, r := range replaced {
		if strings.Contains(r.kind, "<") {
			s = r.pattern.ReplaceAllString(s, r.kind)
			continue
		}
		s = r.pattern.ReplaceAllStringFunc(s, func(id string) string { return w.word(r.kind, id) })
	}
	return s
}

func (w *words) word(kind, id string) string {
	if w.names == nil {
		w.names, w.count = map[string]string{}, map[string]int{}
	}
	if w.names[id] == "" {
		w.count[kind]++
		w.names[id] = fmt.Sprintf("<%s-%d>", kind, w.count[kind])
	}
	return w.names[id]
}

func (w *words) replace(v any, key string) any {
	switch v := v.(type) {
	case object:
		out := object{}
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys) // so that numbers are given in the recordings' order
		for _, k := range keys {
			out[k] = w.replace(v[k], k)
		}
		return out
	case []any:
		out := make([]any, 0, len(v))
		for _, x := range v {
			out = append(out, w.replace(x, key))
		}
		return out
	case float64:
		switch {
		case slices.Contains(timeKeys, key):
			return "<time>"
		case slices.Contains(numberKeys, key):
			return "<number>"
		}
	case string:
		switch {
		case slices.Contains(addressed, key):
			return "<address>"
		case slices.Contains(uuidKeys, key):
			return "<uuid>"
		}
		return w.text(v)
	}
	return v
}

// comparison finds fields that an answer lacks or contradicts. Additional fields and different messages are no differences.
type comparison struct {
	must  []string
	found []string
}

func (c *comparison) add(format string, args ...any) {
	c.found = append(c.found, fmt.Sprintf(format, args...))
}

func (c *comparison) compare(path string, want, got any) {
	switch want := want.(type) {
	case object:
		if got, ok := got.(object); ok {
			c.objects(path, want, got)
			return
		}
	case []any:
		if got, ok := got.([]any); ok {
			if len(want) != len(got) {
				c.add("%s: %d items, recorded are %d", path, len(got), len(want))
			}
			for i := range min(len(want), len(got)) {
				c.compare(fmt.Sprintf("%s[%d]", path, i), want[i], got[i])
			}
			return
		}
	case float64:
		if got, ok := got.(float64); ok && math.Abs(want-got) < 1e-6 {
			return
		}
	case string:
		if c.strings(path, want, got) {
			return
		}
	}
	if !reflect.DeepEqual(want, got) {
		c.add("%s: %v, recorded is %v", path, got, want)
	}
}

func (c *comparison) objects(path string, want, got object) {
	for k, v := range want {
		if _, ok := got[k]; ok {
			c.compare(path+"."+k, v, got[k])
		} else if len(c.must) == 0 || slices.Contains(c.must, k) || strings.Count(path, ".") <= 2 {
			c.add("%s.%s: missing, recorded is %v", path, k, v)
		}
	}
}

func (c *comparison) strings(path, want string, got any) bool {
	switch got.(type) {
	case string:
		last := path[strings.LastIndexByte(path, '.')+1:]
		return strings.HasPrefix(want, "<") || strings.Contains(last, "message") || last == "body"
	case float64:
		return strings.HasPrefix(want, "<")
	}
	return false
}
