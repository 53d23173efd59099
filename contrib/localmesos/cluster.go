package localmesos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/k8sm/k8sm/api"
)

// Cluster is a running local Mesos. Its methods may be called concurrently, but of those that kill and restart only one
// at a time.
type Cluster struct {
	plan      plan
	faults    Faults
	hub       *hub
	processes *processes
	lock      *flock.Flock
	port      int

	mu     sync.Mutex // guards master and agents
	master *masterNode
	agents []*agentNode
}

// Run is a cluster until ctx ends; then its executors are shut down, and nothing is left but ids on disk.
func Run(ctx context.Context, cfg Config) error {
	c, err := Start(ctx, cfg)
	if err != nil {
		return err
	}
	log.WithField("master", c.MasterAddr()).Infof("the local Mesos is up with %d agents", cfg.Agents)
	<-ctx.Done()
	c.Stop()
	return nil
}

// Start makes a cluster and returns when its agents are registered. The caller must Stop it; ctx is only about the
// start.
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
	l, err := listen(c.plan.IP, c.plan.Port, "master")
	if err != nil {
		return err
	}
	c.port = port(l)
	if err := c.startAll(ctx); err != nil {
		_ = l.Close()
		return err
	}
	c.master.serve(l)
	return nil
}

// startAll starts the master and its agents, and waits until they know each other.
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

// renew has an agent that was marked gone start as a new one, as its operator would by emptying the directory of its
// checkpoints.
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

// takeWorkDir keeps a second local Mesos off the directory.
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
		return c.plan.Port + 1 // each on an address of its own
	}
	return c.plan.Port + 1 + i
}

// Stop ends the cluster: executors get SHUTDOWN, their grace period, and then SIGKILL with all that they started. Ids
// stay on disk.
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
	c.processes.watchers.Wait()
	c.plan.isolation.removeRoot()
	if c.lock != nil { // else the directory is another's
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

// AgentIDs returns the ids of the agents that run, "" for one that has not registered yet.
func (c *Cluster) AgentIDs() []api.AgentID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []api.AgentID
	for _, a := range c.agents {
		a.owner.look(func() { out = append(out, api.AgentID(a.agent.id())) })
	}
	return out
}

// KillMaster ends the master without a word to anyone.
func (c *Cluster) KillMaster() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.master != nil {
		c.master.close()
		c.master = nil
	}
}

// RestartMaster starts a killed master again, on its port and with its frameworks.
func (c *Cluster) RestartMaster() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.master != nil {
		return errors.New("the master is not dead")
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

// masterPatience is how long a master that was started again waits for the agents it had.
const masterPatience = 5 * time.Second

// KillAgent ends agent i, counted from 0, as a SIGKILL of a Mesos agent would: its executors go on.
func (c *Cluster) KillAgent(i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.agents[i].close()
}

// RestartAgent starts a killed agent again with what it has on disk.
func (c *Cluster) RestartAgent(i int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.agents[i].owner.done:
	default:
		return fmt.Errorf("agent %d is not dead", i)
	}
	a, err := c.startAgent(i)
	if err == nil {
		c.agents[i] = a
	}
	return err
}

// CutAgent takes the network between agent i and the master away, as if a cable was pulled: nothing that either says reaches
// the other. The agent and its executors go on. The master finds out after the agent timeout; until then it makes offers of
// the agent, and what is launched there waits for HealAgent.
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

// KillExecutor ends an executor of agent i with SIGKILL, with all that it started.
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
