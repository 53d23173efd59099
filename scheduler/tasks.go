package scheduler

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler/match"
)

const bindRetry = time.Second // after a failed Bind or Annotate

// overGrace is how long the API may still show a pod as alive after its task ended. After that, the executor must have ended
// the task without the pod, as it does when its agent is shut down, and the pod needs another task.
const overGrace = 10 * time.Second

// stableAfter is how long a task has to last to reset its pod's backoff.
const stableAfter = time.Minute

// tasks are the tasks that Mesos knows or should know.
type tasks struct {
	core      *Core
	byID      map[api.TaskID]*task
	byAgent   map[api.AgentID][]*task
	reconcile reconciliation
}

// count returns the number of tasks.
func (ts *tasks) count() int { return len(ts.byID) }

// states returns the number of tasks in each state.
func (ts *tasks) states() map[TaskState]int {
	states := make(map[TaskState]int, numStates)
	for s := range numStates {
		states[s] = 0
	}
	for _, t := range ts.byID {
		states[t.state]++
	}
	return states
}

// add adds a task.
func (ts *tasks) add(t *task) {
	ts.byID[t.id] = t
	ts.byAgent[t.agent] = append(ts.byAgent[t.agent], t)
}

// ask schedules the reconciliation of a task.
func (ts *tasks) ask(now time.Time, id api.TaskID) { ts.reconcile.add(now, id) }

// answered ends the reconciliation of a task.
func (ts *tasks) answered(id api.TaskID) { ts.reconcile.done(id) }

// subscribed reconciles all tasks, and repeats the kills: those sent on the old connection may be lost.
func (ts *tasks) subscribed(now time.Time) []Action {
	ts.reconcile = reconciliation{}
	for _, id := range slices.Sorted(maps.Keys(ts.byID)) {
		ts.ask(now, id)
		if t := ts.byID[id]; t.killed && !t.killAt.IsZero() {
			t.killAt = now
		}
	}
	return ts.reconcileDue(now)
}

// get returns the task; nil if unknown.
func (ts *tasks) get(id api.TaskID) *task { return ts.byID[id] }

// on returns the tasks on an agent. The slice is valid until tasks are added or dropped.
func (ts *tasks) on(id api.AgentID) []*task { return ts.byAgent[id] }

func newTasks(c *Core) tasks {
	return tasks{core: c, byID: map[api.TaskID]*task{}, byAgent: map[api.AgentID][]*task{}}
}

// task is a task that Mesos knows or should know.
type task struct {
	id     api.TaskID
	agent  api.AgentID
	offer  api.OfferID
	role   string // of the offer; "" if an earlier scheduler launched the task
	pod    types.UID
	warm   bool // it has no pod, and keeps its agent's executor running
	demand match.Demand
	mapped []api.PortMapping // the pod's ports, with the host ports that the task has
	since  time.Time
	taskNews
	taskStart
	taskBinding
	taskEnd
}

// taskNews is what Mesos has said about a task.
type taskNews struct {
	state   TaskState
	message string    // of the last update; "" for none
	heard   bool      // an update has come, and is still reliable
	askAt   time.Time // when to reconcile it if nothing is heard
}

// taskStart is how far the start of a task has come.
type taskStart struct {
	starting time.Time // when its executor took it
	ran      bool      // it was seen running, or the kubelet admitted its pod
	fresh    bool      // no kubelet had seen its pod before
}

// taskBinding is how far the task's id has been written to its pod.
type taskBinding struct {
	binding bool      // Bind or Annotate is under way
	bindAt  time.Time // when to try again; zero for never
	bound   bool      // its id is in the pod's annotations
	unacked [][]byte  // updates to acknowledge when binding is done
}

// taskEnd is how a task is being ended.
type taskEnd struct {
	killAt    time.Time // when to send KILL, again; zero for never
	killed    bool      // KILL was sent
	blameless bool      // its end is not its pod's fault and causes no backoff
}

