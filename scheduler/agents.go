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
	nodeRetry     = 5 * time.Second // after a write to a node that has not shown up
	executorRetry = 5 * time.Second // after a failed PrepareExecutor
	// executorTellFirst is how many failures in a row an operator hears of, and executorTellEvery how many later again.
	executorTellFirst, executorTellEvery = 2, 60
	tokenFresh                           = 10 * time.Minute // how long a minion may start with a bootstrap token before it needs a new one
)

// agents are the Mesos agents that made us an offer or have one of our nodes, and all nodes.
type agents struct {
	core  *Core
	byID  map[api.AgentID]*agent
	nodes map[string]*v1.Node
	fleet fleet
}

// setNode sets the name of the agent's node. Its pods occupy that node from now on.
func (as *agents) setNode(a *agent, name string) {
	as.fleet.setNode(a, name)
	as.core.pods.reoccupy(a)
	as.core.index.Refresh(&a.Agent)
}

// setAlive notes whether Mesos can reach the agent, and reports whether that has changed.
func (as *agents) setAlive(a *agent, alive bool) (changed bool) {
	if changed = a.Alive != alive; changed {
		a.Alive = alive
		as.core.index.Refresh(&a.Agent)
	}
	return changed
}

// setExecutor notes whether an executor of ours runs on the agent, and reports whether that has changed.
func (as *agents) setExecutor(a *agent, runs bool) (changed bool) {
	if changed = a.hasExecutor != runs; changed {
		a.hasExecutor = runs
		a.executor.ran = a.executor.ran || runs
		as.core.index.Refresh(&a.Agent)
	}
	return changed
}

// setRecord notes what is known of the agent's ExecutorInfo.
func (as *agents) setRecord(a *agent, e executorState) {
	a.executor = e
	as.core.index.Refresh(&a.Agent)
}

// executorExited handles the end of one of our executors.
func (as *agents) executorExited(now time.Time, ev ExecutorExited) {
	if a := as.byID[ev.Agent]; a != nil && ev.Executor == api.MinionExecutorID {
		e := a.executor
		e.ran = true
		as.setRecord(a, e)
		as.setExecutor(a, false)
		as.core.disruptions.executorExited(now, a.ID)
	}
}

// subscribed restarts the timeout of absent agents: they may have been there while we were disconnected.
func (as *agents) subscribed(now time.Time) {
	for _, a := range as.byID {
		if !a.Alive {
			a.since = now
		}
	}
}

// count returns the number of agents.
func (as *agents) count() int { return len(as.byID) }

// haveNodes reports whether all agents that are alive have their nodes.
func (as *agents) haveNodes() bool { return as.fleet.nodeless == 0 }

// nodeNames returns the names of all nodes, in order.
func (as *agents) nodeNames() []string { return slices.Sorted(maps.Keys(as.nodes)) }

// changed has the agent viewed anew: what it has for pods has changed. An agent that is not known is ignored.
func (as *agents) changed(id api.AgentID) {
	if a := as.byID[id]; a != nil {
		as.core.index.Refresh(&a.Agent)
	}
}

// allChanged has all agents viewed anew.
func (as *agents) allChanged() {
	for _, a := range as.inOrder() {
		as.core.index.Refresh(&a.Agent)
	}
}

// get returns the agent; nil if unknown.
func (as *agents) get(id api.AgentID) *agent { return as.byID[id] }

// node returns the node; nil if it does not exist.
func (as *agents) node(name string) *v1.Node { return as.nodes[name] }

func newAgents(c *Core) agents {
	return agents{core: c, byID: map[api.AgentID]*agent{}, nodes: map[string]*v1.Node{}, fleet: newFleet()}
}

// agent is a Mesos agent that made us an offer or has one of our nodes.
type agent struct {
	match.Agent
	last        offers.Offer // its newest offer; empty for none
	address     string       // of its endpoint; "" if unknown
	since       time.Time    // when it was last heard of or, if it is not alive, became absent
	hasExecutor bool         // an executor of ours runs there
	executor    executorState
	failures    failures
	dropBackoff backoff   // while it drops tasks because it is still draining
	orphaned    time.Time // since when its pods have no executor; zero if they have one
	otherSince  time.Time // since when its minion has another version or other settings; zero if it has not
	// returning is when its resources were last freed or declined, until the next offer; zero for none.
	returning time.Time
	agentNode
	agentWarmth
	agentWarnings
}

// agentNode is the state of an agent's node.
type agentNode struct {
	nodeAt   time.Time // when we last created or changed the node
	upToDate *v1.Node  // the version of the node that had nothing to amend
	nodeless bool      // it counts in fleet.nodeless
}

// agentWarmth is what keeps an agent's executor running without pods.
type agentWarmth struct {
	warm        *task     // the task without a pod; nil for none
	warmBackoff backoff   // of such tasks
	busy        time.Time // when a pod last had a task there, if the executor has no cpus of its own
	askedToEnd  time.Time // when that executor was last asked to end because no pod needs it; zero for never
}

