package localmesos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/heldport"
)

// Cluster is a running local Mesos. Its methods may be called concurrently, except those that kill and
// restart: call only one of these at a time.
type Cluster struct {
	plan      plan
	faults    Faults
	hub       *hub
	processes *processes
	lock      *flock.Flock
	port      int
	held      *heldport.Port // for a master that starts again; nil if the port was chosen by others

	mu     sync.Mutex // guards master and agents
	master *masterNode
	agents []*agentNode
}

// Run runs a cluster until ctx ends. It then shuts down the executors; only files on disk remain.
func Run(ctx context.Context, cfg Config) error {
	c, err := Start(ctx, cfg)
	if err != nil {
		return err
	}
	log.WithField("master", c.MasterAddr()).Infof("the local Mesos is up with %d agents", cfg.Agents)
	if principal, file := c.Credential(); principal != "" {
		log.WithField("principal", principal).Infof("callers authenticate with the secret in %s", file)
	}
	<-ctx.Done()
	c.Stop()
	return nil
}

// Start starts a cluster and returns when its agents are registered. The caller must call Stop; ctx limits only the start.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	p, err := cfg.check()
	if err != nil {
		return nil, fmt.Errorf("cannot start the local Mesos: %w", err)
	}
	c := &Cluster{plan: p, processes: newProcesses()}
	c.hub = newHub(&c.faults)
	if err := c.start(ctx); err != nil {
		c.Stop()
		return nil, fmt.Errorf("cannot start the local Mesos: %w", err)
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	if err := c.takeWorkDir(); err != nil {
		return err
	}
	if err := c.plan.auth.complete(c.plan.WorkDir); err != nil {
		return err
	}
	if err := c.choosePort(); err != nil {
		return err
	}
	l, err := listen(c.plan.IP, c.port, "master")
	if err != nil {
		return err
	}
	if err := c.startAll(ctx); err != nil {
		_ = l.Close()
		return err
	}
	c.master.serve(l)
	return nil
}

// choosePort chooses the master's port.
func (c *Cluster) choosePort() error {
	if c.port = c.plan.Port; c.port != 0 {
		return nil
	}
	ip, err := netip.ParseAddr(c.plan.IP)
	if err != nil {
		return err
	}
	if c.held, err = heldport.Hold(ip); err != nil {
		return err
	}
	c.port = c.held.Number
	return nil
}

// startAll starts the master and its agents, and waits until the agents are registered.
func (c *Cluster) startAll(ctx context.Context) (err error) {
	if c.master, err = startMaster(c.plan, c.hub, c.port); err != nil {
		return err
	}
	for i := range c.plan.Agents {
		if err := c.renew(i); err != nil {
			return err
		}
		a, err := c.startAgent(i)
		if err != nil {
			return err
		}
		c.agents = append(c.agents, a)
	}
	return c.master.waitForAgents(ctx, c.plan.Agents)
}

// renew restarts an agent that was marked gone as a new one, as an operator would by removing its checkpoints.
func (c *Cluster) renew(i int) error {
	s := store{filepath.Join(c.agentDir(i), "meta")}
	var file agentFile
	if _, err := readFile(s.agentPath(), &file); err != nil {
		return err
	}
	gone := false
	c.master.owner.look(func() { gone = c.master.master.registry.gone[api.AgentID(file.ID)] })
	if !gone {
		return nil
	}
	log.WithField("agent", file.ID).Info("the agent was marked gone: it starts as a new one")
	return os.RemoveAll(s.dir)
}

// takeWorkDir locks the directory against a second local Mesos.
func (c *Cluster) takeWorkDir() error {
	lock := flock.New(filepath.Join(c.plan.WorkDir, "lock"))
	switch held, err := lock.TryLock(); {
	case err != nil:
		return fmt.Errorf("cannot use --work-dir: %w", err)
	case !held:
		return fmt.Errorf("another local Mesos uses --work-dir=%s: stop it or choose another directory", c.plan.WorkDir)
	}
	c.lock = lock
	return nil
}

func (c *Cluster) startAgent(i int) (*agentNode, error) {
	p, err := c.plan.agent(i)
	if err != nil {
		return nil, err
	}
	return startAgent(p, c.hub, c.processes, c.agentDir(i), c.agentPort(i))
}

