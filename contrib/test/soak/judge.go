package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// margin is what a value may grow by between two idle clusters: a share of itself, and a constant.
type margin struct{ share, constant float64 }

// margins are those of the values that must be flat, by the first words of their names. Values that are not here are shown only: the
// stores of logs and metrics keep what they get for days, by design.
var margins = []struct {
	prefix string
	margin
}{
	{"memory ", margin{0.15, 10}},     // megabytes: heaps are not collected at the same moment
	{"descriptors ", margin{0.1, 10}}, // connections that are idle but not closed yet
	{"goroutines ", margin{0.1, 20}},  // likewise
	{"threads ", margin{0.25, 10}},    // Go never ends one, but what it needs at once is bounded
	{"processes ", margin{0, 0}},
	{"iptables rules", margin{0, 0}},
	{"nft lines", margin{0, 0}},
	{"links", margin{0, 0}},
	{"routes", margin{0, 0}},
	{"containers", margin{0, 0}},
	{"images", margin{0, 0}},
	{"volumes", margin{0, 0}},
	{"networks", margin{0, 0}},
	{"pods", margin{0, 0}},
	{"tasks", margin{0, 0}},
	{"events", margin{0, 50}},        // the last ones may not have ended
	{"etcd in use", margin{0.25, 5}}, // megabytes
	{"etcd file", margin{0.25, 20}},  // megabytes: it is as large as the most that was ever in use
	{"files etcd", margin{0.1, 10}},  // snapshots and write-ahead logs, of which etcd keeps five
	{"files nodes", margin{0.05, 20}},
	{"files mesos", margin{0.1, 20}},
}

// marginOf returns the margin of a value, if it must be flat.
func marginOf(name string) (margin, bool) {
	for _, m := range margins {
		if strings.HasPrefix(name, m.prefix) {
			return m.margin, true
		}
	}
	return margin{}, false
}

// judge prints each value before and after, and returns an error that names those that have grown.
func judge(out io.Writer, before, after sample) error {
	var grown []error
	for _, name := range slices.Sorted(maps.Keys(after.values)) {
		from, to := before.values[name], after.values[name]
		mark := ""
		if m, flat := marginOf(name); !flat {
			mark = "(not judged)"
		} else if to > from*(1+m.share)+m.constant {
			mark = "HAS GROWN"
			grown = append(grown, fmt.Errorf("%s has grown from %.1f to %.1f", name, from, to))
		}
		fmt.Fprintln(out, strings.TrimRight(fmt.Sprintf("%-32s %10.1f %10.1f  %s", name, from, to, mark), " "))
	}
	return errors.Join(grown...)
}

// columns are the samples of the table between the first and the last: so many, equally spaced.
const columns = 5

// write writes a table of the idle samples and of some of those under load.
func (s *samples) write(path string) error {
	shown := s.shown()
	var text strings.Builder
	names := map[string]bool{}
	head, line := "|", "|---|"
	for _, one := range shown {
		head += fmt.Sprintf(" | %s, %d min", one.phase, int(one.after.Minutes()))
		line += "---:|"
		for name := range one.values {
			names[name] = true
		}
	}
	fmt.Fprintf(&text, "%s |\n%s\n", head, line)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(&text, "| %s", name)
		for _, one := range shown {
			fmt.Fprintf(&text, " | %.1f", one.values[name])
		}
		fmt.Fprintln(&text, " |")
	}
	return os.WriteFile(path, []byte(text.String()), 0o644)
}

// shown are the samples of the table.
func (s *samples) shown() (shown []sample) {
	var under []sample
	for _, one := range s.all {
		if one.phase == "load" {
			under = append(under, one)
		}
	}
	for _, one := range s.all {
		if strings.HasPrefix(one.phase, "idle") {
			shown = append(shown, one)
		}
	}
	if len(shown) < 2 || len(under) == 0 {
		return shown
	}
	var between []sample
	for i := range columns {
		between = append(between, under[i*(len(under)-1)/(columns-1)])
	}
	return slices.Concat(shown[:1], between, shown[1:])
}
