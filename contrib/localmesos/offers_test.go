package localmesos

import (
	"testing"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"
)

// events returns the number of offers in each OFFERS event of the stream.
func (s *script) events(stream string) (sizes []int) {
	for _, e := range s.sent[stream] {
		if e.Type == scheduler.Event_OFFERS {
			sizes = append(sizes, len(e.Offers.Offers))
		}
	}
	return sizes
}

func TestOffersOfOneAllocationComeInOneEvent(t *testing.T) {
	s := newScript(t)
	for i := range 3 {
		s.agent(i, "cpus:2;mem:512")
	}
	s.framework("a", 0, "*")
	if got := s.events("a"); len(got) != 1 || got[0] != 3 {
		t.Fatalf("a new framework gets events of %v offers", got)
	}
	offers, _ := s.take("a")
	none := 0.0
	for _, o := range offers { // at different times
		s.decline("a", o, &none)
		s.pass(100 * time.Millisecond)
	}
	if got := s.events("a"); got != nil {
		t.Fatalf("before the allocator's beat there are events of %v offers", got)
	}
	s.pass(700 * time.Millisecond)
	if got := s.events("a"); len(got) != 1 || got[0] != 3 {
		t.Errorf("at the allocator's beat come events of %v offers", got)
	}
}

func TestReviveAllocatesDeclinedResourcesAtOnce(t *testing.T) {
	s := newScript(t)
	s.agent(0, "cpus:2;mem:512")
	s.agent(1, "cpus:2;mem:512")
	s.framework("a", 0, "*")
	offers, _ := s.take("a")
	hour, none := 3600.0, 0.0
	s.decline("a", offers[0], &hour)
	s.decline("a", offers[1], &none)
	s.call("a", scheduler.Call{Type: scheduler.Call_REVIVE})
	if got := s.events("a"); len(got) != 1 || got[0] != 2 {
		t.Errorf("REVIVE brings events of %v offers", got)
	}
}

func TestNegativeRefuseSecondsIsTheDefault(t *testing.T) {
	for seconds, want := range map[float64]time.Duration{-1: 5 * time.Second, 0: 0, 2.5: 2500 * time.Millisecond, 1e9: 365 * 24 * time.Hour} {
		if got := refusal(&mesos.Filters{RefuseSeconds: &seconds}); got != want {
			t.Errorf("%v: %s, want %s", seconds, got, want)
		}
	}
}

func TestReturnedOrReactivatedAgentWaitsForBatchAllocation(t *testing.T) {
	s := newScript(t)
	id := s.agent(0, "cpus:2;mem:512")
	info := s.m.agents[id].info
	s.framework("a", 0, "*")
	s.pass(300 * time.Millisecond)
	s.step(agentGone{id})
	s.take("a")
	s.step(fromAgent{address: "0", agent: id, message: register{info: info}})
	if got := s.events("a"); got != nil {
		t.Errorf("an agent that is back brings events of %v offers at once", got)
	}
	s.pass(700 * time.Millisecond)
	if got := s.events("a"); len(got) != 1 {
		t.Errorf("at the beat come events of %v offers", got)
	}
	s.take("a")
	s.pass(100 * time.Millisecond)
	s.m.do(s.m.deactivateAgent(id))
	s.step(tick{})
	s.m.do(s.m.reactivateAgent(id))
	s.step(tick{})
	if got := s.events("a"); got != nil {
		t.Errorf("a reactivated agent brings events of %v offers at once", got)
	}
	s.pass(time.Second)
	if got := s.events("a"); len(got) != 1 {
		t.Errorf("at the beat come events of %v offers", got)
	}
}
