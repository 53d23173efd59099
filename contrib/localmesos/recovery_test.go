package localmesos

import (
	"bufio"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// killableCluster is a local Mesos in a separate process.
type killableCluster struct {
	cmd  *exec.Cmd
	addr string
}

// startKillable starts one and waits until it is up.
func startKillable(t *testing.T, c Config) *killableCluster {
	t.Helper()
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	k := &killableCluster{cmd: exec.Command(self)}
	k.cmd.Env = append(os.Environ(), "LOCALMESOS_TEST_AS=cluster", "LOCALMESOS_TEST_CONFIG="+string(config))
	out, err := k.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := k.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	var ok bool
	if k.addr, ok = strings.CutPrefix(strings.TrimSpace(line), "up "); !ok {
		t.Fatalf("the cluster did not come up: %q %v", line, err)
	}
	return k
}

// kill ends it with SIGKILL.
func (k *killableCluster) kill() {
	_ = k.cmd.Process.Kill() // it may have been killed already
	_ = k.cmd.Wait()
}

func portOf(t *testing.T, addr string) int {
	t.Helper()
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// pidsIn returns the checkpointed processes of a work directory.
func pidsIn(t *testing.T, workDir string) []process {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(workDir, "agents", "*", "meta", "runs", "*", "run.json"))
	if err != nil {
		t.Fatal(err)
	}
	var out []process
	for _, path := range paths {
		var f runFile
		if _, err := readFile(path, &f); err != nil {
			t.Fatal(err)
		}
		out = append(out, f.Process)
	}
	return out
}

// runExecutorTask launches a task on a test executor and waits until it runs.
func runExecutorTask(t *testing.T, f *testFramework, task, executorID string) (agent any) {
	t.Helper()
	line, env := asProgram(t, "executor", object{"name": "LOCALMESOS_TEST_NOTES", "value": filepath.Join(t.TempDir(), "notes")})
	o := f.mustOffer()
	f.accept(o, executorTask(task, o, executorOf(f, executorID, line, env...)))
	f.mustUpdate(task, "TASK_RUNNING")
	return o["agent_id"]
}

// crashed runs a task on a checkpointed executor, kills the whole local Mesos, and returns the configuration to start
// it again with.
func crashed(t *testing.T) (c Config, framework string, agent any) {
	t.Helper()
	c = testConfig(t)
	first := startKillable(t, c)
	c.Port = portOf(t, first.addr)
	stub := &Cluster{port: c.Port, plan: plan{Config: c}}
	f := subscribeWith(t, stub, nil)
	agent = runExecutorTask(t, f, "r-1", "survivor")
	first.kill()
	t.Cleanup(func() {
		for _, p := range pidsIn(t, c.WorkDir) {
			p.destroy()
		}
	})
	return c, f.id, agent
}

func TestCheckpointedExecutorsSurviveKillOfMasterAndAgents(t *testing.T) {
	t.Parallel()
	c, framework, agent := crashed(t)
	before := pidsIn(t, c.WorkDir)
	cluster := startCluster(t, c)
	if ids := cluster.AgentIDs(); len(ids) != 1 || string(ids[0]) != text(agent, "value") {
		t.Errorf("the agent's id was %v and is %v", agent, ids)
	}
	f := subscribeAs(t, cluster, framework)
	if f.id != framework {
		t.Fatalf("subscribed again as %v", f.subscribed)
	}
	f.call("RECONCILE", object{"reconcile": object{"tasks": []any{}}})
	f.mustUpdate("r-1", "TASK_RUNNING")
	o := f.mustOffer()
	if ids, _ := o["executor_ids"].([]any); len(ids) != 1 {
		t.Errorf("the offer names the executors %v", ids)
	}
	eventually(t, "the executor subscribes again and takes a message", func() bool {
		f.call("MESSAGE", object{"message": object{"agent_id": agent, "executor_id": named("survivor"), "data": "aGVsbG8="}})
		return at(f.stream.next(100*time.Millisecond, ofType("MESSAGE")), "none") == nil
	})
	if after := pidsIn(t, c.WorkDir); len(after) != 1 || after[0] != before[0] || !after[0].alive() {
		t.Errorf("the executor's process was %v and is %v", before, after)
	}
	f.call("KILL", object{"kill": object{"task_id": named("r-1")}})
	f.mustUpdate("r-1", "TASK_KILLED")
}

func TestExecutorThatDiedWithMesosIsReportedAsTerminated(t *testing.T) {
	t.Parallel()
	c, framework, _ := crashed(t)
	for _, p := range pidsIn(t, c.WorkDir) {
		p.destroy()
	}
	cluster := startCluster(t, c)
	f := subscribeAs(t, cluster, framework)
	u := f.mustUpdate("r-1", "TASK_FAILED")
	if reason := text(u, "update", "status", "reason"); reason != "REASON_EXECUTOR_TERMINATED" {
		t.Errorf("the reason is %s", reason)
	}
}

func TestExecutorsWithoutCheckpointEndWithTheirAgent(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	f := subscribeWith(t, cluster, func(_, info object) { info["checkpoint"] = false })
	o := f.mustOffer()
	f.accept(o, commandTask("short-lived", o, "sleep 600", nil))
	f.mustUpdate("short-lived", "TASK_RUNNING")
	processes := pidsIn(t, cluster.plan.WorkDir)
	cluster.KillAgent(0)
	if err := cluster.RestartAgent(0); err != nil {
		t.Fatal(err)
	}
	if u := f.mustUpdate("short-lived", "TASK_GONE"); text(u, "update", "status", "reason") != "REASON_RECONCILIATION" {
		t.Errorf("told as %v", u)
	}
	eventually(t, "the command ends", func() bool { return !processes[0].alive() })
}

func TestRestartedAgentKeepsItsIDAndTasks(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	f := subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	f.accept(o, commandTask("stays", o, "exec sleep 600", nil))
	f.mustUpdate("stays", "TASK_RUNNING")
	f.mustOffer()
	before := cluster.AgentIDs()
	cluster.KillAgent(0)
	if e := f.stream.next(patience, ofType("RESCIND")); at(e, "none") != nil {
		t.Error("the dead agent's offer was not rescinded")
	}
	if err := cluster.RestartAgent(0); err != nil {
		t.Fatal(err)
	}
	f.mustOffer()
	if after := cluster.AgentIDs(); after[0] != before[0] {
		t.Errorf("the id was %s and is %s", before, after)
	}
	f.call("KILL", object{"kill": object{"task_id": named("stays")}})
	f.mustUpdate("stays", "TASK_KILLED")
}

func TestRestartedMasterKnowsItsFrameworks(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	f, gone := subscribeWith(t, cluster, nil), subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	f.accept(o, commandTask("outlives", o, "sleep 600", nil))
	f.mustUpdate("outlives", "TASK_RUNNING")
	gone.call("TEARDOWN", nil)
	cluster.KillMaster()
	if e := f.stream.next(patience, ofType("none")); text(e, "none") != "the stream was closed" {
		t.Fatalf("the stream goes on: %v", e)
	}
	if err := cluster.RestartMaster(); err != nil {
		t.Fatal(err)
	}
	again := subscribeAs(t, cluster, f.id)
	if again.id != f.id {
		t.Fatalf("subscribed as %v", again.subscribed)
	}
	eventually(t, "the agent brings the task back", func() bool {
		again.call("RECONCILE", object{"reconcile": object{"tasks": []any{object{"task_id": named("outlives")}}}})
		return text(again.update("outlives", patience), "update", "status", "state") == "TASK_RUNNING"
	})
	if dead := subscribeAs(t, cluster, gone.id); text(dead.subscribed, "error", "message") != "Framework has been removed" {
		t.Errorf("a torn down framework got %v", dead.subscribed)
	}
}

func TestStopLeavesNoProcessBehind(t *testing.T) {
	t.Parallel()
	c := testConfig(t)
	c.ExecutorShutdownGracePeriod = 200 * time.Millisecond
	cluster := startCluster(t, c)
	f := subscribeWith(t, cluster, nil)
	pidFile := filepath.Join(t.TempDir(), "pid")
	// It ignores SIGTERM and has a child in a new session, like a daemon supervisor.
	line := "trap '' TERM; setsid sh -c 'echo $$ > " + pidFile + ".new && mv " + pidFile + ".new " + pidFile + "; sleep 600' & wait; sleep 600"
	o := f.mustOffer()
	f.accept(o, commandTask("stubborn", o, line, nil))
	f.mustUpdate("stubborn", "TASK_RUNNING")
	runExecutorTask(t, f, "polite", "leaves")
	processes := pidsIn(t, c.WorkDir)
	child := 0
	eventually(t, "the child has started", func() bool {
		data, err := os.ReadFile(pidFile)
		child, _ = strconv.Atoi(strings.TrimSpace(string(data)))
		return err == nil && child > 0
	})
	cluster.Stop()
	for _, p := range processes {
		if p.alive() {
			t.Errorf("process %d lives", p.PID)
		}
	}
	eventually(t, "the child is gone", func() bool {
		s, err := readStat(child)
		return err != nil || s.State == zombie || syscall.Kill(child, 0) != nil
	})
	if left := pidsIn(t, c.WorkDir); len(left) > 0 {
		t.Errorf("checkpoints are left of %v", left)
	}
}

func TestTeardownEndsTasksAndExecutors(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	f := subscribeWith(t, cluster, nil)
	runExecutorTask(t, f, "one", "x")
	o := f.mustOffer()
	f.accept(o, commandTask("two", o, "sleep 600", nil))
	f.mustUpdate("two", "TASK_RUNNING")
	processes := pidsIn(t, cluster.plan.WorkDir)
	f.call("TEARDOWN", nil)
	eventually(t, "both processes end", func() bool { return len(processes) == 2 && !processes[0].alive() && !processes[1].alive() })
	next := subscribeWith(t, cluster, nil)
	cpus := 0.0
	for _, r := range next.mustOffer()["resources"].([]any) {
		if text(r, "name") == "cpus" {
			cpus, _ = at(r, "scalar", "value").(float64)
		}
	}
	if cpus != 4 {
		t.Errorf("the next framework is offered %v of 4 cpus", cpus)
	}
}

func TestSandboxHasMesosLayoutAndOutput(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	f := subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	f.accept(o, commandTask("talks", o, "echo out; echo err >&2", nil))
	f.mustUpdate("talks", "TASK_FINISHED")
	latest := filepath.Join(cluster.plan.WorkDir, "agents", "0", "slaves", text(o, "agent_id", "value"), "frameworks", f.id, "executors", "talks", "runs", "latest")
	for name, want := range map[string]string{"stdout": "out\n", "stderr": "err\n"} {
		if got, err := os.ReadFile(filepath.Join(latest, name)); err != nil || string(got) != want {
			t.Errorf("%s holds %q (%v)", name, got, err)
		}
	}
}
