package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// result is what clients noticed of a fault.
type result struct {
	fault   string
	master  int // 0 for the worst of all
	kinds   []string
	away    map[string]away
	service tally
}

// kinds are the kinds of clients in the table.
func (c *cluster) kinds() []string {
	all := []string{kubectl, balanced, dns, scheduling, deployments, heartbeats}
	if c.addOns != nil {
		all = append(all, elsewhere, page, top, logLines, v1beta1)
	}
	return all
}

// String returns a line of the table, in Markdown.
func (r result) String() string {
	cells := []string{fmt.Sprintf("%s %d", r.fault, r.master)}
	if r.master == 0 {
		cells[0] = r.fault
	}
	for _, kind := range r.kinds {
		a, known := r.away[kind]
		switch {
		case !known:
			cells = append(cells, "")
		case a.err != nil:
			cells = append(cells, fmt.Sprintf("over %.1f s: %v", a.took.Seconds(), a.err))
		default:
			cells = append(cells, fmt.Sprintf("%.1f s", a.took.Seconds()))
		}
	}
	return line(append(cells, fmt.Sprintf("%d of %d, %.2f s", r.service.lost, r.service.sent, r.service.longest.Seconds())))
}

func line(cells []string) string { return "| " + strings.Join(cells, " | ") + " |" }

// results are those of all faults.
type results struct {
	limit time.Duration
	all   []result
}

func (r *results) add(one result) { r.all = append(r.all, one) }

// worst returns the worst of each kind.
func (r *results) worst() result {
	w := result{fault: "worst", away: map[string]away{}}
	for _, one := range r.all {
		w.kinds = one.kinds
		for kind, a := range one.away {
			if old, known := w.away[kind]; !known || a.took > old.took {
				w.away[kind] = a
			}
		}
		w.service.sent += one.service.sent
		w.service.lost += one.service.lost
		w.service.longest = max(w.service.longest, one.service.longest)
	}
	return w
}

// print prints the table.
func (r *results) print(out io.Writer) {
	worst := r.worst()
	titles := append(append([]string{"fault of master"}, worst.kinds...), "requests lost, the slowest")
	lines := []string{"", line(titles), strings.Repeat("|---", len(titles)) + "|"}
	for _, one := range r.all {
		lines = append(lines, one.String())
	}
	fmt.Fprintln(out, strings.Join(append(lines, worst.String()), "\n"))
}

// err says what is over the limit or was lost.
func (r *results) err(l *load) error {
	var problems []error
	for _, one := range r.all {
		for kind, a := range one.away {
			if a.err != nil || a.took > r.limit {
				problems = append(problems, fmt.Errorf("%s of master %d: %s: away for %.1f s, %v", one.fault, one.master, kind, a.took.Seconds(), a.err))
			}
		}
	}
	if l.total.lost > 0 {
		problems = append(problems, fmt.Errorf("%d of %d requests to the service were lost, the first one %s", l.total.lost, l.total.sent, l.first))
	}
	return errors.Join(problems...)
}
