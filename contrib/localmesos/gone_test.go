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

func TestGoneAgentEndsWithItsTasksAndNeverRegistersAgain(t *testing.T) {
	t.Parallel()
	config := testConfig(t)
	c := startCluster(t, config)
	o, f := operatorOf(t, c), subscribeWith(t, c, nil)
	agent := object{"agent_id": runExecutorTask(t, f, "t", "x")}
	gone := object{"mark_agent_gone": agent}
	o.must("MARK_AGENT_GONE", gone)
	u := f.mustUpdate("t", "TASK_GONE_BY_OPERATOR")
	if s := at(u, "update", "status"); text(s, "reason") != "REASON_AGENT_REMOVED_BY_OPERATOR" || text(s, "message") != "Agent has been marked gone" || at(s, "uuid") != nil {
		t.Errorf("the task: %v", u)
	}
	if e := f.stream.next(patience, ofType("FAILURE")); text(e, "failure", "agent_id", "value") != text(agent, "agent_id", "value") || at(e, "failure", "executor_id") != nil {
		t.Errorf("the agent: %v", e)
	}
	eventually(t, "the executor ended", func() bool { return len(pidsIn(t, config.WorkDir)) == 0 })
	o.must("MARK_AGENT_GONE", gone) // a second time is no error
	reconciled := func() object {
		f.call("RECONCILE", object{"reconcile": object{"tasks": []any{object{"task_id": named("t"), "agent_id": agent["agent_id"]}}}})
		return f.update("t", patience)
	}
	if u := reconciled(); text(u, "update", "status", "state") != "TASK_GONE_BY_OPERATOR" || text(u, "update", "status", "message") != "Reconciliation: Task is gone" {
		t.Errorf("reconciled: %v", u)
	}
	c.KillAgent(0)
	if err := c.RestartAgent(0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the agent was told to shut down", func() bool {
		told := false
		c.agents[0].owner.look(func() { told = c.agents[0].agent.gone })
		return told
	})
	if agents := at(o.call("GET_AGENTS", nil), "body", "get_agents", "agents"); len(agents.([]any)) != 0 {
		t.Errorf("it is back: %v", agents)
	}
	if r := o.call("MARK_AGENT_GONE", object{"mark_agent_gone": object{"agent_id": named("nobody")}}); r["status"] != http.StatusNotFound || r["body"] != "Agent 'nobody' not found\n" {
		t.Errorf("an unknown agent: %v", r)
	}
	c.Stop()
	again := startCluster(t, config)
	f = subscribeAs(t, again, f.id)
	if u := reconciled(); text(u, "update", "status", "state") != "TASK_GONE_BY_OPERATOR" {
		t.Errorf("the next master says %v", u)
	}
	if o := f.mustOffer(); text(o, "agent_id", "value") == text(agent, "agent_id", "value") {
		t.Error("the agent has its id still")
	}
}

func TestUnreachableAgentMarkedGoneIsReportedOnce(t *testing.T) {
	s := newScript(t)
	id := s.agent(0, "cpus:2;mem:512")
	s.framework("a", 0, "*")
	offers, _ := s.take("a")
	s.launchTask("a", offers[0], "t")
	s.step(agentGone{id})
	s.pass(75 * time.Second)
	if n := s.count("a", scheduler.Event_FAILURE); n != 1 {
		t.Fatalf("%d FAILUREs of an unreachable agent", n)
	}
	s.sent["a"], s.to = nil, nil
	s.step(operatorCall{&pb.Call{Type: pb.Call_MARK_AGENT_GONE, MarkAgentGone: &pb.Call_MarkAgentGone{AgentID: mesos.AgentID{Value: string(id)}}}})
	if len(s.sent["a"]) != 1 || s.sent["a"][0].GetUpdate().GetStatus().State.String() != "TASK_GONE_BY_OPERATOR" {
		t.Errorf("told %v", s.sent["a"])
	}
	if len(s.to) != 0 {
		t.Errorf("the agent, which is not there, was told %v", s.to)
	}
	for _, x := range s.m.step(s.now, fromAgent{agent: id, address: "0", message: register{info: s.info(id)}}) {
		if away, ok := x.(turnAway); ok && away.address == "0" && away.message == (shutdownAgent{forGood: true}) {
			return
		}
	}
	t.Error("it was not turned away when it came back")
}

func (s *script) info(id api.AgentID) mesos.AgentInfo {
	return mesos.AgentInfo{Hostname: "laptop", ID: &mesos.AgentID{Value: string(id)}}
}

// launchTask launches a command on all of an offer.
func (s *script) launchTask(stream string, o mesos.Offer, task string) {
	info := mesos.TaskInfo{TaskID: mesos.TaskID{Value: task}, AgentID: o.AgentID, Command: &mesos.CommandInfo{}, Resources: o.Resources}
	s.call(stream, scheduler.Call{Type: scheduler.Call_ACCEPT, Accept: &scheduler.Call_Accept{
		OfferIDs:   []mesos.OfferID{o.ID},
		Operations: []mesos.Offer_Operation{{Type: mesos.Offer_Operation_LAUNCH, Launch: &mesos.Offer_Operation_Launch{TaskInfos: []mesos.TaskInfo{info}}}},
	}})
}

func TestReconciliationReportsUnacknowledgedState(t *testing.T) {
	s := newScript(t)
	id := s.agent(0, "cpus:2;mem:512")
	s.framework("a", 0, "*")
	offers, _ := s.take("a")
	s.launchTask("a", offers[0], "t")
	started := commandStatus(mesos.TASK_STARTING, "")
	started.TaskID, started.UUID = mesos.TaskID{Value: "t"}, []byte("0123456789abcdef")
	s.step(fromAgent{agent: id, message: update{framework: s.m.streams["a"].id, status: started, latest: finished("t")}})
	for _, tasks := range [][]scheduler.Call_Reconcile_Task{nil, {{TaskID: mesos.TaskID{Value: "t"}}}} {
		s.sent["a"] = nil
		s.call("a", scheduler.Call{Type: scheduler.Call_RECONCILE, Reconcile: &scheduler.Call_Reconcile{Tasks: tasks}})
		if len(s.sent["a"]) != 1 || s.sent["a"][0].GetUpdate().GetStatus().State.String() != "TASK_STARTING" {
			t.Errorf("told %v", s.sent["a"])
		}
	}
}
