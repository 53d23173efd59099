package mesos_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/k8sm/k8sm/scheduler"
)

// lastEnded is how many offers that have ended a situation shows.
const lastEnded = 20

// inVain ends the test, which has waited in vain, and says how the scheduler and Mesos stand.
func (c *cluster) inVain(format string, args ...any) {
	c.t.Helper()
	c.t.Fatalf("waited in vain for %s\n%s", fmt.Sprintf(format, args...), c.situation())
}

// situation describes what the scheduler holds and waits for, and what Mesos has given to whom.
func (c *cluster) situation() string {
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
	defer cancel()
	var text strings.Builder
	fmt.Fprintf(&text, "It is %s.\n", time.Now().UTC().Format(time.RFC3339Nano))
	show := func(what string, value any, err error) {
		lines, _ := json.Marshal(value)
		fmt.Fprintf(&text, "%s: %s", what, lines)
		if err != nil {
			fmt.Fprintf(&text, " (%v)", err)
		}
		text.WriteString("\n")
	}
	if c.window != nil {
		nodes, err := c.window.Nodes(ctx)
		show("nodes", nodes, err)
		tasks, err := c.window.Tasks(ctx)
		show("tasks", tasks, err)
		queue, err := c.window.Queue(ctx)
		show("queue", queue, err)
		held, err := c.window.Offers(ctx)
		show("offers", held, err)
		history, err := c.window.OfferHistory(ctx)
		show("ended offers", history.Offers[:min(lastEnded, len(history.Offers))], err)
	}
	if c.last != nil {
		mesos, err := c.last.State(ctx)
		show("Mesos's agents", mesos.Agents, err)
		show("Mesos's frameworks", mesos.Frameworks, err)
	}
	return text.String()
}

// TestSituationShowsWhatTheSchedulerWaitsForAndWhatMesosHasGivenToWhom reads what tests print when they wait in vain.
func TestSituationShowsWhatTheSchedulerWaitsForAndWhatMesosHasGivenToWhom(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.schedule()
	c.createPod("small", "1")
	c.wait("small", "a node", bound)
	c.createPod("big", "100")
	var queue []scheduler.WaitingPod
	c.eventually("a pod that waits", func(ctx context.Context) (awaited bool) {
		queue, _ = c.window.Queue(ctx)
		return len(queue) == 1
	})
	seen := c.situation()
	for _, part := range []string{`"minion":true`, `"uid-small.1"`, `"pod":"default/big"`, `"end":"launched"`, `"allocated":{"cpus":1.25`} {
		if !strings.Contains(seen, part) {
			t.Errorf("%s is missing in %s", part, seen)
		}
	}
}
