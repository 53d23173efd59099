package scheduler

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/k8sm/k8sm/api"
)

const bindAgain = time.Second

// taskUpdated applies the table of task states. An update is acknowledged when what follows from it is done.
func (c *Core) taskUpdated(now time.Time, s TaskStatus) []Action {
	f := fateOf(s)
	c.noteDraining(now, s)
	acts := c.agentUpdated(now, s.Agent, f)
	if a := c.agents[s.Agent]; a != nil && f.running && s.State != Staging {
		c.cameUp(a)
	}
	if _, warm := s.Task.Warm(); warm {
		return append(acts, c.warmUpdated(now, s, f)...)
	}
	t := c.tasks[s.Task]
	if t == nil {
		t = c.adopt(now, s, f)
	}
	if t == nil {
		return append(acts, c.stranger(s, f)...)
	}
	t.state, t.heard = s.State, true
	t.spared = s.State == Dropped && s.Reason == reasonDraining // it is its agent that has to wait
	c.noteFailure(t, s, f)
	acts = append(acts, c.noteHealth(now, t, s)...)
	if !f.running {
		c.freed(now, s)
	}
	c.reconcile.done(t.id)
	p := c.pods[t.pod]
	switch {
	case p == nil:
		return append(acts, c.orphanUpdated(now, t, s, f)...)
	case p.Node == "":
		return append(acts, c.unboundUpdated(now, t, s, f)...)
	default:
		return append(acts, c.boundUpdated(now, t, s, f)...)
	}
}

// adopt takes in a task that is not known but runs for one of our pods: a younger attempt than we know of, which an
// earlier scheduler launched before it died, or the one that was given up for lost when Mesos did not know it, while
// there is no other yet. To kill that one would be to delete the pod that lives.
func (c *Core) adopt(now time.Time, s TaskStatus, f fate) *task {
	uid, attempt, err := s.Task.Parse()
	p := c.pods[uid]
	if err != nil || p == nil || !f.running || finished(p.Obj) || attempt < p.attempt {
		return nil
	}
	if attempt == p.attempt && (p.task != nil || attempt == p.disowned) {
		return nil
	}
	if p.task != nil {
		c.dropTask(p.task)
		p.task = nil
	}
	p.attempt = attempt
	if p.Asks.Wildcards() || p.awaitsAddress() {
		p.since, p.disowned = now, attempt
		c.requeue(now, p) // nobody knows any more which host ports or address it has: the pod gets another task
		return nil
	}
	t := c.newTask(now, p, s.Agent)
	t.bound = p.Obj.Annotations[api.AnnotationTaskID] == string(t.id)
	return t
}

// stranger ends a task that is no pod's, unless the pods are not all known yet.
func (c *Core) stranger(s TaskStatus, f fate) []Action {
	if !c.synced {
		return nil
	}
	acts := acknowledge(s.Task, s.Agent, s.UUID)
	if f.running {
		acts = append(acts, Kill{Task: s.Task, Agent: s.Agent})
	}
	return acts
}

// orphanUpdated handles a task whose pod is gone from the API.
func (c *Core) orphanUpdated(now time.Time, t *task, s TaskStatus, f fate) []Action {
	acts := acknowledge(t.id, t.agent, s.UUID)
	if !f.running {
		c.dropTask(t)
		return acts
	}
	t.killLater(now.Add(goneKillAfter))
	return acts
}

