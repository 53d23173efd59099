package localmesos

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	mesos "github.com/mesos/mesos-go/api/v1/lib"
	pb "github.com/mesos/mesos-go/api/v1/lib/master"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"
)

// dynamic returns cpus with a stack of dynamic reservations, the last for the last role.
func dynamic(cpus float64, roles ...string) mesos.Resource {
	r := mesos.Resource{Name: "cpus", Type: mesos.SCALAR.Enum(), Scalar: &mesos.Value_Scalar{Value: cpus}}
	for _, role := range roles {
		principal := "ops"
		r.Reservations = append(r.Reservations, mesos.Resource_ReservationInfo{
			Type: mesos.Resource_ReservationInfo_DYNAMIC.Enum(), Role: &role, Principal: &principal,
		})
	}
	return r
}

func (s *script) reserve(agent string, resources ...mesos.Resource) {
	s.step(operatorCall{&pb.Call{Type: pb.Call_RESERVE_RESOURCES, ReserveResources: &pb.Call_ReserveResources{
		AgentID: mesos.AgentID{Value: agent}, Resources: resources,
	}}})
}

func (s *script) unreserve(agent string, resources ...mesos.Resource) {
	s.step(operatorCall{&pb.Call{Type: pb.Call_UNRESERVE_RESOURCES, UnreserveResources: &pb.Call_UnreserveResources{
		AgentID: mesos.AgentID{Value: agent}, Resources: resources,
	}}})
}

func TestReservationRescindsOffersAndIsOfferedToItsRole(t *testing.T) {
	s := newScript(t)
	s.framework("a", 0, "x")
	s.agent(0, "cpus:3;mem:256")
	s.take("a")
	s.reserve("m-S0", dynamic(2, "y"))
	if s.last.status != http.StatusAccepted || s.count("a", scheduler.Event_RESCIND) != 1 {
		t.Errorf("answer %+v, events %v", s.last, s.sent["a"])
	}
	s.framework("b", 0, "y")
	s.pass(time.Second)
	_, a := s.take("a")
	_, b := s.take("b")
	got := strings.Join(append(a, b...), "|")
	if !strings.Contains(got, "cpus(reservations: [(DYNAMIC,y,ops)])(allocated: y):2") || strings.Contains(got, "(allocated: x):3") {
		t.Errorf("offers %s", got)
	}
	s.unreserve("m-S0", dynamic(1.5, "y"))
	if got := s.m.agents["m-S0"].total.String(); got != "cpus:2.5; mem:256; cpus(reservations: [(DYNAMIC,y,ops)]):0.5" {
		t.Errorf("after a part was given back: %s", got)
	}
}

func TestRefinedReservationNeedsCapability(t *testing.T) {
	s := newScript(t)
	s.agent(0, "cpus:1;mem:256")
	s.reserve("m-S0", dynamic(1, "eng"))
	s.reserve("m-S0", dynamic(1, "eng", "eng/web"))
	s.framework("old", 0, "eng/web")
	if _, got := s.take("old"); !cmp.Equal(got, []string{"m-S0 mem(allocated: eng/web):256"}) {
		t.Errorf("without the capability: %v", got)
	}
	s.framework("new", 0, "eng/web")
	s.m.frameworks["m-0001"].info.Capabilities = append(s.m.frameworks["m-0001"].info.Capabilities,
		mesos.FrameworkInfo_Capability{Type: mesos.FrameworkInfo_Capability_RESERVATION_REFINEMENT})
	s.call("new", scheduler.Call{Type: scheduler.Call_REVIVE})
	_, got := s.take("new")
	want := "m-S0 cpus(reservations: [(DYNAMIC,eng,ops),(DYNAMIC,eng/web,ops)])(allocated: eng/web):1"
	if !strings.Contains(strings.Join(got, "|"), want) {
		t.Errorf("with the capability: %v", got)
	}
}

func TestInvalidReservationIsRefused(t *testing.T) {
	s := newScript(t)
	s.agent(0, "cpus:1;mem:256;cpus(static):1")
	static := dynamic(1, "static")
	static.Reservations[0].Type = mesos.Resource_ReservationInfo_STATIC.Enum()
	for _, test := range []struct {
		agent  string
		undo   bool
		what   mesos.Resource
		status int
	}{
		{"m-S7", false, dynamic(1, "x"), http.StatusBadRequest},
		{"m-S0", false, dynamic(1), http.StatusBadRequest},
		{"m-S0", false, dynamic(1, "*"), http.StatusBadRequest},
		{"m-S0", false, dynamic(1, "a//b"), http.StatusBadRequest},
		{"m-S0", false, dynamic(1, "eng", "ops/web"), http.StatusBadRequest},
		{"m-S0", false, dynamic(2, "x"), http.StatusConflict},
		{"m-S0", false, dynamic(1, "eng", "eng/web"), http.StatusConflict},
		{"m-S0", true, static, http.StatusBadRequest},
		{"m-S0", true, dynamic(1, "x"), http.StatusConflict},
		{"m-S0", false, dynamic(1, "x"), http.StatusAccepted},
		{"m-S0", true, dynamic(1, "x"), http.StatusAccepted},
	} {
		if test.undo {
			s.unreserve(test.agent, test.what)
		} else {
			s.reserve(test.agent, test.what)
		}
		if s.last.status != test.status {
			t.Errorf("%+v: %+v", test, s.last)
		}
	}
	if got := s.m.agents["m-S0"].total.String(); got != "mem:256; cpus(reservations: [(STATIC,static)]):1; cpus:1" {
		t.Errorf("in the end: %s", got)
	}
}

func TestReservationSurvivesRestartOfMasterAndAgent(t *testing.T) {
	t.Parallel()
	c := startCluster(t, testConfig(t))
	url := "http://" + c.MasterAddr() + "/api/v1"
	reserved := object{"name": "cpus", "type": "SCALAR", "scalar": object{"value": 3.0}, "role": "prod", "reservation": object{"principal": "ops"}}
	answer := post(t, url, object{"type": "RESERVE_RESOURCES", "reserve_resources": object{
		"agent_id": named(string(c.AgentIDs()[0])), "resources": []any{reserved},
	}}, nil)
	if at(answer, "status") != http.StatusAccepted {
		t.Errorf("reserve: %v", answer)
	}
	c.KillAgent(0)
	c.KillMaster()
	if err := c.RestartAgent(0); err != nil {
		t.Fatal(err)
	}
	if err := c.RestartMaster(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the reservation is there", func() bool {
		agents, _ := at(post(t, url, object{"type": "GET_AGENTS"}, nil), "body", "get_agents", "agents").([]any)
		if len(agents) != 1 {
			return false
		}
		for _, r := range at(agents[0], "total_resources").([]any) {
			if cmp.Equal(r, reserved) {
				return true
			}
		}
		return false
	})
}
