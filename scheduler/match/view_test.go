package match

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// roomyView returns a view in which every plain pod fits.
func roomyView() *View {
	free := offers.Resources{
		{Name: offers.CPUs, Scalar: 4000}, {Name: offers.Mem, Scalar: 4096_000}, {Name: offers.Disk, Scalar: 1000_000},
		{Name: offers.Ports, Ranges: []offers.Range{{Begin: 31000, End: 32000}}},
	}
	a := &Agent{ID: "a1"}
	a.Total.Scalars = [NumScalars]offers.Milli{8000, 4096_000, 1000_000, 0}
	return &View{
		index: NewIndex(Config{}, emptySource{}), Agent: a, Free: free, Offers: []api.OfferID{"o1"}, Role: "prod", runs: true, executor: Executor{Prepared: true},
		obj: &v1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"disk": "ssd"}},
			Status:     v1.NodeStatus{Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}},
		},
	}
}

// emptySource is a Source without offers.
type emptySource struct{}

func (emptySource) Supply(*Agent) Supply                                  { return Supply{} }
func (emptySource) Offers(into []*offers.Offer, _ *Agent) []*offers.Offer { return into }
func (emptySource) Executor(*View) Executor                               { return Executor{} }
func (emptySource) Mixes(*Agent) bool                                     { return false }

// checkTest changes a view that every pod fits in, and a plain pod, and checks the pod there.
type checkTest struct {
	rule string
	view func(*View)
	pod  func(*Pod)
	want string // "" if the pod fits, "quiet" if it has to wait a moment
}

func (test checkTest) run(t *testing.T) {
	t.Helper()
	v := roomyView()
	p := &Pod{Obj: &v1.Pod{}, Demand: Demand{Scalars: [NumScalars]offers.Milli{100, 64_000, 0, 0}}}
	if test.view != nil {
		test.view(v)
	}
	if test.pod != nil {
		test.pod(p)
	}
	v.computeFree()
	c := newClass(keyOf(p), p)
	r, got := v.check(c), ""
	switch {
	case r.reason == beingPrepared:
		got = "quiet"
	case !r.ok():
		got = r.words(c, "")
	}
	if got != test.want {
		t.Errorf("%s: got %q, want %q", test.rule, got, test.want)
	}
}

func cordon(v *View) { v.obj.Spec.Unschedulable = true }

func tolerate(key string) func(*Pod) {
	return func(p *Pod) {
		p.Obj.Spec.Tolerations = []v1.Toleration{{Key: key, Operator: v1.TolerationOpExists}}
	}
}

func TestCheckReturnsTheFirstCheckThatFails(t *testing.T) {
	for _, test := range []checkTest{
		{rule: "a plain pod fits"},
		{rule: "node before resources", view: cordon, pod: func(p *Pod) { p.Demand.Scalars[0] = 99_000 }, want: "node(s) were unschedulable"},
		{
			rule: "other roles than the pod's, before resources",
			pod:  func(p *Pod) { p.Asks, p.Demand.Scalars[0] = &Asks{roles: []string{"*"}}, 99_000 }, want: "agent(s) offer nothing now",
		},
	} {
		test.run(t)
	}
}

func TestCheckOfSelectorCordonReadinessAndTaints(t *testing.T) {
	taint := v1.Taint{Key: "only", Value: "gpu", Effect: v1.TaintEffectNoSchedule}
	for _, test := range []checkTest{
		{rule: "a pod that tolerates cordons", view: cordon, pod: tolerate(v1.TaintNodeUnschedulable)},
		{rule: "no node yet", view: func(v *View) { v.obj = nil }, want: "quiet"},
		{
			rule: "node selector", pod: func(p *Pod) { p.Obj.Spec.NodeSelector = map[string]string{"disk": "hdd"} },
			want: "node(s) didn't match Pod's node affinity/selector (disk=hdd)",
		},
		{rule: "node selector that matches", pod: func(p *Pod) { p.Obj.Spec.NodeSelector = map[string]string{"disk": "ssd"} }},
		{rule: "not ready", view: func(v *View) { v.obj.Status.Conditions = nil }, want: "node(s) were not ready"},
		{rule: "not ready is tolerated", view: func(v *View) { v.obj.Status.Conditions = nil }, pod: tolerate(v1.TaintNodeNotReady)},
		{
			rule: "taint", view: func(v *View) { v.obj.Spec.Taints = []v1.Taint{taint} },
			want: "node(s) had untolerated taint {only: gpu}",
		},
		{rule: "taint that is tolerated", view: func(v *View) { v.obj.Spec.Taints = []v1.Taint{taint} }, pod: tolerate("only")},
		{rule: "another node than the pod's", pod: func(p *Pod) { p.Node = "n2" }, want: "node(s) didn't match the requested node name n2"},
		{rule: "a bound pod on its cordoned node", view: cordon, pod: func(p *Pod) { p.Node = "n1" }},
	} {
		test.run(t)
	}
}

