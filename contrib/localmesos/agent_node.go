package localmesos

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/executor"

	"github.com/k8sm/k8sm/api"
)

// agentNode runs an agent: its owner, its streams, its HTTP server, its checkpoints and its processes.
type agentNode struct {
	plan      plan
	dir       string
	hub       *hub
	processes *processes
	store     store
	agent     *agent
	owner     *owner
	streams   *streams
	server    *server
	address   string
	started   time.Time
	recovery  time.Duration // how long it took
	ended     chan struct{} // closed when a stopping agent has nothing left
	fetcher   *fetcher
	fetches   map[string]context.CancelFunc // running, by container; only the owner uses it
	fetching  sync.WaitGroup
	watches   []limitWatch
	watching  sync.WaitGroup
}

// startAgent runs the agent in directory dir. It listens on want, or on the port that running executors know.
func startAgent(p plan, h *hub, ps *processes, dir string, want int) (*agentNode, error) {
	n := &agentNode{
		plan: p, dir: dir, hub: h, processes: ps, store: store{filepath.Join(dir, "meta")}, streams: newStreams(), ended: make(chan struct{}),
		fetches: map[string]context.CancelFunc{}, started: time.Now(),
	}
	err := p.isolation.shareWorkDir(dir)
	if err != nil {
		return nil, err
	}
	if n.fetcher, err = newFetcher(filepath.Join(p.FetcherCacheDir, filepath.Base(dir))); err != nil {
		return nil, err
	}
	var file agentFile
	if _, err := readFile(n.store.agentPath(), &file); err != nil {
		return nil, err
	}
	runs, err := n.store.load()
	if err != nil {
		return nil, err
	}
	l, err := n.listen(file.Port, want, len(runs) > 0)
	if err != nil {
		return nil, err
	}
	n.address = l.Addr().String()
	port32 := int32(port(l))
	info := mesos.AgentInfo{
		Hostname: p.Hostname, Port: &port32, Resources: p.resources.messages(withReservations), Attributes: p.attributes,
	}
	if file.ID != "" {
		info.ID = &mesos.AgentID{Value: file.ID}
	}
	file.Port = port(l)
	if err := writeFile(n.store.agentPath(), file); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("cannot keep the agent's id: %w", err)
	}
	n.agent = newAgent(info, p, uuid.NewString)
	n.owner = newOwner(n.agent, n.perform)
	was := recovered{runs: runs}
	if file.Draining != nil {
		was.draining = &file.Draining.message
	}
	n.owner.post(was)
	n.recovery = time.Since(n.started)
	n.watchLimits()
	go n.owner.run()
	n.server = serve(l, n.handler(), p.secure)
	h.joinAgent(n.address, n.owner)
	return n, nil
}

// watchLimits runs the periodic checks of disk and ports.
func (n *agentNode) watchLimits() {
	exceeded := func(container string, l limitation) { n.owner.post(limited{container, l}) }
	if n.plan.isolation.disk && n.plan.EnforceContainerDiskQuota {
		n.watches = append(n.watches, newDiskWatch(n.plan.ContainerDiskWatchInterval, exceeded))
	}
	if n.plan.isolation.ports && n.plan.EnforceContainerPorts {
		n.watches = append(n.watches, newPortWatch(n.plan.ContainerPortsWatchInterval, n.plan.enter, exceeded))
	}
	for _, w := range n.watches {
		n.watching.Go(func() { w.run(n.owner.quit) })
	}
}

// listen listens in the agent's network namespace. A socket stays in the namespace that created it.
func (n *agentNode) listen(former, want int, needFormer bool) (l net.Listener, err error) {
	err = n.plan.enter(func() error {
		l, err = n.listenHere(former, want, needFormer)
		return err
	})
	return l, err
}

// listenHere prefers the agent's previous port if executors may connect there, or if any port will do.
func (n *agentNode) listenHere(former, want int, needFormer bool) (net.Listener, error) {
	if former != 0 && (needFormer || want == 0) {
		l, err := listen(n.plan.IP, former, "agent")
		if err == nil || needFormer {
			return l, err
		}
	}
	return listen(n.plan.IP, want, "agent")
}

// close ends the agent like a kill: executors keep running, and it notifies no one.
func (n *agentNode) close() {
	n.owner.end()
	<-n.owner.done
	n.watching.Wait()
	for _, stop := range n.fetches {
		stop()
	}
	n.fetching.Wait()
	n.server.close()
	n.hub.leaveAgent(n.address, api.AgentID(n.agent.id()))
}

// stop ends the agent and all its executors.
func (n *agentNode) stop() {
	n.owner.post(stopAgent{})
	select {
	case <-n.ended:
	case <-n.owner.done: // it was killed before; its executors must not outlive the cluster
		for _, run := range n.agent.runs {
			n.destroy(run.process, run.container)
		}
	}
	n.close()
}

