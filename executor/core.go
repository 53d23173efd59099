package executor

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
)

// condemnedFor is how long the core remembers a task that was killed before its pod was bound. A binding in flight arrives within
// seconds, unless the API server is down.
const condemnedFor = time.Hour

// unfitFor is how long an executor without work stays on a machine that cannot run pods. The tasks that it was started for come
// right after its registration. A restarted executor checks the machine again.
const unfitFor = 5 * time.Second

// minGrace is the shortest grace period of a kill, in seconds. With 0 the API server deletes the pod's object at once, and the task
// would be reported as ended before its containers have exited.
const minGrace int64 = 1

// CoreConfig configures a Core.
type CoreConfig struct {
	// Run identifies this process. Update ids are derived from it, so it must be unique.
	Run uuid.UUID
	// Checkpoint says that the framework has checkpointing: after the loss of the connection the executor waits for the agent, at
	// most RecoveryTimeout. Without it the executor exits at once, as Mesos demands.
	Checkpoint      bool
	RecoveryTimeout time.Duration
	// IdleTimeout is how long an executor without work stays, until Configured changes it; zero or less means forever.
	IdleTimeout time.Duration
}

// Core is the executor's state. It has no clock, does no I/O, and must be used by one goroutine.
type Core struct {
	cfg        CoreConfig
	connected  bool
	registered bool      // StartNode was returned
	left       bool      // Leave was returned
	lostAt     time.Time // when the connection was lost; zero while connected
	idleSince  time.Time // start of the current idle time; zero while there is work
	sequence   int       // last number of an update
	unfit      string    // why no pod can run here; empty if pods can

	tasks     map[types.UID]*task     // live tasks by pod UID; a pod has at most one
	pods      map[types.UID]Pod       // pods bound to this node, with or without a task
	condemned map[types.UID]condemned // pods whose task was killed before the pod was bound
	untaken   []Launch                // launches without any acknowledged update, oldest first
	unacked   []pending               // updates that the agent has not acknowledged, oldest first
}

type task struct {
	id    api.TaskID
	pod   api.PodKey
	uid   types.UID
	state State
	warm  bool // the task has no pod
	// The last report to the agent, besides the state.
	health  Health
	trouble string // Trouble.Kind
}

type condemned struct {
	attempt int
	at      time.Time
}

type pending struct {
	update Update
	sent   bool // in a Subscribe, or by SendUpdate
}

// NewCore returns the Core of a new executor. Its first event must be Started.
func NewCore(cfg CoreConfig) *Core {
	return &Core{
		cfg:       cfg,
		tasks:     map[types.UID]*task{},
		pods:      map[types.UID]Pod{},
		condemned: map[types.UID]condemned{},
	}
}

// Step takes one event and returns the resulting actions. After Leave it returns none.
func (c *Core) Step(now time.Time, event Event) []Action {
	if c.left {
		return nil
	}
	c.forgetCondemned(now)
	actions := c.handle(now, event)
	if reason := c.reasonToLeave(now, event); reason != "" {
		c.left = true
		actions = append(actions, Leave{Reason: reason})
	}
	return actions
}

// Deadline returns when the Core needs a Tick if no other event comes before; ok is false for never.
func (c *Core) Deadline() (at time.Time, ok bool) {
	if !c.lostAt.IsZero() && c.cfg.Checkpoint {
		at, ok = c.lostAt.Add(c.cfg.RecoveryTimeout), true
	}
	if idle := c.idleSince.Add(c.patience()); !c.idleSince.IsZero() && c.patience() > 0 && (!ok || idle.Before(at)) {
		at, ok = idle, true
	}
	return at, ok
}

// patience is how long the executor stays without work; zero or less means forever.
func (c *Core) patience() time.Duration {
	if c.unfit != "" {
		return unfitFor
	}
	return c.cfg.IdleTimeout
}

func (c *Core) handle(now time.Time, event Event) []Action {
	switch e := event.(type) {
	case Started:
		c.lostAt = now
		return []Action{c.subscribe()}
	case Subscribed:
		return c.subscribed(e)
	case Disconnected:
		return c.disconnected(now)
	case Configured:
		c.cfg.IdleTimeout = e.IdleTimeout
	case Unfit:
		return c.becomeUnfit(e.Reason)
	case Launch:
		return c.launch(e)
	case Kill:
		return c.kill(now, e)
	case Acknowledged:
		c.acknowledged(e)
	case PodChanged:
		return c.podChanged(e.Pod)
	case PodGone:
		return c.podGone(e.UID)
	}
	return nil
}

