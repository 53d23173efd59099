package scheduler

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

const (
	// windowTimeout is after how long without offers and inverse offers for it a maintenance window counts as cancelled. For an agent
	// that we use, Mesos sends them whenever our filters expire.
	windowTimeout = 5 * time.Minute
	refuseKept    = 30 * time.Second // filter for offers of agents with a window: the next offer shows whether it still exists
	inverseBusy   = 5 * time.Second  // filter for inverse offers while pods leave
	inverseIdle   = time.Minute      // and before and after that
	evictRetry    = 30 * time.Second // an evicted pod that is still there is evicted again
)

// Reasons in updates of tasks whose agent an operator drains, or takes down.
const (
	reasonDraining = "REASON_AGENT_DRAINING"
	reasonRemoved  = "REASON_AGENT_REMOVED"
)

// disruption is what is planned for an agent: maintenance, known from offers and inverse offers, draining, known from the
// updates of killed tasks (https://mesos.apache.org/documentation/latest/maintenance/), or the rollout of another minion.
// Most agents have none.
type disruption struct {
	window     *offers.Unavailability // nil if no maintenance is planned
	heard      time.Time              // when an offer last confirmed the window
	draining   bool                   // Mesos kills its tasks, and drops new ones
	drain      drain                  // progress of draining
	gone       bool                   // it will not come back once it is lost
	rollout    rollout                // of another version of its minion
	shown      api.Rollout            // the rollout as it is on the node
	markAt     time.Time              // when MarkNode was last sent
	evictions  map[types.UID]*eviction
	lastAnswer string // reason of the last answer to an inverse offer
}

// eviction is the state of our attempts to evict one pod.
type eviction struct {
	backoff backoff
	asked   bool // Evict is under way
	blocked bool // a PodDisruptionBudget forbade the last attempt
}

// InverseOffer asks for all our resources on an agent because it will be unavailable.
type InverseOffer struct {
	ID          api.OfferID
	Agent       api.AgentID // "" if it asks for more than one agent
	Unavailable offers.Unavailability
}

// InverseEnd is how an inverse offer ended. Each is answered at once.
type InverseEnd int

// Ends of inverse offers.
const (
	InverseAccepted  InverseEnd = iota // our pods will have left in time
	InverseDeclined                    // they will not
	InverseRescinded                   // Mesos took it back before our answer arrived
	numInverseEnds
)

// String returns the end's name.
func (e InverseEnd) String() string {
	return [numInverseEnds]string{"accepted", "declined", "rescinded"}[e]
}

// EvictOutcome is the result of an eviction.
type EvictOutcome int

// Outcomes of an eviction.
const (
	EvictOK      EvictOutcome = iota // the pod is terminating
	EvictGone                        // it does not exist any more
	EvictBlocked                     // a PodDisruptionBudget forbids it now
	EvictFailed                      // the API server did not answer
	numEvictOutcomes
)

// String returns the outcome's name.
func (o EvictOutcome) String() string {
	return [numEvictOutcomes]string{"evicted", "gone", "blocked", "failed"}[o]
}

// disruptions are the agents' disruptions.
type disruptions struct {
	core    *Core
	byAgent map[api.AgentID]*disruption
	inverse [numInverseEnds]uint64   // number of inverse offers by end
	evicted [numEvictOutcomes]uint64 // number of evictions by outcome
}

// forget removes an agent's disruption.
func (ds *disruptions) forget(id api.AgentID) { delete(ds.byAgent, id) }

// subscribed restarts the timeout of all windows: while disconnected, no offer could confirm them.
func (ds *disruptions) subscribed(now time.Time) {
	for _, u := range ds.byAgent {
		u.heard = now
	}
}

// executorExited notes that the agent's executor has ended, as draining and rollouts ask it to.
func (ds *disruptions) executorExited(now time.Time, id api.AgentID) {
	u := ds.byAgent[id]
	if u == nil {
		return
	}
	u.drain.exited = true
	if !u.rollout.asked.IsZero() {
		u.rollout.gone = now
	}
}

// all iterates over the disruptions by agent, in no order.
func (ds *disruptions) all() iter.Seq2[api.AgentID, *disruption] { return maps.All(ds.byAgent) }

// inverseRescinded counts an inverse offer that Mesos took back.
func (ds *disruptions) inverseRescinded() { ds.inverse[InverseRescinded]++ }

// of returns the agent's disruption; nil for none.
func (ds *disruptions) of(id api.AgentID) *disruption { return ds.byAgent[id] }

func newDisruptions(c *Core) disruptions {
	return disruptions{core: c, byAgent: map[api.AgentID]*disruption{}}
}

