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
	// taintAfter is after how many failures in a row an agent's node is tainted; by then it has taken no pod for more than a minute.
	taintAfter = 4
	// kubeletPatience is how long a kubelet may take to admit a pod, including its own start.
	kubeletPatience = 3 * time.Minute
)

// blames lists the reasons that blame the agent, not the pod, for the end of a task that has not run yet, with the pause after
// the first such failure. They count only if the agent or the master sends them. Unless another file is named, see
// src/slave/slave.cpp of Mesos.
var blames = map[string]time.Duration{
	// The sandbox, an isolator or the fetcher failed (executorLaunched).
	"REASON_CONTAINER_LAUNCH_FAILED": breakerFirst,
	// The executor did not subscribe in time (registerExecutorTimeout).
	"REASON_EXECUTOR_REGISTRATION_TIMEOUT": breakerFirst,
	// The executor ended by itself (sendExecutorTerminatedStatusUpdate). For TASK_DROPPED see blame.
	"REASON_EXECUTOR_TERMINATED": breakerFirst,
	// The executor's container exceeded its limits (the isolators in src/slave/containerizer/mesos).
	"REASON_CONTAINER_LIMITATION":        breakerFirst,
	"REASON_CONTAINER_LIMITATION_MEMORY": breakerFirst,
	"REASON_CONTAINER_LIMITATION_DISK":   breakerFirst,
	"REASON_IO_SWITCHBOARD_EXITED":       breakerFirst,
	// The container's resources could not be updated for the task (launchTask and __run, as TASK_GONE).
	"REASON_CONTAINER_UPDATE_FAILED": breakerFirst,
	// Directories could not be unscheduled from garbage collection, or resources have no isolator (run and _run).
	"REASON_GC_ERROR": breakerFirst,
	// The agent does not know the task's reserved resources or volumes (__run).
	"REASON_RESOURCES_UNKNOWN": breakerFirst,
	// The agent restarted before the executor had subscribed, or the executor did not reconnect (recover, reregisterExecutorTimeout).
	"REASON_AGENT_RESTARTED":                 breakerBrief,
	"REASON_EXECUTOR_REREGISTRATION_TIMEOUT": breakerBrief,
	// The agent was not connected when the offer was accepted (accept in src/master/master.cpp).
	"REASON_AGENT_DISCONNECTED": breakerBrief,
}

// blame reports whether the end of a task that had not run is its agent's fault, and returns the pause after the first such
// failure. TASK_DROPPED for an executor that has ended is usually over in a moment: the agent waits for acknowledgements of
// its last tasks, or the master has not heard of its end (__run in src/slave/slave.cpp).
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

// health tracks which agents fail tasks before they run, and which pods kubelets did not admit.
type health struct {
	core  *Core
	count uint64 // of rejected pods
}

// rejected returns the number of pods that kubelets did not admit.
func (hs *health) rejected() uint64 { return hs.count }

// changed refreshes an agent in the index after its failures have changed.
func (hs *health) changed(a *agent) { hs.core.index.Refresh(&a.Agent) }

// note learns from an update whether the task's agent can run tasks. An agent that cannot is always free, so that without this
// it would get all pods.
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
		t.blameless = true // another agent may run it at once
	}
	acts := hs.failed(now, a, t.since, first, s.String())
	if node := hs.core.agents.node(a.Node); node != nil && s.unfit() {
		acts = append(acts, MarkReady{Name: a.Node, Unfit: s.Message})
	}
	return acts
}

// shutsDown reports whether the agent's executor was asked to end and still runs.
func (hs *health) shutsDown(a *agent) bool {
	u := hs.core.disruptions.of(a.ID)
	return u != nil && (u.draining || !u.rollout.asked.IsZero() && u.rollout.gone.IsZero())
}

// noteRan notes that the agent has run a task, or that its kubelet has admitted the task's pod.
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
	return hs.core.agents.nodeEvent(a, v1.EventTypeNormal, "AgentRecovered", told)
}

// failed counts the failure of a task that was launched on the agent at the given time. The agent's offers are declined until
// the next try.
func (hs *health) failed(now time.Time, a *agent, launched time.Time, first time.Duration, why string) []Action {
	h := &a.failures.health
	if !h.fail(now, launched, first, why) {
		return nil
	}
	hs.changed(a)
	told := fmt.Sprintf("%s; no pod is placed there for %s, then one is tried (failure %d)", why, h.until.Sub(now), h.failures)
	return append(hs.core.offering.giveBack(now, a), hs.core.agents.nodeEvent(a, v1.EventTypeWarning, "AgentFailing", told)...)
}

// awaited reports whether a pod that is bound to the agent's node needs a task.
func (hs *health) awaited(a *agent) bool {
	for obj := range hs.core.index.OccupiedBy(a.Node) {
		if p := hs.core.pods.get(obj.UID); p != nil && p.Node == a.Node && needsTask(p) {
			return true
		}
	}
	return false
}

