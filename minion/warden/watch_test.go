package warden

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Minions and wardens of other builds parse these command lines.
func TestCommandLineRoundTrips(t *testing.T) {
	w := Watch{Marker: "/m", Node: "/n", Post: "/p", Build: "b", Patience: 5 * time.Minute}
	line := []string{"km", "warden", "/m", "/n", "/p", "b", "5m0s"}
	if diff := cmp.Diff(line[1:], w.args()); diff != "" {
		t.Error(diff)
	}
	for name, test := range map[string]struct {
		rest []string
		want order
	}{
		"it waits":        {nil, order{Watch: w, step: wait}},
		"it is detaching": {[]string{detach, "a-container"}, order{Watch: w, step: detaching, container: "a-container"}},
		"km works":        {[]string{locked, "5", "6"}, order{Watch: w, step: work, post: 5, node: 6}},
	} {
		t.Run(name, func(t *testing.T) {
			if got, ok := parse(append(line, test.rest...)); !ok || got != test.want {
				t.Errorf("it says %+v, %v", got, ok)
			}
		})
	}
	for name, line := range map[string][]string{
		"another command":          append([]string{"km", "minion"}, line[2:]...),
		"one argument too few":     line[:6],
		"no duration":              append(line[:6:6], "soon"),
		"what older builds end in": append(line, "--detach"),
		"a flag":                   append(line, "--help"),
		"a file that is no number": append(line, locked, "five", "6"),
	} {
		t.Run(name, func(t *testing.T) {
			if got, ok := parse(line); ok {
				t.Errorf("it says %+v", got)
			}
		})
	}
}