func (c *Core) unboundUpdated(now time.Time, t *task, s TaskStatus, f fate) []Action {
	p := c.pods[t.pod]
	switch f.unbound {
	case unboundBind:
		if p.Obj.DeletionTimestamp != nil || !t.killAt.IsZero() {
			t.killLater(now)
			return append(acknowledge(t.id, t.agent, s.UUID), c.tickTask(now, t)...)
		}
		return c.bind(now, t, s.UUID)
	case unboundRetry:
		acts := acknowledge(t.id, t.agent, s.UUID)
		c.end(now, t, false)
		if s.State == Errored {
			c.refusedByMesos(now, t, p)
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

func (c *Core) boundUpdated(now time.Time, t *task, s TaskStatus, f fate) []Action {
	p := c.pods[t.pod]
	if f.unbound == unboundBind && !t.bound {
		return c.bind(now, t, s.UUID)
	}
	acts := acknowledge(t.id, t.agent, s.UUID)
	switch f.bound {
	case boundOver:
		c.end(now, t, t.bound)
	case boundResume:
		c.end(now, t, false)
		if s.State == Errored {
			acts = append(acts, Report{Pod: p.Obj, Message: refusal(s)})
			break
		}
		c.resume(now, p)
	case boundDoubt:
		if a := c.agentOfNode(p.Node); a != nil && a.Alive && c.connected {
			c.end(now, t, t.spared)
			break
		}
		t.heard = false // until its agent is there, nobody can know
	}
	return acts
}

// end forgets a task. Its pod, unless it is over too, needs another one, after a while if this happens often.
func (c *Core) end(now time.Time, t *task, over bool) {
	c.dropTask(t)
	p := c.pods[t.pod]
	if p == nil || p.task != t {
		return
	}
	if t.killed {
		p.disowned = p.attempt
	}
	p.task = nil
	c.occupy(p)
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
	c.reviveSoon()
	c.requeue(now, p)
}

// bind makes the API say that the task is the pod's; the update is acknowledged when it does. The same update comes
// again every ten seconds until then.
func (c *Core) bind(now time.Time, t *task, uuid []byte) []Action {
	if len(uuid) > 0 && !slices.ContainsFunc(t.unacked, func(u []byte) bool { return bytes.Equal(u, uuid) }) {
		t.unacked = append(t.unacked, uuid)
	}
	if t.binding {
		return nil
	}
	p, a := c.pods[t.pod], c.agents[t.agent]
	if a == nil || a.Node == "" || p.Node != "" && p.Node != a.Node {
		return c.unbindable(now, t)
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

func (c *Core) bindDone(now time.Time, done BindDone) []Action {
	t := c.tasks[done.Task]
	if t == nil {
		return nil
	}
	t.binding = false
	switch done.Outcome {
	case BindOK:
		t.bound = true
		if p, a := c.pods[t.pod], c.agents[t.agent]; p != nil && a != nil {
			p.Node = a.Node
			p.Reread()
			c.occupy(p)
			p.KeepPorts(t.mapped)
			c.addresses.moved = c.addresses.moved || p.claimed.address != ""
		}
		return t.acknowledgeAll()
	case BindFailed:
		t.bindAt = now.Add(bindAgain)
		return nil
	}
	return c.unbindable(now, t)
}

// unbindable ends a task that cannot become its pod's.
func (c *Core) unbindable(now time.Time, t *task) []Action {
	t.killLater(now)
	return append(t.acknowledgeAll(), c.tickTask(now, t)...)
}

// tickTask does what is due for a task: a kill, a binding that failed, a launch that nobody answers.
func (c *Core) tickTask(now time.Time, t *task) []Action {
	p := c.pods[t.pod]
	switch {
	case !t.killAt.IsZero() && !now.Before(t.killAt):
		t.killed, t.killAt = true, now.Add(killAgain)
		return []Action{Kill{Task: t.id, Agent: t.agent}}
	case !t.bindAt.IsZero() && !now.Before(t.bindAt) && p != nil:
		return c.bind(now, t, nil)
	case p != nil && !t.bound && !t.binding && t.bindAt.IsZero() && t.state == Staging &&
		now.Sub(t.since) >= c.cfg.LaunchGrace:
		acts := c.tickSilent(now, t)
		t.killed = true
		c.end(now, t, false)
		return append(acts, Kill{Task: t.id, Agent: t.agent})
	case t.warm && t.state == Staging && now.Sub(t.since) >= c.cfg.LaunchGrace:
		acts := c.tickSilent(now, t)
		c.cool(now, t)
		return append(acts, Kill{Task: t.id, Agent: t.agent})
	case t.stalled(now):
		return c.tickStarting(now, t)
	case !t.heard && !now.Before(t.askAt):
		t.askAt = now.Add(silentAfter)
		c.reconcile.add(now, t.id)
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
