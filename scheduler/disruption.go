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
	// silence is how long nothing may be heard of a plan before it counts as withdrawn. Of an agent that we use Mesos
	// tells at least as often as our answers and filters allow.
	silence      = 5 * time.Minute
	refuseKept   = 30 * time.Second // filter of offers of agents with a plan: the next one tells whether it still holds
	askAgain     = 5 * time.Second  // filter of inverse offers while we are on our way out
	askSeldom    = time.Minute      // and before and after that
	evictedAgain = 30 * time.Second // a pod that was evicted and is still there is evicted again
)

// Reasons of tasks that Mesos kills because an operator drains their agent, and of those that end with an agent that an
// operator takes down.
const (
	reasonDraining = "REASON_AGENT_DRAINING"
	reasonRemoved  = "REASON_AGENT_REMOVED"
)

// disruption is what we know of the plans that operators have with an agent: maintenance, of which offers and inverse
// offers tell, or draining, of which the ends of tasks tell
// (https://mesos.apache.org/documentation/latest/maintenance/). Most agents have none.
type disruption struct {
	window    *offers.Unavailability // nil if no maintenance is planned
	heard     time.Time              // when Mesos told of the window last
	draining  bool                   // Mesos kills its tasks, and drops new ones
	drain     drain                  // how that stands
	gone      bool                   // it will not come back once it is lost
	rollout   rollout                // of another version of its minion
	shown     api.Rollout            // of that, on the node
	markAt    time.Time              // when the node was asked to be marked last
	evictions map[types.UID]*eviction
	told      string // why the last inverse offer was answered as it was
}

// eviction is the state of our tries to evict one pod.
type eviction struct {
	backoff backoff
	asked   bool // the answer is to come
	blocked bool // a PodDisruptionBudget forbade it
}

// InverseOffer asks for all that we have on an agent because it will be unavailable.
type InverseOffer struct {
	ID          api.OfferID
	Agent       api.AgentID // "" if it asks for more than one agent
	Unavailable offers.Unavailability
}

// InverseEnd is what became of an inverse offer. Each is answered at once, so that none can be held and forgotten.
type InverseEnd int

// Ends of inverse offers.
const (
	InverseAccepted  InverseEnd = iota // we will be out in time, or are
	InverseDeclined                    // we will not
	InverseRescinded                   // Mesos took it back before our answer arrived
	numInverseEnds
)

// String returns the end's name.
func (e InverseEnd) String() string {
	return [numInverseEnds]string{"accepted", "declined", "rescinded"}[e]
}

// EvictOutcome is what became of an eviction.
type EvictOutcome int

// Outcomes of an eviction.
const (
	EvictOK      EvictOutcome = iota // the pod is on its way out
	EvictGone                        // it does not exist any more
	EvictBlocked                     // a PodDisruptionBudget forbids it now
	EvictFailed                      // the API server could not be asked
	numEvictOutcomes
)

// String returns the outcome's name.
func (o EvictOutcome) String() string {
	return [numEvictOutcomes]string{"evicted", "gone", "blocked", "failed"}[o]
}

// disruptions are the plans that operators have with agents.
type disruptions struct {
	core    *Core
	byAgent map[api.AgentID]*disruption
	inverse [numInverseEnds]uint64   // how inverse offers ended
	evicted [numEvictOutcomes]uint64 // and evictions
}

// changed has the agent viewed anew whose plans have.
func (ds *disruptions) changed(id api.AgentID) {
	if a := ds.core.agents.get(id); a != nil {
		ds.core.index.Refresh(&a.Agent)
	}
}

// forget drops the plans with an agent.
func (ds *disruptions) forget(id api.AgentID) { delete(ds.byAgent, id) }

// subscribed has all plans count as heard of: while there was no connection nothing could be.
func (ds *disruptions) subscribed(now time.Time) {
	for _, u := range ds.byAgent {
		u.heard = now
	}
}

// executorExited takes in that the agent's executor has ended: what it was asked to do for a plan is done.
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

// all goes through the plans, by agent, in no order.
func (ds *disruptions) all() iter.Seq2[api.AgentID, *disruption] { return maps.All(ds.byAgent) }

// inverseRescinded counts an inverse offer that Mesos took back.
func (ds *disruptions) inverseRescinded() { ds.inverse[InverseRescinded]++ }

// of returns what is planned with the agent; nil for nothing.
func (ds *disruptions) of(id api.AgentID) *disruption { return ds.byAgent[id] }

func newDisruptions(c *Core) disruptions {
	return disruptions{core: c, byAgent: map[api.AgentID]*disruption{}}
}

