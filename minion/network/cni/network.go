package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/minion/network"
)

const (
	// checkEvery is how often the plugins are asked for their state.
	checkEvery = 8 * time.Second
	// checkLimit bounds how long they may take to answer.
	checkLimit = 10 * time.Second
	// deleteLimit bounds how long they may take to take back what one pod has.
	deleteLimit = time.Minute
)

// Config is what a Network is made of.
type Config struct {
	// Node is for the log.
	Node string
	// ConfDir and BinDir are where the machine has CNI configurations and plugins.
	ConfDir, BinDir string
	// Dir is a directory for what has to outlive this process, as the pods do. Teardown removes it.
	Dir string
}

// Network is the pod network of one node. Its methods may be called concurrently.
type Network struct {
	cfg     Config
	plugins *libcni.CNIConfig
	store   store
	log     logrus.FieldLogger

	mu       sync.Mutex // guards what follows
	checked  bool       // whether problem is from a check
	problem  error      // why the network can take no pods
	podCIDRs []string
	attached map[string]attachment  // by their sandboxes' ids
	busy     map[string]*sync.Mutex // held while plugins work for a sandbox
}

// New returns a Network that knows what an earlier process gave out.
func New(cfg Config) *Network {
	n := &Network{
		cfg: cfg, store: store{cfg.Dir}, log: logrus.WithField("node", cfg.Node), busy: map[string]*sync.Mutex{},
		plugins: libcni.NewCNIConfigWithCacheDir([]string{cfg.BinDir}, filepath.Join(cfg.Dir, "cache"), nil),
	}
	var err error
	if n.attached, err = n.store.load(); err != nil {
		n.log.Warn(err) // what cannot be read was written while the machine went down, and has ended with it
	}
	return n
}

// Setup takes the node's pod CIDRs, which plugins with the capability ipRanges give pods addresses of.
func (n *Network) Setup(podCIDRs []string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.podCIDRs = slices.Clone(podCIDRs)
	return nil
}

// Adopt looks whether the network can take pods, so that a kubelet that starts finds it so.
func (n *Network) Adopt() error {
	_ = n.check(context.Background()) // Ready says it
	return nil
}

// Ready returns an error that says why the network cannot take pods yet; nil if it can.
func (n *Network) Ready() error {
	n.mu.Lock()
	checked, problem := n.checked, n.problem
	n.mu.Unlock()
	if checked {
		return problem
	}
	return n.check(context.Background())
}

// check asks the plugins for their state, logs a change of it, and returns it.
func (n *Network) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	list, err := n.inForce(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	if before := n.problem; err != nil && (before == nil || before.Error() != err.Error()) {
		n.log.Warnf("the pod network can take no pods: %s", err)
	} else if err == nil && (before != nil || !n.checked) {
		n.log.Infof("the pod network is ready: CNI network %s", list.Name)
	}
	n.checked, n.problem = true, err
	return err
}

// Run asks the plugins for their state again and again, until ctx ends. What they gave to single pods is not looked at (CHECK):
// plugins in use find fault with what is whole.
func (n *Network) Run(ctx context.Context) error {
	ticker := time.NewTicker(checkEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			_ = n.check(ctx) // Ready says it
		}
	}
}

// lock keeps plugins from working for one sandbox twice at a time, which the specification forbids.
func (n *Network) lock(id string) (unlock func()) {
	n.mu.Lock()
	one := n.busy[id]
	if one == nil {
		one = new(sync.Mutex)
		n.busy[id] = one
	}
	n.mu.Unlock()
	one.Lock()
	return one.Unlock
}

