package localmesos

import (
	"net/http"
	"testing"
	"time"

	"github.com/k8sm/k8sm/api"
)

func TestDroppedUpdateIsSentAgain(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	f := subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	cluster.Faults().Add(Fault{Path: MasterToScheduler, Kind: "UPDATE", Times: 1, Drop: true})
	f.accept(o, commandTask("t", o, "sleep 600", nil))
	if u := f.update("t", 5*time.Second); at(u, "none") == nil {
		t.Fatalf("the update was not dropped: %v", u)
	}
	if hits := cluster.Faults().Hits(); hits != 1 {
		t.Errorf("%d messages were touched", hits)
	}
	f.mustUpdate("t", "TASK_RUNNING")
}

func TestLaunchThatIsLostOnTheWayIsToldOnceTheAgentRegistersAgain(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	f := subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	cluster.Faults().Add(Fault{Path: MasterToAgent, Kind: "RUN_TASK", Times: 1, Drop: true})
	f.accept(o, commandTask("lost", o, "sleep 600", nil))
	f.call("RECONCILE", object{"reconcile": object{"tasks": []any{object{"task_id": named("lost")}}}})
	f.mustUpdate("lost", "TASK_STAGING")
	cluster.KillAgent(0)
	if err := cluster.RestartAgent(0); err != nil {
		t.Fatal(err)
	}
	f.mustUpdate("lost", "TASK_DROPPED")
}

func TestDuplicatedUpdateComesTwiceAndDelayedOneLate(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	f := subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	cluster.Faults().Add(Fault{Path: MasterToScheduler, Kind: "UPDATE", Times: 1, Duplicate: true})
	f.accept(o, commandTask("t", o, "sleep 600", nil))
	a, b := f.update("t", patience), f.update("t", 5*time.Second)
	if text(a, "update", "status", "uuid") != text(b, "update", "status", "uuid") {
		t.Errorf("got %v, then %v", a, b)
	}
	cluster.Faults().Clear()
	const delay = 700 * time.Millisecond
	cluster.Faults().Add(Fault{Path: SchedulerToMaster, Kind: "REVIVE", Times: 1, Delay: delay})
	began := time.Now()
	f.call("REVIVE", nil)
	if took := time.Since(began); took < delay {
		t.Errorf("the delayed call took %s", took)
	}
}

func TestFaultsCanBeAddedOverHTTP(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	url := "http://" + cluster.MasterAddr() + "/faults"
	if got := post(t, url, object{"path": "scheduler-to-master", "kind": "SUPPRESS", "times": 1, "drop": true}, nil); got["status"] != http.StatusAccepted {
		t.Fatalf("adding: %v", got)
	}
	f := subscribeWith(t, cluster, nil)
	f.call("SUPPRESS", nil)
	f.decline(f.mustOffer(), 0)
	f.mustOffer()
	if got := post(t, url, object{"paths": "x"}, nil); got["status"] != http.StatusBadRequest {
		t.Errorf("a fault with an unknown field: %v", got)
	}
}

func TestKilledExecutorIsToldAsTerminated(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	f := subscribeWith(t, cluster, nil)
	runExecutorTask(t, f, "t", "victim")
	if err := cluster.KillExecutor(0, api.FrameworkID(f.id), "victim"); err != nil {
		t.Fatal(err)
	}
	f.mustUpdate("t", "TASK_FAILED")
	if e := f.stream.next(patience, ofType("FAILURE")); at(e, "failure", "status") != 9.0 {
		t.Errorf("FAILURE says %v", e)
	}
	if err := cluster.KillExecutor(0, api.FrameworkID(f.id), "victim"); err == nil {
		t.Error("a dead executor could be killed")
	}
}

func TestLaunchOnAnExecutorThatDiedIsDroppedUntilItsUpdatesAreAcknowledged(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	f := subscribeWith(t, cluster, nil)
	runExecutorTask(t, f, "t", "x")
	if err := cluster.KillExecutor(0, api.FrameworkID(f.id), "x"); err != nil {
		t.Fatal(err)
	}
	last := f.update("t", patience)
	f.stream.next(patience, ofType("FAILURE"))
	o := f.mustOffer()
	x := executorOf(f, "x", "sleep 1000")
	f.accept(o, executorTask("u", o, x))
	if u := f.mustUpdate("u", "TASK_DROPPED"); text(u, "update", "status", "message") != "Master wants to launch executor, but one already exists" {
		t.Errorf("told as %v", u)
	}
	if e := f.stream.next(patience, ofType("FAILURE")); at(e, "failure", "status") != -1.0 {
		t.Errorf("FAILURE says %v", e)
	}
	f.ack(last)
	o = f.mustOffer()
	f.accept(o, executorTask("v", o, x))
	if u := f.update("v", time.Second); at(u, "none") == nil {
		t.Errorf("the executor is refused still: %v", u)
	}
	if err := cluster.KillExecutor(0, api.FrameworkID(f.id), "x"); err != nil {
		t.Error(err)
	}
}

func TestTasksOfAnAgentThatStaysAwayAreUnreachableUntilItReturns(t *testing.T) {
	t.Parallel()
	c := testConfig(t)
	c.AgentTimeout = 300 * time.Millisecond
	cluster := startCluster(t, c)
	f := subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	f.accept(o, commandTask("away", o, "sleep 600", nil))
	f.mustUpdate("away", "TASK_RUNNING")
	cluster.KillAgent(0)
	f.mustUpdate("away", "TASK_UNREACHABLE")
	if e := f.stream.next(patience, ofType("FAILURE")); text(e, "failure", "agent_id", "value") != text(o, "agent_id", "value") {
		t.Errorf("FAILURE says %v", e)
	}
	if err := cluster.RestartAgent(0); err != nil {
		t.Fatal(err)
	}
	if u := f.mustUpdate("away", "TASK_RUNNING"); text(u, "update", "status", "reason") != "REASON_AGENT_REREGISTERED" {
		t.Errorf("told as %v", u)
	}
}
