package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// LiveOffer is an offer that the scheduler holds now.
type LiveOffer struct {
	ID       api.OfferID `json:"id"`
	Agent    api.AgentID `json:"agent"`
	Hostname string      `json:"hostname"`
	// Node is the agent's Kubernetes node; empty if it cannot have one.
	Node string `json:"node,omitempty"`
	Role string `json:"role"`
	// Resources are in the notation of Mesos's --resources flag, such as "cpus:3.9;mem:512;ports:[31000-32000]".
	Resources string `json:"resources"`
	// Since is when it arrived.
	Since time.Time `json:"since"`
	// Until is when the offer is declined if no task is launched in it.
	Until time.Time `json:"until"`
	// Unavailable is the agent's planned maintenance window, as "start/end"; empty for none.
	Unavailable string `json:"unavailable,omitempty"`
}

// LiveTask is a task that Mesos knows or should know.
type LiveTask struct {
	ID api.TaskID `json:"id"`
	// Pod is "namespace/name"; empty if the pod was removed and the task is about to end.
	Pod   string      `json:"pod,omitempty"`
	Agent api.AgentID `json:"agent"`
	Node  string      `json:"node,omitempty"`
	// State is the task's last state in Mesos (https://mesos.apache.org/documentation/latest/task-state-reasons/).
	State string `json:"state"`
	// Message is the message of that state's update; empty for none.
	Message string `json:"message,omitempty"`
	// Since is when the task was launched, or found by this scheduler if an earlier one launched it.
	Since time.Time `json:"since"`
	// Bound says that the pod is bound to the node and carries the task's id.
	Bound bool `json:"bound"`
	// Warm says that the task has no pod: it keeps its node's minion running.
	Warm bool `json:"warm,omitempty"`
	// Killing says that Mesos was asked to kill the task.
	Killing bool `json:"killing"`
}

// WaitingPod is a pod that has no task and needs one.
type WaitingPod struct {
	Pod string `json:"pod"`
	// Since is when the pod began to wait, or this scheduler found it.
	Since time.Time `json:"since"`
	// Attempts is the number of tasks launched for it so far.
	Attempts int `json:"attempts"`
	// Reasons is why it waits, one reason per text. Reasons of agents are those of its last FailedScheduling event: each begins
	// with the number of agents, or with "it" for the agent of the node that the pod is bound to.
	Reasons []string `json:"reasons"`
}