// keep returns what is planned with the agent, a new record if it had none.
func (ds *disruptions) keep(now time.Time, id api.AgentID) *disruption {
	u := ds.byAgent[id]
	if u == nil {
		u = &disruption{heard: now, evictions: map[types.UID]*eviction{}}
		ds.byAgent[id] = u
	}
	return u
}

// heardOf takes in what an offer says of its agent's plans: where there is no unavailability nothing is planned any more.
func (ds *disruptions) heardOf(now time.Time, id api.AgentID, window *offers.Unavailability) {
	if window == nil && ds.byAgent[id] == nil {
		return
	}
	u := ds.keep(now, id)
	u.window, u.heard, u.gone = window, now, false
}

// recall learns from its node what an earlier scheduler knew of an agent's plans.
func (ds *disruptions) recall(now time.Time, a *agent, node *v1.Node) {
	cordoned, text := node.Annotations[api.AnnotationCordoned], node.Annotations[api.AnnotationMaintenance]
	rolled := api.ParseRollout(node.Annotations[api.AnnotationRollout])
	u := ds.byAgent[a.ID]
	if u != nil {
		u.rolloutSeen(rolled)
	}
	if u != nil || cordoned == "" && text == "" && rolled.State == api.RolloutNone {
		return
	}
	u = ds.keep(now, a.ID)
	u.rollout, u.shown = rollout{Rollout: rolled}, rolled
	u.draining = cordoned == api.CordonedForDraining
	if window, err := offers.ParseUnavailability(text); err == nil {
		u.window = &window
	}
}

// lost handles an agent that the master removed. One that was taken down as planned does not come back as it was:
// its node goes at once, so that what was left there is replaced without the patience that a network failure deserves.
// The tasks that ended with it have told so; without tasks there is no hurry.
func (ds *disruptions) lost(now time.Time, id api.AgentID) []Action {
	ds.core.agents.absent(now, id)
	if a, u := ds.core.agents.get(id), ds.byAgent[id]; a != nil && u != nil && u.gone {
		return ds.core.agents.forget(now, a)
	}
	return nil
}

// cordon tells for what the agent's node shall be cordoned now; "" for nothing.
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

// drains tells whether Mesos drains the agent: it takes no tasks then, whatever becomes free there.
func (ds *disruptions) drains(a *agent) bool {
	u := ds.byAgent[a.ID]
	return u != nil && u.draining
}

// evicts tells whether it is time for the pods to go.
func (ds *disruptions) evicts(now time.Time, u *disruption) bool {
	return u.draining || u.rollout.State == api.RolloutRolling || u.window != nil && !now.Before(u.window.Start.Add(-ds.core.cfg.DrainLead))
}

// closed tells for what the agent takes no pods although its node is not cordoned yet; "" if it does.
func (ds *disruptions) closed(now time.Time, a *agent, node *v1.Node) string {
	u := ds.byAgent[a.ID]
	if u == nil || node == nil || node.Annotations[api.AnnotationCordoned] != "" {
		return ""
	}
	return ds.cordon(now, u)
}

// tick marks the nodes of agents with plans, and evicts their pods.
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
		if ds.core.session.connected() && now.Sub(u.heard) >= silence && (a.hasExecutor || u.window.Over(now)) {
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

// mark makes the node say what is planned, and cordons it. A cordon of somebody else is left alone; ours is taken back
// when nothing is planned any more, and stays off if somebody takes it back earlier.
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
	if now.Sub(u.markAt) < nodeAgain {
		return nil
	}
	u.markAt = now
	ds.changed(a.ID)
	return []Action{m}
}

// residents returns what finds the pods that are bound to a node. It goes through all pods when it is first asked.
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

