package localmesos

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
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

func TestLostLaunchIsReportedWhenAgentRegistersAgain(t *testing.T) {
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

func TestDuplicatedAndDelayedUpdates(t *testing.T) {
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

func TestCallAnswered503IsNotAccepted(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	cluster.Faults().Add(Fault{Path: SchedulerToMaster, Kind: "SUBSCRIBE", Times: 1, Status: http.StatusServiceUnavailable})
	f := subscribeWith(t, cluster, nil)
	if f.stream.status != http.StatusServiceUnavailable || f.stream.body != "Master has not finished recovery\n" {
		t.Errorf("SUBSCRIBE: %d %q", f.stream.status, f.stream.body)
	}
	f = subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	cluster.Faults().Add(Fault{Path: SchedulerToMaster, Kind: "ACCEPT", Times: 1, Status: http.StatusServiceUnavailable})
	if got := f.accept(o, commandTask("t", o, "sleep 600", nil)); got["status"] != http.StatusServiceUnavailable {
		t.Errorf("ACCEPT: %v", got)
	}
	if got := f.accept(o, commandTask("t", o, "sleep 600", nil)); got["status"] != http.StatusAccepted {
		t.Errorf("ACCEPT again: %v", got)
	}
	f.mustUpdate("t", "TASK_RUNNING")
}

func TestSilentCallIsAcceptedUnlessDropped(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	f := subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	impatient := func(kind string, fields object) error {
		call := object{"type": kind, "framework_id": named(f.id)}
		maps.Copy(call, fields)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		r := request(t, ctx, f.url, call)
		r.Header.Set("Mesos-Stream-Id", f.stream.id)
		resp, err := caller.Do(r)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	launch := object{"accept": object{"offer_ids": []any{o["id"]}, "operations": []any{
		object{"type": "LAUNCH", "launch": object{"task_infos": []any{commandTask("t", o, "sleep 600", nil)}}},
	}}}
	cluster.Faults().Add(Fault{Path: SchedulerToMaster, Kind: "ACCEPT", Times: 1, Silent: true, Drop: true})
	if err := impatient("ACCEPT", launch); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ACCEPT: %v", err)
	}
	cluster.Faults().Add(Fault{Path: SchedulerToMaster, Kind: "ACCEPT", Times: 1, Silent: true})
	if err := impatient("ACCEPT", launch); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ACCEPT again: %v", err)
	}
	f.mustUpdate("t", "TASK_RUNNING")
	cluster.Faults().Add(Fault{Path: SchedulerToMaster, Kind: "SUBSCRIBE", Times: 1, Silent: true})
	if err := impatient("SUBSCRIBE", object{"subscribe": object{"framework_info": object{"user": "root", "name": "x", "id": named(f.id)}}}); err == nil {
		t.Error("SUBSCRIBE was answered")
	}
}

func TestFailedExecutorCallIsNotAccepted(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	f := subscribeWith(t, cluster, nil)
	cluster.Faults().Add(Fault{Path: ExecutorToAgent, Kind: "UPDATE", Times: 1, Status: http.StatusServiceUnavailable})
	path := filepath.Join(t.TempDir(), "notes")
	line, env := asProgram(t, "executor", object{"name": "LOCALMESOS_TEST_NOTES", "value": path})
	o := f.mustOffer()
	f.accept(o, executorTask("t", o, executorOf(f, "x", line, env...)))
	f.mustUpdate("t", "TASK_RUNNING")
	seen, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(seen), `"Agent has not finished recovery\n","sent":"UPDATE","status":503`) {
		t.Errorf("the executor saw %s (%v)", seen, err)
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
	for _, wrong := range []object{{"paths": "x"}, {"status": 200}} {
		if got := post(t, url, wrong, nil); got["status"] != http.StatusBadRequest {
			t.Errorf("the fault %v: %v", wrong, got)
		}
	}
}

func TestKilledExecutorIsReportedAsTerminated(t *testing.T) {
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

func TestLaunchOnDeadExecutorIsDroppedUntilUpdatesAreAcknowledged(t *testing.T) {
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

func TestTasksOfDisconnectedAgentAreUnreachableUntilItReturns(t *testing.T) {
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
