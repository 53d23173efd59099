package status

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/k8sm/k8sm/scheduler"
)

// PrintJSON prints what was read as it was served, indented.
func PrintJSON(w io.Writer, list any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(list)
}

// PrintOffers prints a line an offer.
func PrintOffers(w io.Writer, now time.Time, offers []scheduler.LiveOffer) error {
	t := newTable("OFFER", "HOST", "ROLE", "ENDS IN", "MAINTENANCE", "RESOURCES")
	for _, o := range offers {
		t.row(string(o.ID), o.Hostname, o.Role, span(o.Until.Sub(now)), orDash(o.Unavailable), o.Resources)
	}
	return t.print(w, "no offers are held")
}

// PrintTasks prints a line a task.
func PrintTasks(w io.Writer, now time.Time, tasks []scheduler.LiveTask) error {
	t := newTable("POD", "TASK", "STATE", "NODE", "AGE", "NOTE")
	for _, task := range tasks {
		t.row(orDash(task.Pod), string(task.ID), task.State, orDash(task.Node), span(now.Sub(task.Since)), note(task))
	}
	return t.print(w, "no tasks")
}

func note(task scheduler.LiveTask) string {
	var notes []string
	if task.Warm {
		notes = append(notes, "keeps its node warm")
	} else if task.Pod == "" {
		notes = append(notes, "its pod is gone")
	}
	if task.Killing {
		notes = append(notes, "asked to end")
	}
	if !task.Bound && task.Pod != "" {
		notes = append(notes, "its pod is not bound yet")
	}
	return strings.Join(notes, ", ")
}

// PrintQueue prints a line for each reason of each pod, the pod's name in the first of them.
func PrintQueue(w io.Writer, now time.Time, queue []scheduler.WaitingPod) error {
	t := newTable("POD", "WAITS", "TASKS SO FAR", "WHY")
	for _, p := range queue {
		pod, waits, attempts := p.Pod, span(now.Sub(p.Since)), fmt.Sprint(p.Attempts)
		for _, reason := range p.Reasons {
			t.row(pod, waits, attempts, reason)
			pod, waits, attempts = "", "", ""
		}
	}
	return t.print(w, "no pod waits")
}

// PrintNodes prints a line a node.
func PrintNodes(w io.Writer, now time.Time, nodes []scheduler.LiveNode) error {
	t := newTable("NODE", "AGENT", "KM", "KUBELET", "MINION", "TASKS", "READY", "CORDONED FOR", "ROLLOUT", "FAILING")
	for _, n := range nodes {
		km, minion := n.KM, "-"
		if n.Minion {
			km, minion = cmp.Or(n.KM, "not told"), "runs"
			if n.Since != nil {
				minion = "for " + span(now.Sub(*n.Since))
			}
		}
		if n.Warm {
			minion += ", kept warm"
		}
		ready := "no"
		if n.Ready {
			ready = "yes"
		}
		t.row(n.Node, string(n.Agent), orDash(km), orDash(n.Kubelet), minion, fmt.Sprint(n.Tasks), ready, orDash(n.CordonedFor), orDash(n.Rollout.String()), orDash(n.Failing))
	}
	return t.print(w, "no Mesos agent has made an offer yet")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// span tells a duration in seconds, and in minutes and more without fractions.
func span(d time.Duration) string { return max(0, d).Round(time.Second).String() }

// table collects rows of equal numbers of cells, its head first.
type table struct{ rows [][]string }

func newTable(head ...string) *table { return &table{rows: [][]string{head}} }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// print writes the table in columns, or what to say when it is empty.
func (t *table) print(w io.Writer, empty string) error {
	if len(t.rows) == 1 {
		_, err := fmt.Fprintln(w, empty)
		return err
	}
	var text bytes.Buffer
	columns := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	for _, cells := range t.rows {
		fmt.Fprintln(columns, strings.Join(cells, "\t"))
	}
	if err := columns.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(text.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}
