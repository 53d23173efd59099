package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"

	"github.com/k8sm/k8sm/api"
)

// Config is what a Network is made of.
type Config struct {
	// Cluster and Node label what is made.
	Cluster, Node string
	// ClusterCIDR is the range of all pods' addresses, or one of each family with a comma between; empty if it is not known.
	// ServiceCIDR is that of services.
	ClusterCIDR, ServiceCIDR string
	// Network says how pods of other nodes are reached, and Addresses are this node's own, by which it is reached.
	Network   api.PodNetwork
	Addresses []netip.Addr
	// Dir is a directory for what has to outlive this process, as the pods do. It is made when it is needed, and Teardown
	// removes it.
	Dir string
}

// Network is the pod network of one node. Its methods may be called concurrently.
type Network struct {
	cfg   Config
	store store
	log   logrus.FieldLogger

	mu        sync.Mutex             // guards what follows, and makes changes one at a time
	podCIDRs  []string               // that Setup was last given, in an earlier process too; nil if it never was
	plan      *Plan                  // what Setup last made; nil while the network is not ready
	problem   error                  // why Setup failed last
	pools     []*pool                // of plan's ranges
	tables    []tables               // of the families that are in use
	endpoints map[string]endpoint    // by their sandboxes' ids
	held      map[string][]io.Closer // host ports, by their sandboxes' ids
	peers     []Peer                 // nil while they are not known
	told      string                 // the last complaint
}

// New returns a Network that is not set up, but knows what an earlier process gave out. It fails if this machine has no
// iptables.
func New(cfg Config) (*Network, error) {
	ipt, err := openTables(IPv4)
	if err != nil {
		return nil, err
	}
	cfg.Network = cfg.Network.Settled()
	n := &Network{cfg: cfg, tables: []tables{ipt}, store: store{cfg.Dir}, log: logrus.WithField("node", cfg.Node), held: map[string][]io.Closer{}}
	// What cannot be read was written while the machine went down, and has ended with it.
	if n.podCIDRs, n.endpoints, err = n.store.load(); err != nil {
		n.log.Warn(err)
	}
	return n, nil
}

// Setup makes the network for the node's pod CIDRs, one or one of each family. It may be called again, with the
// same value or another one, by this process or one after it: what is there already is kept or mended. Another value
// needs that no pod is left that has an address of the old one.
func (n *Network) Setup(podCIDRs []string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.problem = n.setUp(podCIDRs)
	return n.problem
}

func (n *Network) setUp(podCIDRs []string) error {
	prefixes, err := parsePodCIDRs(podCIDRs)
	if err != nil {
		return err
	}
	plan := n.planFor(prefixes)
	if err := plan.checkRanges(n.cfg.ServiceCIDR); err != nil {
		return fmt.Errorf("cannot set up the pod network: %w", err)
	}
	pools, err := n.poolsFor(plan)
	if err != nil {
		return err
	}
	if err := errors.Join(n.useFamilies(prefixes), n.leaveOldRange(plan)); err != nil {
		return err
	}
	n.podCIDRs = slices.Clone(podCIDRs) // Teardown has to know them, however far this comes
	if err := errors.Join(n.writeRules(plan), plan.addRoutes(), n.store.saveRanges(podCIDRs)); err != nil {
		return err
	}
	if plan.Network.Mode == api.NetworkVXLAN { // a machine that cannot do it is not ready
		if _, err := plan.enterTunnel(); err != nil {
			return err
		}
	}
	n.plan, n.pools = &plan, pools
	n.tell(n.weave())
	n.log.Infof("the pod network is ready: %s on devices %s…", prefixes, plan.LinkPrefix())
	return nil
}

// poolsFor returns the pools of the plan's ranges, without the addresses that pods have.
func (n *Network) poolsFor(plan Plan) (pools []*pool, err error) {
	for _, prefix := range plan.PodCIDRs {
		pools = append(pools, newPool(prefix))
	}
	for _, e := range n.endpoints {
		for _, address := range e.Addresses {
			if prefix, _ := plan.podCIDR(familyOf(address)); !prefix.Contains(address) && address != e.Sandbox.Address {
				return nil, fmt.Errorf("cannot give the pod network the range %s: pod %s still has %s", plan.PodCIDRs, e.Sandbox.Pod, address)
			}
			for _, pool := range pools {
				pool.claim(address)
			}
		}
	}
	return pools, nil
}

