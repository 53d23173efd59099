package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler/match"
)

const (
	nodeAgain     = 5 * time.Second  // a node that does not appear or does not become ready is asked for again
	executorAgain = 5 * time.Second  // a record that could not be had is asked for again
	tokenFresh    = 10 * time.Minute // a minion that starts so long after its token was armed still finds it valid
)

// agents are those that made us an offer, or that one of our nodes stands for, with the nodes.
type agents struct {
	core  *Core
	byID  map[api.AgentID]*agent
	nodes map[string]*v1.Node
	fleet fleet
}

// setNode gives the agent its node's name. Its pods occupy that node.
func (as *agents) setNode(a *agent, name string) {
	as.fleet.setNode(a, name)
	as.core.pods.reoccupy(a)
	as.core.index.Refresh(&a.Agent)
}

// setAlive notes whether Mesos can reach the agent, and tells whether that is news.
func (as *agents) setAlive(a *agent, alive bool) (changed bool) {
	if changed = a.Alive != alive; changed {
		a.Alive = alive
		as.core.index.Refresh(&a.Agent)
	}
	return changed
}

// setExecutor notes whether an executor of ours runs on the agent, and tells whether that is news.
func (as *agents) setExecutor(a *agent, runs bool) (changed bool) {
	if changed = a.hasExecutor != runs; changed {
		a.hasExecutor = runs
		as.core.index.Refresh(&a.Agent)
	}
	return changed
}

// setRecord notes what is known of the agent's ExecutorInfo.
func (as *agents) setRecord(a *agent, e executorState) {
	a.executor = e
	as.core.index.Refresh(&a.Agent)
}

// executorExited takes in that an executor of ours has ended.
func (as *agents) executorExited(now time.Time, ev ExecutorExited) {
	if a := as.byID[ev.Agent]; a != nil && ev.Executor == api.MinionExecutorID {
		as.setExecutor(a, false)
		as.core.disruptions.executorExited(now, a.ID)
	}
}

// subscribed has the agents that are away begin to be missed: what happened while nobody listened is unknown.
func (as *agents) subscribed(now time.Time) {
	for _, a := range as.byID {
		if !a.Alive {
			a.since = now
		}
	}
}

// count is how many agents there are.
func (as *agents) count() int { return len(as.byID) }

// haveNodes tells whether all agents that are there have their nodes.
func (as *agents) haveNodes() bool { return as.fleet.nodeless == 0 }

// nodeNames returns the names of all nodes, in order.
func (as *agents) nodeNames() []string { return slices.Sorted(maps.Keys(as.nodes)) }

// get returns the agent; nil if it is not known.
func (as *agents) get(id api.AgentID) *agent { return as.byID[id] }

// node returns the node; nil if it does not exist.
func (as *agents) node(name string) *v1.Node { return as.nodes[name] }

func newAgents(c *Core) agents {
	return agents{core: c, byID: map[api.AgentID]*agent{}, nodes: map[string]*v1.Node{}, fleet: newFleet()}
}

// agent is a Mesos agent that made us an offer, or that one of our nodes stands for.
type agent struct {
	match.Agent
	last        offers.Offer // the newest one; empty if there was none yet
	address     string       // of its endpoint; "" if not known
	since       time.Time    // when it was heard of last, or was first missed
	hasExecutor bool         // an executor of ours runs there
	executor    executorState
	failures    failures
	drops       backoff   // of tasks that it drops because it still drains
	orphaned    time.Time // since when nobody looks after its pods; zero if somebody does
	otherSince  time.Time // since when its minion is seen to be of another version; zero if it is not
	// returning is when resources of it were given back or freed that have not been offered since; zero if there are none.
	returning time.Time
	agentNode
	agentWarmth
	agentTold
}

// agentNode is how an agent's node is.
type agentNode struct {
	nodeAt   time.Time // when the node was asked for last
	settled  *v1.Node  // the node as it had nothing left to amend
	nodeless bool      // its node is still to come
}

// agentWarmth is what keeps an agent's executor up without pods.
type agentWarmth struct {
	warm       *task     // without a pod, that keeps the executor up; nil for none
	chill      backoff   // of such tasks
	busy       time.Time // when a pod had a task there last, if its executor has no cpus of its own
	askedToEnd time.Time // when that executor was last asked to end because no pod needs it; zero if it was not
}

// agentTold is what was told of an agent, once.
type agentTold struct {
	overlaps      bool // that it offers ports that are for services
	overcommitted bool // that it has more than its machine
}

// executorState is what we know of the ExecutorInfo of an agent.
type executorState struct {
	record    []byte // nil while not known
	kept      bool   // it goes with the executor that it is of: the next one is this scheduler's
	charge    offers.Resources
	armed     time.Time // when the token in it was made valid
	preparing bool
	after     time.Time // not to be asked for again before
}

