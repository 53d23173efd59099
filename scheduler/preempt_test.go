package scheduler

import (
	"fmt"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

func TestClearingIsBetterByTheFirstOfFiveThatDiffers(t *testing.T) {
	early := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	late := early.Add(time.Hour)
	best := []clearing{ // the best first
		{},
		{victims: []tenant{{priority: 7, since: early}}},
		{victims: []tenant{{priority: 7, since: late}, {priority: -5, since: early}}},
		{victims: []tenant{{priority: 7, since: early}, {priority: -5, since: late}}},
		{victims: []tenant{{priority: 7, since: late}, {priority: 7, since: early}}},
		{victims: []tenant{{priority: 8, since: late}}},
		{victims: []tenant{{priority: 1, since: late}}, violations: 1},
	}
	for i := range best {
		for j := range best {
			if got := best[i].compare(best[j]); (got < 0) != (i < j) || (got == 0) != (i == j) {
				t.Errorf("clearings %d and %d compare as %d", i, j, got)
			}
		}
	}
}

func TestPromiseIsKeptFromWhoeverIsNotMoreImportant(t *testing.T) {
	demand := func(cpus offers.Milli, ports ...uint64) Demand {
		return Demand{Scalars: [numScalars]offers.Milli{cpus, 64_000}, Ports: ports}
	}
	newPod := func(order int, priority int32, d Demand) *pod {
		return &pod{obj: &v1.Pod{Spec: v1.PodSpec{Priority: &priority}}, order: order, demand: d}
	}
	for _, test := range []struct {
		rule      string
		pod       *pod
		nominated string // where the pod itself has a promise
		want      bool
	}{
		{"less important", newPod(2, 9, demand(2000)), "", false},
		{"equally important", newPod(2, 10, demand(2000)), "", false},
		{"more important", newPod(2, 11, demand(2000)), "", true},
		{"what is left beside it is free", newPod(2, 9, demand(1000)), "", true},
		{"but not a port", newPod(2, 9, demand(1000, 31000)), "", false},
		{"another port is", newPod(2, 9, demand(1000, 31001)), "", true},
		{"equally important, with a later promise there", newPod(2, 10, demand(2000)), "n1", false},
		{"equally important, with an earlier promise there", newPod(0, 10, demand(2000)), "n1", true},
		{"equally important, with an earlier promise elsewhere", newPod(0, 10, demand(2000)), "n2", false},
	} {
		holder := newPod(1, 10, demand(3000, 31000))
		holder.promise = &promise{node: "n1"}
		if test.nominated != "" {
			test.pod.promise = &promise{node: test.nominated}
		}
		v := roomy() // 4 cpus
		v.agent.node = "n1"
		v.agent.promises = []*pod{holder, test.pod}
		v.count()
		if r := v.check(newShape(keyOf(test.pod), test.pod)); r.ok() != test.want || !r.ok() && r.reason != promisedAway {
			t.Errorf("%s: %+v", test.rule, r)
		}
		v.agent.promises = v.agent.promises[:1]
		if r := v.check(newShape(keyOf(holder), holder)); !r.ok() {
			t.Errorf("who has the promise is refused: %+v", r)
		}
	}
}

// crowded returns a core with agents full of pods of priority 0.
func crowded(agents, podsPerAgent int) (*Core, time.Time) {
	c := NewCore(testConfig())
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c.Step(now, Subscribed{Framework: "fw"})
	for i := range agents {
		id, name := api.AgentID(fmt.Sprintf("a%d", i)), fmt.Sprintf("n%d", i)
		node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.NodeSpec{ProviderID: api.ProviderID(id)}}
		node.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}
		c.Step(now, NodeSeen{Node: node})
		for j := range podsPerAgent {
			uid := types.UID(fmt.Sprintf("p%d-%d", i, j))
			task := api.NewTaskID(uid, 1)
			obj := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: string(uid), UID: uid}, Spec: v1.PodSpec{NodeName: name}}
			obj.Annotations = map[string]string{api.AnnotationTaskID: string(task), api.AnnotationAgentID: string(id)}
			c.Step(now, PodSeen{Pod: obj})
			c.Step(now, TaskUpdated{Status: TaskStatus{Task: task, Agent: id, State: Running}})
		}
	}
	return c, now
}

