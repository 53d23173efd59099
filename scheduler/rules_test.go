package scheduler

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

func requesting(cpu, memory, disk string) v1.ResourceRequirements {
	list := v1.ResourceList{}
	for name, text := range map[v1.ResourceName]string{
		v1.ResourceCPU: cpu, v1.ResourceMemory: memory, v1.ResourceEphemeralStorage: disk,
	} {
		if text != "" {
			list[name] = resource.MustParse(text)
		}
	}
	return v1.ResourceRequirements{Requests: list}
}

func TestDemandIsWhatKubernetesCountsAsThePodsRequests(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	for _, test := range []struct {
		rule string
		spec v1.PodSpec
		want Demand
	}{
		{
			"containers add up, bytes are rounded up to a thousandth of a MiB",
			v1.PodSpec{Containers: []v1.Container{
				{Resources: requesting("250m", "64Mi", "1Gi")}, {Resources: requesting("0.5", "1", "")},
			}},
			Demand{Scalars: [numScalars]offers.Milli{750, 64_001, 1_024_000, 0}},
		},
		{
			"the biggest init container counts if it is bigger than all containers",
			v1.PodSpec{
				InitContainers: []v1.Container{{Resources: requesting("2", "32Mi", "")}, {Resources: requesting("1", "", "")}},
				Containers:     []v1.Container{{Resources: requesting("1", "64Mi", "")}},
			},
			Demand{Scalars: [numScalars]offers.Milli{2000, 64_000, 0, 0}},
		},
		{
			"a sidecar runs beside the containers",
			v1.PodSpec{
				InitContainers: []v1.Container{{Resources: requesting("1", "16Mi", ""), RestartPolicy: &always}},
				Containers:     []v1.Container{{Resources: requesting("1", "64Mi", "")}},
			},
			Demand{Scalars: [numScalars]offers.Milli{2000, 80_000, 0, 0}},
		},
		{
			"overhead is added",
			v1.PodSpec{
				Containers: []v1.Container{{Resources: requesting("1", "64Mi", "")}},
				Overhead:   v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m")},
			},
			Demand{Scalars: [numScalars]offers.Milli{1100, 64_000, 0, 0}},
		},
		{
			"who requests nothing is charged the default",
			v1.PodSpec{Containers: []v1.Container{{}}},
			Demand{Scalars: [numScalars]offers.Milli{100, 64_000, 0, 0}},
		},
		{
			"gpus and host ports, each port once",
			v1.PodSpec{Containers: []v1.Container{{
				Resources: v1.ResourceRequirements{Requests: v1.ResourceList{
					v1.ResourceCPU: resource.MustParse("1"), v1.ResourceMemory: resource.MustParse("1Mi"), gpuResource: resource.MustParse("2"),
				}},
				Ports: []v1.ContainerPort{{HostPort: 53, Protocol: v1.ProtocolUDP}, {HostPort: 53, Protocol: v1.ProtocolTCP}, {ContainerPort: 80}},
			}}},
			Demand{Scalars: [numScalars]offers.Milli{1000, 1000, 0, 2000}, Ports: []uint64{53}},
		},
	} {
		if diff := cmp.Diff(test.want, DemandOf(&v1.Pod{Spec: test.spec}, 100, 64_000, nil)); diff != "" {
			t.Errorf("%s: %s", test.rule, diff)
		}
	}
}

// roomy returns a view on which every pod passes all checks.
func roomy() *view {
	free := offers.Resources{
		{Name: offers.CPUs, Scalar: 4000}, {Name: offers.Mem, Scalar: 4096_000}, {Name: offers.Disk, Scalar: 1000_000},
		{Name: offers.Ports, Ranges: []offers.Range{{Begin: 31000, End: 32000}}},
	}
	a := &agent{id: "a1", hasExecutor: true}
	a.total.scalars = [numScalars]offers.Milli{8000, 4096_000, 1000_000, 0}
	return &view{agent: a, free: free, offers: []api.OfferID{"o1"}, role: "prod", record: []byte("record"), node: &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"disk": "ssd"}},
		Status:     v1.NodeStatus{Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}},
	}}
}