// ensure returns the agent's disruption, a new one if it has none.
func (ds *disruptions) ensure(now time.Time, id api.AgentID) *disruption {
	u := ds.byAgent[id]
	if u == nil {
		u = &disruption{heard: now, evictions: map[types.UID]*eviction{}}
		ds.byAgent[id] = u
	}
	return u
}

// noteWindow learns the maintenance window from an offer; nil says that no maintenance is planned any more.
func (ds *disruptions) noteWindow(now time.Time, id api.AgentID, window *offers.Unavailability) {
	if window == nil && ds.byAgent[id] == nil {
		return
	}
	u := ds.ensure(now, id)
	u.window, u.heard, u.gone = window, now, false
}

// restore learns from an agent's node the disruption that an earlier scheduler knew.
func (ds *disruptions) restore(now time.Time, a *agent, node *v1.Node) {
	cordoned, text := node.Annotations[api.AnnotationCordoned], node.Annotations[api.AnnotationMaintenance]
	rolled := api.ParseRollout(node.Annotations[api.AnnotationRollout])
	u := ds.byAgent[a.ID]
	if u != nil {
		u.rolloutSeen(rolled)
	}
	if u != nil || cordoned == "" && text == "" && rolled.State == api.RolloutNone {
		return
	}
	u = ds.ensure(now, a.ID)
	u.rollout, u.shown = rollout{Rollout: rolled}, rolled
	u.draining = cordoned == api.CordonedForDraining
	if window, err := offers.ParseUnavailability(text); err == nil {
		u.window = &window
	}
}

// lost handles an agent that the master removed. If an operator took it down, which updates of its tasks have said, its
// node is deleted at once, so that its pods are replaced without waiting as after a network failure.
func (ds *disruptions) lost(now time.Time, id api.AgentID) []Action {
	ds.core.agents.absent(now, id)
	if a, u := ds.core.agents.get(id), ds.byAgent[id]; a != nil && u != nil && u.gone {
		return ds.core.agents.forget(now, a)
	}
	return nil
}

// cordon returns why the agent's node shall be cordoned now; "" if it shall not.
func (ds *disruptions) cordon(now time.Time, u *disruption) string {
	switch {
	case u.draining:
		return api.CordonedForDraining
	case u.window != nil && !now.Before(u.window.Start.Add(-ds.core.cfg.CordonLead)):
		return api.CordonedForMaintenance
	case u.rollout.State == api.RolloutRolling || u.rollout.State == api.RolloutStuck:
		return api.CordonedForRollout
	}
	return ""
}

// drains reports whether Mesos drains the agent, which then takes no tasks.
func (ds *disruptions) drains(a *agent) bool {
	u := ds.byAgent[a.ID]
	return u != nil && u.draining
}

// evicts reports whether pods are to be evicted now.
func (ds *disruptions) evicts(now time.Time, u *disruption) bool {
	return u.draining || u.rollout.State == api.RolloutRolling || u.window != nil && !now.Before(u.window.Start.Add(-ds.core.cfg.DrainLead))
}

// closed returns why the agent takes no pods although its node is not cordoned yet; "" if it does.
func (ds *disruptions) closed(now time.Time, a *agent, node *v1.Node) string {
	u := ds.byAgent[a.ID]
	if u == nil || node == nil || node.Annotations[api.AnnotationCordoned] != "" {
		return ""
	}
	return ds.cordon(now, u)
}

// tick advances rollouts and draining, marks the nodes and evicts their pods.
func (ds *disruptions) tick(now time.Time) []Action {
	var acts []Action
	residents := ds.residents()
	acts = append(acts, ds.core.rollouts.begin(now, residents)...)
	for _, id := range slices.Sorted(maps.Keys(ds.byAgent)) {
		a, u := ds.core.agents.get(id), ds.byAgent[id]
		node := ds.core.agents.nodeOf(a)
		if node == nil || !a.Alive {
			continue
		}
		if ds.core.session.connected() && now.Sub(u.heard) >= windowTimeout && (a.hasExecutor || u.window.Over(now)) {
			u.window = nil
		}
		if state := u.rollout.State; state == api.RolloutRolling || state == api.RolloutStuck {
			acts = append(acts, ds.core.rollouts.replace(now, a, node, residents(a.Node))...)
		}
		if u.draining {
			acts = append(acts, ds.tickDrain(now, a, u, residents(a.Node))...)
		}
		acts = append(acts, ds.mark(now, a, node)...)
		if !ds.evicts(now, u) || !node.Spec.Unschedulable {
			continue
		}
		acts = append(acts, ds.evict(now, a, residents(a.Node))...)
	}
	return acts
}