func (as *agents) offered(now time.Time, came []offers.Offer) []Action {
	var acts []Action
	var returned []*agent
	for _, o := range came {
		var forServices []offers.Range
		if as.core.cfg.NodePorts != (offers.Range{}) {
			o.Resources, forServices = o.Resources.WithoutPorts(as.core.cfg.NodePorts)
		}
		if !as.core.offering.add(now, o) {
			continue
		}
		a := as.byID[o.Agent]
		if a == nil {
			a = as.add(now, o.Agent)
		}
		if len(forServices) > 0 && !a.overlaps {
			a.overlaps = true
			acts = append(acts, Complain{Text: overlap(&o, forServices)})
		}
		as.core.disruptions.heardOf(now, a.ID, o.Unavailable)
		if !sameAgent(&a.last, &o) {
			a.settled, a.nodeAt = nil, time.Time{}
		}
		a.last = o
		if o.IP != "" {
			as.fleet.setAddress(a, endpoint(&o))
			acts = append(acts, as.supersede(now, a)...)
		}
		as.setExecutor(a, slices.Contains(o.Executors, api.MinionExecutorID))
		as.core.disruptions.reactivated(now, a)
		if as.setAlive(a, true) {
			returned = append(returned, a)
		}
		a.since, a.returning = now, time.Time{}
		as.updateTotals(a)
		acts = append(acts, as.ensureNode(now, a)...)
		if a.Node == "" && as.core.offering.decline(now, o.ID) { // no pod can ever run there
			acts = append(acts, Decline{Offers: []api.OfferID{o.ID}, Refuse: as.core.cfg.RefuseIdle})
		}
		acts = append(acts, as.core.offering.giveBack(now, a)...)
		acts = append(acts, as.tellOvercommitted(a)...)
	}
	as.askAgain(now, returned)
	return acts
}

// endpoint is where an offer's agent listens, as HOST:PORT, with an IPv6 address in brackets.
func endpoint(o *offers.Offer) string {
	if strings.Contains(o.IP, ":") {
		return "[" + o.IP + "]:" + strconv.Itoa(o.Port)
	}
	return o.IP + ":" + strconv.Itoa(o.Port)
}

// overlap says what to do about ports that are both an agent's and services'.
func overlap(o *offers.Offer, ports []offers.Range) string {
	return fmt.Sprintf("agent %s (%s) offers %s, which are for services: pods are given none of them, but other frameworks may be, "+
		"whose connections services would then take; give the agent other ports by its --resources, or services others by --service-node-port-range of the control plane",
		o.Agent, o.Hostname, offers.Resource{Name: offers.Ports, Ranges: ports})
}

// sameAgent tells whether two offers say the same of their agent's node.
func sameAgent(a, b *offers.Offer) bool {
	return a.Hostname == b.Hostname && a.IP == b.IP && a.Port == b.Port && a.Region == b.Region && a.Zone == b.Zone &&
		slices.Equal(a.Attributes, b.Attributes)
}

func (as *agents) add(now time.Time, id api.AgentID) *agent {
	a := &agent{Agent: match.Agent{ID: id}, since: now}
	a.Guard, a.Owner = &a.failures, a
	as.byID[id] = a
	as.core.index.AddAgent(&a.Agent)
	return a
}

// askAgain asks again for the tasks on agents that have come: what Mesos did not know before an agent was there, it may
// know now, and an agent that comes back after a reboot has lost its tasks without a word. Of a thousand agents that come
// at once, the tasks are gone through once.
func (as *agents) askAgain(now time.Time, came []*agent) {
	if len(came) == 0 {
		return
	}
	there, nodes := map[api.AgentID]bool{}, map[string]bool{}
	for _, a := range came {
		there[a.ID], nodes[a.Node] = true, a.Node != ""
	}
	for _, t := range as.core.tasks.toWatch() {
		if p := as.core.pods.get(t.pod); !t.heard && (there[t.agent] || p != nil && nodes[p.Node]) {
			as.core.tasks.ask(now, t.id)
		}
	}
	for _, a := range came {
		for _, t := range as.core.tasks.on(a.ID) {
			if t.state == Unreachable {
				as.core.tasks.ask(now, t.id)
			}
		}
	}
}

func (as *agents) absent(now time.Time, id api.AgentID) {
	as.core.offering.drop(now, id)
	if a := as.byID[id]; a != nil && as.setAlive(a, false) {
		as.setExecutor(a, false)
		a.since = now
	}
}