func waitWith(c *Core, now time.Time, name string, priority int32, cpus int) {
	obj := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: v1.PodSpec{Priority: &priority}}
	obj.Spec.Containers = []v1.Container{{Resources: requesting(fmt.Sprint(cpus), "", "")}}
	c.Step(now, PodSeen{Pod: obj})
}

func TestLooksForPodsToPreemptAreSharedByEqualsAndBounded(t *testing.T) {
	c, now := crowded(500, 20)
	for i := range 10_000 { // 9,000 of one shape, 1,000 of shapes of their own; no agent has so much
		waitWith(c, now, fmt.Sprint(i), 1000, 5000+max(0, i-9000))
	}
	before, most := uint64(0), uint64(0)
	for range 30 {
		now = now.Add(time.Second)
		c.Step(now, Tick{})
		most, before = max(most, c.preempted.looks-before), c.preempted.looks
	}
	if most == 0 || most > 20 { // a look costs 11,000
		t.Errorf("up to %d looks in a tick", most)
	}
	if c.preempted.victims != 0 || len(c.nominees) != 0 {
		t.Errorf("%d victims, %d nodes promised", c.preempted.victims, len(c.nominees))
	}
}

func TestPodsThatNobodyIsLessImportantThanDoNotLookForVictims(t *testing.T) {
	c, now := crowded(10, 10)
	waitWith(c, now, "equal", 0, 1)
	for range 30 {
		now = now.Add(time.Second)
		c.Step(now, Tick{})
	}
	if c.preempted.looks != 0 {
		t.Errorf("%d looks", c.preempted.looks)
	}
}

func TestPreemptionIsCounted(t *testing.T) {
	c, now := crowded(2, 10)
	waitWith(c, now, "high", 1000, 0)
	for range 5 {
		now = now.Add(time.Second)
		c.Step(now, Tick{})
	}
	if s := c.Snapshot(); s.Preemptions != 1 || s.Victims != 1 {
		t.Errorf("%d searches, %d victims; want 1 and 1", s.Preemptions, s.Victims)
	}
}

func TestPlacingWhoHasAPromiseLetsNobodyInWhoWasRefused(t *testing.T) {
	needs := func(order int) []*pod {
		wildcards := []api.PortMapping{{ContainerPort: 80, Protocol: "TCP"}}
		pods := []*pod{
			{demand: Demand{Scalars: [numScalars]offers.Milli{2500, 64_000}}},
			{demand: Demand{Scalars: [numScalars]offers.Milli{100, 64_000}, Ports: []uint64{31000}}},
			{demand: Demand{Scalars: [numScalars]offers.Milli{100, 64_000}, Ports: []uint64{31000, 31001}}},
			{demand: Demand{Scalars: [numScalars]offers.Milli{100, 64_000}}, wish: &wish{wildcards: wildcards}},
			{demand: Demand{Scalars: [numScalars]offers.Milli{0, 64_000}}, wish: &wish{revocable: 2000}},
		}
		for _, p := range pods {
			p.obj, p.order = &v1.Pod{}, order
		}
		return pods
	}
	ports := func(first, last uint64) offers.Resource {
		return offers.Resource{Name: offers.Ports, Ranges: []offers.Range{{Begin: first, End: last}}}
	}
	refusals := 0
	for _, offered := range [][]offers.Resource{
		{ports(31000, 31000)}, {ports(31000, 31001)}, {ports(31000, 31001), ports(31000, 31001)},
	} {
		for i := range needs(1) {
			for j := range needs(2) {
				holder, other := needs(1)[i], needs(2)[j]
				holder.promise = &promise{node: "n1"}
				v := roomy() // 4 cpus
				v.free = append(v.free[:3:3], offered...)
				v.free = append(v.free, offers.Resource{Name: offers.RevocableCPUs, Scalar: 3000})
				v.record, v.agent.node, v.agent.promises = []byte("record"), "n1", []*pod{holder}
				v.count()
				s := newShape(keyOf(other), other)
				before := v.check(s)
				if before.ok() || !v.check(newShape(keyOf(holder), holder)).ok() {
					continue
				}
				refusals++
				v.takeAll(holder)
				v.parked = []*pod{holder}
				if v.check(s).ok() {
					t.Errorf("ports %v: %v has taken what was promised to it, and now there is room for %v", offered, holder.needs(), other.needs())
				}
			}
		}
	}
	if refusals < 10 {
		t.Errorf("only %d pods were refused", refusals)
	}
}
