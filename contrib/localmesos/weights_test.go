package localmesos

import (
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	mesos "github.com/mesos/mesos-go/api/v1/lib"
	pb "github.com/mesos/mesos-go/api/v1/lib/master"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"
)

func (s *script) weigh(pairs ...any) {
	call := &pb.Call{Type: pb.Call_UPDATE_WEIGHTS, UpdateWeights: &pb.Call_UpdateWeights{}}
	for i := 0; i < len(pairs); i += 2 {
		role := pairs[i].(string)
		call.UpdateWeights.WeightInfos = append(call.UpdateWeights.WeightInfos, mesos.WeightInfo{Role: &role, Weight: pairs[i+1].(float64)})
	}
	s.step(operatorCall{call})
}

func TestWeightDividesTheDominantShareAndRescindsOffers(t *testing.T) {
	s := newScript(t)
	s.framework("a", 0, "x")
	s.agent(0, "cpus:2;mem:512")
	s.weigh("y", 3.0)
	if n := s.count("a", scheduler.Event_RESCIND); n != 0 || s.last.status != http.StatusOK {
		t.Errorf("for a role that nobody has, %d offers are rescinded: %+v", n, s.last)
	}
	compareMetrics(t, "before", s.m.metrics(), map[string]float64{"allocator/mesos/roles/x/shares/dominant": 1})
	s.weigh(" x ", 2.0, "y", 4.0)
	if n := s.count("a", scheduler.Event_RESCIND); n != 1 {
		t.Errorf("%d offers are rescinded", n)
	}
	s.pass(s.m.allocationInterval)
	compareMetrics(t, "after", s.m.metrics(), map[string]float64{"allocator/mesos/roles/x/shares/dominant": 0.5})
}

func TestInvalidWeightIsRefusedWithAllOthers(t *testing.T) {
	s := newScript(t)
	for _, test := range []struct {
		role   string
		weight float64
		want   string
	}{
		{"x", 0, "for role 'x': Invalid weight '0': Weights must be positive"}, {"x", -1, "Weights must be positive"},
		{"x", math.NaN(), "Weights must be positive"}, {"x", math.Inf(1), "Weights must be positive"}, {"", 1, "Invalid role ''"},
		{"a//b", 1, "Invalid role 'a//b'"},
	} {
		s.weigh("good", 2.0, test.role, test.weight)
		if s.last.status != http.StatusBadRequest || !strings.Contains(s.last.text, test.want) {
			t.Errorf("%+v: %+v", test, s.last)
		}
	}
	if len(s.m.weights) > 0 {
		t.Errorf("weights %v", s.m.weights)
	}
}

func TestWeightsSurviveRestart(t *testing.T) {
	t.Parallel()
	c := startCluster(t, testConfig(t))
	o := operatorOf(t, c)
	infos := []any{object{"role": "a", "weight": 2.5}, object{"role": "b", "weight": 1.0}}
	o.must("UPDATE_WEIGHTS", object{"update_weights": object{"weight_infos": infos}})
	c.KillMaster()
	if err := c.RestartMaster(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(infos, at(o.call("GET_WEIGHTS", nil), "body", "get_weights", "weight_infos")); diff != "" {
		t.Error(diff)
	}
	want := []any{object{"name": "a", "weight": 2.5}, object{"name": "b", "weight": 1.0}}
	if diff := cmp.Diff(want, at(o.call("GET_ROLES", nil), "body", "get_roles", "roles")); diff != "" {
		t.Error(diff)
	}
	if got := o.call("UPDATE_WEIGHTS", nil); got["status"] != http.StatusBadRequest || !strings.Contains(text(got, "body"), "Expecting 'update_weights' to be present") {
		t.Errorf("without weights: %v", got)
	}
}
