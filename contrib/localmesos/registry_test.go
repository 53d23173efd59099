package localmesos

import (
	"net/http"
	"testing"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	pb "github.com/mesos/mesos-go/api/v1/lib/master"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"

	"github.com/k8sm/k8sm/api"
)

// reconciled returns the state that reconciliation reports for a task of the agent, "" for no answer.
func (s *script) reconciled(stream string, agent api.AgentID) string {
	task := scheduler.Call_Reconcile_Task{TaskID: mesos.TaskID{Value: "t"}}
	if agent != "" {
		task.AgentID = &mesos.AgentID{Value: string(agent)}
	}
	s.sent[stream] = nil
	s.call(stream, scheduler.Call{Type: scheduler.Call_RECONCILE, Reconcile: &scheduler.Call_Reconcile{Tasks: []scheduler.Call_Reconcile_Task{task}}})
	if len(s.sent[stream]) == 0 {
		return ""
	}
	return s.sent[stream][0].GetUpdate().GetStatus().State.String()
}

func TestRestartedMasterReportsNothingOfAgentsThatMayReturn(t *testing.T) {
	s := newScript(t)
	s.m.restoreRegistry(registryFile{Admitted: []api.AgentID{"m-S0", "old-S1"}, Unreachable: []api.AgentID{"old-S2"}})
	s.framework("a", 0, "*")
	for agent, want := range map[api.AgentID]string{"": "", "old-S1": "", "old-S2": "TASK_UNREACHABLE", "old-S3": "TASK_UNKNOWN"} {
		if got := s.reconciled("a", agent); got != want {
			t.Errorf("agent %q: %q, want %q", agent, got, want)
		}
	}
	s.step(fromAgent{agent: "m-S0", address: "0", message: register{info: s.info("m-S0")}})
	if got := s.reconciled("a", "m-S0"); got != "TASK_GONE" {
		t.Errorf("an agent that came back without the task: %q", got)
	}
	s.pass(10 * time.Minute)
	if got := s.count("a", scheduler.Event_FAILURE); got != 1 {
		t.Errorf("%d FAILUREs for the agent that did not come back", got)
	}
	for agent, want := range map[api.AgentID]string{"": "TASK_UNKNOWN", "old-S1": "TASK_UNREACHABLE"} {
		if got := s.reconciled("a", agent); got != want {
			t.Errorf("agent %q after the timeout: %q, want %q", agent, got, want)
		}
	}
	s.step(operatorCall{&pb.Call{Type: pb.Call_MARK_AGENT_GONE, MarkAgentGone: &pb.Call_MarkAgentGone{AgentID: mesos.AgentID{Value: "old-S1"}}}})
	if got := s.reconciled("a", "old-S1"); s.last.status != http.StatusAccepted || got != "TASK_GONE_BY_OPERATOR" {
		t.Errorf("marked gone (%v): %q", s.last, got)
	}
}

func TestRestartedMasterKnowsUnreachableAgents(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	f := subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	f.accept(o, commandTask("t", o, "sleep 600", nil))
	f.mustUpdate("t", "TASK_RUNNING")
	cluster.KillAgent(0)
	cluster.KillMaster()
	if err := cluster.RestartMaster(); err != nil {
		t.Fatal(err)
	}
	f = subscribeAs(t, cluster, f.id)
	f.call("RECONCILE", object{"reconcile": object{"tasks": []any{object{"task_id": named("t"), "agent_id": o["agent_id"]}}}})
	if u := f.update("t", 300*time.Millisecond); at(u, "none") == nil {
		t.Errorf("told %v", u)
	}
	if err := cluster.RestartAgent(0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "told of the task of the agent that is back", func() bool {
		f.call("RECONCILE", object{"reconcile": object{"tasks": []any{object{"task_id": named("t"), "agent_id": o["agent_id"]}}}})
		return text(f.update("t", 100*time.Millisecond), "update", "status", "state") == "TASK_RUNNING"
	})
}
