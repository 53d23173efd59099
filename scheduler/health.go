package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler/match"
)

const (
	// lasting is after how many failures in a row an agent's node is tainted: when it has taken no pod for more than a minute.
	lasting = 4
	// kubeletPatience is how long a kubelet may take to admit a pod that its executor has taken: it may have to start first.
	kubeletPatience = 3 * time.Minute
)

// blames is the table of the reasons for which a task that has not run yet ends by its agent's fault, and not by its pod's,
// with how long nothing else is launched there after the first such failure. They count when it is the agent or the master
// that says so. src/slave/slave.cpp of Mesos sends those without another file here.
var blames = map[string]time.Duration{
	// The sandbox cannot be made, an isolator fails, the fetcher does (executorLaunched).
	"REASON_CONTAINER_LAUNCH_FAILED": breakerFirst,
	// It was started and did not subscribe in time (registerExecutorTimeout).
	"REASON_EXECUTOR_REGISTRATION_TIMEOUT": breakerFirst,
	// It has ended by itself (sendExecutorTerminatedStatusUpdate). For TASK_DROPPED see blame.
	"REASON_EXECUTOR_TERMINATED": breakerFirst,
	// Its container took more than it was given (the isolators in src/slave/containerizer/mesos).
	"REASON_CONTAINER_LIMITATION":        breakerFirst,
	"REASON_CONTAINER_LIMITATION_MEMORY": breakerFirst,
	"REASON_CONTAINER_LIMITATION_DISK":   breakerFirst,
	"REASON_IO_SWITCHBOARD_EXITED":       breakerFirst,
	// The container could not be given the task's share (launchTask and __run, as TASK_GONE).
	"REASON_CONTAINER_UPDATE_FAILED": breakerFirst,
	// Directories could not be taken back from the garbage collection, or resources have no isolator (run and _run).
	"REASON_GC_ERROR": breakerFirst,
	// The agent has lost what it knew of reserved resources or volumes (__run).
	"REASON_RESOURCES_UNKNOWN": breakerFirst,
	// The agent was started again before the executor had subscribed, or that did not find it again (recover, reregisterExecutorTimeout).
	"REASON_AGENT_RESTARTED":                 breakerBrief,
	"REASON_EXECUTOR_REREGISTRATION_TIMEOUT": breakerBrief,
	// The agent was not connected when the offer was accepted (accept in src/master/master.cpp).
	"REASON_AGENT_DISCONNECTED": breakerBrief,
}

// blame tells whether the end of a task that had not run is its agent's fault. TASK_DROPPED for an executor that has ended is
// mostly a matter of a moment: the agent waits for acknowledgements of its last tasks, or the master has not heard of its end
// (__run in src/slave/slave.cpp).
func blame(s TaskStatus) (first time.Duration, blamed bool) {
	if s.unfit() {
		return breakerFirst, true
	}
	if s.ByExecutor || s.State != Failed && s.State != Dropped && s.State != Gone && s.State != Lost {
		return 0, false
	}
	if s.State == Dropped && s.Reason == "REASON_EXECUTOR_TERMINATED" {
		return breakerBrief, true
	}
	first, blamed = blames[s.Reason]
	return first, blamed
}

// health tells which agents fail tasks before they run, and which pods kubelets did not admit.
type health struct {
	core  *Core
	count uint64 // of pods that kubelets rejected
}

// rejected counts the pods that kubelets did not admit.
func (hs *health) rejected() uint64 { return hs.count }

// changed has the agent viewed anew of which more or less keeps pods off.
func (hs *health) changed(a *agent) { hs.core.index.Refresh(&a.Agent) }

// note learns from what is said of a task whether its agent is able to run any: one that is not would else get all pods,
// because all that it has is always free.
func (hs *health) note(now time.Time, t *task, s TaskStatus) []Action {
	a := hs.core.agents.get(t.agent)
	switch {
	case a == nil || t.ran || t.killed:
		return nil
	case s.State == Running:
		return hs.noteRan(now, a, t)
	case s.State == Starting:
		if t.starting.IsZero() {
			t.starting = now
		}
		return nil
	}
	first, blamed := blame(s)
	if !blamed || hs.shutsDown(a) {
		return nil
	}
	if p := hs.core.pods.get(t.pod); p != nil && p.Node == "" {
		t.spared = true // others may run it at once
	}
	acts := hs.failed(now, a, t.since, first, s.String())
	if node := hs.core.agents.node(a.Node); node != nil && s.unfit() {
		acts = append(acts, MarkReady{Name: a.Node, Unfit: s.Message})
	}
	return acts
}