func TestCheckOfResourcesPortsAndRoles(t *testing.T) {
	for _, test := range []checkTest{
		{rule: "exactly all that is free", pod: func(p *Pod) { p.Demand.Scalars[0] = 4000 }},
		{
			rule: "the executor's charge is not free",
			view: func(v *View) { v.executor.Charge = offers.Resources{{Name: offers.CPUs, Scalar: 100}} },
			pod:  func(p *Pod) { p.Demand.Scalars[0] = 4000 }, want: "Insufficient cpu in offers",
		},
		{rule: "more than free, not more than all", pod: func(p *Pod) { p.Demand.Scalars[0] = 4001 }, want: "Insufficient cpu in offers"},
		{rule: "more than the agent has", pod: func(p *Pod) { p.Demand.Scalars[0] = 8001 }, want: "Insufficient cpu on the agent"},
		{rule: "gpus on an agent without gpus", pod: func(p *Pod) { p.Demand.Scalars[3] = 1000 }, want: "Insufficient nvidia.com/gpu on the agent"},
		{rule: "each port has to be free", pod: func(p *Pod) { p.Demand.Ports = []uint64{80, 31000} }, want: "node(s) didn't have free ports for the requested pod ports (80)"},
		{rule: "both ends of a port range", pod: func(p *Pod) { p.Demand.Ports = []uint64{31000, 32000} }},
		{rule: "one of the pod's roles", pod: func(p *Pod) { p.Asks = &Asks{roles: []string{"*", "prod"}} }},
		{
			rule: "one port too few for host ports and wildcards", want: "node(s) didn't have enough free ports in offers",
			pod: func(p *Pod) {
				p.Asks, p.Demand.Ports = &Asks{wildcards: make([]api.PortMapping, 1001)}, []uint64{31000}
			},
		},
		{rule: "as many wildcards as there are ports", pod: func(p *Pod) { p.Asks = &Asks{wildcards: make([]api.PortMapping, 1001)} }},
	} {
		test.run(t)
	}
}

func TestCheckOfTheExecutor(t *testing.T) {
	for _, test := range []checkTest{
		{
			rule: "another version's executor", view: func(v *View) { v.executor.Foreign = "k8sm-minion.v0" },
			want: "agent(s) run another version of our executor (k8sm-minion.v0)",
		},
		{rule: "the executor is not prepared", view: func(v *View) { v.executor.Prepared = false }, want: "quiet"},
		{rule: "the executor is launched in another role", view: func(v *View) { v.executor.Coming = true }, want: "quiet"},
		{
			rule: "the executor cannot be prepared", view: func(v *View) { v.executor.Prepared, v.executor.Failed = false, true },
			want: "agent(s) cannot be given an executor yet",
		},
		{rule: "no offer now", view: func(v *View) { v.Offers = nil }, want: "agent(s) have enough but offer nothing now"},
	} {
		test.run(t)
	}
}

