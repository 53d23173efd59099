package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/docker/docker/client"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/balancer"
	"github.com/k8sm/k8sm/contrib/test/scratch"
	"github.com/k8sm/k8sm/contrib/up/engine"
	"github.com/k8sm/k8sm/minion/supervise"
)

// cluster is what runs.
type cluster struct {
	km, dir string
	nodes   bool // agents and schedulers run, too
	masters []*master
	client  kubernetes.Interface // of whichever API server answers
	engine  *engine.Engine
	mesos   *exec.Cmd
}

// master is one machine's control plane.
type master struct {
	number      int
	address     string
	space, link string // network namespace, and its device on the bridge
	dir         string // on a disk of its own
	logs        string
	parts       []*exec.Cmd // etcd, API server, scheduler
	begun       []time.Time // when each was started last
	kube        kubernetes.Interface
}

// startPatience bounds the start of one part: the machine may be busy.
const startPatience = 2 * time.Minute

func (c *cluster) start(ctx context.Context) (err error) {
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
	return c.deploy(ctx)
}

// startAgents starts what pods run on.
func (c *cluster) startAgents(ctx context.Context) (err error) {
	if c.engine, err = engine.Start(ctx, engine.Config{Dir: filepath.Join(c.dir, "engine")}); err != nil {
		return err
	}
	if err := c.importImage(ctx); err != nil {
		return err
	}
	c.mesos, err = c.begin("", filepath.Join(c.dir, "mesos.log"), "local-mesos", "--ip="+subnet+"1", "--agents=2", "--work-dir="+filepath.Join(c.dir, "mesos"),
		"--resources=cpus:4;mem:4096;disk:8000;ports:[31000-31009]")
	return err
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

// lay makes the bridge, the namespaces and the disks.
func (c *cluster) lay(ctx context.Context) error {
	steps := [][]string{
		{"ip", "link", "add", bridge, "type", "bridge"}, {"ip", "addr", "add", subnet + "1/24", "dev", bridge}, {"ip", "link", "set", bridge, "up"},
	}
	for n := 1; n <= count; n++ {
		m := &master{
			number: n, address: fmt.Sprintf("%s%d", subnet, 10+n), space: fmt.Sprintf("k8sm-master-%d", n), link: fmt.Sprintf("k8smm%d", n),
			dir: filepath.Join(c.dir, fmt.Sprintf("master-%d", n)), logs: filepath.Join(c.dir, fmt.Sprintf("logs-%d", n)),
		}
		c.masters = append(c.masters, m)
		steps = append(steps, [][]string{
			{"mkdir", "-p", m.dir, m.logs}, {"mount", "-t", "tmpfs", "-o", "size=700m", "k8sm-masters", m.dir},
			{"ip", "netns", "add", m.space}, {"ip", "link", "add", m.link, "type", "veth", "peer", "name", "eth0", "netns", m.space},
			{"ip", "link", "set", m.link, "master", bridge, "up"}, {"ip", "-n", m.space, "link", "set", "lo", "up"},
			{"ip", "-n", m.space, "addr", "add", m.address + "/24", "dev", "eth0"}, {"ip", "-n", m.space, "link", "set", "eth0", "up"},
			{"ip", "-n", m.space, "route", "add", "default", "via", subnet + "1"},
		}...)
	}
	return errors.Join(each(ctx, steps)...)
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

// image is the one that pods have: busybox.
const image = "k8sm.test/busybox:1"

func (c *cluster) importImage(ctx context.Context) error {
	docker, err := client.NewClientWithOpts(client.WithHost(c.engine.Host()), client.WithAPIVersionNegotiation())
	if err != nil {
		return err
	}
	defer docker.Close()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return fmt.Errorf("%w; run `make deps` first", err)
	}
	return scratch.ImportImage(ctx, docker, image, "/bin/busybox", busybox)
}

// begin starts km in a namespace; "" is this one.
func (c *cluster) begin(space, log string, args ...string) (*exec.Cmd, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	command := append([]string{c.km}, args...)
	if space != "" {
		command = append([]string{"ip", "netns", "exec", space}, command...)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd, cmd.Start()
}

// startMaster starts the parts of a master that do not run, again and again as an init system would, and returns when its API server is
// ready and all run.
func (c *cluster) startMaster(ctx context.Context, m *master) error {
	if m.parts == nil {
		m.parts, m.begun = make([]*exec.Cmd, 3), make([]time.Time, 3)
		if err := c.prepare(ctx, m); err != nil {
			return err
		}
	}
	all := [][]string{c.etcdArgs(m), c.apiServerArgs(m), {"scheduler", "--mesos-master=" + subnet + "1:5050", "--km-path=" + c.km,
		"--mesos-principal=k8sm", "--mesos-secret-file=" + filepath.Join(c.dir, "mesos", "secret"), "--status-address="}}
	if !c.nodes {
		all = all[:2]
	}
	return scratch.Until(ctx, startPatience, func(ctx context.Context) error {
		running := 0
		for i, args := range all {
			if _, err := os.Stat(filepath.Join(m.dir, "etcd.json")); err != nil && i > 0 {
				break // an API server that does not find km etcd here runs its own
			}
			if m.runs(i) {
				running++
			} else if err := c.startPart(m, i, args); err != nil {
				return err
			}
		}
		if running < len(all) {
			return fmt.Errorf("%d of its parts run", running)
		}
		return m.ready(ctx)
	})
}

// runs reports whether a part of the master has not ended.
func (m *master) runs(i int) bool {
	return m.parts[i] != nil && m.parts[i].Process.Signal(syscall.Signal(0)) == nil
}

// restartPause is the time from one start of a part to the next.
const restartPause = 3 * time.Second

func (c *cluster) startPart(m *master, i int, args []string) (err error) {
	if time.Since(m.begun[i]) < restartPause {
		return nil
	}
	m.begun[i] = time.Now()
	m.parts[i], err = c.begin(m.space, filepath.Join(m.logs, args[0]+".log"), append([]string{"--state-dir=" + m.dir}, args...)...)
	if err == nil {
		started := m.parts[i]
		go func() { _ = started.Wait() }()
	}
	return err
}

func (c *cluster) apiServerArgs(m *master) []string {
	return []string{"apiserver", "--bind-address=" + m.address, "--metrics=false", "--logs=false", "--dns-replicas=1",
		"--docker-host=unix://" + filepath.Join(c.dir, "engine", "d.sock"), "--node-root-dir=" + filepath.Join(c.dir, "nodes"), "--audit-log-path="}
}

// ready asks the API server, and makes a client of it alone.
func (m *master) ready(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(m.dir, "admin.kubeconfig"))
	if err != nil {
		return err
	}
	config.Timeout = 2 * time.Second
	if m.kube, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	return m.kube.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

// signal sends a signal to all processes of a master.
func (m *master) signal(s syscall.Signal) {
	for _, part := range m.parts {
		if part != nil {
			_ = syscall.Kill(-part.Process.Pid, s)
		}
	}
}

// end takes everything down.
func (c *cluster) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if c.mesos != nil { // its executors end with it, and clean up while the API servers run
		_ = syscall.Kill(c.mesos.Process.Pid, syscall.SIGINT)
		_ = c.mesos.Wait()
	}
	for _, m := range c.masters {
		m.signal(syscall.SIGCONT)
		m.signal(syscall.SIGKILL)
	}
	var problems []error
	if c.engine != nil {
		problems = append(problems, c.engine.Stop(ctx))
	}
	steps := [][]string{{"ip", "link", "del", bridge}}
	for _, m := range c.masters {
		// The kernel takes a link down with its namespace, but only later: the next run would find it.
		steps = append(steps, []string{"umount", "-l", m.dir}, []string{"ip", "link", "del", m.link}, []string{"ip", "netns", "del", m.space})
	}
	return errors.Join(append(problems, each(ctx, steps)...)...)
}

// nodeLeases returns when kubelets renewed the leases of all nodes.
func nodeLeases(ctx context.Context, kube kubernetes.Interface) (renewed []time.Time, err error) {
	list, err := kube.CoordinationV1().Leases("kube-node-lease").List(ctx, everything)
	if err != nil {
		return nil, err
	}
	for _, lease := range list.Items {
		if lease.Spec.RenewTime == nil || !api.KubeletRenewed(&lease) {
			return nil, fmt.Errorf("the lease of %s was not renewed by a kubelet", lease.Name)
		}
		renewed = append(renewed, lease.Spec.RenewTime.Time)
	}
	return renewed, nil
}
