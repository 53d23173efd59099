package localmesos

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	mesos "github.com/mesos/mesos-go/api/v1/lib"

	"github.com/k8sm/k8sm/api"
)

// startHollow starts a cluster whose executors are inside this program.
func startHollow(t *testing.T, agents int) *Cluster {
	t.Helper()
	c := testConfig(t)
	c.Agents = agents
	c.Executors = func(mesos.ExecutorInfo) Executor { return Hollow{} }
	return startCluster(t, c)
}

func TestExecutorInsideRunsKillsAndLeavesNothingOnDisk(t *testing.T) {
	cluster := startHollow(t, 1)
	f := subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	executor := executorOf(f, "minion", "exit 1")
	f.accept(o, executorTask("t1", o, executor), executorTask("t2", o, executor))
	for _, task := range []string{"t1", "t2"} {
		for _, state := range []string{"TASK_STARTING", "TASK_RUNNING"} {
			u := f.update(task, patience)
			if got := text(u, "update", "status", "state"); got != state {
				t.Fatalf("task %s: %s, want %s", task, got, state)
			}
			f.ack(u)
		}
	}
	again := f.mustOffer()
	if got, want := fmt.Sprint(again["executor_ids"]), fmt.Sprint([]any{named("minion")}); got != want {
		t.Errorf("the next offer names the executors %s, want %s", got, want)
	}
	f.call("KILL", object{"kill": object{"task_id": named("t1")}})
	f.mustUpdate("t1", "TASK_KILLED")
	runs, err := filepath.Glob(filepath.Join(cluster.plan.WorkDir, "agents", "0", "*", "runs"))
	if err != nil || len(runs) > 0 {
		t.Errorf("on disk there is %v, %v", runs, err)
	}
}

func TestKilledExecutorInsideFailsItsTasks(t *testing.T) {
	cluster := startHollow(t, 1)
	f := subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	f.accept(o, executorTask("t1", o, executorOf(f, "minion", "exit 1")))
	f.mustUpdate("t1", "TASK_RUNNING")
	if err := cluster.KillExecutor(0, "none", "minion"); err == nil {
		t.Error("an executor of another framework was killed")
	}
	if err := cluster.KillExecutor(0, api.FrameworkID(f.id), "minion"); err != nil {
		t.Fatal(err)
	}
	if u := f.mustUpdate("t1", "TASK_FAILED"); text(u, "update", "status", "reason") != "REASON_EXECUTOR_TERMINATED" {
		t.Errorf("the task ended with %v", u)
	}
}

func TestExecutorInsideEndsWithItsAgent(t *testing.T) {
	cluster := startHollow(t, 2)
	f := subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	f.accept(o, executorTask("t1", o, executorOf(f, "minion", "exit 1")))
	f.mustUpdate("t1", "TASK_RUNNING")
	agent := 0
	if string(cluster.AgentIDs()[0]) != text(o, "agent_id", "value") {
		agent = 1
	}
	cluster.KillAgent(agent)
	if err := cluster.RestartAgent(agent); err != nil {
		t.Fatal(err)
	}
	if u := f.update("t1", patience); text(u, "update", "status", "state") != "TASK_GONE" {
		t.Errorf("after its agent's death the task is %v", u)
	}
}

func TestCommandIsRefusedWithExecutorsInside(t *testing.T) {
	cluster := startHollow(t, 1)
	f := subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	made := filepath.Join(t.TempDir(), "made")
	f.accept(o, commandTask("t1", o, "touch "+made, nil))
	if u := f.mustUpdate("t1", "TASK_FAILED"); text(u, "update", "status", "reason") != "REASON_CONTAINER_LAUNCH_FAILED" {
		t.Errorf("the command ended with %v", u)
	}
	if _, err := os.Stat(made); err == nil {
		t.Error("the command ran")
	}
}