// updated handles a status update by the table in state.go. It acknowledges the update once its effects are done.
func (ts *tasks) updated(now time.Time, s TaskStatus) []Action {
	r := reactionTo(s)
	ts.core.disruptions.noteDraining(now, s)
	acts := ts.core.agents.updated(now, s.Agent, r)
	if a := ts.core.agents.get(s.Agent); a != nil && r.running && s.State != Staging {
		ts.core.agents.executorUp(a)
	}
	if _, warm := s.Task.Warm(); warm {
		return append(acts, ts.core.warm.updated(now, s, r)...)
	}
	t := ts.byID[s.Task]
	if t == nil {
		t = ts.adopt(now, s, r)
	}
	if t == nil {
		return append(acts, ts.unknown(s, r)...)
	}
	t.state, t.heard, t.message = s.State, true, s.Message
	t.blameless = s.State == Dropped && s.Reason == reasonDraining // noteDraining makes its agent wait instead
	ts.core.rollouts.noteFailure(t, s, r)
	ts.core.offering.noteRefusal(t, s)
	acts = append(acts, ts.core.health.note(now, t, s)...)
	if !r.running {
		ts.core.offering.freed(now, s)
	}
	ts.reconcile.done(t.id)
	p := ts.core.pods.get(t.pod)
	switch {
	case p == nil:
		return append(acts, ts.orphanUpdated(now, t, s, r)...)
	case p.Node == "":
		return append(acts, ts.unboundUpdated(now, t, s, r)...)
	default:
		return append(acts, ts.boundUpdated(now, t, s, r)...)
	}
}

// adopt adds an unknown task that runs for one of our pods. It is a newer attempt, launched by an earlier scheduler just
// before it died, or the current attempt, which was given up because Mesos did not know it. In the second case the pod
// has no other task yet, and killing this one would kill a running pod.
func (ts *tasks) adopt(now time.Time, s TaskStatus, r reaction) *task {
	uid, attempt, err := s.Task.Parse()
	p := ts.core.pods.get(uid)
	if err != nil || p == nil || !r.running || finished(p.Obj) || attempt < p.attempt {
		return nil
	}
	if attempt == p.attempt && (p.task != nil || attempt == p.disowned) {
		return nil
	}
	if p.task != nil {
		ts.drop(p.task)
		p.task = nil
	}
	p.attempt = attempt
	if p.Asks.Wildcards() || p.awaitsAddress() {
		p.since, p.disowned = now, attempt
		ts.core.pods.requeue(now, p) // its host ports or address are lost: the pod gets another task
		return nil
	}
	t := ts.start(now, p, s.Agent)
	t.bound = p.Obj.Annotations[api.AnnotationTaskID] == string(t.id)
	return t
}

// unknown kills a task without a pod, unless some pods are still to be seen.
func (ts *tasks) unknown(s TaskStatus, r reaction) []Action {
	if !ts.core.session.synced() {
		return nil
	}
	acts := acknowledge(s.Task, s.Agent, s.UUID)
	if r.running {
		acts = append(acts, Kill{Task: s.Task, Agent: s.Agent})
	}
	return acts
}

// orphanUpdated handles an update of a task whose pod was removed from the API.
func (ts *tasks) orphanUpdated(now time.Time, t *task, s TaskStatus, r reaction) []Action {
	acts := acknowledge(t.id, t.agent, s.UUID)
	if !r.running {
		ts.drop(t)
		return acts
	}
	t.killLater(now.Add(goneKillAfter))
	return acts
}

// unboundUpdated handles an update of a task whose pod is not bound yet.
func (ts *tasks) unboundUpdated(now time.Time, t *task, s TaskStatus, r reaction) []Action {
	p := ts.core.pods.get(t.pod)
	switch r.unbound {
	case unboundBind:
		if p.Obj.DeletionTimestamp != nil || !t.killAt.IsZero() {
			t.killLater(now)
			return append(acknowledge(t.id, t.agent, s.UUID), ts.tick(now, t)...)
		}
		return ts.bind(now, t, s.UUID)
	case unboundRetry:
		acts := acknowledge(t.id, t.agent, s.UUID)
		ts.end(now, t, false)
		if s.State == Errored {
			ts.core.health.refusedByMesos(now, t, p)
		}
		if s.State == Errored || s.State == Failed {
			acts = append(acts, Report{Pod: p.Obj, Message: refusal(s)})
		}
		return acts
	}
	return acknowledge(t.id, t.agent, s.UUID)
}

// refusal describes the end of a task before its pod was bound.
func refusal(s TaskStatus) string {
	if s.State == Errored {
		return fmt.Sprintf("Mesos refused task %s: %s", s.Task, s.Message)
	}
	return fmt.Sprintf("task %s ended before the pod was started: %s", s.Task, s.Message)
}