func TestTheFirstOfTheFourChecksThatFailsSaysWhy(t *testing.T) {
	taint := v1.Taint{Key: "only", Value: "gpu", Effect: v1.TaintEffectNoSchedule}
	cordoned := func(v *view) { v.node.Spec.Unschedulable = true }
	tolerant := func(key string) func(*pod) {
		return func(p *pod) {
			p.obj.Spec.Tolerations = []v1.Toleration{{Key: key, Operator: v1.TolerationOpExists}}
		}
	}
	for _, test := range []struct {
		rule string
		view func(*view)
		pod  func(*pod)
		want string // "" if it fits, "quiet" if it has to wait a moment
	}{
		{rule: "a plain pod fits"},
		{rule: "node before resources", view: cordoned, pod: func(p *pod) { p.demand.Scalars[0] = 99_000 }, want: "is cordoned"},
		{rule: "a toleration of cordons is heard", view: cordoned, pod: tolerant(v1.TaintNodeUnschedulable)},
		{rule: "no node yet", view: func(v *view) { v.node = nil }, want: "quiet"},
		{
			rule: "node selector", pod: func(p *pod) { p.obj.Spec.NodeSelector = map[string]string{"disk": "hdd"} },
			want: "does not match its node selector disk=hdd",
		},
		{rule: "node selector that matches", pod: func(p *pod) { p.obj.Spec.NodeSelector = map[string]string{"disk": "ssd"} }},
		{rule: "not ready", view: func(v *view) { v.node.Status.Conditions = nil }, want: "is not ready"},
		{rule: "not ready is tolerated", view: func(v *view) { v.node.Status.Conditions = nil }, pod: tolerant(v1.TaintNodeNotReady)},
		{
			rule: "taint", view: func(v *view) { v.node.Spec.Taints = []v1.Taint{taint} },
			want: "has the taint only=gpu:NoSchedule that it does not tolerate",
		},
		{rule: "taint that is tolerated", view: func(v *view) { v.node.Spec.Taints = []v1.Taint{taint} }, pod: tolerant("only")},
		{rule: "another node than the pod's", pod: func(p *pod) { p.node = "n2" }, want: "is not node n2"},
		{rule: "a bound pod returns to a cordoned node", view: cordoned, pod: func(p *pod) { p.node = "n1" }},
		{rule: "exactly all there is", pod: func(p *pod) { p.demand.Scalars[0] = 4000 }},
		{
			rule: "the executor's part is not free",
			view: func(v *view) { v.charge = offers.Resources{{Name: offers.CPUs, Scalar: 100}} },
			pod:  func(p *pod) { p.demand.Scalars[0] = 4000 }, want: "is busy: it has too little cpus now",
		},
		{rule: "more than free, not more than all", pod: func(p *pod) { p.demand.Scalars[0] = 4001 }, want: "is busy: it has too little cpus now"},
		{rule: "more than there ever is", pod: func(p *pod) { p.demand.Scalars[0] = 8001 }, want: "has too little cpus"},
		{rule: "gpus where there are none", pod: func(p *pod) { p.demand.Scalars[3] = 1000 }, want: "has too little gpus"},
		{rule: "each port has to be free", pod: func(p *pod) { p.demand.Ports = []uint64{80, 31000} }, want: "lacks the host ports [80]"},
		{rule: "both ends of a range are in it", pod: func(p *pod) { p.demand.Ports = []uint64{31000, 32000} }},
		{rule: "a role of the pod's", pod: func(p *pod) { p.wish = &wish{roles: []string{"*", "prod"}} }},
		{
			rule: "other roles than the pod's, before resources",
			pod:  func(p *pod) { p.wish, p.demand.Scalars[0] = &wish{roles: []string{"*"}}, 99_000 }, want: "offers nothing now",
		},
		{
			rule: "a port for each wildcard, beside the ports that the pod names", want: "has too few free ports",
			pod: func(p *pod) {
				p.wish, p.demand.Ports = &wish{wildcards: make([]api.PortMapping, 1001)}, []uint64{31000}
			},
		},
		{rule: "as many ports as there are", pod: func(p *pod) { p.wish = &wish{wildcards: make([]api.PortMapping, 1001)} }},
		{
			rule: "another version's executor", view: func(v *view) { v.stranger = "k8sm-minion.v0" },
			want: "runs another version of our executor (k8sm-minion.v0)",
		},
		{rule: "a record to fetch first", view: func(v *view) { v.record = nil }, want: "quiet"},
		{rule: "an executor that comes with another role's task", view: func(v *view) { v.coming = true }, want: "quiet"},
		{
			rule: "a record that cannot be had", view: func(v *view) { v.record, v.hopeless = nil, true },
			want: "cannot be given an executor yet",
		},
		{rule: "no offer now", view: func(v *view) { v.offers = nil }, want: "has enough but offers nothing now"},
	} {
		v := roomy()
		p := &pod{obj: &v1.Pod{}, demand: Demand{Scalars: [numScalars]offers.Milli{100, 64_000, 0, 0}}}
		if test.view != nil {
			test.view(v)
		}
		if test.pod != nil {
			test.pod(p)
		}
		v.count()
		s := newShape(keyOf(p), p)
		r, got := v.check(s), ""
		switch {
		case r.reason == beingPrepared:
			got = "quiet"
		case !r.ok():
			got, _ = r.words(s, "")
		}
		if got != test.want {
			t.Errorf("%s: got %q, want %q", test.rule, got, test.want)
		}
	}
}

