// Package scratch runs a cluster in a disposable directory with the km program, for the demo, the end-to-end tests and the benchmarks.
// It uses only client-go, the Docker API and the Mesos master's endpoints, and imports no part of the cluster.
//
// Start reading at Start.
package scratch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/docker/docker/client"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api/statedir"
)

// UpFlags is an environment variable with flags for each `km up`, before those of Config, to run a whole test suite with other agents.
const UpFlags = "K8SM_UP_FLAGS"

// Config is the configuration of a cluster.
type Config struct {
	// KM is the km program.
	KM string
	// Dir is the cluster's state directory. Its path must be short, because it contains Unix sockets.
	Dir string
	// Flags are passed to `km up` unchanged.
	Flags []string
	// Out gets the output of `km up`; nil discards it.
	Out io.Writer
}

// Cluster is a running cluster. Its fields must not be changed; its methods may be called concurrently.
type Cluster struct {
	// Kube speaks to the API server as the cluster's administrator, by the configuration REST.
	Kube kubernetes.Interface
	REST *rest.Config
	// Docker speaks to the Docker Engine that the pods run in; to the first node's if each of several has its own.
	Docker *client.Client
	// Engines speak to the Docker Engines of several nodes, by the nodes' names.
	Engines map[string]*client.Client
	// Master is the URL of the Mesos master. Ask calls it.
	Master string

	principal, secret string // of an operator of Mesos
	cfg               Config
	ports             ports
	cmd               *exec.Cmd
	// exited is closed after exit is set to what `km up` ended with.
	exited  chan struct{}
	exit    error
	printed *lastLine
	// ended is set when Stop or Kill was called: a later call has nothing to do.
	ended atomic.Bool
}

// Start runs `km up` and waits until the cluster is up. The caller must call Stop or Kill once, even if Start fails.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	ports, err := freePorts()
	if err != nil {
		return nil, fmt.Errorf("cannot find free ports: %w", err)
	}
	return start(ctx, cfg, ports)
}

// Again restarts a stopped or killed cluster with the same directory, ports and flags.
func (c *Cluster) Again(ctx context.Context) (*Cluster, error) { return start(ctx, c.cfg, c.ports) }

func start(ctx context.Context, cfg Config, ports ports) (*Cluster, error) {
	if cfg.Out == nil {
		cfg.Out = io.Discard
	}
	c := &Cluster{cfg: cfg, ports: ports, exited: make(chan struct{})}
	running, err := c.run(ctx)
	if err != nil {
		return c, err
	}
	return c, c.connect(running)
}

// run starts the program and waits until the cluster is up.
func (c *Cluster) run(ctx context.Context) (running statedir.Running, err error) {
	args := append([]string{"--state-dir", c.cfg.Dir, "up"}, c.ports.flags()...)
	args = append(args, strings.Fields(os.Getenv(UpFlags))...)
	c.cmd = exec.Command(c.cfg.KM, append(args, c.cfg.Flags...)...)
	// The cluster must not get the terminal's Ctrl-C before its owner has decided what to do.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	last := &lastLine{out: c.cfg.Out}
	c.printed = last
	c.cmd.Stdout, c.cmd.Stderr = last, last
	// Programs that outlive a killed `km up` hold its output open; Wait must not wait for them.
	c.cmd.WaitDelay = time.Second
	if err := c.cmd.Start(); err != nil {
		return running, fmt.Errorf("cannot start the cluster: %w", err)
	}
	go func() {
		defer close(c.exited)
		c.exit = c.cmd.Wait()
	}()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		// A killed cluster may have left its record here.
		if running, err = statedir.Dir(c.cfg.Dir).Running(); err == nil && running.PID == c.PID() {
			return running, nil
		}
		select {
		case <-look.C:
		case <-c.exited:
			return running, fmt.Errorf("the cluster did not start (%v): %s", c.exit, last)
		case <-ctx.Done():
			return running, fmt.Errorf("the cluster did not start in time; its last line: %s", last)
		}
	}
}

