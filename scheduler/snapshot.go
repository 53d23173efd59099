package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/k8sm/k8sm/api"
)

// LiveOffer is an offer that is held now.
type LiveOffer struct {
	ID       api.OfferID `json:"id"`
	Agent    api.AgentID `json:"agent"`
	Hostname string      `json:"hostname"`
	// Node is the Kubernetes node that stands for the agent; empty if it can have none.
	Node string `json:"node,omitempty"`
	Role string `json:"role"`
	// Resources are in the notation of Mesos's --resources flag, such as "cpus:3.9;mem:512;ports:[31000-32000]".
	Resources string `json:"resources"`
	// Until is when the offer is given back if no task is launched in it.
	Until time.Time `json:"until"`
	// Unavailable is the maintenance that is planned for the agent, as "start/end"; empty for none.
	Unavailable string `json:"unavailable,omitempty"`
}

// LiveTask is a task that Mesos knows or should know.
type LiveTask struct {
	ID api.TaskID `json:"id"`
	// Pod is "namespace/name"; empty if the pod is gone and the task is about to be.
	Pod   string      `json:"pod,omitempty"`
	Agent api.AgentID `json:"agent"`
	Node  string      `json:"node,omitempty"`
	// State is the task state that Mesos told last (https://mesos.apache.org/documentation/latest/task-state-reasons/).
	State string `json:"state"`
	// Since is when the task was launched, or found by this scheduler if another one launched it.
	Since time.Time `json:"since"`
	// Bound says that the pod is bound to the node and carries the task's id.
	Bound bool `json:"bound"`
	// Warm says that it has no pod: it keeps its node's minion up.
	Warm bool `json:"warm,omitempty"`
	// Killing says that the task was asked to end.
	Killing bool `json:"killing"`
}

// WaitingPod is a pod that needs a task and has none.
type WaitingPod struct {
	Pod string `json:"pod"`
	// Since is when it began to wait, or was found waiting by this scheduler.
	Since time.Time `json:"since"`
	// Attempts is how many tasks were launched for it already.
	Attempts int `json:"attempts"`
	// Reasons is why it waits, one text a reason. What agents refuse it for is as its last FailedScheduling event told;
	// it begins with the number of agents, or with "it" for the agent of the node that the pod is bound to.
	Reasons []string `json:"reasons"`
}

// LiveOffers returns the live offers by host and id.
func (c *Core) LiveOffers() []LiveOffer {
	live := []LiveOffer{}
	for _, a := range c.agents {
		for o := range c.offers.OfAgent(a.ID) {
			until, _ := c.offers.Deadline(o.ID)
			seen := LiveOffer{
				ID: o.ID, Agent: o.Agent, Hostname: o.Hostname, Node: a.Node, Role: o.Role, Resources: o.Resources.String(), Until: until,
			}
			if o.Unavailable != nil {
				seen.Unavailable = o.Unavailable.String()
			}
			live = append(live, seen)
		}
	}
	slices.SortFunc(live, func(a, b LiveOffer) int {
		return cmp.Or(cmp.Compare(a.Hostname, b.Hostname), cmp.Compare(a.ID, b.ID))
	})
	return live
}

// LiveTasks returns the tasks by pod and id.
func (c *Core) LiveTasks() []LiveTask {
	live := []LiveTask{}
	for _, t := range c.tasks {
		seen := LiveTask{
			ID: t.id, Agent: t.agent, State: t.state.String(), Since: t.since, Bound: t.bound, Warm: t.warm, Killing: t.killed,
		}
		if p := c.pods[t.pod]; p != nil {
			seen.Pod = refOf(p.Obj).Key.String()
		}
		if a := c.agents[t.agent]; a != nil {
			seen.Node = a.Node
		}
		live = append(live, seen)
	}
	slices.SortFunc(live, func(a, b LiveTask) int { return cmp.Or(cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.ID, b.ID)) })
	return live
}

// WaitingPods returns the pods that wait, first come first. Pods with scheduling gates are among them: whoever looks for
// a pod that does not start wants to find it here.
func (c *Core) WaitingPods(now time.Time) []WaitingPod {
	queue := []WaitingPod{}
	pods := slices.SortedFunc(maps.Values(c.pods), func(a, b *pod) int { return cmp.Compare(a.Order, b.Order) })
	for _, p := range pods {
		taken := p.Node != "" && c.nodes[p.Node] != nil && c.agentOfNode(p.Node) == nil // it is not ours to start
		if p.task != nil || p.Obj.DeletionTimestamp != nil || finished(p.Obj) || taken {
			continue
		}
		queue = append(queue, WaitingPod{
			Pod: refOf(p.Obj).Key.String(), Since: p.since, Attempts: p.attempt, Reasons: c.reasons(now, p),
		})
	}
	return queue
}

// reasons tells why a pod waits. There is always one.
func (c *Core) reasons(now time.Time, p *pod) []string {
	if gates := p.Obj.Spec.SchedulingGates; len(gates) > 0 {
		names := make([]string, len(gates))
		for i, gate := range gates {
			names[i] = gate.Name
		}
		return []string{"its scheduling gates are closed: " + strings.Join(names, " ")}
	}
	var reasons []string
	if !c.connected {
		reasons = append(reasons, "no Mesos master is connected")
	}
	if p.backoff.until.After(now) {
		reasons = append(reasons, fmt.Sprintf("its tasks ended %d times; the next is tried at %s",
			p.backoff.failures, p.backoff.until.UTC().Format(time.TimeOnly)))
	}
	if p.Node != "" && c.nodes[p.Node] == nil {
		return append(reasons, noSuchNode(p))
	}
	if c.queue.awaitingAddress[p.Obj.UID] == p {
		return append(reasons, cmp.Or(p.claimed.refused, "it is being given an address of pool "+p.claimed.claim.Pool))
	}
	reasons = append(reasons, splitReasons(p.report.message)...)
	if len(reasons) == 0 {
		reasons = []string{"it is being matched; no agent has been found or ruled out yet"}
	}
	return reasons
}

// splitReasons takes a summary's message apart: what stands between commas that are not in parentheses.
func splitReasons(message string) []string {
	if _, after, found := strings.Cut(message, " run it: "); found {
		message = after
	}
	var parts []string
	depth, begin := 0, 0
	for i, r := range message {
		switch r {
		case '(':
			depth++
		case ')':
			depth--
		case ',':
			if depth == 0 && strings.HasPrefix(message[i:], ", ") {
				parts = append(parts, message[begin:i])
				begin = i + len(", ")
			}
		}
	}
	if begin < len(message) {
		parts = append(parts, message[begin:])
	}
	return parts
}
