package scheduler

import (
	"bytes"
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler/match"
)

const bindAgain = time.Second

// overGrace is how long after the end of its task a pod may be shown as alive by the API. If it is so longer, the
// executor ended the task without the pod (an agent that is shut down does that), and the pod needs another one.
const overGrace = 10 * time.Second

// settled is how long a task has to last to make earlier failures forgotten.
const settled = time.Minute

// tasks are those that Mesos knows or should know.
type tasks struct {
	core      *Core
	byID      map[api.TaskID]*task
	byAgent   map[api.AgentID][]*task
	reconcile reconciliation
}

// count is how many tasks there are.
func (ts *tasks) count() int { return len(ts.byID) }

// add takes in a task.
func (ts *tasks) add(t *task) {
	ts.byID[t.id] = t
	ts.byAgent[t.agent] = append(ts.byAgent[t.agent], t)
}

// all goes through the tasks, in no order.
func (ts *tasks) all() iter.Seq2[api.TaskID, *task] { return maps.All(ts.byID) }

// ask asks Mesos for the state of a task, soon.
func (ts *tasks) ask(now time.Time, id api.TaskID) { ts.reconcile.add(now, id) }

// answered takes in that Mesos has told the state of a task.
func (ts *tasks) answered(id api.TaskID) { ts.reconcile.done(id) }

// subscribed asks for the states of all tasks. A kill that was asked for may be lost with the connection before.
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

// get returns the task; nil if it is not known.
func (ts *tasks) get(id api.TaskID) *task { return ts.byID[id] }

// on returns the tasks on an agent. The slice changes with the tasks.
func (ts *tasks) on(id api.AgentID) []*task { return ts.byAgent[id] }

func newTasks(c *Core) tasks {
	return tasks{core: c, byID: map[api.TaskID]*task{}, byAgent: map[api.AgentID][]*task{}}
}

// task is a task that Mesos knows or should know.
type task struct {
	id     api.TaskID
	agent  api.AgentID
	offer  api.OfferID
	role   string // of that offer; "" if an earlier scheduler launched it
	pod    types.UID
	warm   bool // it has no pod, but keeps its agent's executor up
	demand match.Demand
	mapped []api.PortMapping // of the pod, with the host ports that the task has
	since  time.Time
	taskNews
	taskStart
	taskBinding
	taskEnd
}

// taskNews is what Mesos has said of a task.
type taskNews struct {
	state   TaskState
	message string // of the last update; "" if it had none
	heard   bool
	askAt   time.Time // when to reconcile it if it stays silent
}

// taskStart is how far a task has come.
type taskStart struct {
	// starting is since when its executor has it, and ran whether it was seen running, or its pod admitted by the kubelet.
	starting time.Time
	ran      bool
	fresh    bool // the kubelet has not had its pod before
}

// taskBinding is whether the API says that the task is its pod's.
type taskBinding struct {
	binding bool      // Bind or Annotate is under way
	bindAt  time.Time // when to try that again; zero if not
	bound   bool      // its id is in the pod's annotations
	unacked [][]byte  // updates to be acknowledged when the binding is done
}

// taskEnd is what ends a task.
type taskEnd struct {
	killAt time.Time // when to (re)send KILL; zero if it may live
	killed bool      // KILL was sent
	spared bool      // that it ended does not count against its pod
}

// updated applies the table of task states. An update is acknowledged when what follows from it is done.
func (ts *tasks) updated(now time.Time, s TaskStatus) []Action {
	f := fateOf(s)
	ts.core.disruptions.noteDraining(now, s)
	acts := ts.core.agents.updated(now, s.Agent, f)
	if a := ts.core.agents.get(s.Agent); a != nil && f.running && s.State != Staging {
		ts.core.agents.cameUp(a)
	}
	if _, warm := s.Task.Warm(); warm {
		return append(acts, ts.core.warm.updated(now, s, f)...)
	}
	t := ts.byID[s.Task]
	if t == nil {
		t = ts.adopt(now, s, f)
	}
	if t == nil {
		return append(acts, ts.stranger(s, f)...)
	}
	t.state, t.heard, t.message = s.State, true, s.Message
	t.spared = s.State == Dropped && s.Reason == reasonDraining // it is its agent that has to wait
	ts.core.rollouts.noteFailure(t, s, f)
	acts = append(acts, ts.core.health.note(now, t, s)...)
	if !f.running {
		ts.core.offering.freed(now, s)
	}
	ts.reconcile.done(t.id)
	p := ts.core.pods.get(t.pod)
	switch {
	case p == nil:
		return append(acts, ts.orphanUpdated(now, t, s, f)...)
	case p.Node == "":
		return append(acts, ts.unboundUpdated(now, t, s, f)...)
	default:
		return append(acts, ts.boundUpdated(now, t, s, f)...)
	}
}