func (as *agents) updated(now time.Time, id api.AgentID, f fate) []Action {
	a := as.byID[id]
	if a == nil {
		return nil
	}
	switch f.agent {
	case agentAlive:
		if as.setAlive(a, true) {
			as.askAgain(now, []*agent{a})
		}
		a.since = now
		if f.running && as.setExecutor(a, true) {
			as.core.stir()
		}
	case agentAbsent:
		as.absent(now, id)
	case agentGone:
		as.absent(now, id)
		return as.forget(now, a)
	}
	return nil
}

func (as *agents) forget(now time.Time, a *agent) []Action {
	delete(as.byID, a.ID)
	as.core.disruptions.forget(a.ID)
	as.fleet.remove(a)
	as.core.pods.unreserve(now, a, as.core.index.RemoveAgent(&a.Agent))
	if a.warm != nil {
		as.core.tasks.drop(a.warm)
	}
	as.core.pods.vacate(now, a.Node)
	acts := []Action{ForgetExecutor{Agent: a.ID}}
	if node := as.nodes[a.Node]; node != nil && node.Spec.ProviderID == api.ProviderID(a.ID) {
		acts = append(acts, DeleteNode{Name: a.Node})
	}
	return acts
}

// updateTotals learns how much the agent has for us: what it offers and what our tasks there have already.
func (as *agents) updateTotals(a *agent) {
	sum := as.core.offering.free(a.ID, a.Total.AddPorts)
	for _, t := range as.core.tasks.on(a.ID) {
		if t.heard {
			for i, amount := range t.demand.Scalars {
				sum[i] += amount
			}
		}
	}
	if a.hasExecutor {
		for i, amount := range as.core.cfg.executor(sum[match.Disk] + a.Total.Scalars[match.Disk]).Scalars {
			sum[i] += amount
		}
	}
	for i := range sum {
		a.Total.Scalars[i] = max(a.Total.Scalars[i], sum[i])
	}
}

// supersede forgets an older agent at the address of one that has no node yet: it has come back as this one, without
// its state. Agents that have nodes may well have exchanged their ports.
func (as *agents) supersede(now time.Time, a *agent) []Action {
	if a.Node != "" {
		return nil
	}
	var acts []Action
	for _, other := range slices.Clone(as.fleet.byAddress[a.address]) {
		if other != a {
			as.core.offering.drop(now, other.ID)
			acts = append(acts, as.forget(now, other)...)
		}
	}
	return acts
}

func (as *agents) nodeSeen(now time.Time, node *v1.Node) []Action {
	as.nodes[node.Name] = node
	as.core.index.NodeSeen(node.Name, node)
	id, ours := api.AgentOfProviderID(node.Spec.ProviderID)
	if !ours {
		return nil
	}
	a := as.byID[id]
	if a == nil {
		a = as.add(now, id)
	}
	if a.Node != node.Name {
		as.setNode(a, node.Name)
	}
	as.core.index.Refresh(&a.Agent) // it stands for it now, or has changed
	as.core.disruptions.recall(now, a, node)
	if a.address == "" {
		as.fleet.setAddress(a, node.Annotations[api.AnnotationAgentAddress])
	}
	as.core.health.recall(a, node)
	return as.tellOvercommitted(a)
}

func (as *agents) nodeGone(now time.Time, name string) {
	delete(as.nodes, name)
	as.core.index.NodeSeen(name, nil)
	as.core.pods.vacate(now, name)
	for _, a := range as.fleet.byNode[name] {
		as.core.index.Refresh(&a.Agent)
		a.nodeAt = time.Time{}
	}
}

// ensureNode sees to it that the agent's node exists, stands for this agent, and has its labels.
func (as *agents) ensureNode(now time.Time, a *agent) []Action {
	if a.last.ID == "" || !a.nodeAt.IsZero() && now.Sub(a.nodeAt) < nodeAgain {
		return nil
	}
	if a.Node == "" {
		name, err := as.chooseName(a)
		if err != nil {
			a.nodeAt = now.Add(time.Hour) // it will not get better soon
			return []Action{Complain{Text: err.Error()}}
		}
		as.setNode(a, name)
	}
	node := as.nodes[a.Node]
	if node != nil && node == a.settled {
		return nil
	}
	amend := AmendNode{Name: a.Node, Address: a.address}
	switch {
	case node == nil:
		a.nodeAt = now
		return []Action{CreateNode{Node: as.newNode(a)}}
	case lacksProvider(node, a):
		amend.ProviderID = api.ProviderID(a.ID)
	case node.Spec.ProviderID != api.ProviderID(a.ID):
		return nil // the node of the agent that was here before is about to go
	}
	amend.Labels = staleLabels(node, agentLabels(a))
	moved := a.address != "" && node.Annotations[api.AnnotationAgentAddress] != a.address
	if len(amend.Labels) > 0 || moved || amend.ProviderID != "" {
		a.nodeAt = now
		return []Action{amend}
	}
	a.settled = node
	return nil
}

