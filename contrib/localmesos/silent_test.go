package localmesos

import (
	"testing"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"
)

func TestSilentAgentIsOfferedUntilPingsAreLost(t *testing.T) {
	s := newScript(t)
	id := s.agent(0, "cpus:2;mem:512")
	s.framework("a", 0, "*")
	offers, _ := s.take("a")
	s.step(agentSilent{id})
	none := 0.0
	s.decline("a", offers[0], &none)
	s.pass(time.Second)
	offers, _ = s.take("a")
	if len(offers) != 1 {
		t.Fatalf("%d offers of a silent agent", len(offers))
	}
	s.launchTask("a", offers[0], "t")
	s.pass(73 * time.Second)
	if len(s.sent["a"]) != s.count("a", scheduler.Event_HEARTBEAT) {
		t.Errorf("told too early: %v", s.sent["a"])
	}
	s.pass(time.Second)
	if s.count("a", scheduler.Event_UPDATE) != 1 || s.count("a", scheduler.Event_FAILURE) != 1 {
		t.Errorf("told %v", s.sent["a"])
	}
}

func TestAgentBackBeforePingsAreLostReportsLostLaunches(t *testing.T) {
	s := newScript(t)
	id := s.agent(0, "cpus:2;mem:512")
	info := s.m.agents[id].info
	s.framework("a", 0, "*")
	offers, _ := s.take("a")
	s.step(agentSilent{id})
	s.launchTask("a", offers[0], "t")
	s.pass(74 * time.Second)
	s.sent["a"] = nil
	s.step(fromAgent{address: "0", agent: id, message: register{info: info}})
	if len(s.sent["a"]) != 1 || s.sent["a"][0].GetUpdate().GetStatus().State.String() != mesos.TASK_DROPPED.String() {
		t.Errorf("told %v", s.sent["a"])
	}
	s.pass(time.Minute)
	if s.count("a", scheduler.Event_FAILURE) != 0 || !s.m.agents[id].connected {
		t.Error("it is unreachable although it is back")
	}
}
