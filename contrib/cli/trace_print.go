package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/k8sm/k8sm/api/podtrace"
)

// barWidth is that of the picture beside a timeline.
const barWidth = 40

// print prints a story as JSON, or as a table with a picture.
func (s *story) print(out io.Writer, format string) error {
	if format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(s)
	}
	t := s.Timeline
	head := fmt.Sprintf("pod %s/%s", s.Namespace, s.Pod)
	if s.Node != "" {
		head += " on node " + s.Node
	}
	if len(t.Rows) > 0 {
		head += ", " + t.Begin.UTC().Format("2006-01-02 15:04:05.000 MST") + ": " + outcome(t)
	}
	fmt.Fprintln(out, head)
	if err := printRows(out, t); err != nil {
		return err
	}
	for _, missing := range s.Missing {
		fmt.Fprintln(out, "not here: "+missing)
	}
	if len(s.Seconds) > 0 {
		fmt.Fprintln(out, "what the API server has, in whole seconds:")
	}
	for _, m := range s.Seconds {
		fmt.Fprintf(out, "  %s  %s\n", m.Begin.UTC().Format("15:04:05"), m.What)
	}
	if t.Skew != 0 {
		fmt.Fprintf(out, "the node's clock is about %s behind the scheduler's: the times are the scheduler's\n", t.Skew.Round(time.Millisecond))
	}
	if t.Missing > 0 {
		fmt.Fprintf(out, "%d later spans were not kept\n", t.Missing)
	}
	return nil
}

func outcome(t podtrace.Timeline) string {
	switch {
	case t.Running == 0:
		return "does not run yet"
	case t.Ready == 0:
		return "ran after " + milliseconds(t.Running)
	}
	return "ran after " + milliseconds(t.Running) + ", ready after " + milliseconds(t.Ready)
}

func printRows(out io.Writer, t podtrace.Timeline) error {
	if len(t.Rows) == 0 {
		return nil
	}
	whole := time.Duration(1)
	for _, r := range t.Rows {
		if r.Begin <= cmp.Or(max(t.Running, t.Ready), r.Begin) {
			whole = max(whole, r.End)
		}
	}
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "\nWHO\tWHAT\tAT\tTOOK\t")
	for _, r := range t.Rows {
		took := milliseconds(r.End - r.Begin)
		switch {
		case r.Moment():
			took = ""
		case r.Open:
			took += ", goes on"
		case r.Failed:
			took += ", in vain"
		}
		fmt.Fprintf(table, "%s%s\t%s\t%s\t%s\t%s\n", strings.Repeat("  ", r.Depth), r.Who, r.What, milliseconds(r.Begin), took, bar(r, whole))
	}
	return table.Flush()
}

// bar draws a row: '=', '-' within another row, '|' for a moment.
func bar(r podtrace.Row, whole time.Duration) string {
	at := func(d time.Duration) int { return min(int(int64(d)*barWidth/int64(whole)), barWidth) }
	begin := min(at(r.Begin), barWidth-1)
	mark := "="
	switch {
	case r.Moment():
		mark = "|"
	case r.Depth > 0:
		mark = "-"
	}
	return strings.Repeat(" ", begin) + strings.Repeat(mark, max(1, at(r.End)-begin))
}

// milliseconds formats a duration with its milliseconds, and a long one without.
func milliseconds(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
	}
	return d.Round(100 * time.Millisecond).String()
}
