package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// master is one machine's control plane.
type master struct {
	machine // its directory is a disk of its own
	number  int
	logs    string
	kube    kubernetes.Interface // of its API server alone
	stop    func()               // ends the supervision

	mu    sync.Mutex // guards the fields below
	parts []*part    // etcd, API server, scheduler
	held  bool       // parts that have ended are not started
}

// part is a process of a master.
type part struct {
	name  string
	start func() (*exec.Cmd, error)
	cmd   *exec.Cmd // nil before the first start
	begun time.Time
}

func (p *part) runs() bool { return p.cmd != nil && p.cmd.Process.Signal(syscall.Signal(0)) == nil }

// startMaster starts a master, and from then on each part that ends, as an init system would. It returns when the master is ready.
func (c *cluster) startMaster(ctx context.Context, m *master) error {
	if err := c.prepare(ctx, m); err != nil {
		return err
	}
	all := [][]string{c.etcdArgs(m), c.apiServerArgs(m), {"scheduler", "--mesos-master=" + subnet + "1:5050", "--km-path=" + c.km,
		"--mesos-principal=k8sm", "--mesos-secret-file=" + filepath.Join(c.dir, "mesos", "secret"), "--status-address="}}
	if !c.nodes {
		all = all[:2]
	}
	c.supervise(ctx, m, all)
	return scratch.Until(ctx, startPatience, func(ctx context.Context) error { return errors.Join(m.running(), m.ready(ctx)) })
}

// supervise starts km with each of these arguments on a machine, and from then on each that ends.
func (c *cluster) supervise(ctx context.Context, m *master, all [][]string) {
	for _, args := range all {
		m.parts = append(m.parts, &part{name: args[0], start: func() (*exec.Cmd, error) {
			return m.begin(filepath.Join(m.logs, args[0]+".log"), append([]string{c.km, "--state-dir=" + m.dir}, args...))
		}})
	}
	supervision, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	m.stop = func() { stop(); <-ended }
	go func() { defer close(ended); m.keep(supervision) }()
}

// keep starts parts that do not run, until ctx ends.
func (m *master) keep(ctx context.Context) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		m.startParts()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// restartPause is the time from one start of a part to the next.
const restartPause = 3 * time.Second

func (m *master) startParts() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, p := range m.parts {
		if _, err := os.Stat(filepath.Join(m.dir, "etcd.json")); err != nil && i > 0 {
			return // an API server that does not find km etcd here runs its own
		}
		if m.held || p.runs() || time.Since(p.begun) < restartPause {
			continue
		}
		p.begun = time.Now()
		cmd, err := p.start()
		if err != nil {
			fmt.Fprintf(os.Stderr, "cannot start %s of master %d: %v\n", p.name, m.number, err)
			continue
		}
		p.cmd = cmd
		go func() { _ = cmd.Wait() }()
	}
}

// begin starts a command in the master's namespace. It has a host name of its own, too: servers are named after their machines.
func (m *master) begin(log string, command []string) (*exec.Cmd, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	named := append([]string{"netns", "exec", m.space, "unshare", "--uts", "sh", "-c", `hostname "$0" && exec "$@"`, m.name}, command...)
	cmd := exec.Command("ip", named...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd, cmd.Start()
}

func (c *cluster) apiServerArgs(m *master) []string {
	args := []string{"apiserver", "--bind-address=" + m.address, "--dns-replicas=1", "--node-root-dir=" + filepath.Join(c.dir, "nodes"), "--audit-log-path="}
	if c.addOns == nil {
		return append(args, "--metrics=false", "--logs=false")
	}
	return append(args, "--v1beta1-address="+oldAddress, "--v1beta1-insecure")
}

// running returns an error if a part does not run.
func (m *master) running() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.parts {
		if !p.runs() {
			return fmt.Errorf("%s of master %d does not run", p.name, m.number)
		}
	}
	return nil
}

// kubeTimeout is that of one request.
const kubeTimeout = 2 * time.Second

// ready asks the API server, and makes a client of it alone.
func (m *master) ready(ctx context.Context) error {
	if m.kube == nil {
		config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(m.dir, "admin.kubeconfig"))
		if err != nil {
			return err
		}
		config.Timeout = kubeTimeout
		if m.kube, err = kubernetes.NewForConfig(config); err != nil {
			return err
		}
	}
	return m.kube.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

// hold says whether parts that have ended stay so.
func (m *master) hold(held bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = held
}

// signal sends a signal to all processes of the master.
func (m *master) signal(s syscall.Signal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.parts {
		if p.cmd != nil {
			_ = syscall.Kill(-p.cmd.Process.Pid, s)
		}
	}
}

// end kills the master.
func (m *master) end() {
	if m.stop == nil {
		return
	}
	m.stop()
	m.signal(syscall.SIGCONT)
	m.signal(syscall.SIGKILL)
}