// useFamilies opens the tables of the ranges' families, and has the kernel forward their packets.
func (n *Network) useFamilies(prefixes []netip.Prefix) error {
	for _, prefix := range prefixes {
		f := familyOf(prefix.Addr())
		if err := forward(f); err != nil {
			return err
		}
		if err := n.openTables(f); err != nil {
			return err
		}
	}
	return nil
}

func (n *Network) openTables(f Family) error {
	if slices.ContainsFunc(n.tables, func(t tables) bool { return t.Family == f }) {
		return nil
	}
	ipt, err := openTables(f)
	if err != nil {
		return err
	}
	n.tables = append(n.tables, ipt)
	return nil
}

// writeRules puts the chains and what pods have in them in place.
func (n *Network) writeRules(plan Plan) error {
	for _, ipt := range n.tables {
		if err := plan.apply(ipt); err != nil {
			return err
		}
	}
	return n.restorePods(plan)
}

// leaveOldRange takes back what the node had by another range.
func (n *Network) leaveOldRange(plan Plan) error {
	before, err := parsePodCIDRs(n.podCIDRs)
	if err != nil || slices.Equal(before, plan.PodCIDRs) {
		return nil
	}
	return n.planFor(before).leaveTunnel()
}

// Reach leads packets to the pods of the other nodes, and to no others any more. Those that cannot be reached are logged, and
// tried again as long as Run runs.
func (n *Network) Reach(peers []Peer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.peers = append([]Peer{}, peers...)
	if n.plan == nil {
		return
	}
	before := *n.plan
	n.plan.Beyond = n.plan.beyondOf(peers)
	problems := []error{n.weave()}
	for _, ipt := range n.tables {
		problems = append(problems, n.plan.applyBeyond(ipt, before))
	}
	n.tell(errors.Join(problems...))
}

// weave puts the routes and the tunnel in place, and leaves alone what is right. While the peers are not known it keeps what
// an earlier process left. It goes on after an error, and returns all of them.
func (n *Network) weave() error {
	if n.peers == nil {
		return n.plan.addRoutes()
	}
	m, problem := n.plan.mesh(n.peers, look)
	problems := []error{problem}
	var device netlink.Link
	if len(m.tunnels) > 0 || n.plan.Network.Mode == api.NetworkVXLAN {
		var err error
		if device, err = n.plan.enterTunnel(); err == nil {
			err = applyTunnels(device, m.tunnels)
		}
		problems = append(problems, err)
	} else {
		problems = append(problems, n.plan.leaveTunnel())
	}
	routes := n.plan.unreachable()
	for _, h := range m.hops {
		if device != nil {
			routes = append(routes, n.plan.hopRoute(h, device.Attrs().Index))
		} else if h.device != "" {
			routes = append(routes, n.plan.hopRoute(h, 0))
		}
	}
	return errors.Join(append(problems, n.plan.applyRoutes(routes))...)
}

// tell logs a problem once, and when it is over.
func (n *Network) tell(problem error) {
	text := ""
	if problem != nil {
		text = problem.Error()
	}
	if text == n.told {
		return
	}
	if n.told = text; text == "" {
		n.log.Info("the pod network is whole again")
		return
	}
	n.log.Warnf("the pod network is not whole, trying again: %s", text)
}

// mendEvery is how long what others have broken stays so at most.
const mendEvery = 8 * time.Second

// Run sees to it that what Setup, Attach and Reach made stays, until ctx ends: other programs flush rules and routes.
func (n *Network) Run(ctx context.Context) error {
	ticker := time.NewTicker(mendEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			n.mend()
		}
	}
}

// mend looks at all that there is to be, and makes anew what is not right.
func (n *Network) mend() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.plan == nil {
		return
	}
	problems := []error{n.useFamilies(n.plan.PodCIDRs)}
	for _, ipt := range n.tables {
		if missing := n.plan.missing(ipt, n.endpoints); missing != "" {
			n.log.Warnf("another program has changed the pods' iptables rules, which are put back: %s", missing)
			problems = append(problems, n.writeRules(*n.plan))
			break
		}
	}
	problems = append(problems, n.weave())
	mtu := n.plan.podMTU()
	for _, e := range n.endpoints {
		problems = append(problems, n.plan.mendLink(e, mtu))
	}
	n.tell(errors.Join(problems...))
}