func (n *agentNode) perform(x action) {
	var err error
	switch x := x.(type) {
	case send:
		n.hub.faults.pass(AgentToExecutor, x.kind, func() { n.streams.send(x.stream, x.event) })
	case hangUp:
		n.streams.send(x.stream, nil)
	case sendMaster:
		n.hub.toMaster(fromAgent{agent: api.AgentID(n.agent.id()), address: n.address, message: x.message})
	case fetch:
		n.fetch(x.run)
	case stopFetching:
		n.fetches[x.container]()
		delete(n.fetches, x.container)
	case start:
		n.start(x.run)
	case terminate:
		x.process.terminate()
	case destroy:
		n.destroy(x.process, x.container)
	case limit:
		n.limit(x.run)
	case watch:
		n.watch(x.container, x.process)
	case allEnded:
		close(n.ended)
	default:
		err = n.save(x)
	}
	if err != nil {
		log.WithError(err).WithField("agent", n.agent.id()).Error("cannot write a checkpoint")
	}
}

// save performs the actions that write checkpoints. Executors inside this program have none.
func (n *agentNode) save(x action) error {
	if _, ok := x.(saveAgent); ok {
		_, p, _ := net.SplitHostPort(n.address)
		number, _ := strconv.Atoi(p)
		file := agentFile{ID: n.agent.id(), Port: number}
		if n.agent.draining != nil {
			file.Draining = &drainConfigDocument{*n.agent.draining}
		}
		return writeFile(n.store.agentPath(), file)
	}
	if n.plan.Executors != nil {
		return nil
	}
	switch x := x.(type) {
	case saveRun:
		return n.store.saveRun(n.agent.frameworks[x.run.key.framework], x.run)
	case removeRun:
		return os.RemoveAll(n.store.runDir(x.container))
	case saveTask:
		return n.store.saveTask(x.container, x.task)
	case removeTask:
		return os.Remove(n.store.taskPath(x.container, x.task))
	}
	return nil
}

func (n *agentNode) watch(container string, p process) {
	n.processes.watch(p, n.owner.quit, func(status int32) {
		n.owner.post(processExited{container: container, status: status})
	})
}

// fetch runs the fetcher in the background.
func (n *agentNode) fetch(run *executorRun) {
	ctx, cancel := context.WithCancel(context.Background())
	n.fetches[run.container] = cancel
	container, info := run.container, run.info.Command
	sandbox, err := n.makeSandbox(run)
	n.fetching.Go(func() {
		defer cancel()
		if err == nil && n.plan.Executors == nil {
			err = n.fetcher.fetchAll(ctx, info, sandbox)
		}
		n.owner.post(fetched{container, err})
	})
}

// start starts an executor or a command.
func (n *agentNode) start(run *executorRun) {
	begin := n.startProcess
	if n.plan.Executors != nil {
		begin = n.startInside
	}
	p, err := begin(run)
	if err != nil {
		n.owner.post(startFailed{run.container, err})
		return
	}
	n.owner.post(processStarted{run.container, p})
	n.watch(run.container, p)
}

// limit sets the current limits of a container.
func (n *agentNode) limit(run *executorRun) {
	if n.plan.Executors != nil {
		return
	}
	sandbox, err := n.sandbox(run)
	if err != nil {
		n.owner.post(updateFailed{run.container, err})
		return
	}
	for _, w := range n.watches {
		w.set(run.container, sandbox, run.resources())
	}
	if err := n.plan.isolation.limit(run.container, run.resources()); err != nil {
		n.owner.post(updateFailed{run.container, err})
	}
}

// destroy destroys a container.
func (n *agentNode) destroy(p process, container string) {
	for _, w := range n.watches {
		w.forget(container)
	}
	n.processes.destroy(p)
	if err := n.plan.isolation.destroy(container); err != nil {
		n.agent.counts.add("containerizer/mesos/container_destroy_errors")
		log.WithError(err).WithField("agent", n.agent.id()).Error("a container is not gone")
	}
}

// startProcess creates the sandbox and starts the process in it.
func (n *agentNode) startProcess(run *executorRun) (process, error) {
	sandbox, err := n.makeSandbox(run)
	if err != nil {
		return process{}, err
	}
	join, err := n.plan.isolation.prepare(run.container, run.resources())
	if err != nil {
		return process{}, err
	}
	for _, w := range n.watches {
		w.set(run.container, sandbox, run.resources())
	}
	token, err := n.plan.auth.token(run)
	if err != nil {
		return process{}, err
	}
	return n.processes.start(command{
		info: run.info.Command, sandbox: sandbox, env: n.environment(run, sandbox, token), isolation: n.plan.isolation, join: join, enter: n.plan.enter,
	})
}

// sandbox follows https://mesos.apache.org/documentation/latest/sandbox/.
func (n *agentNode) sandbox(run *executorRun) (string, error) {
	dir, err := filepath.Abs(n.dir)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "slaves", n.agent.id(), "frameworks", string(run.key.framework), "executors", string(run.key.executor), "runs", run.container), nil
}

