package mesos_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/k8sm/k8sm/api"
)

// budgets answer evictions as an API server with PodDisruptionBudgets does: pods that are held stay.
type budgets struct {
	mu   sync.Mutex // guards held
	held map[string]bool
}

func (b *budgets) hold(pod string, held bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held[pod] = held
}

func (c *cluster) budgets() *budgets {
	b := &budgets{held: map[string]bool{}}
	client := c.client.(*fake.Clientset)
	client.PrependReactor("create", "pods", func(action k8stesting.Action) (bool, runtime.Object, error) {
		if action.GetSubresource() != "eviction" {
			return false, nil, nil
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		name := action.(k8stesting.CreateAction).GetObject().(*policyv1.Eviction).Name
		if b.held[name] {
			err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
			err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: policyv1.DisruptionBudgetCause}}
			return true, nil, err
		}
		return true, nil, client.Tracker().Delete(v1.SchemeGroupVersion.WithResource("pods"), action.GetNamespace(), name)
	})
	return b
}

// operate makes a call of Mesos's operator API and returns the answer.
func (c *cluster) operate(kind string, fields string) string {
	c.t.Helper()
	call := fmt.Sprintf(`{"type": %q, %q: %s}`, kind, strings.ToLower(kind), fields)
	response, err := http.Post(c.masterURL("/api/v1"), "application/json", strings.NewReader(call))
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		c.t.Fatalf("%s: %s %s, %v", call, response.Status, body, err)
	}
	return string(body)
}

const laptop = `{"hostname": "laptop", "ip": "127.0.0.1"}`

func (c *cluster) plan(start time.Time) {
	c.t.Helper()
	c.operate("UPDATE_MAINTENANCE_SCHEDULE", fmt.Sprintf(`{"schedule": {"windows": [{"machine_ids": [%s],
		"unavailability": {"start": {"nanoseconds": %d}, "duration": {"nanoseconds": %d}}}]}}`, laptop, start.UnixNano(), time.Hour))
}