// mark cordons the node and annotates what is planned. It leaves somebody else's cordon alone. It removes ours when nothing
// is planned any more, and does not repeat it if somebody else removes it earlier.
func (ds *disruptions) mark(now time.Time, a *agent, node *v1.Node) []Action {
	u := ds.byAgent[a.ID]
	have := node.Annotations[api.AnnotationCordoned]
	m := MarkNode{Node: node, Cordoned: have, Unschedulable: node.Spec.Unschedulable, Rollout: u.rollout.Rollout}
	if u.window != nil {
		m.Maintenance = u.window.String()
	}
	switch want := ds.cordon(now, u); {
	case want == "" && have != "":
		m.Cordoned, m.Unschedulable = "", false
	case want != "" && have == "" && !node.Spec.Unschedulable, want != "" && have != "":
		m.Cordoned, m.Unschedulable = want, have == "" || node.Spec.Unschedulable
	}
	told := m.Rollout.Equal(api.ParseRollout(node.Annotations[api.AnnotationRollout]))
	m.Failed = u.rollout.GivenUp() && !told
	if m.Cordoned == have && m.Maintenance == node.Annotations[api.AnnotationMaintenance] && told {
		if u.window == nil && !u.draining && u.rollout.State == api.RolloutNone {
			delete(ds.byAgent, a.ID)
		}
		return nil
	}
	if now.Sub(u.markAt) < nodeRetry {
		return nil
	}
	u.markAt = now
	ds.core.agents.changed(a.ID)
	return []Action{m}
}

// residents returns a function that returns the pods bound to a node. Its first call iterates over all pods.
func (ds *disruptions) residents() func(node string) []*pod {
	var residents map[string][]*pod
	return func(node string) []*pod {
		if residents == nil {
			residents = map[string][]*pod{}
			for _, p := range ds.core.pods.all() {
				if p.Node != "" {
					residents[p.Node] = append(residents[p.Node], p)
				}
			}
		}
		return residents[node]
	}
}

// evict evicts the agent's pods. On a draining agent, Mesos itself kills the tasks, whatever the PodDisruptionBudgets say. Such
// a pod cannot come back there: it is deleted, so that its controller replaces it, once its backoff has left the API time
// to show that it finished or that its executor deleted it.
func (ds *disruptions) evict(now time.Time, a *agent, residents []*pod) []Action {
	u := ds.byAgent[a.ID]
	slices.SortFunc(residents, func(a, b *pod) int { return a.Order - b.Order })
	var acts []Action
	here := map[types.UID]*eviction{}
	for _, p := range residents {
		uid := p.Obj.UID
		dead := u.draining && !u.drain.offersAgain && p.task == nil && p.attempt > 0 && !now.Before(p.backoff.until)
		if p.Obj.DeletionTimestamp != nil || finished(p.Obj) || !dead && (u.draining || daemon(p.Obj)) {
			continue
		}
		e := u.evictions[uid]
		if e == nil {
			e = &eviction{}
		}
		here[uid] = e
		if e.asked || now.Before(e.backoff.until) {
			continue
		}
		e.asked = true
		acts = append(acts, Evict{Agent: a.ID, Pod: p.Obj, Delete: dead, Message: u.message(a.Node)})
	}
	u.evictions = here
	return acts
}

// message tells the pod's owner why the pod is evicted.
func (u *disruption) message(node string) string {
	if u.draining {
		return fmt.Sprintf("node %s: Mesos drains its agent and has killed the pod's task", node)
	}
	if u.rollout.State == api.RolloutRolling && u.rollout.Reason == newSettings {
		return fmt.Sprintf("node %s: its minion is replaced by one with the cluster's new settings", node)
	}
	if u.rollout.State == api.RolloutRolling {
		return fmt.Sprintf("node %s: its minion is replaced by km %s", node, u.rollout.Target)
	}
	return fmt.Sprintf("node %s: maintenance is planned for %s", node, u.window)
}

// daemon reports whether the pod belongs to a DaemonSet, which would bring it back at once; kubectl drain ignores these, too
// (https://kubernetes.io/docs/tasks/administer-cluster/safely-drain-node/).
func daemon(pod *v1.Pod) bool {
	owner := metav1.GetControllerOf(pod)
	return owner != nil && owner.Kind == "DaemonSet"
}