// shutsDown tells whether the agent's executor was asked to end and has not yet.
func (hs *health) shutsDown(a *agent) bool {
	u := hs.core.disruptions.of(a.ID)
	return u != nil && (u.draining || !u.rollout.asked.IsZero() && u.rollout.gone.IsZero())
}

// noteRan notes that a task there runs, or that its kubelet has admitted its pod.
func (hs *health) noteRan(now time.Time, a *agent, t *task) []Action {
	t.ran = true
	if p := hs.core.pods.get(t.pod); p != nil {
		hs.admitted(a, p)
	}
	h := &a.failures.health
	if h.failures == 0 || t.since.Before(h.since) && h.trial != t.who() {
		return nil
	}
	told := fmt.Sprintf("a task runs there again; failures before: %d", h.failures)
	*h = breaker{}
	hs.changed(a)
	hs.core.offering.reviveSoon()
	return hs.core.agents.tellNode(a, v1.EventTypeNormal, "AgentRecovered", told)
}

// failed counts a failure of the agent, of a task that was launched there at the given time. What it offers is given back
// at once, for as long as nothing is tried there.
func (hs *health) failed(now time.Time, a *agent, launched time.Time, first time.Duration, why string) []Action {
	h := &a.failures.health
	if !h.fail(now, launched, first, why) {
		return nil
	}
	hs.changed(a)
	told := fmt.Sprintf("%s; no pod is placed there for %s, then one is tried (failure %d)", why, h.until.Sub(now), h.failures)
	return append(hs.core.offering.giveBack(now, a), hs.core.agents.tellNode(a, v1.EventTypeWarning, "AgentFailing", told)...)
}

// awaited tells whether a pod that is bound to the agent's node needs a task.
func (hs *health) awaited(a *agent) bool {
	for obj := range hs.core.index.OccupiedBy(a.Node) {
		if p := hs.core.pods.get(obj.UID); p != nil && p.Node == a.Node && needsTask(p) {
			return true
		}
	}
	return false
}

// tick does what is due for an agent on which something has failed.
func (hs *health) tick(now time.Time, a *agent) []Action {
	if a.failures.health.due(now) {
		hs.changed(a)
		hs.core.offering.reviveSoon()
	}
	hs.tickRejections(now, a)
	taint := a.failures.health.failures >= lasting
	if taint == a.failures.tainted || now.Sub(a.failures.taintAt) < nodeAgain {
		return nil
	}
	node := hs.core.agents.nodeOf(a)
	if node == nil {
		return nil
	}
	a.failures.taintAt = now
	return []Action{TaintNode{Node: node, Failing: taint}}
}

// tickStarting counts a failure of an agent whose kubelet has not admitted a pod for long: it may not even run. The pod is bound
// and has to wait; no other shall share its lot.
func (hs *health) tickStarting(now time.Time, t *task) []Action {
	a, p := hs.core.agents.get(t.agent), hs.core.pods.get(t.pod)
	if a == nil || p == nil {
		return nil
	}
	launched := t.starting
	t.starting = now
	why := fmt.Sprintf("its kubelet has not taken pod %s for %s: see its log in the sandbox of executor %s", refOf(p.Obj).Key, kubeletPatience, api.MinionExecutorID)
	acts := hs.failed(now, a, launched, breakerFirst, why)
	a.failures.health.try(p.Obj.UID)
	return acts
}

// tickSilent counts a failure of an agent that has not said anything of a task for so long that the task is given up.
func (hs *health) tickSilent(now time.Time, t *task) []Action {
	a := hs.core.agents.get(t.agent)
	if a == nil {
		return nil
	}
	return hs.failed(now, a, t.since, breakerFirst, fmt.Sprintf("nothing was heard of task %s for %s", t.id, hs.core.cfg.LaunchGrace))
}

// stalled tells whether it is time for tickStarting. Of a pod that a kubelet had before its executor ended nobody can tell
// whether the next one has it.
func (t *task) stalled(now time.Time) bool {
	return t.state == Starting && t.bound && t.fresh && !t.ran && now.Sub(t.starting) >= kubeletPatience
}