// live returns the live offers by host and id.
func (of *offering) live() []LiveOffer {
	live := []LiveOffer{}
	for _, a := range of.core.agents.inOrder() {
		for o := range of.held.OfAgent(a.ID) {
			until, _ := of.held.Deadline(o.ID)
			seen := LiveOffer{
				ID: o.ID, Agent: o.Agent, Hostname: o.Hostname, Node: a.Node, Role: o.Role, Resources: o.Resources.String(),
				Since: until.Add(-of.core.cfg.OfferTTL), Until: until,
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

// live implements Core.LiveTasks.
func (ts *tasks) live() []LiveTask {
	live := []LiveTask{}
	for _, t := range ts.byID {
		seen := LiveTask{
			ID: t.id, Agent: t.agent, State: t.state.String(), Message: t.message, Since: t.since, Bound: t.bound, Warm: t.warm, Killing: t.killed,
		}
		if p := ts.core.pods.get(t.pod); p != nil {
			seen.Pod = refOf(p.Obj).Key.String()
		}
		if a := ts.core.agents.get(t.agent); a != nil {
			seen.Node = a.Node
		}
		live = append(live, seen)
	}
	slices.SortFunc(live, func(a, b LiveTask) int { return cmp.Or(cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.ID, b.ID)) })
	return live
}

// live implements Core.WaitingPods.
func (ps *pods) live(now time.Time) []WaitingPod {
	queue := []WaitingPod{}
	pods := slices.SortedFunc(maps.Values(ps.byUID), func(a, b *pod) int { return cmp.Compare(a.Order, b.Order) })
	for _, p := range pods {
		taken := p.Node != "" && ps.core.agents.node(p.Node) != nil && ps.core.agents.ofNode(p.Node) == nil // it is not ours to start
		if p.task != nil || p.Obj.DeletionTimestamp != nil || finished(p.Obj) || taken {
			continue
		}
		queue = append(queue, WaitingPod{
			Pod: refOf(p.Obj).Key.String(), Since: p.since, Attempts: p.attempt, Reasons: ps.reasons(now, p),
		})
	}
	return queue
}

// reasons returns why a pod waits; it is never empty.
func (ps *pods) reasons(now time.Time, p *pod) []string {
	if gates := p.Obj.Spec.SchedulingGates; len(gates) > 0 {
		names := make([]string, len(gates))
		for i, gate := range gates {
			names[i] = gate.Name
		}
		return []string{"Scheduling is blocked due to non-empty scheduling gates: " + strings.Join(names, " ")}
	}
	var reasons []string
	if !ps.core.session.connected() {
		reasons = append(reasons, "no Mesos master is connected")
	}
	if p.backoff.until.After(now) {
		reasons = append(reasons, fmt.Sprintf("its tasks ended %d times; the next is tried at %s",
			p.backoff.failures, p.backoff.until.UTC().Format(time.TimeOnly)))
	}
	if p.Node != "" && ps.core.agents.node(p.Node) == nil {
		return append(reasons, noSuchNode(p))
	}
	if ps.core.addresses.awaits(p) {
		return append(reasons, cmp.Or(p.claimed.refused, "it waits for an address of pool "+p.claimed.claim.Pool))
	}
	reasons = append(reasons, splitReasons(p.report.message)...)
	if len(reasons) == 0 {
		reasons = []string{"it is being matched; no agent has been found or ruled out yet"}
	}
	return reasons
}

// splitReasons splits a summary's message at its commas, except those in parentheses.
func splitReasons(message string) []string {
	if _, after, found := strings.Cut(message, "available: "); found {
		message = after
	}
	message, outlook, _ := strings.Cut(message, "; preemption: ")
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
	if outlook != "" {
		parts = append(parts, "preemption: "+outlook)
	}
	return parts
}

// LiveOffers returns the offers that are held, by host and id.
func (c *Core) LiveOffers() []LiveOffer { return c.offering.live() }

// LiveTasks returns the tasks, by pod and id.
func (c *Core) LiveTasks() []LiveTask { return c.tasks.live() }

// LiveNodes returns the agents' nodes, by name.
func (c *Core) LiveNodes(now time.Time) []LiveNode { return c.agents.live(now) }

// WaitingPods returns the waiting pods in order of arrival. Pods with scheduling gates are among them, because users look here
// for every pod that does not start.
func (c *Core) WaitingPods(now time.Time) []WaitingPod { return c.pods.live(now) }

// Snapshot holds counts of a Core, for metrics and logs.
type Snapshot struct {
	PodsWaiting, Tasks, AgentsAlive, Offers int
	OffersEnded                             map[offers.End]uint64
	DisruptionSnapshot
	// AgentsFailing counts agents where tasks fail before they run; PodsRejected counts pods that kubelets did not admit.
	AgentsFailing int
	PodsRejected  uint64
	// Preemptions counts the searches for pods to preempt; Victims counts the preempted pods.
	Preemptions, Victims uint64
}

// DisruptionSnapshot holds counts of maintenance, draining and rollouts.
type DisruptionSnapshot struct {
	// AgentsPlanned counts agents with planned maintenance; AgentsDraining counts agents that Mesos drains.
	AgentsPlanned, AgentsDraining int
	// NodesOutdated counts nodes whose minion has another version than the scheduler or other settings than the cluster, RolloutsUnderWay
	// those where it is being replaced, and RolloutsStopped those where that was given up. NodesWarm counts nodes that are kept warm.
	NodesOutdated, RolloutsUnderWay, RolloutsStopped, NodesWarm int
	// MinionsHeld is 1 while no minion starts, because its kubelet would be newer than an API server.
	MinionsHeld   int
	InverseOffers map[InverseEnd]uint64
	Evictions     map[EvictOutcome]uint64
}

// Snapshot returns the current counts.
func (c *Core) Snapshot() Snapshot {
	s := Snapshot{PodsWaiting: c.pods.waiting(), Tasks: c.tasks.count(), PodsRejected: c.health.rejected()}
	s.Preemptions, s.Victims = c.preemption.counts()
	s.Offers, s.OffersEnded = c.offering.counts()
	s.DisruptionSnapshot = c.disruptions.counts()
	if c.rollouts.holdsMinions() != "" {
		s.MinionsHeld = 1
	}
	for _, a := range c.agents.inOrder() {
		if a.Alive {
			s.AgentsAlive++
		}
		if !a.otherSince.IsZero() {
			s.NodesOutdated++
		}
		if a.warm != nil {
			s.NodesWarm++
		}
		if a.failures.health.failures > 0 {
			s.AgentsFailing++
		}
	}
	return s
}

// TaskStates returns how many tasks are in each state, as Mesos last reported it.
func (c *Core) TaskStates() map[TaskState]int { return c.tasks.states() }

// counts returns the number of held offers, and of ended offers by end.
func (of *offering) counts() (held int, ended map[offers.End]uint64) {
	ended = map[offers.End]uint64{}
	for _, end := range offers.Ends() {
		ended[end] = of.held.Ended(end)
	}
	return of.held.Len(), ended
}

// counts returns the counts of disruptions.
func (ds *disruptions) counts() DisruptionSnapshot {
	s := DisruptionSnapshot{InverseOffers: map[InverseEnd]uint64{}, Evictions: map[EvictOutcome]uint64{}}
	for _, u := range ds.byAgent {
		if u.window != nil {
			s.AgentsPlanned++
		}
		if u.draining {
			s.AgentsDraining++
		}
		if u.rollout.State == api.RolloutRolling {
			s.RolloutsUnderWay++
		}
		if u.rollout.GivenUp() {
			s.RolloutsStopped++
		}
	}
	for end, count := range ds.inverse {
		s.InverseOffers[InverseEnd(end)] = count
	}
	for outcome, count := range ds.evicted {
		s.Evictions[EvictOutcome(outcome)] = count
	}
	return s
}
