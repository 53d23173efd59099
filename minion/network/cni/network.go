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
	// checkEvery is how often the plugins' status is checked.
	checkEvery = 8 * time.Second
	// checkLimit is the timeout of a status check.
	checkLimit = 10 * time.Second
	// deleteLimit is the timeout for releasing one pod.
	deleteLimit = time.Minute
)

// Config configures a Network.
type Config struct {
	// Node is used in log messages.
	Node string
	// ConfDir and BinDir are the machine's directories of CNI configurations and plugins.
	ConfDir, BinDir string
	// Dir is a directory for records that must outlive this process, as the pods do. Teardown removes it.
	Dir string
}

// Network is the pod network of one node. Its methods may be called concurrently.
type Network struct {
	cfg     Config
	plugins *libcni.CNIConfig
	store   store
	log     logrus.FieldLogger

	mu       sync.Mutex // guards the fields below
	checked  bool       // whether a check has set problem
	problem  error      // why the network is not ready
	podCIDRs []string
	attached map[string]attachment  // by sandbox id
	busy     map[string]*sync.Mutex // held while plugins run for a sandbox
}

// New returns a Network that knows what an earlier process attached.
func New(cfg Config) *Network {
	n := &Network{
		cfg: cfg, store: store{cfg.Dir}, log: logrus.WithField("node", cfg.Node), busy: map[string]*sync.Mutex{},
		plugins: libcni.NewCNIConfigWithCacheDir([]string{cfg.BinDir}, filepath.Join(cfg.Dir, "cache"), nil),
	}
	var err error
	if n.attached, err = n.store.load(); err != nil {
		n.log.Warn(err) // an unreadable record was being written when the machine crashed; its pod is gone
	}
	return n
}

// Setup sets the node's pod CIDRs, from which plugins with the capability ipRanges assign addresses.
func (n *Network) Setup(podCIDRs []string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.podCIDRs = slices.Clone(podCIDRs)
	return nil
}

// Adopt checks the plugins at once, so that a starting kubelet finds the network ready.
func (n *Network) Adopt() error {
	_ = n.check(context.Background()) // Ready returns the error
	return nil
}

// Ready returns nil if the network can take pods, else an error that says why not.
func (n *Network) Ready() error {
	n.mu.Lock()
	checked, problem := n.checked, n.problem
	n.mu.Unlock()
	if checked {
		return problem
	}
	return n.check(context.Background())
}

// check runs a status check, logs changes, and returns the problem.
func (n *Network) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	list, err := n.activeConfig(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	if before := n.problem; err != nil && (before == nil || before.Error() != err.Error()) {
		n.log.Warnf("the pod network is not ready: %s", err)
	} else if err == nil && (before != nil || !n.checked) {
		n.log.Infof("the pod network is ready: CNI network %s", list.Name)
	}
	n.checked, n.problem = true, err
	return err
}

// Run checks the plugins' status periodically until ctx ends. It does not CHECK single pods: common plugins report errors for pods
// that are fine.
func (n *Network) Run(ctx context.Context) error {
	ticker := time.NewTicker(checkEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			_ = n.check(ctx) // Ready returns the error
		}
	}
}

// lock serializes plugin calls for one sandbox, as the specification requires.
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

// Attach connects a sandbox to the network and returns its addresses. It is idempotent. If it fails, it releases what the plugins
// gave, as far as they can. Detach releases the sandbox.
func (n *Network) Attach(ctx context.Context, sandbox network.Sandbox) ([]netip.Addr, error) {
	defer n.lock(sandbox.ID)()
	if a, ok := n.attachment(sandbox.ID); ok && len(a.Addresses) > 0 && a.Sandbox.Namespace == sandbox.Namespace {
		return a.Addresses, nil
	}
	list, err := n.activeConfig(ctx)
	if err != nil {
		return nil, err
	}
	if len(sandbox.Ports) > 0 && !capable(list, "portMappings") {
		return nil, fmt.Errorf("cannot publish host ports: %w", errNoPorts)
	}
	if sandbox.Address.IsValid() && !capable(list, "ips") {
		return nil, fmt.Errorf("cannot assign address %s from a pool: no plugin in the CNI configuration has the capability ips", sandbox.Address)
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
	if err := n.record(a); err != nil { // before ADD, so that it is released even if this process is killed
		return nil, err
	}
	result, err := n.plugins.AddNetworkList(ctx, list, conf)
	if err == nil {
		a.Addresses, err = addressesOf(result)
	}
	if err == nil && sandbox.Address.IsValid() && !slices.Contains(a.Addresses, sandbox.Address) {
		err = fmt.Errorf("the plugins assigned %s instead of the pool's address %s", a.Addresses, sandbox.Address)
	}
	if err == nil {
		err = n.record(a)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot attach the pod to CNI network %s: %w", list.Name, err), n.detach(ctx, sandbox.ID))
	}
	return a.Addresses, nil
}

func (n *Network) attachment(id string) (attachment, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a, ok := n.attached[id]
	return a, ok
}

func (n *Network) record(a attachment) error {
	if err := n.store.save(a); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.attached[a.Sandbox.ID] = a
	return nil
}

// Detach releases what the sandbox was given. It succeeds for an unknown sandbox.
func (n *Network) Detach(ctx context.Context, id string) error {
	defer n.lock(id)()
	return n.detach(ctx, id)
}

// detach needs the sandbox's lock. It can be called again after an error.
func (n *Network) detach(ctx context.Context, id string) error {
	a, ok := n.attachment(id)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteLimit)
	defer cancel()
	list, err := a.list()
	if err != nil {
		return fmt.Errorf("cannot read the network attachment of pod %s: %w", a.Sandbox.Pod, err)
	}
	conf, _ := a.runtimeConf() // with an error here, the pod would not have been attached
	if err := n.plugins.DelNetworkList(ctx, list, conf); err != nil {
		return fmt.Errorf("cannot detach pod %s from CNI network %s: %w", a.Sandbox.Pod, list.Name, err)
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

// Addresses returns the addresses from Attach, or nil for a sandbox that is not on the network.
func (n *Network) Addresses(id string) []netip.Addr {
	a, _ := n.attachment(id)
	return a.Addresses
}

// Each calls do for each sandbox on the network, with its addresses.
func (n *Network) Each(do func(network.Sandbox, []netip.Addr)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range n.attached {
		do(a.Sandbox, a.Addresses)
	}
}

// Keep detaches all sandboxes except these: the others ended while this process did not run.
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

// Teardown detaches all sandboxes. Resources that plugins created for the machine, such as a bridge, stay. The pods' containers must
// be gone.
func (n *Network) Teardown() error {
	if err := n.Keep(context.Background(), nil); err != nil {
		return err
	}
	if err := os.RemoveAll(n.cfg.Dir); err != nil {
		return fmt.Errorf("cannot remove the records of the pod network: %w", err)
	}
	return nil
}
