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

// Config configures a Network.
type Config struct {
	// Cluster and Node name devices and rules.
	Cluster, Node string
	// ClusterCIDR is the range of all pods, or one per family separated by a comma; empty if unknown. ServiceCIDR is the same for
	// services.
	ClusterCIDR, ServiceCIDR string
	// Network says how pods on other nodes are reached. Addresses are this node's own.
	Network   api.PodNetwork
	Addresses []netip.Addr
	// Dir is a directory for state that must outlive this process, as the pods do. It is created when needed; Teardown removes it.
	Dir string
	// AwaitPeers is how long the first Attach waits for the first Reach at most. Zero if Reach is never called.
	AwaitPeers time.Duration
	// Synced, if set, is called after each check and repair of the network, with how long it took and what stays wrong.
	Synced func(took time.Duration, problem error)
}

// Network is the pod network of one node. Its methods may be called concurrently.
type Network struct {
	cfg   Config
	store store
	log   logrus.FieldLogger

	acquainted chan struct{} // closed when Attach need not wait for Reach any longer
	acquaint   func()        // closes it
	patience   sync.Once     // starts the wait

	mu        sync.Mutex             // guards the fields below, and serializes changes
	podCIDRs  []string               // last argument of Setup, also of an earlier process; nil if it was never called
	plan      *Plan                  // set by Setup; nil while the network is not ready
	problem   error                  // the last error of Setup
	pools     []*pool                // for plan's ranges
	tables    []tables               // for the families in use
	endpoints map[string]endpoint    // by sandbox id
	held      map[string][]io.Closer // host ports, by sandbox id
	peers     []Peer                 // last argument of Reach, also of an earlier process; nil while unknown
	filter    tunnelFilter           // of the VXLAN device
	logged    string                 // the last problem
}

// New returns a Network that is not set up yet, but knows what an earlier process recorded. It fails if this machine has no
// iptables.
func New(cfg Config) (*Network, error) {
	ipt, err := openTables(IPv4)
	if err != nil {
		return nil, err
	}
	cfg.Network = cfg.Network.Settled()
	n := &Network{
		cfg: cfg, tables: []tables{ipt}, store: store{cfg.Dir}, log: logrus.WithField("node", cfg.Node), held: map[string][]io.Closer{},
		acquainted: make(chan struct{}),
	}
	n.acquaint = sync.OnceFunc(func() { close(n.acquainted) })
	// An unreadable record was being written when the machine crashed; its pod is gone.
	before, err := n.store.load()
	if err != nil {
		n.log.Warn(err)
	}
	n.podCIDRs, n.endpoints, n.peers = before.podCIDRs, before.endpoints, before.peers
	return n, nil
}

// Setup sets up the network for the node's pod CIDRs, at most one per family. It may be called again, by this process or a later
// one: it keeps or repairs what exists. The pod CIDRs can change only while no pod has an address from the old ones.
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
	n.podCIDRs = slices.Clone(podCIDRs) // Teardown needs them even if the rest fails
	if err := errors.Join(n.writeRules(plan), plan.addRoutes(), n.store.saveRanges(podCIDRs)); err != nil {
		return err
	}
	if plan.Network.Mode == api.NetworkVXLAN { // a machine that cannot is not ready
		if err := n.enterTunnelEarly(plan); err != nil {
			return err
		}
	}
	n.plan, n.pools = &plan, pools
	n.logProblem(n.applyMesh())
	n.log.Infof("the pod network is ready: %s on devices %s…", prefixes, plan.LinkPrefix())
	return nil
}

// enterTunnelEarly makes the VXLAN device before the peers may be known. A new device takes packets from no one until then; one of an
// earlier process goes on as it is.
func (n *Network) enterTunnelEarly(plan Plan) error {
	device, err := plan.findTunnel()
	if err == nil && device == nil {
		n.logProblem(n.filter.apply(plan, n.peers))
	}
	if err == nil {
		_, err = plan.enterTunnel()
	}
	return err
}

// leaveTunnel removes the node from the VXLAN device, and with its last node the device and the filter.
func (n *Network) leaveTunnel(plan Plan) error {
	gone, err := plan.leaveTunnel()
	if gone {
		err = errors.Join(err, n.filter.remove(plan))
	}
	return err
}

// poolsFor returns the pools for the plan's ranges, without the addresses in use.
func (n *Network) poolsFor(plan Plan) (pools []*pool, err error) {
	for _, prefix := range plan.PodCIDRs {
		pools = append(pools, newPool(prefix))
	}
	for _, e := range n.endpoints {
		for _, address := range e.Addresses {
			if prefix, _ := plan.podCIDR(familyOf(address)); !prefix.Contains(address) && address != e.Sandbox.Address {
				return nil, fmt.Errorf("cannot change the pod CIDR to %s: pod %s still has %s", plan.PodCIDRs, e.Sandbox.Pod, address)
			}
			for _, pool := range pools {
				pool.claim(address)
			}
		}
	}
	return pools, nil
}

