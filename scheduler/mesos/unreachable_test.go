package mesos_test

import (
	"context"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/localmesos"
)

// newForgetfulCluster is a cluster whose master soon counts an agent that is away as unreachable.
func newForgetfulCluster(t *testing.T, agents int) *cluster {
	t.Helper()
	c := newCluster(t, agents)
	c.mesos.Stop()
	c.config.AgentTimeout = 300 * time.Millisecond
	c.startMesos()
	return c
}

// awaitTask waits until the task is in the state by what is seen of the tasks; "" is for one that is over.
func (c *cluster) awaitTask(id, state string, see func() []seenTask) {
	c.t.Helper()
	var seen []seenTask
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		seen = see()
		i := slices.IndexFunc(seen, func(t seenTask) bool { return t.ID == id })
		if i < 0 && state == "" || i >= 0 && seen[i].State == state {
			return
		}
		<-time.After(20 * time.Millisecond)
	}
	c.inVain("task %s to be %q; there are %v", id, state, seen)
}

// scheduled returns the tasks as an operator sees them in the scheduler.
func (c *cluster) scheduled() []seenTask {
	c.t.Helper()
	tasks, err := c.window.Tasks(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	seen := make([]seenTask, len(tasks))
	for i, t := range tasks {
		seen[i] = seenTask{ID: string(t.ID), State: t.State}
	}
	return seen
}

// agentOf returns which agent the pod is on, counted from 0, while all agents are there.
func (c *cluster) agentOf(name string) int {
	c.t.Helper()
	pod := c.wait(name, "a node", bound)
	i := slices.Index(c.mesos.AgentIDs(), api.AgentID(pod.Annotations[api.AnnotationAgentID]))
	if i < 0 {
		c.t.Fatalf("pod %s is on agent %s, which there is not", name, pod.Annotations[api.AnnotationAgentID])
	}
	return i
}

func (c *cluster) deletePod(name string) {
	c.t.Helper()
	if err := c.client.CoreV1().Pods("default").Delete(c.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func TestAgentThatWasUnreachableKeepsWhatIsStillAPodsAndLosesTheRest(t *testing.T) {
	t.Parallel()
	c := newForgetfulCluster(t, 2)
	c.schedule()
	c.createPod("stays", "1")
	c.createPod("evicted", "1")
	away, node := c.agentOf("stays"), c.wait("stays", "a node", bound).Spec.NodeName
	if c.agentOf("evicted") != away {
		t.Fatal("first come first served puts both pods on one agent")
	}
	c.awaitTask("uid-stays.1", "TASK_RUNNING", c.tasks)
	c.awaitTask("uid-evicted.1", "TASK_RUNNING", c.tasks)
	c.mesos.KillAgent(away)
	c.awaitTask("uid-stays.1", "TASK_UNREACHABLE", c.scheduled)
	// What stock eviction and a pod's controller do.
	c.deletePod("evicted")
	c.createPod("replacement", "1")
	if c.wait("replacement", "a node", bound).Spec.NodeName == node {
		t.Error("a pod was launched on the agent that is away")
	}
	if err := c.mesos.RestartAgent(away); err != nil {
		t.Fatal(err)
	}
	c.awaitTask("uid-stays.1", "TASK_RUNNING", c.scheduled)
	c.awaitTask("uid-evicted.1", "", c.tasks)
	c.awaitTask("uid-replacement.1", "TASK_RUNNING", c.tasks)
	c.wait("stays", "its first task still", hasTask("uid-stays.1"))
	if seen := c.tasks(); len(seen) != 2 {
		t.Errorf("two pods have the tasks %v", seen)
	}
}

func TestTaskThatAnAgentDidNotBringBackIsLaunchedAgainThere(t *testing.T) {
	t.Parallel()
	newForgetfulCluster(t, 1).losePower(false)
}

// TestLaunchThatIsLostWithItsAgentIsRepeatedThere: the pod's task ends before the agent does, and the next one never gets there.
func TestLaunchThatIsLostWithItsAgentIsRepeatedThere(t *testing.T) {
	t.Parallel()
	newForgetfulCluster(t, 1).losePower(true)
}

// losePower has an agent and what it runs end, as a machine that loses power does, and start again, and waits for its pod's next task
// there. On a slow machine the scheduler may see the first task end before the agent does. Then it launches the next one at once, and
// that one may be lost: lose says that it is. So the next one that runs need not be the second.
func (c *cluster) losePower(lose bool) {
	c.t.Helper()
	c.schedule()
	c.createPod("web", "1")
	node := c.wait("web", "a node", bound).Spec.NodeName
	c.awaitTask("uid-web.1", "TASK_RUNNING", c.tasks)
	if lose {
		c.mesos.Faults().Add(localmesos.Fault{Path: localmesos.MasterToAgent, Kind: "RUN_TASK", Times: 1, Drop: true})
	}
	if err := c.mesos.KillExecutor(0, c.store.framework, api.MinionExecutorID); err != nil {
		c.t.Fatal(err)
	}
	if lose {
		c.eventually("the launch that is lost", func(context.Context) bool { return c.mesos.Faults().Hits() == 1 })
	}
	c.mesos.KillAgent(0)
	if err := c.mesos.RestartAgent(0); err != nil {
		c.t.Fatal(err)
	}
	var next string
	pod := c.wait("web", "another task that runs", func(pod *v1.Pod) bool {
		next = pod.Annotations[api.AnnotationTaskID]
		return hasOtherTask(pod) && slices.Contains(c.tasks(), seenTask{ID: next, State: "TASK_RUNNING"})
	})
	if pod.Spec.NodeName != node {
		c.t.Errorf("task %s went from %s to %s", next, node, pod.Spec.NodeName)
	}
}

// TestPodThatSomebodyElseBoundGetsATaskOnItsNode has another scheduler bind a pod to a node where no executor runs yet.
func TestPodThatSomebodyElseBoundGetsATaskOnItsNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.schedule()
	c.createPod("first", "1")
	busy := c.wait("first", "a node", bound).Spec.NodeName
	nodes, err := c.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 2 {
		t.Fatalf("nodes %v, %v", nodes, err)
	}
	other := nodes.Items[0].Name
	if other == busy {
		other = nodes.Items[1].Name
	}
	c.createPod("foreign", "1", func(spec *v1.PodSpec) { spec.SchedulerName, spec.NodeName = "somebody", other })
	c.wait("foreign", "a task", hasTask("uid-foreign.1"))
	c.awaitTask("uid-foreign.1", "TASK_RUNNING", c.tasks)
}
