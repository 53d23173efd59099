package mesos_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/localmesos"
)

// object is a JSON object of the master's operator API.
type object = map[string]any

// askOperator makes a call of the master's operator API.
func (c *cluster) askOperator(call, answer any) {
	c.t.Helper()
	body, err := json.Marshal(call)
	if err != nil {
		c.t.Fatal(err)
	}
	response, err := http.Post(c.masterURL("/api/v1"), "application/json", bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusAccepted {
		c.t.Fatalf("%v: status %s", call, response.Status)
	}
	if answer != nil {
		if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
			c.t.Fatal(err)
		}
	}
}

// mesosTask is a task as the master shows it.
type mesosTask struct {
	Name      string `json:"name"`
	State     string `json:"state"`
	Resources []struct {
		Name         string `json:"name"`
		Reservations []struct {
			Role string `json:"role"`
		} `json:"reservations"`
		Allocation struct {
			Role string `json:"role"`
		} `json:"allocation_info"`
		Scalar struct {
			Value float64 `json:"value"`
		} `json:"scalar"`
		Ranges struct {
			Range []struct{ Begin, End uint64 } `json:"range"`
		} `json:"ranges"`
		Revocable *struct{} `json:"revocable"`
	} `json:"resources"`
	Discovery struct {
		Ports struct {
			Ports []struct {
				Number   uint64 `json:"number"`
				Protocol string `json:"protocol"`
			} `json:"ports"`
		} `json:"ports"`
	} `json:"discovery"`
}

// task returns the task that the master shows for a pod and that has not ended.
func (c *cluster) task(pod string) mesosTask {
	c.t.Helper()
	var answer struct {
		GetTasks struct {
			Tasks []mesosTask `json:"tasks"`
		} `json:"get_tasks"`
	}
	c.askOperator(object{"type": "GET_TASKS"}, &answer)
	for _, task := range answer.GetTasks.Tasks {
		if task.Name == "default/"+pod && (task.State == "TASK_STARTING" || task.State == "TASK_RUNNING") {
			return task
		}
	}
	c.t.Fatalf("the master shows no task of pod %s: %+v", pod, answer)
	return mesosTask{}
}

// reservations tells how much the task has of a scalar by the role that it is reserved for, and checks that all it has is
// allocated to one role.
func (task mesosTask) reservations(t *testing.T, name, allocated string) map[string]float64 {
	t.Helper()
	sum := map[string]float64{}
	for _, r := range task.Resources {
		if r.Allocation.Role != allocated {
			t.Errorf("%s of %s is allocated to %q, want %q", r.Name, task.Name, r.Allocation.Role, allocated)
		}
		if r.Name == name {
			role := "*"
			for _, reservation := range r.Reservations {
				role = reservation.Role
			}
			sum[role] += r.Scalar.Value
		}
	}
	return sum
}

func TestPodRunsInOffersOfItsRoleAndReservedResourcesGoFirst(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, func(cfg *localmesos.Config) {
		cfg.Resources = "cpus(prod):1;mem(prod):1024;cpus(batch):2;mem(batch):1024;cpus:1;mem:1024;disk:1000"
	}, "--mesos-roles=batch,prod")
	c.schedule()
	// Mesos offers what is unreserved to batch, the first role; prod has its reservation only.
	c.createPodWith("prod", "500m", map[string]string{api.AnnotationRoles: "prod"})
	c.wait("prod", "a node", bound)
	if diff := cmp.Diff(map[string]float64{"prod": 0.5}, c.task("prod").reservations(t, "cpus", "prod")); diff != "" {
		t.Errorf("prod: %s", diff)
	}
	// Together the roles have enough for this one, but no ACCEPT mixes them.
	c.createPodWith("wide", "3200m", nil)
	c.wait("wide", "to be told why it waits", waitsBecause("roles batch prod"))
	c.createPodWith("plain", "2500m", nil)
	c.wait("plain", "a node", bound)
	if diff := cmp.Diff(map[string]float64{"batch": 2, "*": 0.5}, c.task("plain").reservations(t, "cpus", "batch")); diff != "" {
		t.Errorf("plain: %s", diff)
	}
}

// waitsBecause awaits that the pod's condition says all this.
func waitsBecause(words ...string) func(*v1.Pod) bool {
	return func(pod *v1.Pod) bool {
		return slices.ContainsFunc(pod.Status.Conditions, func(condition v1.PodCondition) bool {
			missing := func(word string) bool { return !strings.Contains(condition.Message, word) }
			return condition.Type == v1.PodScheduled && !slices.ContainsFunc(words, missing)
		})
	}
}

