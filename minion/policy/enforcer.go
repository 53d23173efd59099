package policy

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/client-go/kubernetes"
)

const (
	// A change waits for others to come along for as long as this, or ten times as long as the last one took, so that a
	// large cluster's changes take no more than a tenth of a processor, but no longer than that. New pods of the node do
	// not wait.
	shortestWait, longestWait = 50 * time.Millisecond, 2 * time.Second
	// attachLimit is how long a new pod waits for its rules; then its kubelet tries again.
	attachLimit = 30 * time.Second
	// lookAfter is how often the kernel's rules are looked at without a reason.
	lookAfter = 10 * time.Minute
	// The first and the longest pause after the kernel has refused rules.
	firstPause, longestPause = time.Second, 30 * time.Second
)

// Enforcer keeps the rules of a node in force. Its methods may be called concurrently.
type Enforcer struct {
	node    string
	dns     []netip.Addr
	table   *Table // of the goroutine of Run
	name    string // of the table
	log     logrus.FieldLogger
	changed chan struct{} // takes one word that there is something to be done
	urgent  chan struct{} // the same, at once

	mu        sync.Mutex // guards what follows
	sandboxes map[string]Sandbox
	waiting   []chan error // those who want to know when the sandboxes' rules are in force
}

// Config is what an Enforcer is made of.
type Config struct {
	// Cluster and Node name the table.
	Cluster, Node string
	// DNS are the addresses at which pods are told to ask the cluster's DNS.
	DNS []netip.Addr
}

// New returns the Enforcer of a node. It fails where nftables cannot be used.
func New(cfg Config) (*Enforcer, error) {
	table, err := OpenTable(cfg.Cluster, cfg.Node)
	if err != nil {
		return nil, err
	}
	e := newEnforcer(cfg.Node, TableName(cfg.Cluster, cfg.Node), table)
	e.dns = cfg.DNS
	return e, nil
}

func newEnforcer(node, name string, table *Table) *Enforcer {
	return &Enforcer{
		node: node, table: table, name: name, log: logrus.WithField("node", node),
		changed: make(chan struct{}, 1), urgent: make(chan struct{}, 1), sandboxes: map[string]Sandbox{},
	}
}

// Remove removes the rules of a cluster's node, if there are any. No Enforcer may run.
func Remove(ctx context.Context, cluster, node string) error {
	table, err := OpenTable(cluster, node)
	if err != nil {
		return nil // none were made where nftables cannot be used
	}
	return table.Remove(ctx)
}

// Adopt has the rules know a sandbox that was there before.
func (e *Enforcer) Adopt(s Sandbox) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sandboxes[s.ID] = s
	wake(e.changed)
}

// Attach returns when the rules for a new sandbox are in force, before Run too: then it waits for that. Until it returns,
// without an error, nobody may use the addresses. After an error, as after all, Detach has to be called.
func (e *Enforcer) Attach(ctx context.Context, s Sandbox) error {
	done := make(chan error, 1)
	e.mu.Lock()
	e.sandboxes[s.ID] = s
	e.waiting = append(e.waiting, done)
	e.mu.Unlock()
	wake(e.urgent)
	limit := time.NewTimer(attachLimit)
	defer limit.Stop()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("cannot wait for the network policies of a pod: %w", ctx.Err())
	case <-limit.C:
		return fmt.Errorf("the pod may not use the network until its policies are known: the API server has not told them within %s", attachLimit)
	}
}

// Detach forgets a sandbox, whose addresses are used no more.
func (e *Enforcer) Detach(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.sandboxes, id)
	wake(e.changed)
}

// Keep forgets all sandboxes but these.
func (e *Enforcer) Keep(ids []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	maps.DeleteFunc(e.sandboxes, func(id string, _ Sandbox) bool { return !slices.Contains(ids, id) })
	wake(e.changed)
}

func wake(who chan struct{}) {
	select {
	case who <- struct{}{}:
	default:
	}
}

// Run keeps the rules in force until ctx ends, and leaves them there: without a minion they hold as they are.
func (e *Enforcer) Run(ctx context.Context, client kubernetes.Interface) error {
	ctx, cancel := context.WithCancel(ctx)
	w, err := newWatch(client, func() { wake(e.changed) })
	if err != nil {
		cancel()
		return err
	}
	touched := make(chan struct{}, 1)
	m, err := openMonitor(e.name)
	if err != nil {
		e.log.WithError(err).Warnf("looking only every %s whether something else has removed them", lookAfter)
		m = nil
	} else {
		w.group.Go(func() error { return e.watchKernel(m, touched) })
	}
	w.follow(ctx, w.policies)
	e.loop(ctx, w, kernelChanges{m, touched})
	cancel()
	if m != nil {
		m.close()
	}
	w.wait()
	return ctx.Err()
}

func (e *Enforcer) watchKernel(m *monitor, touched chan struct{}) error {
	err := m.run(func() { wake(touched) })
	if err != nil {
		e.log.WithError(err).Warnf("looking only every %s whether something else has removed them", lookAfter)
	}
	return nil
}

// kernelChanges tell when something has changed the table.
type kernelChanges struct {
	monitor *monitor // nil if nobody tells
	touched chan struct{}
}

// foreign tells whether one of the changes was not by the table's own transactions.
func (k kernelChanges) foreign(runs *int) bool {
	if k.monitor == nil {
		return false
	}
	lost, count := k.monitor.lost.Swap(false), int(k.monitor.count.Load())
	if !lost && count <= *runs {
		return false
	}
	*runs = count
	return true
}

// loop owns the table.
func (e *Enforcer) loop(ctx context.Context, w *watch, kernel kernelChanges) {
	look := time.NewTicker(lookAfter)
	defer look.Stop()
	again := time.NewTimer(0)
	defer again.Stop()
	settled := true // nothing waits for others to come along
	pause := firstPause
	var took time.Duration
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.changed:
			if settled {
				settled = false
				again.Reset(min(max(shortestWait, 10*took), longestWait))
			}
			continue
		case <-e.urgent:
		case <-again.C:
		case <-look.C:
			e.verify(ctx)
		case <-kernel.touched:
			if !kernel.foreign(&e.table.runs) {
				continue
			}
			e.verify(ctx)
		}
		settled = true
		began := time.Now()
		err := e.sync(ctx, w)
		took = time.Since(began)
		if err != nil && ctx.Err() == nil {
			e.log.WithError(err).Errorf("trying again in %s", pause)
			settled = false
			again.Reset(pause)
			pause = min(2*pause, longestPause)
		} else {
			pause = firstPause
		}
	}
}

// verify has the table made anew if something else has changed it.
func (e *Enforcer) verify(ctx context.Context) {
	if e.table.applied == nil {
		return
	}
	intact, err := e.table.Intact(ctx)
	if err != nil {
		e.log.WithError(err).Warn("making them anew")
	} else if !intact {
		e.log.Warn("something else has changed the rules of network policies: making them anew")
	}
	if !intact {
		e.table.Forget()
	}
}

// sync puts in force what is known now, and tells those who wait for it.
func (e *Enforcer) sync(ctx context.Context, w *watch) error {
	state, known := w.state(ctx)
	if !known {
		return nil // what is missing tells when it comes
	}
	e.mu.Lock()
	waiting := e.waiting
	e.waiting = nil
	state.Sandboxes = slices.Collect(maps.Values(e.sandboxes))
	e.mu.Unlock()
	state.Node, state.DNS = e.node, e.dns
	err := e.table.Apply(ctx, Compile(state))
	for _, done := range waiting {
		done <- err
	}
	return err
}