// tick ends pauses that are over, and taints or untaints the agent's node.
func (hs *health) tick(now time.Time, a *agent) []Action {
	if a.failures.health.due(now) {
		hs.changed(a)
		hs.core.offering.reviveSoon()
	}
	hs.tickRejections(now, a)
	taint := a.failures.health.failures >= taintAfter
	if taint == a.failures.tainted || now.Sub(a.failures.taintAt) < nodeRetry {
		return nil
	}
	node := hs.core.agents.nodeOf(a)
	if node == nil {
		return nil
	}
	a.failures.taintAt = now
	return []Action{TaintNode{Node: node, Failing: taint}}
}

// tickStarting counts a failure of an agent whose kubelet has not admitted a pod in time, and may not even run. The pod is bound
// and has to wait there; others stay away.
func (hs *health) tickStarting(now time.Time, t *task) []Action {
	a, p := hs.core.agents.get(t.agent), hs.core.pods.get(t.pod)
	if a == nil || p == nil {
		return nil
	}
	launched := t.starting
	t.starting = now
	why := fmt.Sprintf("its kubelet has not admitted pod %s for %s: see its log in the sandbox of executor %s", refOf(p.Obj).Key, kubeletPatience, api.MinionExecutorID)
	acts := hs.failed(now, a, launched, breakerFirst, why)
	a.failures.health.try(p.Obj.UID)
	return acts
}

// tickSilent counts a failure of an agent that has sent no update of a task within LaunchGrace.
func (hs *health) tickSilent(now time.Time, t *task) []Action {
	a := hs.core.agents.get(t.agent)
	if a == nil {
		return nil
	}
	return hs.failed(now, a, t.since, breakerFirst, fmt.Sprintf("task %s has sent no status for %s", t.id, hs.core.cfg.LaunchGrace))
}

// stalled reports whether tickStarting is due. A pod that an earlier kubelet had admitted is skipped: nothing shows when the
// next kubelet admits it.
func (t *task) stalled(now time.Time) bool {
	return t.state == Starting && t.bound && t.fresh && !t.ran && now.Sub(t.starting) >= kubeletPatience
}

// tries marks a pod, or a task without one, as the trial of an agent where something has failed. A pod that is bound there is
// no trial: the kubelet already has it, and it may never run for reasons of its own.
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

// triedInVain ends a trial on the agent that has no result.
func (hs *health) triedInVain(a *agent, who types.UID) {
	changed := a.failures.health.end(who)
	for _, r := range a.failures.rejections {
		changed = r.end(who) || changed
	}
	if changed {
		hs.changed(a)
	}
}

// restore learns from the taint of an agent's node, when it is first seen, that the agent failed under an earlier scheduler.
func (hs *health) restore(a *agent, node *v1.Node) {
	a.failures.tainted = slices.ContainsFunc(node.Spec.Taints, isFailingTaint)
	if a.failures.restored {
		return
	}
	a.failures.restored = true
	if a.failures.tainted && a.failures.health.failures == 0 {
		a.failures.health = breaker{failures: taintAfter, why: "its tasks failed before they ran when the scheduler was started"}
		hs.changed(a)
	}
}

// failures are what has failed on an agent. They implement match.Guard, which keeps pods away.
type failures struct {
	health     breaker // of tasks that fail before they run
	rejections []*rejection
	tainted    bool      // its node has api.TaintAgentFailing
	taintAt    time.Time // when TaintNode was last sent
	restored   bool      // the taint of its node was read
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

// failing describes what has failed on the agent; "" for nothing.
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

// nodeEvent records an event on the agent's node, if it has one.
func (as *agents) nodeEvent(a *agent, kind, reason, message string) []Action {
	node := as.nodes[a.Node]
	if node == nil {
		return nil
	}
	return []Action{RecordNodeEvent{Node: node, Type: kind, Reason: reason, Message: message}}
}

// RecordNodeEvent records a Kubernetes event on a node.
type RecordNodeEvent struct {
	Node                  *v1.Node
	Type, Reason, Message string // of the Kubernetes Event
}

func (a RecordNodeEvent) String() string {
	return fmt.Sprintf("event on node %s: %s: %s", a.Node.Name, a.Reason, a.Message)
}

// Object implements ClusterAction.
func (a RecordNodeEvent) Object() string { return "node/" + a.Node.Name }

// TaintNode adds or removes the taint api.TaintAgentFailing. If the node has changed meanwhile nothing is written; the core
// decides again.
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

// Taints returns the taints that the node shall have.
func (a TaintNode) Taints() []v1.Taint {
	taints := slices.DeleteFunc(slices.Clone(a.Node.Spec.Taints), isFailingTaint)
	if a.Failing {
		taints = append(taints, v1.Taint{Key: api.TaintAgentFailing, Effect: v1.TaintEffectNoSchedule})
	}
	return taints
}