// useFamilies opens iptables for the ranges' families, and enables forwarding.
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

// writeRules writes the chains and the pods' rules, and holds the pods' host ports.
func (n *Network) writeRules(plan Plan) error {
	for _, ipt := range n.tables {
		if err := plan.apply(ipt, n.endpoints); err != nil {
			return err
		}
	}
	n.restorePorts()
	return nil
}

// leaveOldRange removes routes and rules of the node's previous pod CIDR.
func (n *Network) leaveOldRange(plan Plan) error {
	before, err := parsePodCIDRs(n.podCIDRs)
	if err != nil || slices.Equal(before, plan.PodCIDRs) {
		return nil
	}
	return n.leaveTunnel(n.planFor(before))
}

// Reach routes packets to the pods of exactly these nodes. It logs unreachable nodes; Run retries them. A later process knows the nodes,
// too, until the machine is rebooted.
func (n *Network) Reach(peers []Peer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer n.acquaint()
	n.peers = append([]Peer{}, peers...)
	if err := n.store.savePeers(n.peers); err != nil {
		n.log.Warn(err)
	}
	if n.plan == nil {
		return
	}
	before := *n.plan
	n.plan.Beyond = n.plan.beyondOf(peers)
	began := time.Now()
	var problems []error
	for _, ipt := range n.tables { // before the routes: the first packets have their pod's address
		problems = append(problems, n.plan.applyBeyond(ipt, before))
	}
	n.synced(began, errors.Join(append(problems, n.applyMesh())...))
}

// Peers returns the last argument of Reach, also of an earlier process; nil if that is not known.
func (n *Network) Peers() []Peer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.peers)
}

// applyMesh applies routes and tunnel, and leaves alone what is right. While the peers are unknown it keeps the routes that it finds. It
// continues after an error and returns all errors.
func (n *Network) applyMesh() error {
	if n.peers == nil {
		return n.plan.addRoutes()
	}
	m, problem := n.plan.mesh(n.peers, lookUpRoute)
	problems := []error{problem}
	var device netlink.Link
	if len(m.tunnels) > 0 || n.plan.Network.Mode == api.NetworkVXLAN {
		var err error
		problems = append(problems, n.filter.apply(*n.plan, n.peers))
		if device, err = n.plan.enterTunnel(); err == nil {
			err = applyTunnels(device, m.tunnels)
		}
		problems = append(problems, err)
	} else {
		problems = append(problems, n.leaveTunnel(*n.plan))
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

// synced logs and counts a sync that began then.
func (n *Network) synced(began time.Time, problem error) {
	n.logProblem(problem)
	if n.cfg.Synced != nil {
		n.cfg.Synced(time.Since(began), problem)
	}
}

// logProblem logs a problem once, and once when it is solved.
func (n *Network) logProblem(problem error) {
	text := ""
	if problem != nil {
		text = problem.Error()
	}
	if text == n.logged {
		return
	}
	if n.logged = text; text == "" {
		n.log.Info("the pod network is complete again")
		return
	}
	n.log.Warnf("the pod network is incomplete, retrying: %s", text)
}

// repairEvery bounds how long the network stays broken if another program changes it.
const repairEvery = 8 * time.Second

// Run keeps what Setup, Attach and Reach made until ctx ends: other programs flush rules and routes.
func (n *Network) Run(ctx context.Context) error {
	ticker := time.NewTicker(repairEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			n.repair()
		}
	}
}

// repair checks everything, and restores what is missing.
func (n *Network) repair() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.plan == nil {
		return
	}
	began := time.Now()
	problems := []error{n.useFamilies(n.plan.PodCIDRs)}
	for _, ipt := range n.tables {
		if missing := n.plan.missing(ipt, n.endpoints); missing != "" {
			n.log.Warnf("another program has changed the pods' iptables rules, restoring them: %s", missing)
			problems = append(problems, n.writeRules(*n.plan))
			break
		}
	}
	problems = append(problems, n.applyMesh())
	mtu := n.plan.podMTU()
	for _, e := range n.endpoints {
		problems = append(problems, n.plan.repairLink(e, mtu))
	}
	n.synced(began, errors.Join(problems...))
}

// restorePorts holds the host ports of the pods that an earlier process attached.
func (n *Network) restorePorts() {
	for id, e := range n.endpoints {
		if len(e.Sandbox.Ports) == 0 || n.held[id] != nil {
			continue
		}
		held, err := holdPorts(e.Sandbox.Ports)
		if err != nil {
			n.log.Warnf("pod %s keeps its host ports, although another program on this machine listens on them: %v", e.Sandbox.Pod, err)
		}
		n.held[id] = held
	}
}

func (n *Network) applyPod(plan Plan, e endpoint) error {
	for _, ipt := range n.tables {
		if err := plan.applyPod(ipt, e); err != nil {
			return err
		}
	}
	return nil
}

