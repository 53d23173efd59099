package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api/balancer"
	"github.com/k8sm/k8sm/contrib/localmesos"
	"github.com/k8sm/k8sm/contrib/test/scratch"
	"github.com/k8sm/k8sm/minion/supervise"
)

// cluster is what runs.
type cluster struct {
	km, dir string
	nodes   bool // agents and schedulers run, too
	masters []*master
	agents  []*agent
	addOns  *addOns              // nil without
	client  kubernetes.Interface // of whichever API server answers
	mesos   *localmesos.Cluster
}

// machine is a network namespace with a link to the bridge.
type machine struct {
	name    string // its host name
	address string
	space   string // its network namespace
	link    string // its device on the bridge
	dir     string
}

// startPatience bounds each start of something: the machine may be busy.
const startPatience = 2 * time.Minute

func (c *cluster) start(ctx context.Context) error {
	if err := c.lay(ctx); err != nil {
		return err
	}
	if c.nodes {
		if err := c.startAgents(ctx); err != nil {
			return err
		}
	}
	for _, m := range c.masters {
		if err := c.startMaster(ctx, m); err != nil {
			return fmt.Errorf("master %d: %w", m.number, err)
		}
	}
	if !c.nodes {
		return nil
	}
	if err := c.deploy(ctx); err != nil || c.addOns == nil {
		return err
	}
	return c.startAddOns(ctx)
}

// connect makes a client that uses all API servers as nodes do.
func (c *cluster) connect(ctx context.Context) (stop func(), err error) {
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(c.masters[0].dir, "admin.kubeconfig"))
	if err != nil {
		return nil, err
	}
	servers, err := balancer.Use(config)
	if err != nil {
		return nil, err
	}
	if c.client, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	checks := supervise.Start(ctx, "the checks", servers.Run)
	list := supervise.Start(ctx, "the list", func(ctx context.Context) error { return servers.Follow(ctx, c.client) })
	stop = func() { list.Stop(); checks.Stop() }
	return stop, scratch.Until(ctx, startPatience, func(context.Context) error {
		if got := servers.Servers(); len(got) != count {
			return fmt.Errorf("the API servers are said to be %q", got)
		}
		return nil
	})
}

// lay makes the bridge, the namespaces, and the masters' disks.
func (c *cluster) lay(ctx context.Context) error {
	steps := [][]string{
		{"ip", "link", "add", bridge, "type", "bridge"}, {"ip", "addr", "add", subnet + "1/24", "dev", bridge}, {"ip", "link", "set", bridge, "up"},
	}
	for n := 1; n <= count; n++ {
		m := &master{machine: c.machine("master", 10, n), number: n, logs: filepath.Join(c.dir, fmt.Sprintf("logs-%d", n))}
		c.masters = append(c.masters, m)
		steps = append(steps, []string{"mkdir", "-p", m.dir, m.logs}, []string{"mount", "-t", "tmpfs", "-o", "size=700m", "k8sm-masters", m.dir})
		steps = append(steps, m.lay()...)
	}
	for n := 1; n <= agentCount && c.nodes; n++ {
		a := &agent{machine: c.machine("agent", 20, n)}
		c.agents = append(c.agents, a)
		steps = append(steps, a.lay()...)
	}
	if a := c.addOns; a != nil {
		a.logs = filepath.Join(c.dir, "logs-"+a.name)
		steps = append(append(steps, []string{"mkdir", "-p", a.dir, a.logs}), a.lay()...)
	}
	return errors.Join(each(ctx, steps)...)
}

// machine plans the nth machine of its kind, whose addresses come after the first one.
func (c *cluster) machine(kind string, first, n int) machine {
	name := fmt.Sprintf("%s-%d", kind, n)
	return machine{
		name: name, address: fmt.Sprintf("%s%d", subnet, first+n), space: "k8sm-" + name, link: fmt.Sprintf("k8sm%c%d", kind[0], n), dir: filepath.Join(c.dir, name),
	}
}

// lay returns the commands that make the machine.
func (m machine) lay() [][]string {
	return [][]string{
		{"ip", "netns", "add", m.space}, {"ip", "link", "add", m.link, "type", "veth", "peer", "name", "eth0", "netns", m.space},
		{"ip", "link", "set", m.link, "master", bridge, "up"}, {"ip", "-n", m.space, "link", "set", "lo", "up"},
		{"ip", "-n", m.space, "addr", "add", m.address + "/24", "dev", "eth0"}, {"ip", "-n", m.space, "link", "set", "eth0", "up"},
		{"ip", "-n", m.space, "route", "add", "default", "via", subnet + "1"},
	}
}

// remove returns the commands that remove the machine. The kernel takes a link down with its namespace, but only later: the next run would
// find it.
func (m machine) remove() [][]string {
	return [][]string{{"ip", "link", "del", m.link}, {"ip", "netns", "del", m.space}}
}

// each runs the commands, and returns the errors.
func each(ctx context.Context, commands [][]string) (problems []error) {
	for _, command := range commands {
		if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, out))
		}
	}
	return problems
}

// end takes everything down.
func (c *cluster) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if c.mesos != nil { // its executors end with it, and clean up while the API servers run
		c.mesos.Stop()
	}
	steps := [][]string{{"ip", "link", "del", bridge}}
	if c.addOns != nil {
		c.addOns.end()
		steps = append(steps, c.addOns.remove()...)
	}
	for _, m := range c.masters {
		m.end()
	}
	var problems []error
	for _, a := range c.agents {
		if a.engine != nil {
			problems = append(problems, a.engine.Stop(ctx))
		}
		steps = append(steps, a.remove()...)
	}
	for _, m := range c.masters {
		steps = append(steps, []string{"umount", "-l", m.dir})
		steps = append(steps, m.remove()...)
	}
	return errors.Join(append(problems, each(ctx, steps)...)...)
}