// restorePods puts the rules and host ports of the pods that there are in place.
func (n *Network) restorePods(plan Plan) error {
	for id, e := range n.endpoints {
		if err := n.applyPod(plan, e); err != nil {
			return err
		}
		if len(e.Sandbox.Ports) == 0 || n.held[id] != nil {
			continue
		}
		held, err := holdPorts(e.Sandbox.Ports)
		if err != nil {
			n.log.Warnf("pod %s keeps its host ports, which another program of this machine has taken meanwhile: %v", e.Sandbox.Pod, err)
		}
		n.held[id] = held
	}
	return nil
}

func (n *Network) applyPod(plan Plan, e endpoint) error {
	for _, ipt := range n.tables {
		if err := plan.applyPod(ipt, e); err != nil {
			return err
		}
	}
	return nil
}

// Adopt sets the network up again that an earlier process left, with its range, so that a kubelet that starts finds it
// ready: one that does not looks again only seconds later. Without such a network it does nothing.
func (n *Network) Adopt() error {
	n.mu.Lock()
	podCIDRs := n.podCIDRs
	n.mu.Unlock()
	if podCIDRs == nil {
		return nil
	}
	return n.Setup(podCIDRs)
}

// Ready returns an error that says why the network cannot take pods yet; nil if it can.
func (n *Network) Ready() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ready()
}

func (n *Network) ready() error {
	if n.plan == nil && n.problem != nil {
		return n.problem
	}
	if n.plan == nil {
		return errors.New("the pod network is not set up: the node has been given no pod CIDR yet")
	}
	return nil
}

// Attach joins a sandbox to the network and returns the addresses it has been given; called again, the same ones. It
// leaves nothing behind if it fails. What it gives, Detach takes back.
func (n *Network) Attach(_ context.Context, sandbox Sandbox) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.ready(); err != nil {
		return nil, err
	}
	if e, ok := n.endpoints[sandbox.ID]; ok && e.Sandbox.Namespace == sandbox.Namespace {
		return e.Addresses, nil
	}
	held, err := holdPorts(sandbox.Ports)
	if err != nil {
		return nil, err
	}
	e := endpoint{Sandbox: sandbox}
	if e.Addresses, err = n.takeAddresses(sandbox); err != nil {
		return nil, errors.Join(err, closeAll(held))
	}
	n.endpoints[sandbox.ID], n.held[sandbox.ID] = e, held
	err = n.store.save(e)
	if err == nil {
		err = n.plan.connect(e, n.plan.gateways())
	}
	if err == nil {
		err = errors.Join(n.applyPod(*n.plan, e), forgetFlows(e))
	}
	if err != nil {
		return nil, errors.Join(err, n.detach(sandbox.ID))
	}
	return e.Addresses, nil
}

// takeAddresses takes one of each range, or none; the sandbox may bring the one of a family.
func (n *Network) takeAddresses(sandbox Sandbox) (taken []netip.Addr, err error) {
	if err := n.checkAddress(sandbox); err != nil {
		return nil, err
	}
	for _, pool := range n.pools {
		if sandbox.Address.IsValid() && familyOf(sandbox.Address) == familyOf(pool.prefix.Addr()) {
			taken = append(taken, sandbox.Address)
			continue
		}
		address, err := pool.take()
		if err != nil {
			n.giveBack(taken)
			return nil, err
		}
		taken = append(taken, address)
	}
	return taken, nil
}

