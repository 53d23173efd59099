package scheduler

import (
	"cmp"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler/match"
)

const (
	tombstoneMemory = 2 * time.Minute
	implicitEvery   = 10 * time.Minute // implicit reconciliation
	leaseEvery      = 10 * time.Second // renewal of node leases, as often as a kubelet does
	doubtAfter      = 2 * time.Minute  // an agent that is silent for so long after a subscription counts as absent
	silentAfter     = 30 * time.Second // a launched task that is silent for so long is asked for
	killAgain       = 30 * time.Second
	refuseBusy      = 5 * time.Second // filter of offers that do not fit the pods that wait
)

// Core decides. It is a state machine without a clock: see Step. One goroutine owns it.
type Core struct {
	cfg         Config
	now         time.Time // of this step
	index       *match.Index
	offers      *offers.OfferStorage
	pods        map[types.UID]*pod
	nodes       map[string]*v1.Node
	agents      map[api.AgentID]*agent
	tasks       map[api.TaskID]*task
	owners      map[api.AgentID][]*task // the tasks by agent
	fleet       fleet
	queue       queue
	disruptions map[api.AgentID]*disruption // of the agents that operators have plans with
	toldKept    bool                        // that minions of other versions are kept
	prepared    []Action                    // what this cycle has decided about claims
	order       int                         // of arrival, of the youngest pod

	budgets   map[types.UID]*budget
	preempted preempted
	addresses addressing

	cold       int  // how many executors are to run without pods and do not yet
	look       bool // this step may have made a placement possible
	framework  api.FrameworkID
	synced     bool
	connected  bool
	subscribed time.Time
	begun      time.Time // when it was subscribed first
	implicitAt time.Time
	leaseAt    time.Time
	reconcile  reconciliation
	revival    revival
	gather     gathering
	resumeAt   time.Time                // when the pods of executors that are gone have rested; zero if there are none
	inverse    [numInverseEnds]uint64   // how inverse offers ended
	evicted    [numEvictOutcomes]uint64 // and evictions
	rejections uint64                   // by kubelets
}

// pod is a pod that is ours to place, or that is bound to one of our nodes.
type pod struct {
	match.Pod
	since    time.Time // when it began to wait
	attempt  int       // of its youngest task
	launched time.Time // when that was
	// disowned is the attempt whose task was ended before it could be the pod's; it is not to be taken back.
	disowned int
	task     *task // nil while it has none
	backoff  backoff
	report   report
	claimsAt time.Time // when its claims began to be bound
	hoped    time.Time // when the place that is kept for it was last seen coming
	claimed  claimed
	waits    bool // it is in the queue
}

// task is a task that Mesos knows or should know.
type task struct {
	id      api.TaskID
	agent   api.AgentID
	offer   api.OfferID
	role    string // of that offer; "" if an earlier scheduler launched it
	pod     types.UID
	demand  match.Demand
	mapped  []api.PortMapping // of the pod, with the host ports that the task has
	state   TaskState
	since   time.Time
	heard   bool      // Mesos has said something about it
	askAt   time.Time // when to reconcile it if it stays silent
	binding bool      // Bind or Annotate is under way
	bindAt  time.Time // when to try that again; zero if not
	bound   bool      // its id is in the pod's annotations
	warm    bool      // it has no pod, but keeps its agent's executor up
	unacked [][]byte  // updates to be acknowledged when the binding is done
	killAt  time.Time // when to (re)send KILL; zero if it may live
	killed  bool      // KILL was sent
	spared  bool      // that it ended does not count against its pod
	// starting is since when its executor has it, and ran whether it was seen running, or its pod admitted by the kubelet.
	starting time.Time
	ran      bool
	fresh    bool // the kubelet has not had its pod before
}

// backoff spaces out attempts that keep failing.
type backoff struct {
	failures int
	until    time.Time
}

func (b *backoff) fail(now time.Time) {
	b.until = now.Add(min(time.Second<<min(b.failures, 10), time.Minute))
	b.failures++
}

// overGrace is how long after the end of its task a pod may be shown as alive by the API. If it is so longer, the
// executor ended the task without the pod (an agent that is shut down does that), and the pod needs another one.
const overGrace = 10 * time.Second

// settled is how long a task has to last to make earlier failures forgotten.
const settled = time.Minute

// NewCore returns a core that knows nothing yet.
func NewCore(cfg Config) *Core {
	c := &Core{
		cfg:         cfg,
		offers:      offers.New(cfg.OfferTTL, tombstoneMemory),
		pods:        map[types.UID]*pod{},
		nodes:       map[string]*v1.Node{},
		agents:      map[api.AgentID]*agent{},
		tasks:       map[api.TaskID]*task{},
		owners:      map[api.AgentID][]*task{},
		fleet:       newFleet(),
		queue:       newQueue(),
		disruptions: map[api.AgentID]*disruption{},
		budgets:     map[types.UID]*budget{},
		preempted:   preempted{pods: map[types.UID]time.Time{}, hopes: map[match.Key]hope{}},
		addresses:   addressing{holders: map[types.UID]*task{}, led: map[string]led{}},
	}
	c.index = match.NewIndex(cfg.matching(), supplies{c})
	return c
}

