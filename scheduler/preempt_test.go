package scheduler

import (
	"fmt"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
)

func TestClearingIsBetterByTheFirstOfFiveThatDiffers(t *testing.T) {
	early := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	late := early.Add(time.Hour)
	best := []candidate{ // the best first
		{},
		{victims: []occupant{{priority: 7, since: early}}},
		{victims: []occupant{{priority: 7, since: late}, {priority: -5, since: early}}},
		{victims: []occupant{{priority: 7, since: early}, {priority: -5, since: late}}},
		{victims: []occupant{{priority: 7, since: late}, {priority: 7, since: early}}},
		{victims: []occupant{{priority: 8, since: late}}},
		{victims: []occupant{{priority: 1, since: late}}, violations: 1},
	}
	for i := range best {
		for j := range best {
			if got := best[i].compare(best[j]); (got < 0) != (i < j) || (got == 0) != (i == j) {
				t.Errorf("candidates %d and %d compare as %d", i, j, got)
			}
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
	obj.Spec.Containers = []v1.Container{{Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(fmt.Sprint(cpus))}}}}
	c.Step(now, PodSeen{Pod: obj})
}

func TestLooksForPodsToPreemptAreSharedByEqualsAndBounded(t *testing.T) {
	c, now := crowded(500, 20)
	for i := range 10_000 { // 9,000 of one class and 1,000 classes of one pod; none fits on any agent
		waitWith(c, now, fmt.Sprint(i), 1000, 5000+max(0, i-9000))
	}
	before, most := uint64(0), uint64(0)
	for range 30 {
		now = now.Add(time.Second)
		c.Step(now, Tick{})
		most, before = max(most, c.preemption.done.searches-before), c.preemption.done.searches
	}
	if most == 0 || most > 20 { // a search costs 11,000 checks
		t.Errorf("up to %d searches in a tick", most)
	}
	if c.preemption.done.victims != 0 || c.index.HasNominees() {
		t.Errorf("%d victims, a place is kept: %t", c.preemption.done.victims, c.index.HasNominees())
	}
}

func TestPodsThatNobodyIsLessImportantThanDoNotLookForVictims(t *testing.T) {
	c, now := crowded(10, 10)
	waitWith(c, now, "equal", 0, 1)
	for range 30 {
		now = now.Add(time.Second)
		c.Step(now, Tick{})
	}
	if c.preemption.done.searches != 0 {
		t.Errorf("%d searches", c.preemption.done.searches)
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