// adopt takes in a task that is not known but runs for one of our pods: a younger attempt than we know of, which an
// earlier scheduler launched before it died, or the one that was given up for lost when Mesos did not know it, while
// there is no other yet. To kill that one would be to delete the pod that lives.
func (ts *tasks) adopt(now time.Time, s TaskStatus, f fate) *task {
	uid, attempt, err := s.Task.Parse()
	p := ts.core.pods.get(uid)
	if err != nil || p == nil || !f.running || finished(p.Obj) || attempt < p.attempt {
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
		ts.core.pods.requeue(now, p) // nobody knows any more which host ports or address it has: the pod gets another task
		return nil
	}
	t := ts.start(now, p, s.Agent)
	t.bound = p.Obj.Annotations[api.AnnotationTaskID] == string(t.id)
	return t
}

// stranger ends a task that is no pod's, unless the pods are not all known yet.
func (ts *tasks) stranger(s TaskStatus, f fate) []Action {
	if !ts.core.session.synced() {
		return nil
	}
	acts := acknowledge(s.Task, s.Agent, s.UUID)
	if f.running {
		acts = append(acts, Kill{Task: s.Task, Agent: s.Agent})
	}
	return acts
}

// orphanUpdated handles a task whose pod is gone from the API.
func (ts *tasks) orphanUpdated(now time.Time, t *task, s TaskStatus, f fate) []Action {
	acts := acknowledge(t.id, t.agent, s.UUID)
	if !f.running {
		ts.drop(t)
		return acts
	}
	t.killLater(now.Add(goneKillAfter))
	return acts
}

func (ts *tasks) unboundUpdated(now time.Time, t *task, s TaskStatus, f fate) []Action {
	p := ts.core.pods.get(t.pod)
	switch f.unbound {
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

func refusal(s TaskStatus) string {
	if s.State == Errored {
		return fmt.Sprintf("Mesos refused task %s: %s", s.Task, s.Message)
	}
	return fmt.Sprintf("task %s ended before the pod was started: %s", s.Task, s.Message)
}

func (ts *tasks) boundUpdated(now time.Time, t *task, s TaskStatus, f fate) []Action {
	p := ts.core.pods.get(t.pod)
	if f.unbound == unboundBind && !t.bound {
		return ts.bind(now, t, s.UUID)
	}
	acts := acknowledge(t.id, t.agent, s.UUID)
	switch f.bound {
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
			ts.end(now, t, t.spared)
			break
		}
		t.heard = false // until its agent is there, nobody can know
	}
	return acts
}

// end forgets a task. Its pod, unless it is over too, needs another one, after a while if this happens often.
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
	if now.Sub(t.since) >= settled {
		p.backoff = backoff{}
	}
	if !t.spared {
		p.backoff.fail(now)
	}
	if over && p.backoff.until.Before(now.Add(overGrace)) {
		p.backoff.until = now.Add(overGrace)
	}
	ts.core.offering.reviveSoon()
	ts.core.pods.requeue(now, p)
}

// bind makes the API say that the task is the pod's; the update is acknowledged when it does. The same update comes
// again every ten seconds until then.
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
		t.bindAt = now.Add(bindAgain)
		return nil
	}
	return ts.unbindable(now, t)
}

// unbindable ends a task that cannot become its pod's.
func (ts *tasks) unbindable(now time.Time, t *task) []Action {
	t.killLater(now)
	return append(t.acknowledgeAll(), ts.tick(now, t)...)
}

// tick does what is due for a task: a kill, a binding that failed, a launch that nobody answers.
func (ts *tasks) tick(now time.Time, t *task) []Action {
	p := ts.core.pods.get(t.pod)
	switch {
	case !t.killAt.IsZero() && !now.Before(t.killAt):
		t.killed, t.killAt = true, now.Add(killAgain)
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
		ts.core.warm.cool(now, t)
		return append(acts, Kill{Task: t.id, Agent: t.agent})
	case t.stalled(now):
		return ts.core.health.tickStarting(now, t)
	case !t.heard && !now.Before(t.askAt):
		t.askAt = now.Add(silentAfter)
		ts.reconcile.add(now, t.id)
	}
	return nil
}

// killLater sees to it that the task is killed at this time or earlier.
func (t *task) killLater(at time.Time) {
	if t.killAt.IsZero() || at.Before(t.killAt) && !t.killed {
		t.killAt = at
	}
}

func (t *task) acknowledgeAll() []Action {
	var acts []Action
	for _, uuid := range t.unacked {
		acts = append(acts, acknowledge(t.id, t.agent, uuid)...)
	}
	t.unacked = nil
	return acts
}

func acknowledge(task api.TaskID, agent api.AgentID, uuid []byte) []Action {
	if len(uuid) == 0 {
		return nil
	}
	return []Action{Acknowledge{Task: task, Agent: agent, UUID: uuid}}
}

// toWatch returns, in order, the tasks for which time may bring something: not those that just run.
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

// adoptAnnotated gives a bound pod the task that the API says it has. It is how a restarted scheduler learns its tasks.
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

// start makes the task of the pod's present attempt.
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

// who is the task's pod, or itself if it has none.
func (t *task) who() types.UID {
	if t.warm {
		return types.UID(t.id)
	}
	return t.pod
}
