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
)

const (
	nodeAgain     = 5 * time.Second  // a node that does not appear or does not become ready is asked for again
	executorAgain = 5 * time.Second  // a record that could not be had is asked for again
	tokenFresh    = 10 * time.Minute // a minion that starts so long after its token was armed still finds it valid
)

// agent is a Mesos agent that made us an offer, or that one of our nodes stands for.
type agent struct {
	id          api.AgentID
	last        offers.Offer // the newest one; empty if there was none yet
	address     string       // of its endpoint; "" if not known
	node        string       // the node's name; "" if the agent can have none
	alive       bool
	since       time.Time // when it was heard of last, or was first missed
	hasExecutor bool      // an executor of ours runs there
	total       totals
	nodeAt      time.Time // when the node was asked for last
	settled     *v1.Node  // the node as it had nothing left to amend
	executor    executorState
	hasProgram  bool      // it has fetched km from this scheduler
	warm        *task     // without a pod, that keeps the executor up; nil for none
	chill       backoff   // of such tasks
	busy        time.Time // when a pod had a task there last, if its executor has no cpus of its own
	askedToEnd  time.Time // when that executor was last asked to end because no pod needs it; zero if it was not
	drops       backoff   // of tasks that it drops because it still drains
	health      breaker   // of tasks that fail before they run
	rejections  []*rejection
	orphaned    time.Time // since when nobody looks after its pods; zero if somebody does
	otherSince  time.Time // since when its minion is seen to be of another version; zero if it is not
	// returning is when resources of it were given back or freed that have not been offered since; zero if there are none.
	returning time.Time

	place    int     // in the fleet
	touched  bool    // its views are out of date
	views    []*view // a view a role that it makes offers to
	idle     *view   // it with all it has, when it offers nothing; made when it is needed
	nodeless bool    // its node is still to come
	overlaps bool    // it was told that it offers ports that are for services
	promises []*pod  // to whom a place on it is promised

	tainted       bool      // its node has api.TaintAgentFailing
	taintAt       time.Time // when that was to be changed last
	recalled      bool      // what its node says of its health was taken in
	overcommitted bool      // it was told that it has more than its machine
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

// totals are the most that an agent was ever seen to have for us.
type totals struct {
	scalars [numScalars]offers.Milli
	ports   []offers.Range
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
		c.fleet.touch(a)
		c.heardOf(now, a.id, o.Unavailable)
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
		if !a.alive {
			a.alive = true
			returned = append(returned, a)
		}
		a.since, a.returning = now, time.Time{}
		c.updateTotals(a)
		acts = append(acts, c.ensureNode(now, a)...)
		if a.node == "" && c.offers.Decline(now, o.ID) { // no pod can ever run there
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
	a := &agent{id: id, since: now}
	c.agents[id] = a
	c.fleet.add(a)
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
		there[a.id], nodes[a.node] = true, a.node != ""
	}
	for _, t := range c.tasksToWatch() {
		if p := c.pods[t.pod]; !t.heard && (there[t.agent] || p != nil && nodes[p.node]) {
			c.reconcile.add(now, t.id)
		}
	}
	for _, a := range came {
		for _, t := range c.owners[a.id] {
			if t.state == Unreachable {
				c.reconcile.add(now, t.id)
			}
		}
	}
}

func (c *Core) agentAbsent(now time.Time, id api.AgentID) {
	c.offers.DropAgent(now, id)
	if a := c.agents[id]; a != nil && a.alive {
		a.alive, a.hasExecutor, a.since = false, false, now
		c.fleet.touch(a)
	}
}

func (c *Core) agentUpdated(now time.Time, id api.AgentID, f fate) []Action {
	a := c.agents[id]
	if a == nil {
		return nil
	}
	switch f.agent {
	case agentAlive:
		if !a.alive {
			a.alive = true
			c.fleet.touch(a)
			c.askAgain(now, []*agent{a})
		}
		a.since = now
		if f.running && !a.hasExecutor {
			a.hasExecutor, c.look = true, true
			c.fleet.touch(a)
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
	delete(c.agents, a.id)
	delete(c.upkeep, a.id)
	c.fleet.remove(a)
	c.unpark(now, a)
	a.views = nil
	if a.warm != nil {
		c.dropTask(a.warm)
	}
	c.vacate(now, a.node)
	acts := []Action{ForgetExecutor{Agent: a.id}}
	if node := c.nodes[a.node]; node != nil && node.Spec.ProviderID == api.ProviderID(a.id) {
		acts = append(acts, DeleteNode{Name: a.node})
	}
	return acts
}

// updateTotals learns how much the agent has for us: what it offers and what our tasks there have already.
func (c *Core) updateTotals(a *agent) {
	var sum [numScalars]offers.Milli
	for o := range c.offers.OfAgent(a.id) {
		for i, name := range scalarNames {
			sum[i] += o.Resources.Sum(name)
		}
		a.total.addPorts(o.Resources.PortRanges())
	}
	for _, t := range c.owners[a.id] {
		if t.heard {
			for i, amount := range t.demand.Scalars {
				sum[i] += amount
			}
		}
	}
	if a.hasExecutor {
		for i, amount := range c.cfg.executor(sum[disk] + a.total.scalars[disk]).Scalars {
			sum[i] += amount
		}
	}
	for i := range sum {
		a.total.scalars[i] = max(a.total.scalars[i], sum[i])
	}
}

func (t *totals) addPorts(ranges []offers.Range) {
	for _, r := range ranges {
		if !slices.ContainsFunc(t.ports, func(p offers.Range) bool { return p.Begin <= r.Begin && r.End <= p.End }) {
			t.ports = append(t.ports, r)
		}
	}
}

// resources returns the totals as if they were offered now.
func (t *totals) resources() offers.Resources {
	rs := offers.Resources{{Name: offers.Ports, Ranges: t.ports}}
	for i, name := range scalarNames {
		rs = append(rs, offers.Resource{Name: name, Scalar: t.scalars[i]})
	}
	return rs
}

// supersede forgets an older agent at the address of one that has no node yet: it has come back as this one, without
// its state. Agents that have nodes may well have exchanged their ports.
func (c *Core) supersede(now time.Time, a *agent) []Action {
	if a.node != "" {
		return nil
	}
	var acts []Action
	for _, other := range slices.Clone(c.fleet.byAddress[a.address]) {
		if other != a {
			c.offers.DropAgent(now, other.id)
			acts = append(acts, c.forgetAgent(now, other)...)
		}
	}
	return acts
}

func (c *Core) agentOfNode(name string) *agent {
	node := c.nodes[name]
	if node == nil {
		return nil
	}
	id, _ := api.AgentOfProviderID(node.Spec.ProviderID)
	return c.agents[id]
}

func (c *Core) nodeSeen(now time.Time, node *v1.Node) []Action {
	if before := c.agentOfNode(node.Name); before != nil {
		c.fleet.touch(before)
	}
	c.nodes[node.Name] = node
	c.placeSeen(node.Name, node)
	id, ours := api.AgentOfProviderID(node.Spec.ProviderID)
	if !ours {
		return nil
	}
	a := c.agents[id]
	if a == nil {
		a = c.newAgent(now, id)
	}
	if a.node != node.Name {
		c.fleet.setNode(a, node.Name)
		c.restand(a)
	}
	c.fleet.touch(a)
	c.recall(now, a, node)
	if a.address == "" {
		c.fleet.setAddress(a, node.Annotations[api.AnnotationAgentAddress])
	}
	c.recallHealth(a, node)
	return c.tellOvercommitted(a)
}

func (c *Core) nodeGone(now time.Time, name string) {
	delete(c.nodes, name)
	c.placeSeen(name, nil)
	c.vacate(now, name)
	for _, a := range c.fleet.byNode[name] {
		c.fleet.touch(a)
		a.nodeAt = time.Time{}
	}
}

// ensureNode sees to it that the agent's node exists, stands for this agent, and has its labels.
func (c *Core) ensureNode(now time.Time, a *agent) []Action {
	if a.last.ID == "" || !a.nodeAt.IsZero() && now.Sub(a.nodeAt) < nodeAgain {
		return nil
	}
	if a.node == "" {
		name, err := c.chooseName(a)
		if err != nil {
			a.nodeAt = now.Add(time.Hour) // it will not get better soon
			return []Action{Complain{Text: err.Error()}}
		}
		c.fleet.setNode(a, name)
		c.restand(a)
		c.fleet.touch(a)
	}
	node := c.nodes[a.node]
	if node != nil && node == a.settled {
		return nil
	}
	amend := AmendNode{Name: a.node, Address: a.address}
	switch {
	case node == nil:
		a.nodeAt = now
		return []Action{CreateNode{Node: c.newNode(a)}}
	case lacksProvider(node, a):
		amend.ProviderID = api.ProviderID(a.id)
	case node.Spec.ProviderID != api.ProviderID(a.id):
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
	if a.alive && c.connected && a.since.Before(c.subscribed) && now.Sub(c.subscribed) >= doubtAfter {
		c.agentAbsent(now, a.id)
	}
	if after := a.executor.after; !after.IsZero() && !now.Before(after) {
		a.executor.after = time.Time{}
		c.fleet.touch(a)
	}
	node := c.nodes[a.node]
	health := c.tickHealth(now, a)
	if a.alive {
		acts := append(health, c.ensureNode(now, a)...)
		if len(acts) == 0 && node != nil && !a.hasExecutor && !ready(node) && !unfit(node) && now.Sub(a.nodeAt) >= nodeAgain && !c.orphaned(a) {
			a.nodeAt = now
			acts = []Action{MarkReady{Name: a.node}}
		}
		return acts
	}
	if c.connected && now.Sub(a.since) >= c.cfg.AgentForget && (node == nil || !ready(node)) {
		return c.forgetAgent(now, a)
	}
	return health
}

func (c *Core) renewLeases() []Action {
	var acts []Action
	for _, a := range c.agentsInOrder() {
		if a.alive && c.nodes[a.node] != nil && !c.orphaned(a) {
			acts = append(acts, RenewLease{Name: a.node, Minion: a.hasExecutor})
		}
	}
	return acts
}

func (c *Core) executorReady(now time.Time, ev ExecutorReady) {
	a := c.agents[ev.Agent]
	if a == nil {
		return
	}
	c.fleet.touch(a)
	a.executor.preparing = false
	if ev.Record == nil {
		a.executor.after = now.Add(executorAgain)
		return
	}
	a.executor = executorState{record: ev.Record, kept: ev.Kept, charge: ev.Resources, armed: now}
}
