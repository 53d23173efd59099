package scheduler

import (
	"fmt"
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

// agent is a Mesos agent that made us an offer, or that one of our nodes stands for.
type agent struct {
	match.Agent
	last        offers.Offer // the newest one; empty if there was none yet
	address     string       // of its endpoint; "" if not known
	since       time.Time    // when it was heard of last, or was first missed
	hasExecutor bool         // an executor of ours runs there
	nodeAt      time.Time    // when the node was asked for last
	settled     *v1.Node     // the node as it had nothing left to amend
	executor    executorState
	warm        *task     // without a pod, that keeps the executor up; nil for none
	chill       backoff   // of such tasks
	busy        time.Time // when a pod had a task there last, if its executor has no cpus of its own
	askedToEnd  time.Time // when that executor was last asked to end because no pod needs it; zero if it was not
	drops       backoff   // of tasks that it drops because it still drains
	failures    failures
	orphaned    time.Time // since when nobody looks after its pods; zero if somebody does
	otherSince  time.Time // since when its minion is seen to be of another version; zero if it is not
	// returning is when resources of it were given back or freed that have not been offered since; zero if there are none.
	returning time.Time

	nodeless bool // its node is still to come
	overlaps bool // it was told that it offers ports that are for services

	overcommitted bool // it was told that it has more than its machine
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

func (c *Core) offered(now time.Time, came []offers.Offer) []Action {
	var acts []Action
	var returned []*agent
	for _, o := range came {
		var forServices []offers.Range
		if c.cfg.NodePorts != (offers.Range{}) {
			o.Resources, forServices = o.Resources.WithoutPorts(c.cfg.NodePorts)
		}
		if !c.offers.Add(now, o) {
			continue
		}
		a := c.agents[o.Agent]
		if a == nil {
			a = c.newAgent(now, o.Agent)
		}
		if len(forServices) > 0 && !a.overlaps {
			a.overlaps = true
			acts = append(acts, Complain{Text: overlap(&o, forServices)})
		}
		c.index.Refresh(&a.Agent)
		c.heardOf(now, a.ID, o.Unavailable)
		if !sameAgent(&a.last, &o) {
			a.settled, a.nodeAt = nil, time.Time{}
		}
		a.last = o
		if o.IP != "" {
			c.fleet.setAddress(a, endpoint(&o))
			acts = append(acts, c.supersede(now, a)...)
		}
		a.hasExecutor = slices.Contains(o.Executors, api.MinionExecutorID)
		c.reactivated(now, a)
		if !a.Alive {
			a.Alive = true
			returned = append(returned, a)
		}
		a.since, a.returning = now, time.Time{}
		c.updateTotals(a)
		acts = append(acts, c.ensureNode(now, a)...)
		if a.Node == "" && c.offers.Decline(now, o.ID) { // no pod can ever run there
			acts = append(acts, Decline{Offers: []api.OfferID{o.ID}, Refuse: c.cfg.RefuseIdle})
		}
		acts = append(acts, c.giveBack(now, a)...)
		acts = append(acts, c.tellOvercommitted(a)...)
	}
	c.askAgain(now, returned)
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

func (c *Core) newAgent(now time.Time, id api.AgentID) *agent {
	a := &agent{Agent: match.Agent{ID: id}, since: now}
	a.Guard = &a.failures
	c.agents[id] = a
	c.index.AddAgent(&a.Agent)
	return a
}

// askAgain asks again for the tasks on agents that have come: what Mesos did not know before an agent was there, it may
// know now, and an agent that comes back after a reboot has lost its tasks without a word. Of a thousand agents that come
// at once, the tasks are gone through once.
func (c *Core) askAgain(now time.Time, came []*agent) {
	if len(came) == 0 {
		return
	}
	there, nodes := map[api.AgentID]bool{}, map[string]bool{}
	for _, a := range came {
		there[a.ID], nodes[a.Node] = true, a.Node != ""
	}
	for _, t := range c.tasksToWatch() {
		if p := c.pods[t.pod]; !t.heard && (there[t.agent] || p != nil && nodes[p.Node]) {
			c.reconcile.add(now, t.id)
		}
	}
	for _, a := range came {
		for _, t := range c.owners[a.ID] {
			if t.state == Unreachable {
				c.reconcile.add(now, t.id)
			}
		}
	}
}

func (c *Core) agentAbsent(now time.Time, id api.AgentID) {
	c.offers.DropAgent(now, id)
	if a := c.agents[id]; a != nil && a.Alive {
		a.Alive, a.hasExecutor, a.since = false, false, now
		c.index.Refresh(&a.Agent)
	}
}

func (c *Core) agentUpdated(now time.Time, id api.AgentID, f fate) []Action {
	a := c.agents[id]
	if a == nil {
		return nil
	}
	switch f.agent {
	case agentAlive:
		if !a.Alive {
			a.Alive = true
			c.index.Refresh(&a.Agent)
			c.askAgain(now, []*agent{a})
		}
		a.since = now
		if f.running && !a.hasExecutor {
			a.hasExecutor, c.look = true, true
			c.index.Refresh(&a.Agent)
		}
	case agentAbsent:
		c.agentAbsent(now, id)
	case agentGone:
		c.agentAbsent(now, id)
		return c.forgetAgent(now, a)
	}
	return nil
}

func (c *Core) forgetAgent(now time.Time, a *agent) []Action {
	delete(c.agents, a.ID)
	delete(c.disruptions, a.ID)
	c.fleet.remove(a)
	c.unreserve(now, a, c.index.RemoveAgent(&a.Agent))
	if a.warm != nil {
		c.dropTask(a.warm)
	}
	c.vacate(now, a.Node)
	acts := []Action{ForgetExecutor{Agent: a.ID}}
	if node := c.nodes[a.Node]; node != nil && node.Spec.ProviderID == api.ProviderID(a.ID) {
		acts = append(acts, DeleteNode{Name: a.Node})
	}
	return acts
}

// updateTotals learns how much the agent has for us: what it offers and what our tasks there have already.
func (c *Core) updateTotals(a *agent) {
	var sum [match.NumScalars]offers.Milli
	for o := range c.offers.OfAgent(a.ID) {
		for i, name := range match.ScalarNames {
			sum[i] += o.Resources.Sum(name)
		}
		a.Total.AddPorts(o.Resources.PortRanges())
	}
	for _, t := range c.owners[a.ID] {
		if t.heard {
			for i, amount := range t.demand.Scalars {
				sum[i] += amount
			}
		}
	}
	if a.hasExecutor {
		for i, amount := range c.cfg.executor(sum[match.Disk] + a.Total.Scalars[match.Disk]).Scalars {
			sum[i] += amount
		}
	}
	for i := range sum {
		a.Total.Scalars[i] = max(a.Total.Scalars[i], sum[i])
	}
}

// supersede forgets an older agent at the address of one that has no node yet: it has come back as this one, without
// its state. Agents that have nodes may well have exchanged their ports.
func (c *Core) supersede(now time.Time, a *agent) []Action {
	if a.Node != "" {
		return nil
	}
	var acts []Action
	for _, other := range slices.Clone(c.fleet.byAddress[a.address]) {
		if other != a {
			c.offers.DropAgent(now, other.ID)
			acts = append(acts, c.forgetAgent(now, other)...)
		}
	}
	return acts
}

func (c *Core) nodeSeen(now time.Time, node *v1.Node) []Action {
	c.nodes[node.Name] = node
	c.index.NodeSeen(node.Name, node)
	id, ours := api.AgentOfProviderID(node.Spec.ProviderID)
	if !ours {
		return nil
	}
	a := c.agents[id]
	if a == nil {
		a = c.newAgent(now, id)
	}
	if a.Node != node.Name {
		c.fleet.setNode(a, node.Name)
		c.reoccupy(a)
	}
	c.index.Refresh(&a.Agent)
	c.recall(now, a, node)
	if a.address == "" {
		c.fleet.setAddress(a, node.Annotations[api.AnnotationAgentAddress])
	}
	c.recallHealth(a, node)
	return c.tellOvercommitted(a)
}

func (c *Core) nodeGone(now time.Time, name string) {
	delete(c.nodes, name)
	c.index.NodeSeen(name, nil)
	c.vacate(now, name)
	for _, a := range c.fleet.byNode[name] {
		c.index.Refresh(&a.Agent)
		a.nodeAt = time.Time{}
	}
}

// ensureNode sees to it that the agent's node exists, stands for this agent, and has its labels.
func (c *Core) ensureNode(now time.Time, a *agent) []Action {
	if a.last.ID == "" || !a.nodeAt.IsZero() && now.Sub(a.nodeAt) < nodeAgain {
		return nil
	}
	if a.Node == "" {
		name, err := c.chooseName(a)
		if err != nil {
			a.nodeAt = now.Add(time.Hour) // it will not get better soon
			return []Action{Complain{Text: err.Error()}}
		}
		c.fleet.setNode(a, name)
		c.reoccupy(a)
		c.index.Refresh(&a.Agent)
	}
	node := c.nodes[a.Node]
	if node != nil && node == a.settled {
		return nil
	}
	amend := AmendNode{Name: a.Node, Address: a.address}
	switch {
	case node == nil:
		a.nodeAt = now
		return []Action{CreateNode{Node: c.newNode(a)}}
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
func (c *Core) chooseName(a *agent) (string, error) {
	name, err := api.NodeName(a.last.Hostname)
	if err != nil {
		return "", err
	}
	taken := false
	if node := c.nodes[name]; node != nil {
		taken = (a.address == "" || node.Annotations[api.AnnotationAgentAddress] != a.address) && !lacksProvider(node, a)
	}
	taken = taken || slices.ContainsFunc(c.fleet.byNode[name], func(other *agent) bool { return other != a })
	if taken {
		name += "-" + strconv.Itoa(a.last.Port)
	}
	return name, nil
}

// tickAgent does what is due for an agent: its node, the node's readiness while no kubelet cares, and its farewell.
func (c *Core) tickAgent(now time.Time, a *agent) []Action {
	if a.Alive && c.connected && a.since.Before(c.subscribed) && now.Sub(c.subscribed) >= doubtAfter {
		c.agentAbsent(now, a.ID)
	}
	if after := a.executor.after; !after.IsZero() && !now.Before(after) {
		a.executor.after = time.Time{}
		c.index.Refresh(&a.Agent)
	}
	node := c.nodes[a.Node]
	health := c.tickHealth(now, a)
	if a.Alive {
		acts := append(health, c.ensureNode(now, a)...)
		if len(acts) == 0 && node != nil && !a.hasExecutor && !api.NodeReady(node) && !match.Unfit(node) && now.Sub(a.nodeAt) >= nodeAgain && !c.orphaned(a) {
			a.nodeAt = now
			acts = []Action{MarkReady{Name: a.Node}}
		}
		return acts
	}
	if c.connected && now.Sub(a.since) >= c.cfg.AgentForget && (node == nil || !api.NodeReady(node)) {
		return c.forgetAgent(now, a)
	}
	return health
}

func (c *Core) renewLeases() []Action {
	var acts []Action
	for _, a := range c.agentsInOrder() {
		if a.Alive && c.nodes[a.Node] != nil && !c.orphaned(a) {
			acts = append(acts, RenewLease{Name: a.Node, Minion: a.hasExecutor})
		}
	}
	return acts
}

func (c *Core) executorReady(now time.Time, ev ExecutorReady) {
	a := c.agents[ev.Agent]
	if a == nil {
		return
	}
	c.index.Refresh(&a.Agent)
	a.executor.preparing = false
	if ev.Record == nil {
		a.executor.after = now.Add(executorAgain)
		return
	}
	a.executor = executorState{record: ev.Record, kept: ev.Kept, charge: ev.Resources, armed: now}
}
