package localmesos

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	mesos "github.com/mesos/mesos-go/api/v1/lib"
	pb "github.com/mesos/mesos-go/api/v1/lib/master"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"

	"github.com/k8sm/k8sm/api"
)

// script steps a master without clock and network, and records the events to schedulers.
type script struct {
	t    *testing.T
	m    *master
	now  time.Time
	sent map[string][]*scheduler.Event // by stream
	told map[string][]*pb.Event        // to operators, by stream
	cut  []string                      // streams of operators
	to   []message                     // to agents
	last answer
}

func newScript(t *testing.T) *script {
	p := plan{Config: Config{AllocationInterval: time.Second, AgentTimeout: 75 * time.Second}}
	now := time.Unix(1_800_000_000, 0)
	s := &script{t: t, now: now, m: newMaster(masterInfo("m", "laptop", "127.0.0.1", 5050), p, now), sent: map[string][]*scheduler.Event{}, told: map[string][]*pb.Event{}}
	s.m.clock = func() time.Time { return s.now }
	return s
}

func (s *script) step(e event) {
	for _, x := range s.m.step(s.now, e) {
		switch x := x.(type) {
		case send:
			s.sent[x.stream] = append(s.sent[x.stream], x.event.(*scheduler.Event))
		case publish:
			s.told[x.stream] = append(s.told[x.stream], x.event)
		case cutOff:
			s.cut = append(s.cut, x.stream)
		case sendAgent:
			s.to = append(s.to, x.message)
		case answer:
			s.last = x
		}
	}
}

// pass advances the time, in the steps that wake asks for.
func (s *script) pass(d time.Duration) {
	for end := s.now.Add(d); ; {
		at := s.m.wake()
		if at.IsZero() || at.After(end) {
			s.now = end
			return
		}
		s.now = at
		s.step(tick{})
	}
}

func (s *script) agent(number int, resources string) api.AgentID {
	s.t.Helper()
	p, err := parseResources(resources)
	if err != nil {
		s.t.Fatal(err)
	}
	port := int32(5051 + number)
	s.step(fromAgent{address: fmt.Sprint(number), message: register{info: mesos.AgentInfo{Hostname: "laptop", Port: &port, Resources: p.messages(withReservations)}}})
	return api.AgentID(fmt.Sprintf("m-S%d", number))
}

func (s *script) framework(stream string, timeout float64, roles ...string) {
	s.step(subscribe{stream: stream, call: &scheduler.Call{Type: scheduler.Call_SUBSCRIBE, Subscribe: &scheduler.Call_Subscribe{
		FrameworkInfo: &mesos.FrameworkInfo{Name: stream, FailoverTimeout: &timeout, Roles: roles, Capabilities: []mesos.FrameworkInfo_Capability{
			{Type: mesos.FrameworkInfo_Capability_MULTI_ROLE}, {Type: mesos.FrameworkInfo_Capability_PARTITION_AWARE},
		}},
	}}})
}

func (s *script) call(stream string, call scheduler.Call) {
	f := s.m.streams[stream]
	call.FrameworkID = &mesos.FrameworkID{Value: string(f.id)}
	s.step(schedulerCall{stream: stream, call: &call})
}

// take returns the offers that a stream got since the last take, as "agent resources".
func (s *script) take(stream string) (offers []mesos.Offer, texts []string) {
	for _, e := range s.sent[stream] {
		for _, o := range e.GetOffers().GetOffers() {
			offers = append(offers, o)
			texts = append(texts, o.AgentID.Value+" "+poolOf(o.Resources).String())
		}
	}
	s.sent[stream] = nil
	return offers, texts
}

func (s *script) decline(stream string, o mesos.Offer, seconds *float64) {
	decline := &scheduler.Call_Decline{OfferIDs: []mesos.OfferID{o.ID}}
	if seconds != nil {
		decline.Filters = &mesos.Filters{RefuseSeconds: seconds}
	}
	s.call(stream, scheduler.Call{Type: scheduler.Call_DECLINE, Decline: decline})
}

func (s *script) count(stream string, kind scheduler.Event_Type) int {
	n := 0
	for _, e := range s.sent[stream] {
		n += boolToInt(e.Type == kind)
	}
	return n
}

func TestDeclinedAgentIsOfferedAgainAfterFiveSecondsByDefault(t *testing.T) {
	s := newScript(t)
	s.agent(0, "cpus:2;mem:512")
	s.framework("a", 0, "*")
	offers, texts := s.take("a")
	if diff := cmp.Diff([]string{"m-S0 cpus(allocated: *):2; mem(allocated: *):512"}, texts); diff != "" {
		t.Fatal(diff)
	}
	s.decline("a", offers[0], nil)
	s.pass(4900 * time.Millisecond)
	if _, texts := s.take("a"); texts != nil {
		t.Errorf("offered too early: %v", texts)
	}
	s.pass(1100 * time.Millisecond) // the filter expires, and the next batch allocation runs
	if _, texts := s.take("a"); len(texts) != 1 {
		t.Errorf("after the filter: %v", texts)
	}
}