// Step takes one event in and returns what is to be done, in this order. Time never runs backwards between calls.
func (c *Core) Step(now time.Time, ev Event) []Action {
	c.now, c.look = now, false
	acts := append(c.handle(now, ev), c.askAddresses(now)...)
	if c.addresses.moved {
		acts = append(acts, c.leadToAddresses(now)...)
	}
	if c.index.Stirred() {
		c.look = true
	}
	if !c.connected || !c.look {
		return acts
	}
	if c.gather.holds(now, ev) {
		return append(acts, c.reviveEarly(now)...)
	}
	acts = append(acts, c.cycle(now)...)
	if _, tick := ev.(Tick); tick {
		acts = append(acts, c.keepWarm(now)...)
		acts = append(acts, c.preempt(now)...)
		acts = append(acts, c.explain(now)...)
	}
	return append(acts, c.revive(now)...)
}

func (c *Core) handle(now time.Time, ev Event) []Action {
	switch ev := ev.(type) {
	case PodSeen:
		return c.podSeen(now, ev.Pod)
	case PodGone:
		c.podGone(now, ev.UID)
	case NodeSeen:
		c.look = true
		return c.nodeSeen(now, ev.Node)
	case NodeGone:
		c.nodeGone(now, ev.Name)
	case NamespaceSeen:
		c.index.NamespaceSeen(ev.Namespace.Name, ev.Namespace)
	case NamespaceGone:
		c.index.NamespaceSeen(ev.Name, nil)
	case VolumeSeen:
		c.volumeSeen(now, ev.Volume)
	case VolumeGone:
		c.index.VolumeGone(ev.Name)
	case ClaimSeen:
		c.claimSeen(now, ev.Claim)
	case ClaimGone:
		c.claimGone(now, ev.Key)
	case ClassSeen:
		c.index.StorageClassSeen(ev.Class.Name, ev.Class)
	case ClassGone:
		c.index.StorageClassSeen(ev.Name, nil)
	case ClaimsPrepared:
		c.claimsPrepared(now, ev)
	case BudgetSeen:
		c.budgetSeen(ev.Budget)
	case BudgetGone:
		delete(c.budgets, ev.UID)
	case Synced:
		c.synced = true
		return []Action{Subscribe{}}
	case AddressesAssigned:
		c.addressesAssigned(now, ev)
	case AddressReleased:
		c.addressReleased(now, ev.OK)
	case BindDone:
		return c.bindDone(now, ev)
	case ExecutorReady:
		c.look = true
		c.executorReady(now, ev)
	case Subscribed:
		c.framework = ev.Framework
		return c.subscribe(now)
	case Disconnected:
		c.connected = false
		c.offers.Disconnect(now)
		for _, a := range c.agentsInOrder() {
			c.index.Refresh(&a.Agent)
		}
	case Offered:
		c.look = true
		return c.offered(now, ev.Offers)
	case OfferRescinded:
		if a := c.agents[c.offers.Holder(ev.Offer)]; a != nil {
			c.index.Refresh(&a.Agent)
		}
		c.offers.Rescind(now, ev.Offer)
	case InverseOffered:
		c.look = true
		return c.inverseOffered(now, ev.Offers)
	case InverseOfferRescinded:
		c.inverse[InverseRescinded]++
	case EvictDone:
		c.evictDone(now, ev)
	case TaskUpdated:
		return c.taskUpdated(now, ev.Status)
	case AgentLost:
		return c.agentLost(now, ev.Agent)
	case ExecutorExited:
		if a := c.agents[ev.Agent]; a != nil && ev.Executor == api.MinionExecutorID {
			a.hasExecutor = false
			c.index.Refresh(&a.Agent)
			if u := c.disruptions[a.ID]; u != nil {
				u.drain.exited = true
				if !u.rollout.asked.IsZero() {
					u.rollout.gone = now
				}
			}
		}
	case Wake:
		c.look = true
		if !c.resumeAt.IsZero() && !now.Before(c.resumeAt) {
			c.resumeAt = time.Time{}
			c.wake(now)
		}
	case Tick:
		c.look = true
		return c.tick(now)
	}
	return nil
}

// subscribe starts over with what only holds within a connection: which agents are there, and what Mesos knows of
// our tasks.
func (c *Core) subscribe(now time.Time) []Action {
	c.connected = true
	c.subscribed = now
	if c.begun.IsZero() {
		c.begun = now
		c.addresses.sweep = now.Add(addressFirst)
	}
	c.implicitAt = now.Add(implicitEvery)
	c.revival = revival{}
	for _, a := range c.agents {
		if !a.Alive {
			a.since = now
		}
	}
	c.reconcile = reconciliation{}
	for _, u := range c.disruptions {
		u.heard = now
	}
	for _, id := range slices.Sorted(maps.Keys(c.tasks)) {
		c.reconcile.add(now, id)
		if t := c.tasks[id]; t.killed && !t.killAt.IsZero() {
			t.killAt = now // what was asked for may be lost with the connection
		}
	}
	return append([]Action{Reconcile{}}, c.reconcileDue(now)...)
}