// Attach has the plugins join a sandbox to the network and returns the addresses that they gave it; called again, the same
// ones. It leaves nothing behind if it fails and the plugins can take back what they did. What it gives, Detach takes back.
func (n *Network) Attach(ctx context.Context, sandbox network.Sandbox) ([]netip.Addr, error) {
	defer n.lock(sandbox.ID)()
	if a, ok := n.attachment(sandbox.ID); ok && len(a.Addresses) > 0 && a.Sandbox.Namespace == sandbox.Namespace {
		return a.Addresses, nil
	}
	list, err := n.inForce(ctx)
	if err != nil {
		return nil, err
	}
	if len(sandbox.Ports) > 0 && !capable(list, "portMappings") {
		return nil, fmt.Errorf("cannot publish host ports: %w", errNoPorts)
	}
	if sandbox.Address.IsValid() && !capable(list, "ips") {
		return nil, fmt.Errorf("cannot give the pod the address %s of a pool: no plugin of the configuration has the capability ips", sandbox.Address)
	}
	a := attachment{Sandbox: sandbox, Config: list.Bytes}
	n.mu.Lock()
	a.PodCIDRs = n.podCIDRs
	n.mu.Unlock()
	if a.Namespace, err = identify(sandbox.Namespace); err != nil {
		return nil, err
	}
	conf, err := a.runtimeConf()
	if err != nil {
		return nil, err
	}
	if err := n.note(a); err != nil { // first, so that it is taken back should this process be killed meanwhile
		return nil, err
	}
	result, err := n.plugins.AddNetworkList(ctx, list, conf)
	if err == nil {
		a.Addresses, err = addressesOf(result)
	}
	if err == nil && sandbox.Address.IsValid() && !slices.Contains(a.Addresses, sandbox.Address) {
		err = fmt.Errorf("the plugins gave the pod %s, and not %s of its pool", a.Addresses, sandbox.Address)
	}
	if err == nil {
		err = n.note(a)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot join the pod to CNI network %s: %w", list.Name, err), n.detach(ctx, sandbox.ID))
	}
	return a.Addresses, nil
}

func (n *Network) attachment(id string) (attachment, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a, ok := n.attached[id]
	return a, ok
}

func (n *Network) note(a attachment) error {
	if err := n.store.save(a); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.attached[a.Sandbox.ID] = a
	return nil
}

// Detach has the plugins take back what the sandbox has. It succeeds for one that has nothing.
func (n *Network) Detach(ctx context.Context, id string) error {
	defer n.lock(id)()
	return n.detach(ctx, id)
}

// detach is called with the sandbox's lock held. After an error it can be called again.
func (n *Network) detach(ctx context.Context, id string) error {
	a, ok := n.attachment(id)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteLimit)
	defer cancel()
	list, err := a.list()
	if err != nil {
		return fmt.Errorf("cannot read how pod %s was joined to the network: %w", a.Sandbox.Pod, err)
	}
	conf, _ := a.runtimeConf() // an error of it would have kept the pod from being attached
	if err := n.plugins.DelNetworkList(ctx, list, conf); err != nil {
		return fmt.Errorf("cannot take pod %s from CNI network %s: %w", a.Sandbox.Pod, list.Name, err)
	}
	if err := n.store.forget(id); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.attached, id)
	delete(n.busy, id)
	return nil
}

// Addresses returns what Attach returned; nothing for a sandbox that is not on the network.
func (n *Network) Addresses(id string) []netip.Addr {
	a, _ := n.attachment(id)
	return a.Addresses
}

// Each calls do for each sandbox on the network with its addresses.
func (n *Network) Each(do func(network.Sandbox, []netip.Addr)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range n.attached {
		do(a.Sandbox, a.Addresses)
	}
}

// Keep takes back what all sandboxes but these have: the others ended while nobody looked.
func (n *Network) Keep(ctx context.Context, ids []string) error {
	var ended []string
	n.Each(func(s network.Sandbox, _ []netip.Addr) {
		if !slices.Contains(ids, s.ID) {
			ended = append(ended, s.ID)
		}
	})
	var problems []error
	for _, id := range ended {
		problems = append(problems, n.Detach(ctx, id))
	}
	return errors.Join(problems...)
}

// Teardown takes back what all sandboxes have. What plugins have made for the machine itself, such as a bridge, is theirs. The
// pods' containers must be gone.
func (n *Network) Teardown() error {
	if err := n.Keep(context.Background(), nil); err != nil {
		return err
	}
	if err := os.RemoveAll(n.cfg.Dir); err != nil {
		return fmt.Errorf("cannot forget what the pod network gave out: %w", err)
	}
	return nil
}