func TestFilterAllowsMoreResourcesThanWereRefused(t *testing.T) {
	s := newScript(t)
	id := s.agent(0, "cpus:2;mem:512")
	s.framework("a", 0, "*")
	offers, _ := s.take("a")
	hour, none := 3600.0, 0.0
	small := mesos.TaskInfo{
		TaskID: mesos.TaskID{Value: "t"}, AgentID: mesos.AgentID{Value: string(id)}, Command: &mesos.CommandInfo{},
		Resources: mustPool(t, "cpus:1").allocated("*").messages(withRole),
	}
	s.call("a", scheduler.Call{Type: scheduler.Call_ACCEPT, Accept: &scheduler.Call_Accept{
		OfferIDs: []mesos.OfferID{offers[0].ID}, Filters: &mesos.Filters{RefuseSeconds: &hour},
		Operations: []mesos.Offer_Operation{{Type: mesos.Offer_Operation_LAUNCH, Launch: &mesos.Offer_Operation_Launch{TaskInfos: []mesos.TaskInfo{small}}}},
	}})
	s.pass(time.Minute)
	if _, texts := s.take("a"); texts != nil {
		t.Fatalf("the refused rest was offered: %v", texts)
	}
	s.step(fromAgent{agent: id, message: update{framework: s.m.streams["a"].id, status: finished("t"), latest: finished("t")}})
	s.pass(time.Minute)
	again, texts := s.take("a")
	if diff := cmp.Diff([]string{"m-S0 cpus(allocated: *):2; mem(allocated: *):512"}, texts); diff != "" {
		t.Fatal(diff)
	}
	s.decline("a", again[0], &none)
	s.pass(time.Second)
	if _, texts := s.take("a"); len(texts) != 1 {
		t.Errorf("declined for no time: %v", texts)
	}
}

func finished(task string) mesos.TaskStatus {
	s := commandStatus(mesos.TASK_FINISHED, "")
	s.TaskID, s.UUID = mesos.TaskID{Value: task}, []byte("0123456789abcdef")
	return s
}