// tries notes that a pod, or a task without one, is being tried on an agent where something has failed. A pod that is bound
// there is no trial: the kubelet has it already, and it may never run for reasons of its own.
func (a *agent) tries(who types.UID, p *pod) {
	if p != nil && p.Node != "" {
		return
	}
	a.failures.health.try(who)
	for _, r := range a.failures.rejections {
		if p != nil && r.concerns(&p.Requests, p.Extended) {
			r.try(who)
		}
	}
}

// triedInVain notes that who was tried on the agent has left it without a result.
func (hs *health) triedInVain(a *agent, who types.UID) {
	changed := a.failures.health.end(who)
	for _, r := range a.failures.rejections {
		changed = r.end(who) || changed
	}
	if changed {
		hs.changed(a)
	}
}

// recall learns from its node, when that is seen for the first time, that an earlier scheduler knew the agent to fail.
func (hs *health) recall(a *agent, node *v1.Node) {
	a.failures.tainted = slices.ContainsFunc(node.Spec.Taints, isFailingTaint)
	if a.failures.recalled {
		return
	}
	a.failures.recalled = true
	if a.failures.tainted && a.failures.health.failures == 0 {
		a.failures.health = breaker{failures: lasting, why: "its tasks failed before they ran when the scheduler was started"}
		hs.changed(a)
	}
}

// failures are what has failed on an agent. They keep pods off it.
type failures struct {
	health     breaker // of tasks that fail before they run
	rejections []*rejection
	tainted    bool      // its node has api.TaintAgentFailing
	taintAt    time.Time // when that was to be changed last
	recalled   bool      // what its node says of its health was taken in
}

// Fails implements match.Guard.
func (f *failures) Fails() bool { return !f.health.takes() }

// Rejects implements match.Guard.
func (f *failures) Rejects(requests *match.Requests, extended match.Extended) string {
	for _, r := range f.rejections {
		if !r.takes() && r.concerns(requests, extended) {
			return r.String()
		}
	}
	return ""
}

// failing tells how it stands with what has failed on the agent.
func (a *agent) failing() string {
	var parts []string
	if text := a.failures.health.String(); text != "" {
		parts = append(parts, text)
	}
	for _, r := range a.failures.rejections {
		parts = append(parts, r.breaker.String())
	}
	return strings.Join(parts, "; ")
}

func isFailingTaint(taint v1.Taint) bool { return taint.Key == api.TaintAgentFailing }

// tellNode tells something by an event on the agent's node, if it has one.
func (as *agents) tellNode(a *agent, kind, reason, message string) []Action {
	node := as.nodes[a.Node]
	if node == nil {
		return nil
	}
	return []Action{TellNode{Node: node, Type: kind, Reason: reason, Message: message}}
}

// TellNode tells something by an event on a node.
type TellNode struct {
	Node                  *v1.Node
	Type, Reason, Message string // as those of an Event of Kubernetes
}

func (a TellNode) String() string {
	return fmt.Sprintf("tell node %s: %s: %s", a.Node.Name, a.Reason, a.Message)
}

// Object implements ClusterAction.
func (a TellNode) Object() string { return "node/" + a.Node.Name }

// TaintNode gives a node api.TaintAgentFailing or takes it away, unless the node has changed meanwhile; then it is decided
// upon again.
type TaintNode struct {
	Node    *v1.Node // as it was seen
	Failing bool
}

func (a TaintNode) String() string {
	if a.Failing {
		return fmt.Sprintf("taint node %s with %s", a.Node.Name, api.TaintAgentFailing)
	}
	return fmt.Sprintf("take taint %s from node %s", api.TaintAgentFailing, a.Node.Name)
}

// Object implements ClusterAction.
func (a TaintNode) Object() string { return "node/" + a.Node.Name }

// Taints are those that the node shall have.
func (a TaintNode) Taints() []v1.Taint {
	taints := slices.DeleteFunc(slices.Clone(a.Node.Spec.Taints), isFailingTaint)
	if a.Failing {
		taints = append(taints, v1.Taint{Key: api.TaintAgentFailing, Effect: v1.TaintEffectNoSchedule})
	}
	return taints
}