func TestSummaryCountsAgentsByReasonWithAmounts(t *testing.T) {
	p := &Pod{Obj: &v1.Pod{}, Demand: Demand{Scalars: [NumScalars]offers.Milli{100_000}}}
	s := Summary{class: newClass(Key{}, p)}
	s.add(refusal{reason: agentShort, index: 0, free: 1000})
	s.add(refusal{reason: portsMissing, ports: []uint64{80}})
	s.add(refusal{reason: agentShort, index: 0, free: 3900})
	want := "0/3 nodes are available: 2 Insufficient cpu on the agent (requested 100, most free 3.9), 1 node(s) didn't have free ports for the requested pod ports (80)"
	if got := s.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestPortsWithoutHostPortOfContainersAndSidecarsAreMapped(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	port := func(number, host int32, protocol v1.Protocol) []v1.ContainerPort {
		return []v1.ContainerPort{{ContainerPort: number, HostPort: host, Protocol: protocol}}
	}
	obj := &v1.Pod{Spec: v1.PodSpec{
		InitContainers: []v1.Container{{Ports: port(1, 0, "TCP")}, {Ports: port(2, 0, "UDP"), RestartPolicy: &always}},
		Containers: []v1.Container{
			{Ports: port(80, 0, "")}, {Ports: port(80, 0, "TCP")}, {Ports: port(80, 0, "UDP")}, {Ports: port(443, 31443, "TCP")},
		},
	}}
	want := []api.PortMapping{{ContainerPort: 80, Protocol: "TCP"}, {ContainerPort: 80, Protocol: "UDP"}, {ContainerPort: 2, Protocol: "UDP"}}
	if diff := cmp.Diff(want, portsToMap(obj)); diff != "" {
		t.Error(diff)
	}
	obj.Spec.HostNetwork = true
	if got := portsToMap(obj); got != nil {
		t.Errorf("on the host's network: %v", got)
	}
}

func TestAgentWithSeveralRolesCountsOnceWithTheNearestRefusal(t *testing.T) {
	class := newClass(Key{}, &Pod{
		Obj: &v1.Pod{}, Asks: &Asks{roles: []string{"prod", "batch"}}, Demand: Demand{Scalars: [NumScalars]offers.Milli{9000}, Ports: []uint64{80}},
	})
	other, small, ports, prepared := roomyView(), roomyView(), roomyView(), roomyView()
	other.Role = "*"
	for _, v := range []*View{other, small, ports, prepared} {
		v.computeFree()
	}
	ports.have[0], prepared.have[0] = 9000, 9000
	prepared.Free = append(prepared.Free, offers.Resource{Name: offers.Ports, Ranges: []offers.Range{{Begin: 80, End: 80}}})
	prepared.executor.Prepared = false
	for _, test := range []struct {
		views []*View
		want  reason
	}{
		{[]*View{other}, otherRole},
		{[]*View{other, small}, agentShort},
		{[]*View{small, other}, agentShort},
		{[]*View{small, ports}, portsMissing},
		{[]*View{ports, small, other}, portsMissing},
		{[]*View{ports, prepared}, beingPrepared},
	} {
		if got := nearestRefusal(class, test.views); got.reason != test.want {
			t.Errorf("got %d, want %d", got.reason, test.want)
		}
	}
}

func TestSummaryNamesTheRolesThatThePodMayUse(t *testing.T) {
	var cfg Config
	for _, test := range []struct {
		rule  string
		roles []string // of the framework
		asks  *Asks
		want  string
	}{
		{"the pod's role", []string{"prod", "*"}, &Asks{roles: []string{"prod"}}, "1 Insufficient cpu on the agent for role prod (requested 1, most free 0)"},
		{"the framework's roles", []string{"prod", "batch"}, nil, "1 Insufficient cpu on the agent for roles prod batch (requested 1, most free 0)"},
		{"only *", []string{"*"}, nil, "1 Insufficient cpu on the agent (requested 1, most free 0)"},
	} {
		cfg.Roles = test.roles
		class := newClass(Key{}, &Pod{Obj: &v1.Pod{}, Asks: test.asks, Demand: Demand{Scalars: [NumScalars]offers.Milli{1000}}})
		s := Summary{class: class, roles: cfg.rolesWanted(class)}
		s.add(refusal{reason: agentShort})
		want := "0/1 nodes are available: " + test.want
		if got := s.String(); got != want {
			t.Errorf("%s: got  %s\nwant %s", test.rule, got, want)
		}
	}
}