func (n *agentNode) makeSandbox(run *executorRun) (string, error) {
	sandbox, err := n.sandbox(run)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(sandbox, 0o755); err != nil {
		return "", err
	}
	latest := filepath.Join(filepath.Dir(sandbox), "latest")
	if err := os.Remove(latest); err != nil && !os.IsNotExist(err) {
		return "", err
	}
	return sandbox, os.Symlink(sandbox, latest)
}

// hostPath is the default PATH: host_default_path of 3rdparty/stout/include/stout/posix/os.hpp.
const hostPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment follows https://mesos.apache.org/documentation/latest/executor-http-api/ ("Environment Variables") and
// executorEnvironment in src/slave/slave.cpp. If a name occurs twice, the last value wins.
func (n *agentNode) environment(run *executorRun, sandbox, token string) []string {
	env := append([]string{hostPath, "LIBPROCESS_IP=" + n.plan.IP}, n.plan.environment...)
	env = append(env, "LIBPROCESS_PORT=0",
		"MESOS_AGENT_ENDPOINT="+n.address, "MESOS_DIRECTORY="+sandbox, "MESOS_SANDBOX="+sandbox,
		"MESOS_EXECUTOR_ID="+string(run.key.executor), "MESOS_FRAMEWORK_ID="+string(run.key.framework),
		"MESOS_SLAVE_ID="+n.agent.id(), "MESOS_SLAVE_PID=slave(1)@"+n.address, "MESOS_HTTP_COMMAND_EXECUTOR=0",
		"MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD="+mesosDuration(n.agent.grace(run)),
	)
	framework := n.agent.frameworks[run.key.framework]
	if framework.GetCheckpoint() {
		env = append(env, "MESOS_CHECKPOINT=1", "MESOS_RECOVERY_TIMEOUT="+mesosDuration(n.plan.RecoveryTimeout), "MESOS_SUBSCRIPTION_BACKOFF_MAX=2secs")
	} else {
		env = append(env, "MESOS_CHECKPOINT=0")
	}
	if run.command {
		env = append(env, "MESOS_TASK_ID="+string(run.key.executor))
	}
	if token != "" {
		env = append(env, "MESOS_EXECUTOR_AUTHENTICATION_TOKEN="+token)
	}
	for _, v := range run.info.Command.GetEnvironment().GetVariables() {
		env = append(env, v.Name+"="+v.GetValue())
	}
	return env
}

func (n *agentNode) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/api/v1/executor", n.plan.auth.guard(executorRealm, endpoint[executor.Call, *executor.Call]{
		owner: n.owner, streams: n.streams, faults: n.hub.faults, path: ExecutorToAgent, problem: executorCallProblem,
		recovering: "Agent has not finished recovery",
		kind:       func(c *executor.Call) (string, bool) { return c.Type.String(), c.Type == executor.Call_SUBSCRIBE },
		event: func(c *executor.Call, stream string, who identity) event {
			if c.Type == executor.Call_SUBSCRIBE {
				return executorSubscribe{stream: stream, call: c, who: who}
			}
			return executorCall{call: c, who: who}
		},
	}))
	mux.Handle("/api/v1", n.plan.auth.guard(agentReadwrite, http.HandlerFunc(n.serveOperator)))
	mux.HandleFunc("/health", healthy)
	mux.HandleFunc("/version", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, version()) })
	mux.Handle("/state", n.plan.auth.guard(agentReadonly, http.HandlerFunc(n.serveState)))
	mux.Handle("/metrics/snapshot", n.plan.auth.guard(agentReadonly, snapshotHandler(newSnapshotLimit(), n.metrics)))
	return n.plan.refuseForeign(mux)
}

// serveState serves the agent's /state: its identity and what runs there.
func (n *agentNode) serveState(w http.ResponseWriter, _ *http.Request) {
	frameworks, id := []any{}, ""
	ok := n.owner.look(func() {
		id = n.agent.id()
		for framework, info := range n.agent.frameworks {
			frameworks = append(frameworks, map[string]any{"id": framework, "name": info.Name, "executors": n.agent.executorTrees(framework)})
		}
	})
	if !ok {
		http.Error(w, "the agent has ended", http.StatusServiceUnavailable)
		return
	}
	writeJSON(w, merged(version(), map[string]any{
		"id": id, "hostname": n.plan.Hostname, "pid": "slave(1)@" + n.address, "frameworks": frameworks,
		"resources": n.plan.resources.flat(), "attributes": attributeValues(n.plan.attributes),
	}))
}

func (a *agent) executorTrees(framework api.FrameworkID) []any {
	out := []any{}
	for _, run := range a.runs {
		if run.key.framework != framework {
			continue
		}
		tasks := []any{}
		for _, id := range run.order {
			if t := run.tasks[id]; t != nil {
				tasks = append(tasks, map[string]any{"id": id, "state": t.latest.GetState().String()})
			}
		}
		out = append(out, map[string]any{"id": run.key.executor, "container": run.container, "pid": run.process.PID, "tasks": tasks})
	}
	return out
}