// evict asks for the eviction of the agent's pods. Of a draining agent Mesos kills the tasks, whatever the budgets of
// their pods: a pod whose task has ended cannot come back there and is deleted, so that its controller replaces it. The
// API has had the time to show whether it has finished, or was deleted by its executor.
func (ds *disruptions) evict(now time.Time, a *agent, residents []*pod) []Action {
	u := ds.byAgent[a.ID]
	slices.SortFunc(residents, func(a, b *pod) int { return a.Order - b.Order })
	var acts []Action
	here := map[types.UID]*eviction{}
	for _, p := range residents {
		uid := p.Obj.UID
		dead := u.draining && !u.drain.back && p.task == nil && p.attempt > 0 && !now.Before(p.backoff.until)
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

// message tells the owner of a pod why it has to go.
func (u *disruption) message(node string) string {
	if u.draining {
		return fmt.Sprintf("node %s: Mesos drains its agent and has ended the pod's task", node)
	}
	if u.rollout.State == api.RolloutRolling {
		return fmt.Sprintf("node %s: its minion is replaced by km %s", node, u.rollout.Target)
	}
	return fmt.Sprintf("node %s: maintenance is planned for %s", node, u.window)
}

// daemon tells whether a DaemonSet would bring the pod back to the same node at once; kubectl drain leaves these, too
// (https://kubernetes.io/docs/tasks/administer-cluster/safely-drain-node/).
func daemon(pod *v1.Pod) bool {
	owner := metav1.GetControllerOf(pod)
	return owner != nil && owner.Kind == "DaemonSet"
}

func (ds *disruptions) evictDone(now time.Time, done EvictDone) {
	ds.evicted[done.Outcome]++
	u := ds.byAgent[done.Agent]
	if u == nil || u.evictions[done.Pod] == nil {
		return
	}
	e := u.evictions[done.Pod]
	e.asked, e.blocked = false, done.Outcome == EvictBlocked
	if done.Outcome == EvictOK || done.Outcome == EvictGone {
		e.backoff = backoff{until: now.Add(evictedAgain)}
		return
	}
	e.backoff.fail(now)
}

// inverseOffered answers inverse offers at once. Mesos asks again after the answer's filter, so that the answer may
// change with what is found out.
func (ds *disruptions) inverseOffered(now time.Time, came []InverseOffer) []Action {
	var acts []Action
	for _, o := range came {
		if ds.core.agents.get(o.Agent) != nil {
			window := o.Unavailable
			ds.heardOf(now, o.Agent, &window)
			ds.changed(o.Agent)
		}
		answer := ds.answerInverse(now, o)
		answer.Offer, answer.Agent = o.ID, o.Agent
		if u := ds.byAgent[o.Agent]; u != nil {
			answer.News, u.told = answer.Why != u.told, answer.Why
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

// answerInverse accepts if all pods will have left when the agent becomes unavailable, as far as that is known.
func (ds *disruptions) answerInverse(now time.Time, o InverseOffer) AnswerInverse {
	if o.Agent == "" {
		return AnswerInverse{Refuse: askSeldom, Why: "it asks for all that we have"}
	}
	left := ds.leaving(o.Agent)
	if len(left) == 0 {
		return AnswerInverse{Accept: true, Refuse: askSeldom, Why: "no pods that have to leave are there"}
	}
	a, u := ds.core.agents.get(o.Agent), ds.byAgent[o.Agent]
	if u == nil {
		return AnswerInverse{Refuse: askAgain, Why: "the agent is not known yet"}
	}
	if node := ds.core.agents.nodeOf(a); node != nil && node.Annotations[api.AnnotationCordoned] != "" && !node.Spec.Unschedulable {
		return AnswerInverse{Refuse: askAgain, Why: "somebody has uncordoned the node"}
	}
	if why := u.held(left); why != "" {
		return AnswerInverse{Refuse: askAgain, Why: why}
	}
	begin := o.Unavailable.Start.Add(-ds.core.cfg.DrainLead)
	for _, p := range left {
		if over := outBy(p.Obj, later(now, begin)); over.After(o.Unavailable.Start) {
			return AnswerInverse{Refuse: askAgain, Why: fmt.Sprintf("pod %s may need until %s", refOf(p.Obj).Key, over.UTC().Format(time.RFC3339))}
		}
	}
	if now.Before(begin) {
		return AnswerInverse{Accept: true, Refuse: askSeldom, Why: fmt.Sprintf("the pods there will be evicted from %s on", begin.UTC().Format(time.RFC3339))}
	}
	return AnswerInverse{Accept: true, Refuse: askAgain, Why: "the pods there are being evicted"}
}

// held tells why pods cannot be evicted for the time being; "" if they can, as far as is known.
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
		return fmt.Sprintf("PodDisruptionBudgets hold pods (%d of %d)", blocked, len(pods))
	case failing > 0:
		return fmt.Sprintf("the eviction of pods fails (%d of %d)", failing, len(pods))
	}
	return ""
}

// leaving returns the pods with tasks on the agent that are to be evicted, or have been and still end.
func (ds *disruptions) leaving(id api.AgentID) []*pod {
	var left []*pod
	for _, t := range ds.core.tasks.on(id) {
		if p := ds.core.pods.get(t.pod); p != nil && p.task == t && !finished(p.Obj) && !daemon(p.Obj) {
			left = append(left, p)
		}
	}
	return left
}

// outBy returns when a pod has ended that is evicted at the given time, or was before.
func outBy(pod *v1.Pod, at time.Time) time.Time {
	if pod.DeletionTimestamp != nil {
		return pod.DeletionTimestamp.Time
	}
	return at.Add(api.GracePeriod(pod))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