// boundUpdated handles an update of a task whose pod is bound.
func (ts *tasks) boundUpdated(now time.Time, t *task, s TaskStatus, r reaction) []Action {
	p := ts.core.pods.get(t.pod)
	if r.unbound == unboundBind && !t.bound {
		return ts.bind(now, t, s.UUID)
	}
	acts := acknowledge(t.id, t.agent, s.UUID)
	switch r.bound {
	case boundOver:
		ts.end(now, t, t.bound)
	case boundResume:
		ts.end(now, t, false)
		if s.State == Errored {
			acts = append(acts, Report{Pod: p.Obj, Message: refusal(s)})
			break
		}
		ts.resume(now, p)
	case boundDoubt:
		if a := ts.core.agents.ofNode(p.Node); a != nil && a.Alive && ts.core.session.connected() {
			ts.end(now, t, t.blameless)
			break
		}
		t.heard = false // ask again when its agent is there
	}
	return acts
}

// end forgets a task and requeues its pod, with growing backoff. over says that the pod has probably ended too: the API gets
// overGrace to show that.
func (ts *tasks) end(now time.Time, t *task, over bool) {
	ts.drop(t)
	p := ts.core.pods.get(t.pod)
	if p == nil || p.task != t {
		return
	}
	if t.killed {
		p.disowned = p.attempt
	}
	p.task = nil
	ts.core.pods.occupy(p)
	p.since = now
	if now.Sub(t.since) >= stableAfter {
		p.backoff = backoff{}
	}
	if !t.blameless {
		p.backoff.fail(now)
	}
	if over && p.backoff.until.Before(now.Add(overGrace)) {
		p.backoff.until = now.Add(overGrace)
	}
	ts.core.offering.reviveSoon()
	ts.core.pods.requeue(now, p)
}

// bind binds the pod and annotates it with its task's id. The update is acknowledged when that is done; until then the
// agent repeats it every ten seconds.
func (ts *tasks) bind(now time.Time, t *task, uuid []byte) []Action {
	if len(uuid) > 0 && !slices.ContainsFunc(t.unacked, func(u []byte) bool { return bytes.Equal(u, uuid) }) {
		t.unacked = append(t.unacked, uuid)
	}
	if t.binding {
		return nil
	}
	p, a := ts.core.pods.get(t.pod), ts.core.agents.get(t.agent)
	if a == nil || a.Node == "" || p.Node != "" && p.Node != a.Node {
		return ts.unbindable(now, t)
	}
	t.binding, t.bindAt = true, time.Time{}
	annotations := map[string]string{
		api.AnnotationTaskID:  string(t.id),
		api.AnnotationAgentID: string(t.agent),
		api.AnnotationOfferID: string(t.offer),
	}
	if len(t.mapped) > 0 {
		annotations[api.AnnotationPortMappings] = api.FormatPortMappings(t.mapped)
	}
	if p.claimed.address != "" {
		annotations[api.AnnotationIPAssigned] = p.claimed.address
	}
	if p.Node == a.Node {
		return []Action{Annotate{Task: t.id, Pod: refOf(p.Obj), Annotations: annotations}}
	}
	return []Action{Bind{Task: t.id, Pod: refOf(p.Obj), Node: a.Node, Annotations: annotations}}
}

// bindDone handles the result of Bind or Annotate.
func (ts *tasks) bindDone(now time.Time, done BindDone) []Action {
	t := ts.byID[done.Task]
	if t == nil {
		return nil
	}
	t.binding = false
	switch done.Outcome {
	case BindOK:
		t.bound = true
		if p, a := ts.core.pods.get(t.pod), ts.core.agents.get(t.agent); p != nil && a != nil {
			p.Node = a.Node
			p.Reread()
			ts.core.pods.occupy(p)
			p.KeepPorts(t.mapped)
			ts.core.addresses.bound(p)
		}
		return t.acknowledgeAll()
	case BindFailed:
		t.bindAt = now.Add(bindRetry)
		return nil
	}
	return ts.unbindable(now, t)
}

// unbindable kills a task that its pod cannot be bound for.
func (ts *tasks) unbindable(now time.Time, t *task) []Action {
	t.killLater(now)
	return append(t.acknowledgeAll(), ts.tick(now, t)...)
}