// subscribe returns a Subscribe with everything that the agent has not acknowledged.
func (c *Core) subscribe() Action {
	var s Subscribe
	for _, launch := range c.untaken {
		s.Tasks = append(s.Tasks, launch.Info)
	}
	for i := range c.unacked {
		c.unacked[i].sent = true
		s.Updates = append(s.Updates, c.unacked[i].update)
	}
	return s
}

func (c *Core) subscribed(e Subscribed) (actions []Action) {
	c.connected, c.lostAt = true, time.Time{}
	if !c.registered {
		c.registered = true
		actions = append(actions, StartNode(e))
	}
	for i := range c.unacked {
		if !c.unacked[i].sent { // made while the subscription was in flight
			c.unacked[i].sent = true
			actions = append(actions, SendUpdate{Update: c.unacked[i].update})
		}
	}
	return actions
}

func (c *Core) disconnected(now time.Time) []Action {
	c.connected = false
	if c.lostAt.IsZero() {
		c.lostAt = now
	}
	if !c.cfg.Checkpoint {
		return nil // reasonToLeave decides
	}
	return []Action{c.subscribe()}
}

// launch answers with TASK_STARTING at once, because the scheduler binds the pod only then.
func (c *Core) launch(e Launch) (actions []Action) {
	old := c.tasks[e.UID]
	if old != nil && old.id == e.Task {
		return nil // a repeated event
	}
	c.untaken = append(c.untaken, e)
	if e.Problem != "" {
		return c.update(e.Task, Error, Report{Message: e.Problem})
	}
	if c.unfit != "" {
		return c.update(e.Task, Failed, c.misfit())
	}
	if old != nil {
		actions = append(actions, c.end(old, Killed, Report{Message: fmt.Sprintf("replaced by task %s for the same pod", e.Task)})...)
	}
	delete(c.condemned, e.UID)
	t := &task{id: e.Task, pod: e.Pod, uid: e.UID, state: Starting, warm: e.Warm}
	c.tasks[e.UID] = t
	actions = append(actions, c.update(t.id, Starting, Report{})...)
	if t.warm {
		t.state = Running
		return append(actions, c.update(t.id, Running, Report{})...)
	}
	return append(actions, c.follow(t)...)
}

// becomeUnfit ends tasks that have not begun to run, ordered by task id.
func (c *Core) becomeUnfit(reason string) (actions []Action) {
	c.unfit = reason
	if reason == "" {
		return nil
	}
	var waiting []*task
	for _, t := range c.tasks {
		if t.state == Starting {
			waiting = append(waiting, t)
		}
	}
	slices.SortFunc(waiting, func(a, b *task) int { return strings.Compare(string(a.id), string(b.id)) })
	for _, t := range waiting {
		actions = append(actions, c.end(t, Failed, c.misfit())...)
	}
	return actions
}

// misfit returns the report for a task that cannot run here.
func (c *Core) misfit() Report {
	return Report{Cause: NoNode, Message: truncate("this machine cannot run pods: " + c.unfit)}
}

// kill ends a task. The scheduler does not bind a pod after TASK_KILLED. If a binding was in flight, podChanged deletes the pod when
// it appears.
func (c *Core) kill(now time.Time, e Kill) []Action {
	t := c.taskByID(e.Task)
	if t == nil {
		return nil // it has ended; its update is repeated until acknowledged
	}
	if t.warm {
		return c.end(t, Killed, Report{Message: "the node is no longer kept warm by this task"})
	}
	if _, bound := c.pods[t.uid]; bound {
		grace := e.Grace
		if grace != nil && *grace < minGrace {
			grace = new(int64)
			*grace = minGrace
		}
		return []Action{DeletePod{Pod: t.pod, UID: t.uid, Grace: grace}}
	}
	c.condemned[t.uid] = condemned{attempt: attempt(t.id), at: now}
	return c.end(t, Killed, Report{Message: "killed before its pod was bound to this node"})
}

func (c *Core) acknowledged(e Acknowledged) {
	c.untaken = slices.DeleteFunc(c.untaken, func(l Launch) bool { return l.Task == e.Task })
	c.unacked = slices.DeleteFunc(c.unacked, func(p pending) bool { return p.update.ID == e.Update })
}

func (c *Core) podChanged(pod Pod) []Action {
	c.pods[pod.UID] = pod
	if t := c.tasks[pod.UID]; t != nil {
		return c.follow(t)
	}
	killed, ok := c.condemned[pod.UID]
	if !ok || attempt(pod.Task) > killed.attempt {
		return nil
	}
	delete(c.condemned, pod.UID)
	if pod.Deleting || pod.ended() {
		return nil
	}
	return []Action{DeletePod{Pod: pod.Key, UID: pod.UID}}
}