// evictDone handles the result of Evict.
func (ds *disruptions) evictDone(now time.Time, done EvictDone) {
	ds.evicted[done.Outcome]++
	u := ds.byAgent[done.Agent]
	if u == nil || u.evictions[done.Pod] == nil {
		return
	}
	e := u.evictions[done.Pod]
	e.asked, e.blocked = false, done.Outcome == EvictBlocked
	if done.Outcome == EvictOK || done.Outcome == EvictGone {
		e.backoff = backoff{until: now.Add(evictRetry)}
		return
	}
	e.backoff.fail(now)
}

// inverseOffered answers inverse offers at once. Mesos sends them again after the answer's filter, so that a later answer may
// differ.
func (ds *disruptions) inverseOffered(now time.Time, came []InverseOffer) []Action {
	var acts []Action
	for _, o := range came {
		if ds.core.agents.get(o.Agent) != nil {
			window := o.Unavailable
			ds.noteWindow(now, o.Agent, &window)
			ds.core.agents.changed(o.Agent)
		}
		answer := ds.answerInverse(now, o)
		answer.Offer, answer.Agent = o.ID, o.Agent
		if u := ds.byAgent[o.Agent]; u != nil {
			answer.News, u.lastAnswer = answer.Why != u.lastAnswer, answer.Why
		}
		end := InverseDeclined
		if answer.Accept {
			end = InverseAccepted
		}
		ds.inverse[end]++
		acts = append(acts, answer)
	}
	return acts
}

// answerInverse accepts if, as far as is known, all pods will have left before the agent becomes unavailable.
func (ds *disruptions) answerInverse(now time.Time, o InverseOffer) AnswerInverse {
	if o.Agent == "" {
		return AnswerInverse{Refuse: inverseIdle, Why: "it names no agent"}
	}
	left := ds.leaving(o.Agent)
	if len(left) == 0 {
		return AnswerInverse{Accept: true, Refuse: inverseIdle, Why: "no pods to evict"}
	}
	a, u := ds.core.agents.get(o.Agent), ds.byAgent[o.Agent]
	if u == nil {
		return AnswerInverse{Refuse: inverseBusy, Why: "the agent is not known yet"}
	}
	if node := ds.core.agents.nodeOf(a); node != nil && node.Annotations[api.AnnotationCordoned] != "" && !node.Spec.Unschedulable {
		return AnswerInverse{Refuse: inverseBusy, Why: "somebody has uncordoned the node"}
	}
	if why := u.held(left); why != "" {
		return AnswerInverse{Refuse: inverseBusy, Why: why}
	}
	begin := o.Unavailable.Start.Add(-ds.core.cfg.DrainLead)
	for _, p := range left {
		if over := outBy(p.Obj, later(now, begin)); over.After(o.Unavailable.Start) {
			return AnswerInverse{Refuse: inverseBusy, Why: fmt.Sprintf("pod %s may run until %s", refOf(p.Obj).Key, over.UTC().Format(time.RFC3339))}
		}
	}
	if now.Before(begin) {
		return AnswerInverse{Accept: true, Refuse: inverseIdle, Why: fmt.Sprintf("pods will be evicted at %s", begin.UTC().Format(time.RFC3339))}
	}
	return AnswerInverse{Accept: true, Refuse: inverseBusy, Why: "pods are being evicted"}
}

// held returns why pods cannot be evicted now; "" if nothing is known to prevent it.
func (u *disruption) held(pods []*pod) string {
	blocked, failing := 0, 0
	for _, p := range pods {
		switch e := u.evictions[p.Obj.UID]; {
		case e == nil || p.Obj.DeletionTimestamp != nil:
		case e.blocked:
			blocked++
		case e.backoff.failures > 0:
			failing++
		}
	}
	switch {
	case blocked > 0:
		return fmt.Sprintf("PodDisruptionBudgets block evictions (%d of %d pods)", blocked, len(pods))
	case failing > 0:
		return fmt.Sprintf("evictions fail (%d of %d pods)", failing, len(pods))
	}
	return ""
}

// leaving returns the agent's pods that will be evicted, or were evicted and are still terminating.
func (ds *disruptions) leaving(id api.AgentID) []*pod {
	var left []*pod
	for _, t := range ds.core.tasks.on(id) {
		if p := ds.core.pods.get(t.pod); p != nil && p.task == t && !finished(p.Obj) && !daemon(p.Obj) {
			left = append(left, p)
		}
	}
	return left
}

// outBy returns when a pod will have ended at the latest if it is evicted at the given time, or was evicted before.
func outBy(pod *v1.Pod, at time.Time) time.Time {
	if pod.DeletionTimestamp != nil {
		return pod.DeletionTimestamp.Time
	}
	return at.Add(api.GracePeriod(pod))
}

// later returns the later of two times.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