// lacksProvider recognises a node that a kubelet of ours made again, because somebody deleted it: a kubelet knows
// nothing of agents.
func lacksProvider(node *v1.Node, a *agent) bool {
	return node.Spec.ProviderID == "" && slices.ContainsFunc(node.Status.Addresses, func(address v1.NodeAddress) bool {
		return address.Type == v1.NodeInternalIP && address.Address == a.last.IP
	})
}

// chooseName returns the hostname, or with the port behind it if somebody else has the name already. An agent that
// came back at the same address without its state takes over the name.
func (as *agents) chooseName(a *agent) (string, error) {
	name, err := api.NodeName(a.last.Hostname)
	if err != nil {
		return "", err
	}
	taken := false
	if node := as.nodes[name]; node != nil {
		taken = (a.address == "" || node.Annotations[api.AnnotationAgentAddress] != a.address) && !lacksProvider(node, a)
	}
	taken = taken || slices.ContainsFunc(as.fleet.byNode[name], func(other *agent) bool { return other != a })
	if taken {
		name += "-" + strconv.Itoa(a.last.Port)
	}
	return name, nil
}

// tick does what is due for an agent: its node, the node's readiness while no kubelet cares, and its farewell.
func (as *agents) tick(now time.Time, a *agent) []Action {
	if a.Alive && as.core.session.connected() && a.since.Before(as.core.session.subscribed()) && now.Sub(as.core.session.subscribed()) >= doubtAfter {
		as.absent(now, a.ID)
	}
	if after := a.executor.after; !after.IsZero() && !now.Before(after) {
		e := a.executor
		e.after = time.Time{}
		as.setRecord(a, e)
	}
	node := as.nodes[a.Node]
	health := as.core.health.tick(now, a)
	if a.Alive {
		acts := append(health, as.ensureNode(now, a)...)
		if len(acts) == 0 && node != nil && !a.hasExecutor && !api.NodeReady(node) && !match.Unfit(node) && now.Sub(a.nodeAt) >= nodeAgain && !as.core.warm.orphaned(a) {
			a.nodeAt = now
			acts = []Action{MarkReady{Name: a.Node}}
		}
		return acts
	}
	if as.core.session.connected() && now.Sub(a.since) >= as.core.cfg.AgentForget && (node == nil || !api.NodeReady(node)) {
		return as.forget(now, a)
	}
	return health
}

func (as *agents) renewLeases() []Action {
	var acts []Action
	for _, a := range as.inOrder() {
		if a.Alive && as.nodes[a.Node] != nil && !as.core.warm.orphaned(a) {
			acts = append(acts, RenewLease{Name: a.Node, Minion: a.hasExecutor})
		}
	}
	return acts
}

func (as *agents) executorReady(now time.Time, ev ExecutorReady) {
	a := as.byID[ev.Agent]
	if a == nil {
		return
	}
	e := executorState{record: ev.Record, kept: ev.Kept, charge: ev.Resources, armed: now}
	if ev.Record == nil {
		e = a.executor
		e.preparing, e.after = false, now.Add(executorAgain)
	}
	as.setRecord(a, e)
}

// inOrder returns the agents in order of their coming.
func (as *agents) inOrder() []*agent {
	agents := make([]*agent, 0, len(as.byID))
	for a := range as.core.index.Agents() {
		agents = append(agents, as.of(a))
	}
	return agents
}

// fleet finds agents by something that mostly one has, but two may for a while.
type fleet struct {
	byNode    directory
	byAddress directory
	nodeless  int // how many agents wait for their nodes
}

// directory is the agents by a name; nothing is found by "".
type directory map[string][]*agent

// move notes that what the agent is found by has changed.
func (d directory) move(a *agent, from, to string) {
	if from == to {
		return
	}
	left := slices.DeleteFunc(d[from], func(other *agent) bool { return other == a })
	if d[from] = left; len(left) == 0 {
		delete(d, from)
	}
	if to != "" {
		d[to] = append(d[to], a)
	}
}

func newFleet() fleet { return fleet{byNode: directory{}, byAddress: directory{}} }

// setNode gives the agent its node's name.
func (f *fleet) setNode(a *agent, name string) {
	f.byNode.move(a, a.Node, name)
	a.Node = name
}

// setAddress notes where the agent's endpoint is.
func (f *fleet) setAddress(a *agent, address string) {
	f.byAddress.move(a, a.address, address)
	a.address = address
}

// remove forgets an agent.
func (f *fleet) remove(a *agent) {
	f.byNode.move(a, a.Node, "")
	f.byAddress.move(a, a.address, "")
	if a.nodeless {
		f.nodeless--
	}
}