func (c *Core) podGone(uid types.UID) []Action {
	pod := c.pods[uid]
	delete(c.pods, uid)
	delete(c.condemned, uid)
	if t := c.tasks[uid]; t != nil {
		return c.end(t, Killed, pod.deletion())
	}
	return nil
}

// follow updates the task to the state of its pod.
func (c *Core) follow(t *task) []Action {
	pod, bound := c.pods[t.uid]
	switch {
	case !bound:
		return nil
	case pod.ended() && pod.Deleting:
		return c.end(t, Killed, pod.deletion())
	case pod.Phase == corev1.PodSucceeded:
		return c.end(t, Finished, Report{})
	case pod.Phase == corev1.PodFailed:
		return c.end(t, Failed, Report{Message: pod.Trouble.Message, Cause: pod.Trouble.Cause})
	case pod.Phase == corev1.PodRunning && t.state == Starting:
		t.state, t.trouble, t.health = Running, pod.Trouble.Kind, pod.health(t.health)
		return c.update(t.id, Running, pod.report(t.health))
	case pod.Deleting: // containers exit one by one now, which is not worth an update
	case t.state == Running:
		return c.followHealth(t, pod)
	case pod.Trouble.Kind != "" && pod.Trouble.Kind != t.trouble:
		t.trouble = pod.Trouble.Kind
		return c.update(t.id, Starting, pod.report(UnknownHealth))
	}
	return nil
}

// followHealth reports a running pod whose health or trouble has changed.
func (c *Core) followHealth(t *task, pod Pod) []Action {
	health := pod.health(t.health)
	if health == t.health && (pod.Trouble.Kind == "" || pod.Trouble.Kind == t.trouble) {
		return nil
	}
	t.health, t.trouble = health, pod.Trouble.Kind
	return c.update(t.id, Running, pod.report(health))
}

func (c *Core) end(t *task, state State, report Report) []Action {
	delete(c.tasks, t.uid)
	return c.update(t.id, state, report)
}

// update makes an update and keeps it until it is acknowledged. Its id is derived, not random, so that a Core's actions depend on
// its events alone.
func (c *Core) update(id api.TaskID, state State, report Report) []Action {
	c.sequence++
	u := Update{
		ID:   uuid.NewSHA1(c.cfg.Run, fmt.Appendf(nil, "%s/%d", id, c.sequence)),
		Task: id, State: state, Report: report,
	}
	c.unacked = append(c.unacked, pending{update: u, sent: c.connected})
	if !c.connected {
		return nil
	}
	return []Action{SendUpdate{Update: u}}
}

// reasonToLeave says why the executor must exit now; empty if it need not.
func (c *Core) reasonToLeave(now time.Time, event Event) string {
	if _, ok := event.(Shutdown); ok {
		return "the agent asked for shutdown"
	}
	lost, isLost := event.(Disconnected)
	if isLost && !c.cfg.Checkpoint {
		return "lost the agent, and the framework has no checkpointing: " + lost.Reason
	}
	if !c.lostAt.IsZero() && c.cfg.Checkpoint && now.Sub(c.lostAt) >= c.cfg.RecoveryTimeout {
		return fmt.Sprintf("no agent for %s", c.cfg.RecoveryTimeout)
	}
	switch {
	case c.hasWork():
		c.idleSince = time.Time{}
	case c.idleSince.IsZero():
		c.idleSince = now
	case c.patience() > 0 && now.Sub(c.idleSince) >= c.patience():
		return fmt.Sprintf("no task for %s", c.patience())
	}
	return ""
}

// hasWork reports whether there is a task, an unacknowledged update, or a pod that still runs here although its task was lost: a
// restarted scheduler gives it a new one.
func (c *Core) hasWork() bool {
	if len(c.tasks) > 0 || len(c.unacked) > 0 {
		return true
	}
	for _, pod := range c.pods {
		if pod.Task != "" && !pod.ended() {
			return true
		}
	}
	return false
}

func (c *Core) forgetCondemned(now time.Time) {
	for uid, killed := range c.condemned {
		if now.Sub(killed.at) >= condemnedFor {
			delete(c.condemned, uid)
		}
	}
}

func (c *Core) taskByID(id api.TaskID) *task {
	uid, _, err := id.Parse()
	if t := c.tasks[uid]; err == nil && t != nil && t.id == id {
		return t
	}
	return nil
}

// attempt returns the attempt's number. A pod without a task counts as before the first.
func attempt(id api.TaskID) int {
	_, n, err := id.Parse()
	if err != nil {
		return 0
	}
	return n
}