// Adopt sets up the network that an earlier process left, so that a starting kubelet finds it ready and need not check again seconds
// later. Without such a network it does nothing.
func (n *Network) Adopt() error {
	n.mu.Lock()
	podCIDRs := n.podCIDRs
	n.mu.Unlock()
	if podCIDRs == nil {
		return nil
	}
	return n.Setup(podCIDRs)
}

// Ready returns nil if the network can take pods, else an error that says why not.
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
		return errors.New("the pod network is not set up: the node has no pod CIDR yet")
	}
	return nil
}

// Attach connects a sandbox to the network and returns its addresses. It waits for the first Reach, because the packets of the pod
// would otherwise not find the pods of other nodes, or leave with the machine's address; see Config.AwaitPeers. It is idempotent, and
// leaves nothing behind if it fails. Detach releases the sandbox.
func (n *Network) Attach(ctx context.Context, sandbox Sandbox) ([]netip.Addr, error) {
	if err := n.Ready(); err != nil {
		return nil, err
	}
	if err := n.awaitPeers(ctx); err != nil {
		return nil, err
	}
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
	if _, ok := e.address(IPv6); ok {
		e.LinkLocal = linkLocal(sandbox.hardwareAddress())
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

// awaitPeers waits for the first Reach until ctx ends, and at most AwaitPeers since its first call.
func (n *Network) awaitPeers(ctx context.Context) error {
	if n.cfg.AwaitPeers == 0 {
		return nil
	}
	n.patience.Do(func() { time.AfterFunc(n.cfg.AwaitPeers, n.losePatience) })
	select {
	case <-n.acquainted:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot join the pod to the network before the other nodes are known: %w", ctx.Err())
	}
}

func (n *Network) losePatience() {
	select {
	case <-n.acquainted:
	default:
		n.log.Warnf("the other nodes are not known after %s: pods start, but may not reach pods of other nodes until they are", n.cfg.AwaitPeers)
		n.acquaint()
	}
}

// takeAddresses takes one address from each pool, or none. The sandbox may bring its own for one family.
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

// checkAddress returns an error if the sandbox cannot have the address that it brings: no one else may have it.
func (n *Network) checkAddress(sandbox Sandbox) error {
	address := sandbox.Address
	if !address.IsValid() {
		return nil
	}
	cluster, ok := n.plan.clusterCIDR(familyOf(address))
	own, _ := n.plan.podCIDR(familyOf(address))
	switch {
	case !ok || !own.IsValid():
		return fmt.Errorf("cannot assign address %[2]s to pod %[1]s: pods on this node have addresses in %[3]s only", sandbox.Pod, address, n.plan.PodCIDRs)
	case cluster.Contains(address) || own.Contains(address):
		return fmt.Errorf("cannot assign address %[2]s to pod %[1]s: it lies in the cluster CIDR", sandbox.Pod, address)
	case slices.Contains(n.cfg.Addresses, address):
		return fmt.Errorf("cannot assign address %[2]s to pod %[1]s: it is the node's own", sandbox.Pod, address)
	}
	for id, e := range n.endpoints {
		switch {
		case !slices.Contains(e.Addresses, address):
		case e.Sandbox.UID != sandbox.UID:
			return fmt.Errorf("cannot assign address %[2]s to pod %[1]s: pod %[3]s on this node still has it", sandbox.Pod, address, e.Sandbox.Pod)
		default: // of the pod's previous sandbox
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

// Detach releases what the sandbox was given. It succeeds for an unknown sandbox.
func (n *Network) Detach(_ context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.detach(id)
}

// detach needs mu. After an error the sandbox keeps what it had, so that detach can be called again.
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

// Addresses returns the addresses from Attach, or nil for a sandbox that is not on the network.
func (n *Network) Addresses(id string) []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.endpoints[id].Addresses
}

// Each calls do for every sandbox on the network, with its addresses, one at a time. It blocks all other methods meanwhile.
func (n *Network) Each(do func(Sandbox, []netip.Addr)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.endpoints {
		do(e.Sandbox, e.Addresses)
	}
}

// Keep detaches all sandboxes except these: the others ended while this process did not run.
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

// Teardown removes everything that Setup and Attach made, also in an earlier process. The pods' containers must be gone.
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
		_ = closeAll(held) // only placeholders
		delete(n.held, id)
	}
	err = nil
	for _, ipt := range n.tables {
		err = errors.Join(err, plan.remove(ipt))
	}
	_, leaving := plan.leaveTunnel()
	err = errors.Join(err, plan.applyRoutes(nil), plan.removeLinks(), leaving)
	if device, failed := plan.findTunnel(); device == nil && failed == nil { // also if another program has removed it
		err = errors.Join(err, n.filter.remove(plan))
	}
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

// beyondOf returns the peers' pod prefixes outside ClusterCIDR.
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