func TestReportCountsAgentsByReasonAndTellsTheNumbers(t *testing.T) {
	s := summary{shape: newShape(shapeKey{}, &pod{obj: &v1.Pod{}})}
	s.add(refused{reason: tooSmall, scalar: 0, most: 1000})
	s.add(refused{reason: portsMissing, ports: []uint64{80}})
	s.add(refused{reason: tooSmall, scalar: 0, most: 3900})
	want := "0/3 agents can run it: 2 have too little cpus (want 100, most free 3.9), 1 lacks the host ports [80]"
	if got := s.message(Demand{Scalars: [numScalars]offers.Milli{100_000}}); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestPortsToMapAreThoseOfLongContainersWithoutHostPort(t *testing.T) {
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

func TestAgentOfSeveralRolesIsCountedOnceByWhatComesNearest(t *testing.T) {
	shape := newShape(shapeKey{}, &pod{
		obj: &v1.Pod{}, wish: &wish{roles: []string{"prod", "batch"}}, demand: Demand{Scalars: [numScalars]offers.Milli{9000}, Ports: []uint64{80}},
	})
	other, small, ports, prepared := roomy(), roomy(), roomy(), roomy()
	other.role = "*"
	for _, v := range []*view{other, small, ports, prepared} {
		v.count()
	}
	ports.have[0], prepared.have[0] = 9000, 9000
	prepared.free = append(prepared.free, offers.Resource{Name: offers.Ports, Ranges: []offers.Range{{Begin: 80, End: 80}}})
	prepared.record = nil
	for _, test := range []struct {
		views []*view
		want  reason
	}{
		{[]*view{other}, otherRole},
		{[]*view{other, small}, tooSmall},
		{[]*view{small, other}, tooSmall},
		{[]*view{small, ports}, portsMissing},
		{[]*view{ports, small, other}, portsMissing},
		{[]*view{ports, prepared}, beingPrepared},
	} {
		if got := nearest(shape, test.views); got.reason != test.want {
			t.Errorf("got %d, want %d", got.reason, test.want)
		}
	}
}

func TestReportNamesTheRolesThatAPodDependsOn(t *testing.T) {
	cfg := testConfig()
	for _, test := range []struct {
		rule  string
		roles []string // of the framework
		wish  *wish
		want  string
	}{
		{"the pod's role", []string{"prod", "*"}, &wish{roles: []string{"prod"}}, "1 has too little cpus for role prod (want 1, most free 0)"},
		{"the framework's roles", []string{"prod", "batch"}, nil, "1 has too little cpus for roles prod batch (want 1, most free 0)"},
		{"only * is no news", []string{"*"}, nil, "1 has too little cpus (want 1, most free 0)"},
	} {
		cfg.Roles = test.roles
		shape := newShape(shapeKey{}, &pod{obj: &v1.Pod{}, wish: test.wish})
		s := summary{shape: shape, roles: NewCore(cfg).rolesWanted(shape)}
		s.add(refused{reason: tooSmall})
		want := "0/1 agents can run it: " + test.want
		if got := s.message(Demand{Scalars: [numScalars]offers.Milli{1000}}); got != want {
			t.Errorf("%s: got  %s\nwant %s", test.rule, got, want)
		}
	}
}

func TestPodThatIsSeenAgainWaitsOnce(t *testing.T) {
	c := NewCore(testConfig())
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	obj := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}}
	for range 3 {
		c.Step(now, PodSeen{Pod: obj})
	}
	for _, s := range c.queue.shapes {
		if len(s.pods) != 1 {
			t.Errorf("it stands in the queue %d times", len(s.pods))
		}
	}
}