func mustPool(t *testing.T, text string) pool {
	t.Helper()
	p, err := parseResources(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFrameworkThatWaitedLongestGetsOffer(t *testing.T) {
	s := newScript(t)
	s.framework("a", 0, "*")
	s.framework("b", 0, "*")
	s.agent(0, "cpus:2;mem:512")
	none := 0.0
	var order []string
	for range 4 {
		for _, stream := range []string{"a", "b"} {
			if offers, _ := s.take(stream); len(offers) > 0 {
				order = append(order, stream)
				s.decline(stream, offers[0], &none)
			}
		}
		s.pass(time.Second)
	}
	if diff := cmp.Diff([]string{"a", "b", "a", "b"}, order); diff != "" {
		t.Error(diff)
	}
}

func TestReservedResourcesGoToTheirRoleOnly(t *testing.T) {
	s := newScript(t)
	s.framework("a", 0, "other")
	s.framework("b", 0, "k8sm/prod")
	s.agent(0, "cpus:1;mem:256;cpus(k8sm):3;mem(k8sm):1024")
	_, a := s.take("a")
	_, b := s.take("b")
	if diff := cmp.Diff([]string{"m-S0 cpus(allocated: other):1; mem(allocated: other):256"}, a); diff != "" {
		t.Error(diff)
	}
	want := []string{"m-S0 cpus(reservations: [(STATIC,k8sm)])(allocated: k8sm/prod):3; mem(reservations: [(STATIC,k8sm)])(allocated: k8sm/prod):1024"}
	if diff := cmp.Diff(want, b); diff != "" {
		t.Error(diff)
	}
}

func TestSuppressedRoleGetsNoOffersUntilItIsRevived(t *testing.T) {
	s := newScript(t)
	s.framework("a", 0, "x", "y")
	s.call("a", scheduler.Call{Type: scheduler.Call_SUPPRESS, Suppress: &scheduler.Call_Suppress{Roles: []string{"x"}}})
	s.agent(0, "cpus:1;mem:256")
	if offers, _ := s.take("a"); len(offers) != 1 || offers[0].GetAllocationInfo().GetRole() != "y" {
		t.Errorf("with x suppressed: %v", offers)
	}
	s.call("a", scheduler.Call{Type: scheduler.Call_SUPPRESS})
	s.agent(1, "cpus:1;mem:256")
	if _, texts := s.take("a"); texts != nil {
		t.Errorf("with all suppressed: %v", texts)
	}
	s.call("a", scheduler.Call{Type: scheduler.Call_REVIVE, Revive: &scheduler.Call_Revive{Roles: []string{"x"}}})
	if offers, _ := s.take("a"); len(offers) != 1 || offers[0].GetAllocationInfo().GetRole() != "x" {
		t.Errorf("with x revived: %v", offers)
	}
}

func TestFrameworkIsRemovedAfterItsFailoverTimeoutUnlessItComesBack(t *testing.T) {
	s := newScript(t)
	s.framework("a", 60, "*")
	id := s.m.streams["a"].id
	s.step(streamClosed{"a"})
	s.pass(59 * time.Second)
	info := s.m.frameworks[id].info
	s.step(subscribe{stream: "a2", call: &scheduler.Call{
		Type: scheduler.Call_SUBSCRIBE, FrameworkID: info.ID, Subscribe: &scheduler.Call_Subscribe{FrameworkInfo: &info},
	}})
	s.pass(10 * time.Minute)
	if s.m.frameworks[id] == nil {
		t.Fatal("it came back in time and was removed")
	}
	s.step(streamClosed{"a2"})
	s.pass(59 * time.Second)
	if s.m.frameworks[id] == nil {
		t.Fatal("it was removed too early")
	}
	s.pass(2 * time.Second)
	if s.m.frameworks[id] != nil || !s.m.removed[id] {
		t.Error("it was not removed")
	}
}

func TestHeartbeatsEveryFifteenSeconds(t *testing.T) {
	s := newScript(t)
	s.framework("a", 0, "*")
	s.pass(61 * time.Second)
	if n := s.count("a", scheduler.Event_HEARTBEAT); n != 5 {
		t.Errorf("%d heartbeats in a minute and the first", n)
	}
	s.step(streamClosed{"a"})
	s.sent["a"] = nil
	s.pass(time.Minute)
	if n := s.count("a", scheduler.Event_HEARTBEAT); n != 0 {
		t.Errorf("%d heartbeats for nobody", n)
	}
}

func TestOffersOfDeadAgentAreRescinded(t *testing.T) {
	s := newScript(t)
	id := s.agent(0, "cpus:2;mem:512")
	s.framework("a", 0, "*")
	s.step(agentGone{id})
	if n := s.count("a", scheduler.Event_RESCIND); n != 1 {
		t.Fatalf("%d RESCIND events", n)
	}
	s.take("a")
	info := s.m.agents[id].info
	s.step(fromAgent{address: "0", agent: id, message: register{info: info}})
	s.pass(time.Second)
	if _, texts := s.take("a"); len(texts) != 1 || texts[0] != "m-S0 cpus(allocated: *):2; mem(allocated: *):512" {
		t.Errorf("offered then: %v", texts)
	}
}

func TestOffersOfTwoAgentsInOneAcceptAreRefused(t *testing.T) {
	s := newScript(t)
	s.agent(0, "cpus:2;mem:512")
	s.agent(1, "cpus:2;mem:512")
	s.framework("a", 0, "*")
	offers, _ := s.take("a")
	task := mesos.TaskInfo{TaskID: mesos.TaskID{Value: "t"}, AgentID: offers[0].AgentID}
	s.call("a", scheduler.Call{Type: scheduler.Call_ACCEPT, Accept: &scheduler.Call_Accept{
		OfferIDs:   []mesos.OfferID{offers[0].ID, offers[1].ID},
		Operations: []mesos.Offer_Operation{{Type: mesos.Offer_Operation_LAUNCH, Launch: &mesos.Offer_Operation_Launch{TaskInfos: []mesos.TaskInfo{task}}}},
	}})
	events := s.sent["a"]
	if len(events) != 1 || events[0].Update.Status.GetState() != mesos.TASK_DROPPED {
		t.Fatalf("got %v", events)
	}
	s.sent["a"] = nil
	s.pass(time.Second)
	if _, texts := s.take("a"); len(texts) != 2 {
		t.Errorf("the resources did not come back: %v", texts)
	}
}

func TestFrameworkWithoutPartitionAwareGetsTaskLost(t *testing.T) {
	s := newScript(t)
	s.step(subscribe{stream: "old", call: &scheduler.Call{Type: scheduler.Call_SUBSCRIBE, Subscribe: &scheduler.Call_Subscribe{FrameworkInfo: &mesos.FrameworkInfo{Name: "old"}}}})
	s.sent["old"] = nil
	s.call("old", scheduler.Call{Type: scheduler.Call_RECONCILE, Reconcile: &scheduler.Call_Reconcile{Tasks: []scheduler.Call_Reconcile_Task{{TaskID: mesos.TaskID{Value: "x"}}}}})
	if state := s.sent["old"][0].Update.Status.GetState(); state != mesos.TASK_LOST {
		t.Errorf("told %s", state)
	}
}
