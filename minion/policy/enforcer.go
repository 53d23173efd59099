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

	"github.com/k8sm/k8sm/api/backoff"
)

const (
	// A change waits for further changes: shortestWait, or ten times as long as the last sync took, so that a large cluster's
	// changes use at most a tenth of a processor, but never longer than longestWait. New pods on the node do not wait.
	shortestWait, longestWait = 50 * time.Millisecond, 2 * time.Second
	// attachLimit is how long a new pod waits for its rules before the kubelet must retry.
	attachLimit = 30 * time.Second
	// lookAfter is the interval of checks of the kernel's rules when no change was seen.
	lookAfter = 10 * time.Minute
	// The first and the longest pause after the kernel rejected rules.
	firstPause, longestPause = time.Second, 30 * time.Second
)

// Enforcer enforces the rules of a node. Its methods may be called concurrently.
type Enforcer struct {
	node    string
	dns     []netip.Addr
	synced  func(took time.Duration, err error) // nil for nobody
	table   *Table                              // owned by Run's goroutine
	name    string                              // of the table
	log     logrus.FieldLogger
	changed chan struct{} // signals that there is work; size 1
	urgent  chan struct{} // the same, without delay

	mu        sync.Mutex // guards the fields below
	sandboxes map[string]Sandbox
	waiting   []chan error // callers of Attach that wait for their rules
}

// Config configures an Enforcer.
type Config struct {
	// Cluster and Node name the table.
	Cluster, Node string
	// DNS are the addresses of the cluster's DNS, as pods know them.
	DNS []netip.Addr
	// Synced, if set, is called after each sync of the rules, with how long it took and why it failed.
	Synced func(took time.Duration, err error)
}

// New returns the Enforcer of a node. It fails if the machine has no nftables.
func New(cfg Config) (*Enforcer, error) {
	table, err := OpenTable(cfg.Cluster, cfg.Node)
	if err != nil {
		return nil, err
	}
	e := newEnforcer(cfg.Node, TableName(cfg.Cluster, cfg.Node), table)
	e.dns, e.synced = cfg.DNS, cfg.Synced
	return e, nil
}

func newEnforcer(node, name string, table *Table) *Enforcer {
	return &Enforcer{
		node: node, table: table, name: name, log: logrus.WithField("node", node),
		changed: make(chan struct{}, 1), urgent: make(chan struct{}, 1), sandboxes: map[string]Sandbox{},
	}
}

// Remove removes the rules of a cluster's node, if there are any. No Enforcer may be running.
func Remove(ctx context.Context, cluster, node string) error {
	table, err := OpenTable(cluster, node)
	if err != nil {
		return nil // without nftables there can be no rules
	}
	return table.Remove(ctx)
}

// Adopt adds a sandbox of an earlier process.
func (e *Enforcer) Adopt(s Sandbox) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sandboxes[s.ID] = s
	wake(e.changed)
}

// Attach returns when the rules for a new sandbox are in force. It may be called before Run, and then waits for it. Do not use the
// addresses before it has returned nil. Call Detach in any case.
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
		return fmt.Errorf("the pod must wait for its network policies: the API server did not send them within %s", attachLimit)
	}
}

// Detach removes a sandbox whose addresses are no longer used.
func (e *Enforcer) Detach(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.sandboxes, id)
	wake(e.changed)
}

// Keep removes all sandboxes except these.
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

// Run keeps the rules current until ctx ends. They stay in the kernel after that.
func (e *Enforcer) Run(ctx context.Context, client kubernetes.Interface) error {
	ctx, cancel := context.WithCancel(ctx)
	w, err := newWatch(client, e.node, func() { wake(e.changed) }, func() { wake(e.urgent) })
	if err != nil {
		cancel()
		return err
	}
	touched := make(chan struct{}, 1)
	m, err := openMonitor(e.name)
	if err != nil {
		e.log.WithError(err).Warnf("checking network policy rules only every %s", lookAfter)
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
		e.log.WithError(err).Warnf("checking network policy rules only every %s", lookAfter)
	}
	return nil
}

// kernelChanges reports changes of the table.
type kernelChanges struct {
	monitor *monitor // nil if changes cannot be watched
	touched chan struct{}
}

// foreign reports whether one of the changes was not made by the table's own transactions.
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
	settled := true // no change is waiting for others
	pauses := backoff.Between(firstPause, longestPause)
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
		if e.synced != nil {
			e.synced(took, err)
		}
		if err != nil && ctx.Err() == nil {
			pause := pauses.Step()
			e.log.WithError(err).Errorf("cannot apply network policies, retrying in %s", pause.Round(time.Millisecond))
			settled = false
			again.Reset(pause)
		} else {
			pauses = backoff.Between(firstPause, longestPause)
		}
	}
}

// verify schedules a rebuild of the table if something else has changed it.
func (e *Enforcer) verify(ctx context.Context) {
	if e.table.applied == nil {
		return
	}
	intact, err := e.table.Intact(ctx)
	if err != nil {
		e.log.WithError(err).Warn("cannot check network policy rules: rebuilding them")
	} else if !intact {
		e.log.Warn("another program has changed the network policy rules: rebuilding them")
	}
	if !intact {
		e.table.Forget()
	}
}

// sync applies the current state, and answers waiting callers of Attach.
func (e *Enforcer) sync(ctx context.Context, w *watch) error {
	e.mu.Lock()
	waiting, sandboxes := e.waiting, slices.Collect(maps.Values(e.sandboxes))
	e.mu.Unlock()
	state, known, err := w.state(ctx, sandboxes)
	if err != nil || !known {
		return err // what is missing wakes the loop when it arrives
	}
	e.mu.Lock()
	e.waiting = e.waiting[len(waiting):] // others have come meanwhile
	e.mu.Unlock()
	state.Node, state.DNS = e.node, e.dns
	err = e.table.Apply(ctx, Compile(state))
	for _, done := range waiting {
		done <- err
	}
	return err
}