// tick kills a task, retries a failed binding, gives up a launch without an answer or reconciles a silent task, if due.
func (ts *tasks) tick(now time.Time, t *task) []Action {
	p := ts.core.pods.get(t.pod)
	switch {
	case !t.killAt.IsZero() && !now.Before(t.killAt):
		t.killed, t.killAt = true, now.Add(killRetry)
		return []Action{Kill{Task: t.id, Agent: t.agent}}
	case !t.bindAt.IsZero() && !now.Before(t.bindAt) && p != nil:
		return ts.bind(now, t, nil)
	case p != nil && !t.bound && !t.binding && t.bindAt.IsZero() && t.state == Staging &&
		now.Sub(t.since) >= ts.core.cfg.LaunchGrace:
		acts := ts.core.health.tickSilent(now, t)
		t.killed = true
		ts.end(now, t, false)
		return append(acts, Kill{Task: t.id, Agent: t.agent})
	case t.warm && t.state == Staging && now.Sub(t.since) >= ts.core.cfg.LaunchGrace:
		acts := ts.core.health.tickSilent(now, t)
		ts.core.warm.ended(now, t)
		return append(acts, Kill{Task: t.id, Agent: t.agent})
	case t.stalled(now):
		return ts.core.health.tickStarting(now, t)
	case !t.heard && !now.Before(t.askAt):
		t.askAt = now.Add(silentAfter)
		ts.reconcile.add(now, t.id)
	}
	return nil
}

// killLater schedules the task's kill for the given time, or leaves an earlier one.
func (t *task) killLater(at time.Time) {
	if t.killAt.IsZero() || at.Before(t.killAt) && !t.killed {
		t.killAt = at
	}
}

// acknowledgeAll acknowledges the updates that waited for the binding.
func (t *task) acknowledgeAll() []Action {
	var acts []Action
	for _, uuid := range t.unacked {
		acts = append(acts, acknowledge(t.id, t.agent, uuid)...)
	}
	t.unacked = nil
	return acts
}

// acknowledge acknowledges an update, unless it has no UUID and needs no acknowledgement.
func acknowledge(task api.TaskID, agent api.AgentID, uuid []byte) []Action {
	if len(uuid) == 0 {
		return nil
	}
	return []Action{Acknowledge{Task: task, Agent: agent, UUID: uuid}}
}

// toWatch returns, by id, the tasks that need a tick: all but those that simply run.
func (ts *tasks) toWatch() []*task {
	var tasks []*task
	for _, t := range ts.byID {
		if !t.heard || t.state == Staging || t.state == Starting && !t.ran || !t.killAt.IsZero() || !t.bindAt.IsZero() {
			tasks = append(tasks, t)
		}
	}
	slices.SortFunc(tasks, func(a, b *task) int { return cmp.Compare(a.id, b.id) })
	return tasks
}

// adoptAnnotated adds the task that a bound pod's annotations name. This is how a restarted scheduler learns its tasks.
func (ts *tasks) adoptAnnotated(now time.Time, p *pod) {
	id := api.TaskID(p.Obj.Annotations[api.AnnotationTaskID])
	if id == "" {
		return
	}
	uid, attempt, err := id.Parse()
	if err != nil || uid != p.Obj.UID || attempt <= p.attempt {
		return
	}
	p.attempt = attempt
	if finished(p.Obj) || p.Node == "" {
		return
	}
	agent := api.AgentID(p.Obj.Annotations[api.AnnotationAgentID])
	t := ts.start(now, p, agent)
	t.offer = api.OfferID(p.Obj.Annotations[api.AnnotationOfferID])
	t.mapped = p.Asks.Mapped()
	t.bound, t.ran = true, !t.fresh
	if ts.core.session.connected() {
		ts.reconcile.add(now, t.id)
	}
}

// start adds the task of the pod's current attempt.
func (ts *tasks) start(now time.Time, p *pod, agent api.AgentID) *task {
	t := &task{
		id: api.NewTaskID(p.Obj.UID, p.attempt), agent: agent, pod: p.Obj.UID, demand: p.Demand,
		since: now, taskNews: taskNews{askAt: now.Add(silentAfter)}, taskStart: taskStart{fresh: p.Obj.Status.StartTime == nil},
	}
	ts.add(t)
	p.task, p.launched = t, now
	ts.core.claims.leave(p)
	ts.core.pods.nominate(now, p, "")
	ts.core.pods.dequeue(p)
	ts.core.pods.occupy(p)
	return t
}

// drop forgets a task.
func (ts *tasks) drop(t *task) {
	delete(ts.byID, t.id)
	if a := ts.core.agents.get(t.agent); a != nil {
		if a.warm == t {
			a.warm = nil
		}
		ts.core.health.triedInVain(a, t.who())
	}
	ts.reconcile.done(t.id)
	left := slices.DeleteFunc(ts.byAgent[t.agent], func(other *task) bool { return other == t })
	if ts.byAgent[t.agent] = left; len(left) == 0 {
		delete(ts.byAgent, t.agent)
	}
}

// who returns the UID of the task's pod, or its own id if it has none.
func (t *task) who() types.UID {
	if t.warm {
		return types.UID(t.id)
	}
	return t.pod
}
