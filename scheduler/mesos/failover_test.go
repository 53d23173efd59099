package mesos_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/api/state/etcdtest"
	"github.com/k8sm/k8sm/contrib/test/cable"
)

// takeover is how long a cluster may be without a leader after one was killed.
const takeover = 5 * time.Second

func openState(t *testing.T, address string) *state.Store {
	t.Helper()
	s, err := state.Open(t.Context(), state.Config{Endpoints: []string{"http://" + address}, Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // that of a scheduler which was killed cannot be closed cleanly
	return s
}

// seenTask is a task as the master's /tasks shows it.
type seenTask struct{ ID, State string }

// tasks returns what the master knows of each task that it was ever told to launch.
func (c *cluster) tasks() []seenTask {
	c.t.Helper()
	response, err := http.Get(c.masterURL("/tasks") + "?limit=1000")
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct{ Tasks []seenTask }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		c.t.Fatal(err)
	}
	return answer.Tasks
}

// It is not parallel: it measures the takeover.
func TestSchedulerThatIsKilledIsFollowedAndNoTaskIsLostOrLaunchedTwice(t *testing.T) {
	c := newCluster(t, 2)
	address := etcdtest.Start(t)
	cable, err := cable.New(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cable.Cut)
	stop := c.scheduleWith(openState(t, cable.Addr()), "first")
	c.createPod("before", "100m")
	c.wait("before", "a node", bound)
	second := openState(t, address)
	c.scheduleWith(second, "second")
	framework, err := second.FrameworkID(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	// The first is killed while it is at work: some pods are bound, and some tasks are launched whose pods are not.
	names := []string{"before"}
	for i := range 20 {
		names = append(names, fmt.Sprintf("pod-%02d", i))
		c.createPod(names[i+1], "100m")
	}
	c.wait("pod-01", "a node", bound) // pod-00 may be alone in the first ACCEPT
	cable.Cut()
	stop()
	killed := time.Now()
	c.createPod("after", "100m")
	c.wait("after", "a node", bound)
	took := time.Since(killed)
	t.Logf("the second scheduler bound a pod %s after the first was killed", took.Round(time.Millisecond))
	if took > takeover {
		t.Errorf("that is more than %s", takeover)
	}

	first := map[string]string{}
	for _, name := range append(names, "after") {
		pod := c.wait(name, "a node", bound)
		first[string(pod.UID)] = pod.Annotations[api.AnnotationTaskID]
	}
	c.wait("before", "its first task still", hasTask("uid-before.1"))
	c.checkTasks(first)
	if now, err := second.FrameworkID(t.Context()); err != nil || now != framework {
		t.Errorf("framework %s became %s, %v", framework, now, err)
	}
}

// checkTasks expects that the pods' tasks, by the pods' ids, run and that there were never others.
func (c *cluster) checkTasks(want map[string]string) {
	c.t.Helper()
	seen := c.tasks()
	for _, task := range seen {
		uid, _, _ := strings.Cut(task.ID, ".")
		if want[uid] != task.ID {
			c.t.Errorf("task %s is %s, and the pod's is %q", task.ID, task.State, want[uid])
		}
		if task.State != "TASK_RUNNING" && task.State != "TASK_STARTING" {
			c.t.Errorf("task %s is %s", task.ID, task.State)
		}
	}
	if len(seen) != len(want) {
		c.t.Errorf("%d tasks for %d pods", len(seen), len(want))
	}
}