// agentWarnings are the warnings about an agent that were already given.
type agentWarnings struct {
	overlaps      bool // it offers ports of the services' range
	overcommitted bool // it has more resources than its machine
}

// executorState is what we know about the ExecutorInfo of an agent.
type executorState struct {
	record    []byte // nil if unknown
	kept      bool   // it belongs to a running executor: do not use it for the next one
	ran       bool   // an executor has run with it, so its token is spent: only a relaunch of that executor's tasks uses it again
	charge    offers.Resources
	made      time.Time // when it was made, with its bootstrap token
	preparing bool
	after     time.Time // when to ask for it again after a failure
	failures  int       // in a row
}

// offered handles new offers: it learns their agents' state, creates nodes, and declines what nobody can use.
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
			acts = append(acts, Complain{Reason: "PortsOverlap", Text: overlap(&o, forServices)})
		}
		as.core.disruptions.noteWindow(now, a.ID, o.Unavailable)
		if !sameAgent(&a.last, &o) {
			a.upToDate, a.nodeAt = nil, time.Time{}
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
		if nameless := (offers.Detail{Reason: "the agent's hostname is no node name", Refuse: as.core.cfg.RefuseIdle}); a.Node == "" &&
			as.core.offering.decline(now, o.ID, nameless) {
			acts = append(acts, Decline{Offers: []api.OfferID{o.ID}, Refuse: nameless.Refuse})
		}
		acts = append(acts, as.core.offering.giveBack(now, a)...)
		acts = append(acts, as.warnOvercommitted(a)...)
	}
	as.reconcileArrived(now, returned)
	return acts
}

// endpoint returns where an offer's agent listens, as HOST:PORT, with an IPv6 address in brackets.
func endpoint(o *offers.Offer) string {
	if strings.Contains(o.IP, ":") {
		return "[" + o.IP + "]:" + strconv.Itoa(o.Port)
	}
	return o.IP + ":" + strconv.Itoa(o.Port)
}

// overlap warns of an agent whose ports overlap the NodePort range of services.
func overlap(o *offers.Offer, ports []offers.Range) string {
	return fmt.Sprintf("agent %s (%s) offers %s, which are NodePorts of services: pods get none of them, but tasks of other frameworks may, "+
		"and services would take their connections; change the agent's --resources or the control plane's --service-node-port-range",
		o.Agent, o.Hostname, offers.Resource{Name: offers.Ports, Ranges: ports})
}

// sameAgent reports whether two offers agree on everything that their agent's node shows.
func sameAgent(a, b *offers.Offer) bool {
	return a.Hostname == b.Hostname && a.IP == b.IP && a.Port == b.Port && a.Region == b.Region && a.Zone == b.Zone &&
		slices.Equal(a.Attributes, b.Attributes)
}

// add adds an agent.
func (as *agents) add(now time.Time, id api.AgentID) *agent {
	a := &agent{Agent: match.Agent{ID: id}, since: now}
	a.Guard, a.Owner = &a.failures, a
	as.byID[id] = a
	as.core.index.AddAgent(&a.Agent)
	return a
}

// reconcileArrived reconciles the tasks on agents that have come: Mesos may know them now, and an agent that comes back after a
// reboot has lost its tasks without an update. It takes all new agents at once, to iterate over the tasks only once.
func (as *agents) reconcileArrived(now time.Time, came []*agent) {
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

// absent marks an agent as not alive and drops its offers.
func (as *agents) absent(now time.Time, id api.AgentID) {
	as.core.offering.drop(now, id)
	if a := as.byID[id]; a != nil && as.setAlive(a, false) {
		as.setExecutor(a, false)
		a.since = now
	}
}

// updated learns from the update of a task whether its agent is alive.
func (as *agents) updated(now time.Time, id api.AgentID, r reaction) []Action {
	a := as.byID[id]
	if a == nil {
		return nil
	}
	switch r.agent {
	case agentAlive:
		if as.setAlive(a, true) {
			as.reconcileArrived(now, []*agent{a})
		}
		a.since = now
		if r.running && as.setExecutor(a, true) {
			as.core.requestCycle()
		}
	case agentAbsent:
		as.absent(now, id)
	case agentGone:
		as.absent(now, id)
		return as.forget(now, a)
	}
	return nil
}

// forget removes an agent that will not come back, and deletes its node.
func (as *agents) forget(now time.Time, a *agent) []Action {
	delete(as.byID, a.ID)
	as.core.disruptions.forget(a.ID)
	as.fleet.remove(a)
	as.core.pods.unreserve(now, a, as.core.index.RemoveAgent(&a.Agent))
	if a.warm != nil {
		as.core.tasks.drop(a.warm)
	}
	as.core.pods.nodeLeft(now, a.Node)
	acts := []Action{ForgetExecutor{Agent: a.ID}}
	if node := as.nodes[a.Node]; node != nil && node.Spec.ProviderID == api.ProviderID(a.ID) {
		acts = append(acts, DeleteNode{Name: a.Node})
	}
	return acts
}

// updateTotals learns how much the agent has for us in all: what it offers and what our tasks there use.
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

// supersede forgets an older agent at the address of a new one: it lost its state and came back under a new id. Agents
// that have nodes may just have swapped their ports.
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

// nodeSeen handles a node that is new or changed in the API.
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
	as.core.index.Refresh(&a.Agent)
	as.core.disruptions.restore(now, a, node)
	if a.address == "" {
		as.fleet.setAddress(a, node.Annotations[api.AnnotationAgentAddress])
	}
	as.core.health.restore(a, node)
	return as.warnOvercommitted(a)
}