func TestPodWaitsWhileItsRolesQuotaIsUsedUpAndRunsWhenItIsRaised(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, func(*localmesos.Config) {}, "--mesos-roles=dev")
	limit := func(cpus float64) {
		c.askOperator(object{"type": "UPDATE_QUOTA", "update_quota": object{"quota_configs": []any{
			object{"role": "dev", "limits": object{"cpus": object{"value": cpus}}},
		}}}, nil)
	}
	limit(1)
	c.schedule()
	c.createPod("first", "500m")
	c.wait("first", "a node", bound)
	c.createPod("second", "1")
	c.wait("second", "to be told of its role", waitsBecause("role dev"))
	limit(2)
	c.wait("second", "a node", bound)
}

func TestTaskHasItsResourcesWithTheReservationsThatOperatorsMade(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, func(*localmesos.Config) {}, "--mesos-roles=eng/web")
	reservation := func(role string) object { return object{"type": "DYNAMIC", "role": role, "principal": "ops"} }
	for _, steps := range [][]object{{reservation("eng")}, {reservation("eng"), reservation("eng/web")}} {
		c.askOperator(object{"type": "RESERVE_RESOURCES", "reserve_resources": object{
			"agent_id":  object{"value": c.mesos.AgentIDs()[0]},
			"resources": []any{object{"name": "cpus", "type": "SCALAR", "scalar": object{"value": 3}, "reservations": steps}},
		}}, nil)
	}
	c.schedule()
	c.createPod("web", "3")
	c.wait("web", "a node", bound)
	got := c.task("web").reservations(t, "cpus", "eng/web")
	if diff := cmp.Diff(map[string]float64{"eng/web": 2.75, "*": 0.25}, got); diff != "" { // the minion came first
		t.Error(diff)
	}
}

// TestExecutorIsMadeAnewWhenReservationsHaveChanged: Mesos would refuse one that is to use what is not offered any more.
func TestExecutorIsMadeAnewWhenReservationsHaveChanged(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, func(*localmesos.Config) {}, "--mesos-roles=eng")
	c.schedule()
	c.createPod("first", "500m")
	c.wait("first", "a node", bound)
	if err := c.client.CoreV1().Pods("default").Delete(t.Context(), "first", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("the end of its task", func(ctx context.Context) bool {
		tasks, err := c.window.Tasks(ctx)
		return err == nil && len(tasks) == 0
	})
	if err := c.mesos.KillExecutor(0, c.store.framework, api.MinionExecutorID); err != nil {
		t.Fatal(err)
	}
	c.eventually("the end of its executor", func(ctx context.Context) bool {
		nodes, err := c.window.Nodes(ctx)
		return err == nil && len(nodes) == 1 && !nodes[0].Minion
	})
	c.askOperator(object{"type": "RESERVE_RESOURCES", "reserve_resources": object{
		"agent_id": object{"value": c.mesos.AgentIDs()[0]},
		"resources": []any{object{
			"name": "cpus", "type": "SCALAR", "scalar": object{"value": 4},
			"reservations": []object{{"type": "DYNAMIC", "role": "eng", "principal": "ops"}},
		}},
	}}, nil)
	c.createPod("second", "500m")
	c.wait("second", "a node", bound)
	if diff := cmp.Diff(map[string]float64{"eng": 0.5}, c.task("second").reservations(t, "cpus", "eng")); diff != "" {
		t.Error(diff)
	}
}

func TestPodThatAsksForARoleThatIsNotSubscribedIsTold(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.schedule()
	c.createPodWith("web", "500m", map[string]string{api.AnnotationRoles: "prod"})
	c.wait("web", "to be told which flag", waitsBecause(`role "prod"`, "--mesos-roles=*"))
}

func TestPodKeepsThePortsThatWereChosenForIt(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	stop := c.schedule()
	c.createPodWith("web", "500m", map[string]string{api.AnnotationPortMapping: api.PortMappingWildcard},
		withPorts(v1.ContainerPort{ContainerPort: 80}, v1.ContainerPort{ContainerPort: 53, Protocol: v1.ProtocolUDP}))
	pod := c.wait("web", "a node", bound)
	chosen := pod.Annotations[api.AnnotationPortMappings]
	mappings, err := api.ParsePortMappings(chosen)
	if err != nil || len(mappings) != 2 || mappings[0].HostPort == mappings[1].HostPort {
		t.Fatalf("mappings %q, %v", chosen, err)
	}
	c.checkPorts("web", mappings)
	// Another pod gets other ports, and a scheduler that is restarted gives the pod the same ones again.
	c.createPodWith("other", "500m", map[string]string{api.AnnotationPortMapping: api.PortMappingWildcard}, withPorts(v1.ContainerPort{ContainerPort: 80}))
	other := c.wait("other", "a node", bound).Annotations[api.AnnotationPortMappings]
	if strings.Contains(chosen, strings.TrimPrefix(other, "80/TCP")) {
		t.Errorf("web has %s, other has %s", chosen, other)
	}
	stop()
	if err := c.mesos.KillExecutor(0, c.store.framework, api.MinionExecutorID); err != nil {
		t.Fatal(err)
	}
	c.schedule()
	again := c.wait("web", "another task", hasOtherTask)
	if got := again.Annotations[api.AnnotationPortMappings]; got != chosen {
		t.Errorf("mappings %s became %s", chosen, got)
	}
	c.checkPorts("web", mappings)
}