// eventually looks until what is awaited is true.
func (c *cluster) eventually(what string, awaited func(context.Context) bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	for !awaited(ctx) {
		select {
		case <-ctx.Done():
			c.inVain("%s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (c *cluster) podGone(name string) {
	c.t.Helper()
	c.eventually("the end of pod "+name, func(ctx context.Context) bool {
		_, err := c.client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

func (c *cluster) node(name, what string, awaited func(*v1.Node) bool) {
	c.t.Helper()
	c.eventually("node "+name+": "+what, func(ctx context.Context) bool {
		node, err := c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		return err == nil && awaited(node)
	})
}

// answered waits until the scheduler's answer to the inverse offer is this.
func (c *cluster) answered(want string) {
	c.t.Helper()
	c.eventually("inverse offer answered by "+want, func(context.Context) bool {
		var answer bytes.Buffer
		if err := json.Compact(&answer, []byte(c.operate("GET_MAINTENANCE_STATUS", "{}"))); err != nil {
			c.t.Fatal(err)
		}
		return strings.Contains(answer.String(), `"status":"`+want+`"`)
	})
}

func cordonedFor(reason string) func(*v1.Node) bool {
	return func(node *v1.Node) bool {
		return node.Spec.Unschedulable == (reason != "") && node.Annotations[api.AnnotationCordoned] == reason
	}
}

func TestMaintenanceEvictsPodsAsTheirBudgetsAllowAndIsAgreedToWhenTheyAreOut(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	budgets := c.budgets()
	budgets.hold("db", true)
	c.schedule()
	c.createPod("web", "500m")
	c.createPod("db", "500m")
	c.wait("db", "a node", bound)
	name := c.wait("web", "a node", bound).Spec.NodeName
	start := time.Now().Add(5 * time.Minute).UTC().Truncate(time.Second)
	c.plan(start)
	c.node(name, "cordoned", cordonedFor("maintenance"))
	c.node(name, "says when", func(node *v1.Node) bool {
		return strings.HasPrefix(node.Annotations[api.AnnotationMaintenance], start.Format(time.RFC3339)+"/")
	})
	c.podGone("web")
	c.answered("DECLINE")
	c.wait("db", "its task still", hasTask("uid-db.1"))
	budgets.hold("db", false)
	c.podGone("db")
	c.answered("ACCEPT")
	c.createPod("next", "500m")
	c.wait("next", "to be told why it waits", func(pod *v1.Pod) bool {
		return len(pod.Status.Conditions) == 1 && strings.Contains(pod.Status.Conditions[0].Message, "maintenance is planned")
	})
	c.operate("UPDATE_MAINTENANCE_SCHEDULE", `{"schedule": {}}`)
	c.wait("next", "a node", bound)
	c.node(name, "uncordoned", cordonedFor(""))
}

func TestMachineThatIsTakenDownLosesItsNodeWithWhatIsLeftThere(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.budgets().hold("db", true)
	c.schedule()
	c.createPod("db", "500m")
	name := c.wait("db", "a node", bound).Spec.NodeName
	before, err := c.client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.plan(time.Now())
	c.node(name, "cordoned", cordonedFor("maintenance"))
	c.operate("START_MAINTENANCE", `{"machines": [`+laptop+`]}`)
	c.eventually("the end of the node", func(ctx context.Context) bool {
		_, err := c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	c.operate("STOP_MAINTENANCE", `{"machines": [`+laptop+`]}`)
	c.createPod("next", "500m")
	after := c.wait("next", "a node", bound).Spec.NodeName
	c.node(after, "of a new agent, and schedulable", func(node *v1.Node) bool {
		return node.Spec.ProviderID != before.Spec.ProviderID && cordonedFor("")(node)
	})
}

func TestPodsOfADrainedAgentAreReplacedElsewhereAndItsNodeComesBackWhenItIsReactivated(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.schedule()
	c.createPod("web", "500m")
	pod := c.wait("web", "a node", bound)
	agent := fmt.Sprintf(`{"agent_id": {"value": %q}}`, pod.Annotations[api.AnnotationAgentID])
	c.operate("DRAIN_AGENT", agent)
	c.podGone("web")
	c.node(pod.Spec.NodeName, "cordoned", cordonedFor("draining"))
	c.createPod("again", "500m") // as its controller would
	if again := c.wait("again", "a node", bound); again.Spec.NodeName == pod.Spec.NodeName {
		t.Errorf("it is on %s again", again.Spec.NodeName)
	}
	c.eventually("the agent drained", func(context.Context) bool {
		return strings.Contains(c.operate("GET_AGENTS", "{}"), `"DRAINED"`)
	})
	c.operate("REACTIVATE_AGENT", agent)
	c.createPod("big", "3500m") // the other agent has too little left
	if big := c.wait("big", "a node", bound); big.Spec.NodeName != pod.Spec.NodeName {
		t.Errorf("it is on %s", big.Spec.NodeName)
	}
	c.node(pod.Spec.NodeName, "uncordoned", cordonedFor(""))
}

// TestAgentThatWasDrainedWithoutPodsTakesThemSoonAfterItIsReactivated: nobody tells of the drain, and the agent drops what is
// launched there until its idle executor has ended.
func TestAgentThatWasDrainedWithoutPodsTakesThemSoonAfterItIsReactivated(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.schedule()
	c.createPod("web", "500m")
	pod := c.wait("web", "a node", bound)
	if err := c.client.CoreV1().Pods("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("the end of its task", func(ctx context.Context) bool {
		tasks, err := c.window.Tasks(ctx)
		return err == nil && len(tasks) == 0
	})
	agent := fmt.Sprintf(`{"agent_id": {"value": %q}}`, pod.Annotations[api.AnnotationAgentID])
	c.operate("DRAIN_AGENT", agent)
	c.eventually("the agent drained", func(context.Context) bool {
		return strings.Contains(c.operate("GET_AGENTS", "{}"), `"DRAINED"`)
	})
	c.operate("REACTIVATE_AGENT", agent)
	c.createPod("next", "500m")
	if next := c.wait("next", "a node", bound); !hasTask("uid-next.2")(next) {
		t.Errorf("its task is %s, want the second: the first is dropped, and no other is tried until the executor has ended",
			next.Annotations[api.AnnotationTaskID])
	}
	c.node(pod.Spec.NodeName, "uncordoned", cordonedFor(""))
}