// nodeGone handles a node that was removed from the API.
func (as *agents) nodeGone(now time.Time, name string) {
	delete(as.nodes, name)
	as.core.index.NodeSeen(name, nil)
	as.core.pods.nodeLeft(now, name)
	for _, a := range as.fleet.byNode[name] {
		as.core.index.Refresh(&a.Agent)
		a.nodeAt = time.Time{}
	}
}

// ensureNode creates the agent's node, or amends its provider id, address and labels.
func (as *agents) ensureNode(now time.Time, a *agent) []Action {
	if a.last.ID == "" || !a.nodeAt.IsZero() && now.Sub(a.nodeAt) < nodeRetry {
		return nil
	}
	if a.Node == "" {
		name, err := as.chooseName(a)
		if err != nil {
			a.nodeAt = now.Add(time.Hour) // the hostname will not change soon
			return []Action{Complain{Reason: "AgentNameUnusable", Text: err.Error()}}
		}
		as.setNode(a, name)
	}
	node := as.nodes[a.Node]
	if node != nil && node == a.upToDate {
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
		return nil // it belongs to the agent that was here before, and will be deleted
	}
	amend.Labels = staleLabels(node, agentLabels(a))
	moved := a.address != "" && node.Annotations[api.AnnotationAgentAddress] != a.address
	if len(amend.Labels) > 0 || moved || amend.ProviderID != "" {
		a.nodeAt = now
		return []Action{amend}
	}
	a.upToDate = node
	return nil
}

// lacksProvider recognises a node that our kubelet created again after somebody deleted it: a kubelet does not know the
// provider id.
func lacksProvider(node *v1.Node, a *agent) bool {
	return node.Spec.ProviderID == "" && slices.ContainsFunc(node.Status.Addresses, func(address v1.NodeAddress) bool {
		return address.Type == v1.NodeInternalIP && address.Address == a.last.IP
	})
}

// chooseName returns the agent's hostname, with its port appended if another agent or node has that name. An agent that
// came back at the same address under a new id takes over the name.
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

// tick ensures the agent's node, marks it ready while no kubelet does, and forgets an agent that is absent for too long.
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
		if len(acts) == 0 && node != nil && !a.hasExecutor && !api.NodeReady(node) && !match.Unfit(node) && now.Sub(a.nodeAt) >= nodeRetry && !as.core.warm.orphaned(a) {
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

// renewLeases renews the leases of the nodes whose agents are alive.
func (as *agents) renewLeases() []Action {
	var acts []Action
	for _, a := range as.inOrder() {
		if a.Alive && as.nodes[a.Node] != nil && !as.core.warm.orphaned(a) {
			acts = append(acts, RenewLease{Name: a.Node, Minion: a.hasExecutor})
		}
	}
	return acts
}

// executorReady handles the result of PrepareExecutor.
func (as *agents) executorReady(now time.Time, ev ExecutorReady) (acts []Action) {
	a := as.byID[ev.Agent]
	if a == nil {
		return nil
	}
	e := executorState{record: ev.Record, kept: ev.Kept, charge: ev.Resources, made: now}
	if ev.Record == nil {
		e = a.executor
		e.preparing, e.after = false, now.Add(executorRetry)
		if e.failures++; e.failures%executorTellEvery == executorTellFirst {
			acts = as.nodeEvent(a, v1.EventTypeWarning, "ExecutorNotPrepared", "no pod that needs a new minion starts here: cannot prepare the executor: "+ev.Why)
		}
	}
	as.setRecord(a, e)
	return acts
}

// inOrder returns the agents in order of arrival.
func (as *agents) inOrder() []*agent {
	agents := make([]*agent, 0, len(as.byID))
	for a := range as.core.index.Agents() {
		agents = append(agents, as.of(a))
	}
	return agents
}

// fleet finds agents by node and address. Usually one agent has each; for a while there may be two.
type fleet struct {
	byNode    directory
	byAddress directory
	nodeless  int // number of agents that wait for their nodes
}

// directory holds agents by name; those without a name are not in it.
type directory map[string][]*agent

// move changes the name by which the agent is found.
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

// setNode sets the name of the agent's node.
func (f *fleet) setNode(a *agent, name string) {
	f.byNode.move(a, a.Node, name)
	a.Node = name
}

// setAddress sets the address of the agent's endpoint.
func (f *fleet) setAddress(a *agent, address string) {
	f.byAddress.move(a, a.address, address)
	a.address = address
}

// remove removes an agent.
func (f *fleet) remove(a *agent) {
	f.byNode.move(a, a.Node, "")
	f.byAddress.move(a, a.address, "")
	if a.nodeless {
		f.nodeless--
	}
}