func TestShapeThatNoPodHasAnyMoreIsForgotten(t *testing.T) {
	c := NewCore(testConfig())
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c.Step(now, Subscribed{Framework: "fw"})
	for i := range idleShapes + 1 {
		priority := int32(i)
		c.Step(now, PodSeen{Pod: &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}, Spec: v1.PodSpec{Priority: &priority}}})
	}
	c.Step(now, PodGone{UID: "u"})
	c.Step(now, Tick{})
	if len(c.queue.shapes) != 0 {
		t.Errorf("%d shapes are remembered", len(c.queue.shapes))
	}
}

func TestSameReportIsRepeatedEveryFiveMinutesAndAnotherOneWithPauses(t *testing.T) {
	var r report
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	told := 0
	for range 3600 { // an hour of the same
		if r.due(now, "the same") {
			told++
		}
		now = now.Add(time.Second)
	}
	if told != 12 {
		t.Errorf("the same was told %d times in an hour, want 12", told)
	}
	told = 0
	for i := range 3600 { // an hour in which it changes every second
		if r.due(now, strings.Repeat("x", i%2+1)) {
			told++
		}
		now = now.Add(time.Second)
	}
	if told > 13 {
		t.Errorf("changing messages were told %d times in an hour", told)
	}
}

func TestEveryTaskStateHasARowAndAName(t *testing.T) {
	for s := range numStates {
		if parsed, ok := ParseTaskState(s.String()); !ok || parsed != s {
			t.Errorf("%s is parsed as %v, %v", s, parsed, ok)
		}
		if f := fates[s]; f == (fate{}) {
			t.Errorf("%s has no row", s)
		} else if !f.running && f.unbound != unboundRetry {
			t.Errorf("%s: the task has ended, but its pod does not wait again", s)
		}
	}
}

func TestConfigSaysWhichFlagIsWrong(t *testing.T) {
	for _, args := range [][]string{
		{"--offer-ttl=0s"}, {"--refuse-seconds-idle=-1s"}, {"--launch-grace-period=0s"}, {"--cordon-lead=0s"}, {"--drain-lead=-1s"}, {"--drain-lead=2h"}, {"--agent-forget-after=0s"},
		{"--default-pod-cpus=0"}, {"--default-pod-mem=-1"}, {"--executor-cpus=0"}, {"--executor-mem=0"}, {"--km-path=km"},
	} {
		var cfg Config
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		cfg.AddFlags(fs)
		if err := fs.Parse(args); err != nil {
			t.Fatal(err)
		}
		flag, _, _ := strings.Cut(args[0], "=")
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestAlgorithmThatDoesNotExistIsRefused(t *testing.T) {
	var cfg Config
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	cfg.AddFlags(fs)
	if cfg.Algorithm != FCFS {
		t.Errorf("the default is %q", cfg.Algorithm)
	}
	if err := fs.Parse([]string{"--algorithm=best"}); err == nil || !strings.Contains(err.Error(), "fcfs|spread|binpack") {
		t.Errorf("got %v", err)
	}
}

func TestFlagsOfChargesHaveAnEffect(t *testing.T) {
	cfg := testConfig()
	cfg.DefaultPodCPUs, cfg.DefaultPodMem, cfg.ExecutorCPUs, cfg.ExecutorMem = 0.2, 32, 0.3, 256
	c := NewCore(cfg)
	now := time.Now()
	c.Step(now, PodSeen{Pod: &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}}})
	want := [numScalars]offers.Milli{200, 32_000}
	if got := c.pods["u"].demand.Scalars; got != want {
		t.Errorf("the pod is charged %v", got)
	}
	cfg.ExecutorDisk = 100
	c = NewCore(cfg)
	free := offers.Resources{{Name: offers.CPUs, Scalar: 4000}, {Name: offers.Mem, Scalar: 4096_000}, {Name: offers.Disk, Scalar: 1000_000}}
	if got := c.charge(free[:2]).String(); got != "cpus:0.3;mem:256" {
		t.Errorf("the executor on an agent without disk is charged %s", got)
	}
	if got := c.charge(free).String(); got != "cpus:0.3;mem:256;disk:100" {
		t.Errorf("the executor is charged %s", got)
	}
	a := &agent{total: totals{scalars: [numScalars]offers.Milli{disk: 1000_000}}}
	if node := c.newNode(a); !node.Status.Allocatable.StorageEphemeral().Equal(resource.MustParse("900Mi")) {
		t.Errorf("pods may have %v of disk", node.Status.Allocatable.StorageEphemeral())
	}
}
