package webpage

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/mesosstate"
)

// hostile is a text that runs, leads or asks somewhere if a page or a terminal takes it for more than text.
const hostile = `<img src=x onerror=pwned=1><script>pwned=1</script>"'><a href="javascript:pwned=1">click</a><style>*{display:none}</style><base href=https://evil.example/>` +
	"\x1b]0;taken\x07\x1b]52;c;cHduZWQ=\x07\x1b]8;;javascript:pwned=1\x07here\x1b]8;;\x07{{7*7}}${7*7}\u202egnp.exe"

// seen is the part of it that pages show as it is.
const seen = `<img src=x onerror=pwned=1>`

// long is the longest name that a pod can have.
var long = strings.Repeat("a-very-long-name-", 14) + "of-the-same-pod"

const (
	node  = "n1"
	agent = "agent-1"
)

func agentOf(node *corev1.Node) api.AgentID {
	id, _ := api.AgentOfProviderID(node.Spec.ProviderID)
	return id
}

// make creates an object.
func made[T any](t *testing.T, create func(context.Context, T, metav1.CreateOptions) (T, error), object T) T {
	t.Helper()
	object, err := create(t.Context(), object, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return object
}

// must fails the test if there is an error.
func must[T any](t *testing.T) func(T, error) T {
	t.Helper()
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// populate makes a node, and objects of all kinds, which are as hostile as the API server takes them.
func (c *cluster) populate(t *testing.T) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		_, err := c.kube.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	c.makeNode(t)
	notes := map[string]string{"evil.example/html": hostile, "constructor": hostile, "kubernetes.io/change-cause": hostile}
	core, ns := c.kube.CoreV1(), "default"
	made(t, core.ConfigMaps(ns).Create, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "hostile", Annotations: notes}, Data: map[string]string{"__proto__": hostile, "constructor": hostile, "a.html": hostile},
	})
	made(t, core.Secrets(ns).Create, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "hostile"}, StringData: map[string]string{"toString": hostile}})
	made(t, core.Services(ns).Create, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "hostile", Annotations: notes},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "hostile"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(80)}}},
	})
	made(t, c.kube.NetworkingV1().NetworkPolicies(ns).Create, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "hostile", Annotations: notes}})
	made(t, c.kube.RbacV1().Roles(ns).Create, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: hostileName, Annotations: notes}, Rules: []rbacv1.PolicyRule{{Verbs: []string{hostile}, APIGroups: []string{hostile}, Resources: []string{hostile}}},
	})
	made(t, c.kube.RbacV1().RoleBindings(ns).Create, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: hostileName}, Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: hostile}},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: hostileName},
	})
	made(t, c.kube.AppsV1().Deployments(ns).Create, c.deployment("hostile", notes))
	made(t, c.kube.BatchV1().CronJobs(ns).Create, &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "nightly", Annotations: notes},
		Spec:       batchv1.CronJobSpec{Schedule: "0 3 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template("nightly", corev1.RestartPolicyNever)}}},
	})
	c.makePod(t, "hostile", notes)
	c.makePod(t, long, nil)
	made(t, core.Events(ns).Create, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "hostile.1"}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: "hostile", APIVersion: "v1"},
		Type: "Warning", Reason: hostile[:120], Message: hostile, LastTimestamp: metav1.Now(), Count: 3,
	})
	c.mesos.change(func() { c.mesos.fill() })
}

// hostileName is a name that RBAC takes: of roles, anything that is a path segment.
const hostileName = `<img src=x onerror=pwned=1>"'`

func template(app string, restart corev1.RestartPolicy) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec:       corev1.PodSpec{RestartPolicy: restart, TerminationGracePeriodSeconds: new(int64), Containers: []corev1.Container{{Name: "main", Image: "one"}}},
	}
}

func (c *cluster) deployment(name string, notes map[string]string) *appsv1.Deployment {
	one := int32(1)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: notes},
		Spec:       appsv1.DeploymentSpec{Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, Template: template(name, corev1.RestartPolicyAlways)},
	}
}

// makeNode makes the node, and keeps its lease as a kubelet does.
func (c *cluster) makeNode(t *testing.T) {
	t.Helper()
	n := made(t, c.kube.CoreV1().Nodes().Create, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: corev1.NodeSpec{ProviderID: api.ProviderID(agent)}})
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Test", Message: hostile}}
	status := must[[]byte](t)(json.Marshal(map[string]any{"status": n.Status}))
	must[*corev1.Node](t)(c.kube.CoreV1().Nodes().Patch(t.Context(), node, types.StrategicMergePatchType, status, metav1.PatchOptions{}, "status"))
	leases := c.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	holder, seconds := node, int32(3600)
	made(t, leases.Create, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: node},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &metav1.MicroTime{Time: time.Now()}},
	})
	run(t, func(ctx context.Context) error {
		for tick := time.NewTicker(5 * time.Second); ; {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				lease, err := leases.Get(ctx, node, metav1.GetOptions{}) // the API server may be away: that is what some tests are about
				if err == nil {
					lease.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
					_, _ = leases.Update(ctx, lease, metav1.UpdateOptions{})
				}
			}
		}
	})
}

// makePod makes a pod that runs on the node.
func (c *cluster) makePod(t *testing.T, name string, notes map[string]string) {
	t.Helper()
	spec := template("hostile", corev1.RestartPolicyAlways).Spec
	spec.Containers[0].Image = hostile
	spec.Containers[0].Env = []corev1.EnvVar{{Name: "HTML", Value: hostile}}
	spec.Containers[0].Command = []string{hostile}
	spec.NodeName = node
	p := made(t, c.kube.CoreV1().Pods("default").Create, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "hostile", "x.evil.example/a_b": "A.b_c"}, Annotations: notes}, Spec: spec,
	})
	c.runs(t, p)
}