func (c *Cluster) agentDir(i int) string {
	if len(c.plan.Own) > 0 {
		return filepath.Join(c.plan.WorkDir, "agents", c.plan.Own[i].Hostname)
	}
	return filepath.Join(c.plan.WorkDir, "agents", strconv.Itoa(i))
}

func (c *Cluster) agentPort(i int) int {
	if c.plan.Port == 0 {
		return 0
	}
	if len(c.plan.Own) > 0 {
		return c.plan.Port + 1 // each has its own address
	}
	return c.plan.Port + 1 + i
}

// Stop ends the cluster. Executors get SHUTDOWN and, after their grace period, SIGKILL with everything they started. Ids stay on
// disk.
func (c *Cluster) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.master != nil {
		c.master.close()
		c.master = nil
	}
	var agents sync.WaitGroup
	for _, a := range c.agents {
		agents.Go(a.stop)
	}
	agents.Wait()
	c.agents = nil
	if c.held != nil {
		c.held.Close()
		c.held = nil
	}
	c.processes.watchers.Wait()
	c.plan.isolation.removeRoot()
	if c.lock != nil { // else another local Mesos owns the directory
		for i := range c.plan.Agents {
			unshareWorkDir(c.agentDir(i))
		}
		_ = c.lock.Close()
	}
}

// MasterAddr returns the master's host:port.
func (c *Cluster) MasterAddr() string { return net.JoinHostPort(c.plan.IP, strconv.Itoa(c.port)) }

// Faults returns the faults of this cluster's messages, which tests add to.
func (c *Cluster) Faults() *Faults { return &c.faults }

// AgentIDs returns the ids of the running agents, "" for one that has not registered yet.
func (c *Cluster) AgentIDs() []api.AgentID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []api.AgentID
	for _, a := range c.agents {
		a.owner.look(func() { out = append(out, api.AgentID(a.agent.id())) })
	}
	return out
}

// KillMaster ends the master without notifying anyone.
func (c *Cluster) KillMaster() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.master != nil {
		c.master.close()
		c.master = nil
	}
}

// RestartMaster restarts a killed master with its port and frameworks.
func (c *Cluster) RestartMaster() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.master != nil {
		return errors.New("the master still runs")
	}
	l, err := listen(c.plan.IP, c.port, "master")
	if err != nil {
		return err
	}
	if c.master, err = startMaster(c.plan, c.hub, c.port); err != nil {
		_ = l.Close()
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), masterPatience)
	defer cancel()
	if err := c.master.waitForAgents(ctx, c.hub.agentCount()); err != nil {
		log.WithError(err).Warn("the master goes on without waiting for more agents")
	}
	c.master.serve(l)
	return nil
}

// masterPatience is how long a restarted master waits for its agents.
const masterPatience = 5 * time.Second

// KillAgent ends agent i, counted from 0, like a SIGKILL: its executors keep running.
func (c *Cluster) KillAgent(i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.agents[i].close()
}

// RestartAgent restarts a killed agent from its checkpoints.
func (c *Cluster) RestartAgent(i int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.agents[i].owner.done:
	default:
		return fmt.Errorf("agent %d still runs", i)
	}
	a, err := c.startAgent(i)
	if err == nil {
		c.agents[i] = a
	}
	return err
}

// CutAgent disconnects agent i from the master, like a pulled cable. The agent and its executors keep running. The master notices
// after the agent timeout; until then it offers the agent's resources, and launches there wait for HealAgent.
func (c *Cluster) CutAgent(i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, id := c.agents[i], ""
	a.owner.look(func() { id = a.agent.id() })
	c.hub.cutAgent(a.address, api.AgentID(id))
}

// HealAgent undoes CutAgent: the agent registers again.
func (c *Cluster) HealAgent(i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hub.joinAgent(c.agents[i].address, c.agents[i].owner)
}

// KillExecutor kills an executor of agent i and everything it started.
func (c *Cluster) KillExecutor(i int, framework api.FrameworkID, id api.ExecutorID) error {
	c.mu.Lock()
	a := c.agents[i]
	c.mu.Unlock()
	var p process
	a.owner.look(func() {
		if run := a.agent.executors[executorKey{framework, id}]; run != nil && run.phase != ended {
			p = run.process
		}
	})
	if p == (process{}) {
		return fmt.Errorf("agent %d has no executor %q of framework %q", i, id, framework)
	}
	c.processes.destroy(p)
	return nil
}