// checkAddress finds out whether the sandbox can have the address that it brings, if any: nobody else may have it.
func (n *Network) checkAddress(sandbox Sandbox) error {
	address := sandbox.Address
	if !address.IsValid() {
		return nil
	}
	cluster, ok := n.plan.clusterCIDR(familyOf(address))
	own, _ := n.plan.podCIDR(familyOf(address))
	switch {
	case !ok || !own.IsValid():
		return fmt.Errorf("cannot give pod %s the address %s: the node's pods have addresses in %s only", sandbox.Pod, address, n.plan.PodCIDRs)
	case cluster.Contains(address) || own.Contains(address):
		return fmt.Errorf("cannot give pod %s the address %s: it is of the cluster's own range of pod addresses", sandbox.Pod, address)
	case slices.Contains(n.cfg.Addresses, address):
		return fmt.Errorf("cannot give pod %s the address %s: it is the node's own", sandbox.Pod, address)
	}
	for id, e := range n.endpoints {
		switch {
		case !slices.Contains(e.Addresses, address):
		case e.Sandbox.UID != sandbox.UID:
			return fmt.Errorf("cannot give pod %s the address %s: pod %s still has it here", sandbox.Pod, address, e.Sandbox.Pod)
		default: // of the same pod's sandbox before this one
			if err := n.detach(id); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *Network) giveBack(addresses []netip.Addr) {
	for _, pool := range n.pools {
		for _, address := range addresses {
			pool.giveBack(address)
		}
	}
}

// Detach takes back what the sandbox has. It succeeds for one that has nothing.
func (n *Network) Detach(_ context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.detach(id)
}

// detach is called with mu held. After an error the sandbox still has what it had, so that it can be called again.
func (n *Network) detach(id string) error {
	e, ok := n.endpoints[id]
	if !ok {
		return nil
	}
	plan := n.planFor(nil)
	err := errors.Join(plan.disconnect(id), n.removePod(plan, e), closeAll(n.held[id]), forgetFlows(e))
	delete(n.held, id)
	if err == nil {
		err = n.store.forget(id)
	}
	if err != nil {
		return err
	}
	delete(n.endpoints, id)
	n.giveBack(e.Addresses)
	return nil
}

func (n *Network) removePod(plan Plan, e endpoint) error {
	var problems []error
	for _, address := range e.Addresses {
		problems = append(problems, n.openTables(familyOf(address)))
	}
	for _, ipt := range n.tables {
		problems = append(problems, plan.removePod(ipt, e))
	}
	return errors.Join(problems...)
}

// Addresses returns what Attach returned; nothing for a sandbox that is not on the network.
func (n *Network) Addresses(id string) []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.endpoints[id].Addresses
}

// Each calls do with every sandbox on the network and what it has, one after the other. The network waits meanwhile.
func (n *Network) Each(do func(Sandbox, []netip.Addr)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.endpoints {
		do(e.Sandbox, e.Addresses)
	}
}

// Keep takes back what all sandboxes but these have: the others ended while nobody looked.
func (n *Network) Keep(_ context.Context, ids []string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var problems []error
	for id := range n.endpoints {
		if !slices.Contains(ids, id) {
			problems = append(problems, n.detach(id))
		}
	}
	return errors.Join(problems...)
}

// Teardown removes all that Setup and Attach make, also what an earlier process made. The pods' containers must be gone.
func (n *Network) Teardown() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	prefixes, err := parsePodCIDRs(n.podCIDRs)
	if len(n.podCIDRs) > 0 && err != nil {
		return err
	}
	plan := n.planFor(prefixes)
	for _, prefix := range prefixes {
		if err := n.openTables(familyOf(prefix.Addr())); err != nil {
			return err
		}
	}
	n.plan = nil
	for id, held := range n.held {
		_ = closeAll(held) // nobody is on them
		delete(n.held, id)
	}
	err = nil
	for _, ipt := range n.tables {
		err = errors.Join(err, plan.remove(ipt))
	}
	err = errors.Join(err, plan.applyRoutes(nil), plan.removeLinks(), plan.leaveTunnel())
	if err == nil {
		err = n.store.remove()
	}
	if err == nil {
		n.podCIDRs = nil
		clear(n.endpoints)
	}
	return err
}

func (n *Network) planFor(podCIDRs []netip.Prefix) Plan {
	p := Plan{
		Cluster: n.cfg.Cluster, Node: n.cfg.Node, PodCIDRs: podCIDRs, ClusterCIDR: n.cfg.ClusterCIDR,
		Network: n.cfg.Network, Addresses: n.cfg.Addresses,
	}
	p.Beyond = p.beyondOf(n.peers)
	return p
}

// beyondOf returns the ranges of the peers' pods that are outside the cluster's.
func (p Plan) beyondOf(peers []Peer) (ranges []netip.Prefix) {
	for _, peer := range peers {
		for _, prefix := range peer.Prefixes {
			if cluster, ok := p.clusterCIDR(familyOf(prefix.Addr())); ok && !cluster.Overlaps(prefix) {
				ranges = append(ranges, prefix)
			}
		}
	}
	return ranges
}

// parsePodCIDRs reads a node's pod CIDRs.
func parsePodCIDRs(texts []string) ([]netip.Prefix, error) {
	prefixes, err := api.ParseRanges(strings.Join(texts, ","))
	if err != nil {
		return nil, fmt.Errorf("cannot read the node's pod CIDRs %v: %w", texts, err)
	}
	return prefixes, nil
}
