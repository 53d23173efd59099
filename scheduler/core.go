package scheduler

import (
	"time"

	"github.com/k8sm/k8sm/scheduler/match"
)

const (
	tombstoneMemory = 2 * time.Minute
	implicitEvery   = 10 * time.Minute // implicit reconciliation
	doubtAfter      = 2 * time.Minute  // an agent counts as absent if nothing is heard of it for this long after a subscription
	silentAfter     = 30 * time.Second // a launched task is reconciled if nothing is heard of it for this long
	killRetry       = 30 * time.Second // between two kills of the same task
	refuseBusy      = 5 * time.Second  // filter for declined offers while pods wait that do not fit in them
)

// Core makes all scheduling decisions. It is a state machine without a clock: see Step. One goroutine owns it. Its state is
// divided into subjects; each handles its own events, and the others call its methods.
type Core struct {
	cfg   Config
	step  step
	index *match.Index // which agent takes a pod

	session     session
	pods        pods
	tasks       tasks
	agents      agents
	health      health
	offering    offering
	claims      claims
	addresses   addressing
	disruptions disruptions
	rollouts    rollouts
	warm        warming
	preemption  preempting
}

// step is the state of the current Step.
type step struct {
	now     time.Time
	cycle   bool // run a cycle: the event may have made a placement possible
	granted grants
}

// NewCore returns a core that knows nothing yet.
func NewCore(cfg Config) *Core {
	c := &Core{cfg: cfg}
	c.session = session{core: c}
	c.pods = newPods(c)
	c.tasks = newTasks(c)
	c.agents = newAgents(c)
	c.health = health{core: c}
	c.offering = newOffering(c)
	c.claims = newClaims(c)
	c.addresses = newAddressing(c)
	c.disruptions = newDisruptions(c)
	c.rollouts = rollouts{core: c}
	c.warm = warming{core: c}
	c.preemption = newPreempting(c)
	c.index = match.NewIndex(cfg.matching(), supplies{c})
	return c
}

// Step handles one event and returns the actions to perform, in order. now must not go backwards between calls.
func (c *Core) Step(now time.Time, ev Event) []Action {
	c.step.now, c.step.cycle = now, false
	acts := append(c.handle(now, ev), c.addresses.ask(now)...)
	acts = append(acts, c.addresses.annotateNodes(now)...)
	if c.index.TakeRetry() {
		c.requestCycle()
	}
	if !c.session.connected() || !c.step.cycle {
		return acts
	}
	if c.offering.gathers(now, ev) {
		return append(acts, c.offering.reviveEarly(now)...)
	}
	acts = append(acts, c.cycle(now)...)
	if _, tick := ev.(Tick); tick {
		acts = append(acts, c.warm.tick(now)...)
		acts = append(acts, c.preemption.tick(now)...)
		acts = append(acts, c.pods.explain(now)...)
	}
	return append(acts, c.offering.revive(now)...)
}

// handle passes an event to the subject that it concerns.
func (c *Core) handle(now time.Time, ev Event) []Action {
	switch ev := ev.(type) {
	case PodSeen:
		return c.pods.seen(now, ev.Pod)
	case PodGone:
		c.pods.gone(now, ev.UID)
	case NodeSeen:
		c.requestCycle()
		return c.agents.nodeSeen(now, ev.Node)
	case NodeGone:
		c.agents.nodeGone(now, ev.Name)
	case NamespaceSeen:
		c.index.NamespaceSeen(ev.Namespace.Name, ev.Namespace)
	case NamespaceGone:
		c.index.NamespaceSeen(ev.Name, nil)
	case VolumeSeen:
		c.claims.volumeSeen(now, ev.Volume)
	case VolumeGone:
		c.index.VolumeGone(ev.Name)
	case ClaimSeen:
		c.claims.claimSeen(now, ev.Claim)
	case ClaimGone:
		c.claims.claimGone(now, ev.Key)
	case ClassSeen:
		c.index.StorageClassSeen(ev.Class.Name, ev.Class)
	case ClassGone:
		c.index.StorageClassSeen(ev.Name, nil)
	case ClaimsPrepared:
		c.claims.written(now, ev)
	case BudgetSeen:
		c.preemption.budgetSeen(ev.Budget)
	case BudgetGone:
		c.preemption.budgetGone(ev.UID)
	case ServersSeen:
		return c.rollouts.serversSeen(ev.Servers)
	case SettingsSeen:
		return c.rollouts.settingsSeen(ev.Minions)
	case Synced:
		return c.session.sync(now)
	case AddressesAssigned:
		c.addresses.assigned(now, ev)
	case AddressReleased:
		c.addresses.released(now, ev.OK)
	case BindDone:
		return c.tasks.bindDone(now, ev)
	case ExecutorReady:
		c.requestCycle()
		return c.agents.executorReady(now, ev)
	case Subscribed:
		return c.session.subscribe(now, ev.Framework)
	case Disconnected:
		c.session.disconnect(now)
	case SubscribeFailed:
		c.session.failed(ev.Why)
	case Offered:
		c.requestCycle()
		return c.agents.offered(now, ev.Offers)
	case OfferRescinded:
		c.offering.rescind(now, ev.Offer)
	case InverseOffered:
		c.requestCycle()
		return c.disruptions.inverseOffered(now, ev.Offers)
	case InverseOfferRescinded:
		c.disruptions.inverseRescinded()
	case EvictDone:
		c.disruptions.evictDone(now, ev)
	case TaskUpdated:
		return c.tasks.updated(now, ev.Status)
	case AgentLost:
		return c.disruptions.lost(now, ev.Agent)
	case ExecutorExited:
		c.agents.executorExited(now, ev)
	case Wake:
		c.requestCycle()
		if c.offering.resumed(now) {
			c.pods.wake(now)
		}
	case Tick:
		c.requestCycle()
		return c.tick(now)
	}
	return nil
}

// tick does what is due once a second, before the cycle.
func (c *Core) tick(now time.Time) []Action {
	c.pods.wake(now)
	c.claims.tick(now)
	c.index.Forget()
	var acts []Action
	for _, t := range c.tasks.toWatch() {
		acts = append(acts, c.tasks.tick(now, t)...)
	}
	for _, a := range c.agents.inOrder() {
		acts = append(acts, c.agents.tick(now, a)...)
	}
	acts = append(acts, c.disruptions.tick(now)...)
	acts = append(acts, c.addresses.tick(now)...)
	acts = append(acts, c.session.tick(now)...)
	return append(acts, c.offering.expire(now)...)
}

// WakeAt returns when to send the next Wake; zero for none.
func (c *Core) WakeAt(now time.Time) time.Time { return c.offering.wakeAt(now) }

// requestCycle makes this step run a scheduling cycle, because something may have made a placement possible.
func (c *Core) requestCycle() { c.step.cycle = true }