// runs writes the state of a pod that runs.
func (c *cluster) runs(t *testing.T, p *corev1.Pod) {
	t.Helper()
	p.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "10.244.0.9"}}, PodIP: "10.244.0.9", Message: hostile,
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: "Evil", Status: corev1.ConditionFalse, Reason: "Evil", Message: hostile}},
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: "main", Ready: true, Image: hostile, ImageID: hostile, RestartCount: 1, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: hostile, Message: hostile, FinishedAt: metav1.Now()}},
		}},
	}
	must[*corev1.Pod](t)(c.kube.CoreV1().Pods(p.Namespace).UpdateStatus(t.Context(), p, metav1.UpdateOptions{}))
}

// bind binds a pod to the node.
func (c *cluster) bind(t *testing.T, p *corev1.Pod) {
	t.Helper()
	err := c.kube.CoreV1().Pods(p.Namespace).Bind(t.Context(), &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace, UID: p.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// fill sets what the scheduler shows. It needs mu.
func (m *mesos) fill() {
	now := time.Now()
	amounts := mesosstate.Amounts{"cpus": 4, "mem": 8192, "disk": 10000, hostile: 3}
	m.document = mesosstate.Document{
		Framework: "framework-1", Master: &mesosstate.Master{ID: hostile, Hostname: hostile, Address: "127.0.0.1:5050", Version: hostile, Started: &now, Elected: &now, Region: hostile},
		Masters: []string{"127.0.0.1:5050", hostile},
		Agents: []mesosstate.Agent{{
			ID: agent, Hostname: hostile, Address: "127.0.0.1:5051", Version: hostile, Region: hostile, Zone: hostile, Attributes: map[string]string{hostile: hostile}, Registered: &now, Active: true,
			Total: amounts, Reserved: map[string]mesosstate.Amounts{hostile: {"cpus": 1}}, Allocated: map[string]mesosstate.Amounts{hostile: {"cpus": 1, "mem": 100}}, Offered: mesosstate.Amounts{},
			Frameworks: map[string]mesosstate.Amounts{"framework-1": {"cpus": 1}, hostile: {"cpus": 1}}, Tasks: 2, Maintenance: &mesosstate.Planned{Start: now, Mode: hostile},
		}},
		Frameworks: []mesosstate.Framework{
			{ID: "framework-1", Name: "k8sm", Roles: []string{"*"}, Active: true, Connected: true, Allocated: amounts, Offered: mesosstate.Amounts{}},
			{ID: hostile, Name: hostile, Principal: hostile, User: hostile, Hostname: hostile, WebUI: "javascript:pwned=1", Roles: []string{hostile}, Active: true, Connected: true, Allocated: amounts, Offered: amounts},
		},
		Roles:       []mesosstate.Role{{Name: hostile, Weight: 1, Allocated: amounts, Offered: amounts, DominantShare: 0.5, DominantResource: hostile, Quota: &mesosstate.Quota{Limit: amounts}, Frameworks: []string{hostile}}},
		Maintenance: []mesosstate.Window{{Machines: []mesosstate.Machine{{Hostname: hostile, IP: hostile, Mode: "DOWN"}}, Start: now}},
		Unknown:     []mesosstate.Unknown{{Call: "GET_QUOTA", Reason: hostile}},
	}
	m.tasks = []scheduler.LiveTask{
		{ID: api.TaskID(hostile), Pod: "default/hostile", Agent: agent, Node: node, State: "TASK_RUNNING", Message: hostile, Since: now, Bound: true},
		{ID: "of.another", Agent: hostile, State: hostile, Since: now},
	}
	m.offers = []scheduler.LiveOffer{{ID: api.OfferID(hostile), Agent: agent, Hostname: hostile, Role: hostile, Resources: hostile, Since: now, Until: now.Add(time.Hour), Unavailable: hostile}}
	m.queue = []scheduler.WaitingPod{{Pod: "default/hostile", Since: now, Attempts: 2, Reasons: []string{"1 node(s) " + hostile}}}
	m.history = scheduler.OfferHistory{
		Since: &now, LastOffer: &now, Held: 1, Totals: map[string]uint64{"launched": 1, hostile: 2}, Minutes: []scheduler.OfferMinute{{At: now, Ends: map[string]uint32{"launched": 1, hostile: 1}}},
		Offers: []scheduler.EndedOffer{
			{ID: api.OfferID(hostile), Agent: agent, Hostname: hostile, Role: hostile, Resources: hostile, Arrived: now, Ended: now, End: hostile, Reason: hostile, RefuseSeconds: 5},
			{ID: "o2", Agent: agent, Hostname: hostile, Role: "*", Resources: "cpus:1", Arrived: now, Ended: now, End: "launched", Tasks: 1, Pods: []string{"default/hostile"}, Refused: hostile},
		},
	}
}

// budgeted makes a Deployment with pods that run on the node.
func (c *cluster) replicas(t *testing.T, app string, n int) []corev1.Pod {
	t.Helper()
	var list *corev1.PodList
	eventually(t, func(ctx context.Context) (err error) {
		if list, err = c.kube.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=" + app}); err != nil {
			return err
		}
		if len(list.Items) != n {
			return errCount(len(list.Items))
		}
		return nil
	})
	return list.Items
}

type errCount int

func (n errCount) Error() string { return "another number of pods" }

// patch changes a Deployment.
func (c *cluster) patch(t *testing.T, name, patch string) {
	t.Helper()
	must[*appsv1.Deployment](t)(c.kube.AppsV1().Deployments("default").Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}))
}