// connect makes the clients.
func (c *Cluster) connect(running statedir.Running) (err error) {
	c.Master, c.principal = running.MesosMaster, running.MesosPrincipal
	secret, err := os.ReadFile(running.MesosSecretFile)
	if err != nil {
		return fmt.Errorf("cannot read the secret for the Mesos master: %w", err)
	}
	c.secret = strings.TrimSpace(string(secret))
	c.REST, err = clientcmd.BuildConfigFromFlags("", running.Kubeconfig)
	if err != nil {
		return fmt.Errorf("cannot read the cluster's kubeconfig: %w", err)
	}
	// A test or a benchmark asks often; the server has limits of its own.
	c.REST.QPS, c.REST.Burst = 1000, 1000
	if c.Kube, err = kubernetes.NewForConfig(c.REST); err != nil {
		return err
	}
	c.Engines = map[string]*client.Client{}
	for _, node := range running.Nodes {
		if c.Engines[node.Name], err = client.NewClientWithOpts(client.WithHost(node.DockerHost), client.WithAPIVersionNegotiation()); err != nil {
			return err
		}
	}
	c.Docker = c.Engines[running.Nodes[0].Name]
	if len(running.Nodes) == 1 {
		c.Engines = nil
	}
	return nil
}

// Kubeconfig is the path of the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.cfg.Dir, "admin.kubeconfig") }

// KM returns a run of another km command on this cluster.
func (c *Cluster) KM(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, c.cfg.KM, append([]string{"--state-dir", c.cfg.Dir}, args...)...)
}

// StatusAddress is where the scheduler serves its status, as "host:port".
func (c *Cluster) StatusAddress() string { return fmt.Sprintf("127.0.0.1:%d", c.ports.status) }

// WebLink waits for the one-time link to the web page, which `km up` prints once the cluster is up.
func (c *Cluster) WebLink(ctx context.Context) (link string, err error) {
	err = Until(ctx, 10*time.Second, func(context.Context) error {
		if link = c.printed.link(); link == "" {
			return errors.New("km up has printed no link to the web page")
		}
		return nil
	})
	return link, err
}

// EtcdAddress is where etcd answers clients, as "host:port".
func (c *Cluster) EtcdAddress() string { return fmt.Sprintf("127.0.0.1:%d", c.ports.etcd) }

// Ports are the ports that the cluster listens on, by those that it would have by default.
func (c *Cluster) Ports() map[string]int {
	p := c.ports
	return map[string]int{"6443": p.api, "2379": p.etcd, "5050": p.mesos, "5051": p.mesos + 1, "10259": p.status, "10053": p.dns, "10054": p.dns + 1, "10063": p.dnsMetrics, "10064": p.dnsMetrics + 1, "10260": p.metrics, "8443": p.ui, "10261": p.logs}
}

// PID is the process id of `km up`.
func (c *Cluster) PID() int { return c.cmd.Process.Pid }

// Stop interrupts `km up`, as Ctrl-C does, and waits for its end. It returns an error if `km up` failed.
func (c *Cluster) Stop(ctx context.Context) error { return c.end(ctx, syscall.SIGINT) }

// Kill kills only `km up`. The next start takes over what it left.
func (c *Cluster) Kill(ctx context.Context) error {
	err := c.end(ctx, syscall.SIGKILL)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

func (c *Cluster) end(ctx context.Context, signal syscall.Signal) error {
	if c.cmd == nil || c.cmd.Process == nil || c.ended.Swap(true) {
		return nil
	}
	if err := c.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-c.exited:
		return c.exit
	case <-ctx.Done():
		return fmt.Errorf("`km up` (pid %d) did not end in time after %v: %w", c.PID(), signal, ctx.Err())
	}
}

// State is the part of a Mesos master's /state that people look at
// (https://mesos.apache.org/documentation/latest/endpoints/master/state/).
type State struct {
	Agents []struct {
		ID            string        `json:"id"`
		Hostname      string        `json:"hostname"`
		UsedResources UsedResources `json:"used_resources"`
	} `json:"slaves"`
	Frameworks []struct {
		Name  string `json:"name"`
		Tasks []Task `json:"tasks"`
	} `json:"frameworks"`
}