func TestPodIsGivenNoOtherNumbersAsPorts(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, func(cfg *localmesos.Config) {
		cfg.Resources = "vlans:[1-100];cpus:4;mem:4096;disk:10000;ports:[31000-32000]"
	})
	c.schedule()
	c.createPodWith("web", "500m", map[string]string{api.AnnotationPortMapping: api.PortMappingWildcard}, withPorts(v1.ContainerPort{ContainerPort: 80}))
	mappings, err := api.ParsePortMappings(c.wait("web", "a node", bound).Annotations[api.AnnotationPortMappings])
	if err != nil || len(mappings) != 1 || mappings[0].HostPort < 31000 {
		t.Fatalf("mappings %v, %v", mappings, err)
	}
	c.checkPorts("web", mappings)
}

func withPorts(ports ...v1.ContainerPort) func(*v1.PodSpec) {
	return func(spec *v1.PodSpec) { spec.Containers[0].Ports = ports }
}

// checkPorts checks that the pod's task was given these ports and tells of them.
func (c *cluster) checkPorts(pod string, mappings []api.PortMapping) {
	c.t.Helper()
	task := c.task(pod)
	for i, m := range mappings {
		given := false
		for _, r := range task.Resources {
			for _, ports := range r.Ranges.Range {
				given = given || ports.Begin <= uint64(m.HostPort) && uint64(m.HostPort) <= ports.End
			}
		}
		if told := task.Discovery.Ports.Ports[i].Number; !given || told != uint64(m.HostPort) {
			c.t.Errorf("%+v: given %v, told %d", m, given, told)
		}
	}
}

func TestRevocableCPUsAreForThePodsThatAskForThem(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, func(cfg *localmesos.Config) { cfg.Oversubscribed = "cpus:8" }, "--mesos-revocable")
	c.schedule()
	c.createPod("plain", "1")
	c.createPod("large", "5")
	c.createPodWith("batch", "6", map[string]string{api.AnnotationRevocable: "true"})
	c.wait("plain", "a node", bound)
	c.wait("batch", "a node", bound)
	for pod, revocable := range map[string]bool{"plain": false, "batch": true} {
		for _, r := range c.task(pod).Resources {
			if r.Name == "cpus" && (r.Revocable != nil) != revocable {
				t.Errorf("%s: revocable %v", pod, r.Revocable != nil)
			}
		}
	}
	c.wait("large", "to be told that it waits", waitsBecause("Insufficient cpu"))
}

func TestMinionOfRevocablePodsIsNeverInAContainerWithoutCPUs(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, func(cfg *localmesos.Config) {
		cfg.Oversubscribed, cfg.Isolation = "cpus:8", "cgroups/cpu"
	}, "--mesos-revocable")
	stop := c.schedule()
	c.createPodWith("batch", "2", map[string]string{api.AnnotationRevocable: "true"})
	c.wait("batch", "a node", bound)
	c.awaitNoTaskBut(2) // one has no pod
	c.deletePod("batch")
	c.awaitNoTaskBut(1)
	stop()
	c.schedule() // the next scheduler takes over what has no pod
	c.createPod("plain", "2")
	c.wait("plain", "a node", bound)
	c.awaitNoTaskBut(2)
	runs, err := filepath.Glob(filepath.Join(c.config.WorkDir, "agents/*/slaves/*/frameworks/*/executors/*/runs/*-*"))
	if err != nil || len(runs) != 1 {
		t.Errorf("executors ran in %v, %v; want one that ran all the time", runs, err)
	}
}

func TestMinionIsNotKilledForWhatItsSandboxHoldsWhenAPodHasDisk(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, func(cfg *localmesos.Config) {
		cfg.Isolation, cfg.EnforceContainerDiskQuota, cfg.ContainerDiskWatchInterval = "disk/du", true, 10*time.Millisecond
	})
	large := filepath.Join(t.TempDir(), "km")
	small, err := os.ReadFile(program(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(large, append(small, make([]byte, 30<<20)...), 0o755); err != nil { // the shell reads no further than exec
		t.Fatal(err)
	}
	c.fetching(c.serve(large))
	c.schedule()
	c.createPod("web", "1", func(spec *v1.PodSpec) {
		spec.Containers[0].Resources.Requests[v1.ResourceEphemeralStorage] = resource.MustParse("10Mi")
	})
	c.wait("web", "a node", bound)
	c.createPod("other", "1")
	c.wait("other", "a node", bound)
	c.deletePod("other")
	c.awaitNoTaskBut(1) // this takes five seconds, in which the sandbox is measured again and again
	if !hasTask("uid-web.1")(c.wait("web", "anything", func(*v1.Pod) bool { return true })) {
		t.Error("the minion of the pod was killed, and the pod got another task")
	}
}