func (c *Core) tick(now time.Time) []Action {
	c.wake(now)
	c.tickClaims(now)
	c.index.Forget()
	var acts []Action
	for _, t := range c.tasksToWatch() {
		acts = append(acts, c.tickTask(now, t)...)
	}
	for _, a := range c.agentsInOrder() {
		acts = append(acts, c.tickAgent(now, a)...)
	}
	acts = append(acts, c.tickUpkeep(now)...)
	c.addresses.moved = true // or may be: nodes come and go
	acts = append(acts, c.tickAddresses(now)...)
	if !now.Before(c.leaseAt) {
		c.leaseAt = now.Add(leaseEvery)
		acts = append(acts, c.renewLeases()...)
	}
	if !c.connected {
		return acts
	}
	acts = append(acts, c.reconcileDue(now)...)
	if !now.Before(c.implicitAt) {
		c.implicitAt = now.Add(implicitEvery)
		acts = append(acts, Reconcile{})
	}
	return append(acts, c.expire(now)...)
}

// expire gives back the offers that were held long enough.
func (c *Core) expire(now time.Time) []Action {
	expired := c.offers.Expire(now)
	if len(expired) == 0 {
		return nil
	}
	ids := make([]api.OfferID, 0, len(expired))
	var kept []api.OfferID // of agents with a plan
	for _, o := range expired {
		if a := c.agents[o.Agent]; a != nil {
			c.index.Refresh(&a.Agent)
			a.returning = now
		}
		if o.Unavailable != nil {
			kept = append(kept, o.ID)
			continue
		}
		ids = append(ids, o.ID)
	}
	refuse := c.cfg.RefuseIdle
	if c.wantsMore() {
		refuse = refuseBusy
	}
	var acts []Action
	if len(ids) > 0 {
		acts = append(acts, Decline{Offers: ids, Refuse: refuse})
	}
	if len(kept) > 0 {
		acts = append(acts, Decline{Offers: kept, Refuse: min(refuse, refuseKept)})
	}
	return acts
}

// tasksToWatch returns, in order, the tasks for which time may bring something: not those that just run.
func (c *Core) tasksToWatch() []*task {
	var tasks []*task
	for _, t := range c.tasks {
		if !t.heard || t.state == Staging || t.state == Starting && !t.ran || !t.killAt.IsZero() || !t.bindAt.IsZero() {
			tasks = append(tasks, t)
		}
	}
	slices.SortFunc(tasks, func(a, b *task) int { return cmp.Compare(a.id, b.id) })
	return tasks
}

// agentsInOrder returns the agents in order of their coming.
func (c *Core) agentsInOrder() []*agent {
	agents := make([]*agent, 0, len(c.agents))
	for a := range c.index.Agents() {
		agents = append(agents, c.agents[a.ID])
	}
	return agents
}

// Snapshot is what there is to see of a Core, for metrics and logs.
type Snapshot struct {
	PodsWaiting, Tasks, AgentsAlive, Offers int
	OffersEnded                             map[offers.End]uint64
	// AgentsPlanned and AgentsDraining count agents with planned maintenance, and those that Mesos drains.
	AgentsPlanned, AgentsDraining int
	// NodesOutdated have a minion of another version than the scheduler's, RolloutsUnderWay and RolloutsStopped are the nodes
	// where it is being replaced, and where that was given up; NodesWarm are those that are kept warm.
	NodesOutdated, RolloutsUnderWay, RolloutsStopped, NodesWarm int
	InverseOffers                                               map[InverseEnd]uint64
	Evictions                                                   map[EvictOutcome]uint64
	// AgentsFailing are those where tasks fail before they run, and PodsRejected the pods that kubelets did not admit.
	AgentsFailing int
	PodsRejected  uint64
	// Preemptions are the searches for pods to preempt so far, and Victims the pods that were.
	Preemptions, Victims uint64
}

// Snapshot counts what there is now.
func (c *Core) Snapshot() Snapshot {
	s := Snapshot{
		PodsWaiting: c.queue.waiting, Tasks: len(c.tasks), Offers: c.offers.Len(),
		OffersEnded: map[offers.End]uint64{}, InverseOffers: map[InverseEnd]uint64{}, Evictions: map[EvictOutcome]uint64{},
		Preemptions: c.preempted.looks, Victims: c.preempted.victims, PodsRejected: c.rejections,
	}
	for _, u := range c.disruptions {
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
	for end, count := range c.inverse {
		s.InverseOffers[InverseEnd(end)] = count
	}
	for outcome, count := range c.evicted {
		s.Evictions[EvictOutcome(outcome)] = count
	}
	for _, a := range c.agents {
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
	for _, end := range offers.Ends() {
		s.OffersEnded[end] = c.offers.Ended(end)
	}
	return s
}