// UsedResources are what an agent's tasks and executors were launched with: cores, and megabytes.
type UsedResources struct {
	CPUs float64 `json:"cpus"`
	Mem  float64 `json:"mem"`
}

// Task is a task that has not ended.
type Task struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	State string `json:"state"`
	Agent string `json:"slave_id"`
}

// Ask makes a request to the Mesos master as an operator; a body is JSON. The caller closes the answer's body.
func (c *Cluster) Ask(ctx context.Context, method, path, body string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.Master+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.SetBasicAuth(c.principal, c.secret)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	return http.DefaultClient.Do(request)
}

// State reads the Mesos master's /state.
func (c *Cluster) State(ctx context.Context) (State, error) {
	var s State
	response, err := c.Ask(ctx, http.MethodGet, "/state", "")
	if err != nil {
		return s, fmt.Errorf("cannot read the Mesos master's state: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return s, fmt.Errorf("cannot read the Mesos master's state: %s", response.Status)
	}
	return s, json.NewDecoder(response.Body).Decode(&s)
}

// Tasks are all tasks of all frameworks in a state.
func (s State) Tasks() []Task {
	var tasks []Task
	for _, f := range s.Frameworks {
		tasks = append(tasks, f.Tasks...)
	}
	return tasks
}

// ports are those that a cluster listens on and that are chosen before it starts.
type ports struct{ api, etcd, mesos, status, dns, metrics, dnsMetrics, ui, logs int }

func (p ports) flags() []string {
	return []string{
		fmt.Sprintf("--secure-port=%d", p.api), fmt.Sprintf("--etcd-port=%d", p.etcd), fmt.Sprintf("--mesos-port=%d", p.mesos),
		fmt.Sprintf("--status-address=127.0.0.1:%d", p.status), fmt.Sprintf("--dns-port=%d", p.dns),
		fmt.Sprintf("--metrics-port=%d", p.metrics), fmt.Sprintf("--dns-metrics-port=%d", p.dnsMetrics), fmt.Sprintf("--ui-address=127.0.0.1:%d", p.ui),
		fmt.Sprintf("--logs-port=%d", p.logs),
	}
}

// freePorts chooses ports in a row below those that the kernel gives to connections, so that no connection takes one
// before the cluster does. The agent of the local Mesos takes the port after the master's, and so does the second server of the DNS.
func freePorts() (ports, error) {
	for range 100 {
		first := 20000 + rand.IntN(10000)
		if free(first, 12) {
			return ports{api: first, etcd: first + 1, mesos: first + 2, status: first + 4, dns: first + 5, metrics: first + 7, dnsMetrics: first + 8, ui: first + 10, logs: first + 11}, nil
		}
	}
	return ports{}, errors.New("no twelve ports in a row are free between 20000 and 30000")
}

// FreePort chooses a port for something else of a cluster, likewise.
func FreePort() (int, error) {
	for range 100 {
		if port := 20000 + rand.IntN(10000); free(port, 1) {
			return port, nil
		}
	}
	return 0, errors.New("no port is free between 20000 and 30000")
}

func free(first, count int) bool {
	for port := first; port < first+count; port++ {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

// lastLine passes on what `km up` prints, and keeps the last line for an error that a person reads.
type lastLine struct {
	out io.Writer

	mu   sync.Mutex // guards the rest
	line string
	web  string
}

// Write implements io.Writer.
func (w *lastLine) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if lines := strings.Split(strings.TrimSpace(string(p)), "\n"); lines[len(lines)-1] != "" {
		w.line = strings.TrimSpace(lines[len(lines)-1])
		for _, line := range lines {
			if link, found := strings.CutPrefix(line, "Web: "); found {
				w.web = link
			}
		}
	}
	return w.out.Write(p)
}

func (w *lastLine) link() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.web
}

// String returns the last line.
func (w *lastLine) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.line
}
