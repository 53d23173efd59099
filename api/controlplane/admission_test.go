package controlplane

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/statedir"
)

// as returns a client with another identity, which the administrator impersonates.
func as(t *testing.T, dir statedir.Dir, user string, groups ...string) kubernetes.Interface {
	t.Helper()
	return clientOf(t, configAs(t, dir, user, groups...))
}

func configAs(t *testing.T, dir statedir.Dir, user string, groups ...string) *rest.Config {
	t.Helper()
	config := adminConfig(t, dir)
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: append(groups, "system:authenticated")}
	return config
}

// asNode has a node's identity.
func asNode(t *testing.T, dir statedir.Dir, node string) kubernetes.Interface {
	t.Helper()
	return as(t, dir, "system:node:"+node, "system:nodes")
}

// refused fails the test unless the API server refused an attack for this reason.
func refused(t *testing.T, attack string, err error, reason string) {
	t.Helper()
	switch {
	case err == nil:
		t.Errorf("%s: the API server accepted it", attack)
	case !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), reason):
		t.Errorf("%s: got %v, want forbidden: %s", attack, err, reason)
	}
}

func accepted(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// awaitPolicies returns when the API server knows all policies: it learns them in the order in which they were created, and this
// is the last.
func awaitPolicies(t *testing.T, admin kubernetes.Interface) {
	t.Helper()
	eventually(t, func(ctx context.Context) string {
		forged := annotated("forged", map[string]string{api.AnnotationIPAssigned: "10.96.0.1"})
		_, err := admin.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, forged, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
			return ""
		}
		return fmt.Sprintf("no policy refuses a pod with an address of its own choice: %v", err)
	})
}

// testPolicyTypes expects that no expression names a field that its objects do not have: the API server only warns of that.
func testPolicyTypes(t *testing.T, admin kubernetes.Interface) {
	eventually(t, func(ctx context.Context) string {
		policies, err := admin.AdmissionregistrationV1().ValidatingAdmissionPolicies().List(ctx, metav1.ListOptions{})
		if err != nil || len(policies.Items) == 0 {
			return "no policies: " + problemOf(err)
		}
		for _, p := range policies.Items {
			switch {
			case p.Status.ObservedGeneration != p.Generation || p.Status.TypeChecking == nil:
				return "policy " + p.Name + " is not checked"
			case len(p.Status.TypeChecking.ExpressionWarnings) > 0:
				return fmt.Sprintf("policy %s: %v", p.Name, p.Status.TypeChecking.ExpressionWarnings)
			}
		}
		return ""
	})
}

// patchNode patches the node n1.
func patchNode(t *testing.T, client kubernetes.Interface, patch string, subresource ...string) error {
	t.Helper()
	_, err := client.CoreV1().Nodes().Patch(t.Context(), "n1", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, subresource...)
	return err
}

func metadataPatch(kind, key, value string) string {
	return fmt.Sprintf(`{"metadata":{%q:{%q:%s}}}`, kind, key, value)
}

// testNodeKeys attacks what nodes trust of each other's Node objects.
func testNodeKeys(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	scheduler, node := schedulerClient(t, dir), asNode(t, dir, "n1")
	written := metadataPatch("annotations", api.AnnotationAgentAddress, `"10.0.0.1:5051"`)
	accepted(t, "the scheduler writes the agent's address", patchNode(t, scheduler, written))
	accepted(t, "the scheduler writes an attribute", patchNode(t, scheduler, metadataPatch("labels", "k8sm.io/attribute-rack", `"r1"`)))
	only := "may only be written by the scheduler"
	for attack, patch := range map[string]string{
		"a node takes over the master's address":     metadataPatch("annotations", api.AnnotationPodPrefixes, `"192.0.2.1/32"`),
		"a node names another agent's address":       metadataPatch("annotations", api.AnnotationAgentAddress, `"10.0.0.2:5051"`),
		"a node forgets its agent's address":         metadataPatch("annotations", api.AnnotationAgentAddress, "null"),
		"a node claims a cordon":                     metadataPatch("annotations", api.AnnotationCordoned, `"rollout"`),
		"a node says that no rollout is to come":     metadataPatch("annotations", api.AnnotationRollout, `"hold"`),
		"a node invents an annotation of ours":       metadataPatch("annotations", "k8sm.io/new", `"x"`),
		"a node attracts pods by an attribute":       metadataPatch("labels", "k8sm.io/attribute-gpu", `"yes"`),
		"a node changes an attribute":                metadataPatch("labels", "k8sm.io/attribute-rack", `"r2"`),
		"a node attracts pods by a zone":             metadataPatch("labels", corev1.LabelTopologyZone, `"z"`),
		"a node attracts pods by a region":           metadataPatch("labels", corev1.LabelTopologyRegion, `"r"`),
		"a node attracts pods by a zone of old":      metadataPatch("labels", corev1.LabelFailureDomainBetaZone, `"z"`),
		"a node attracts another's pods by hostname": metadataPatch("labels", corev1.LabelHostname, `"n2"`),
		"a node with a finalizer outlives its agent": `{"metadata":{"finalizers":["example.com/stay"]}}`,
	} {
		reason := only
		if !strings.Contains(patch, api.KeyPrefix) {
			reason = "a node may not"
		}
		refused(t, attack, patchNode(t, node, patch), reason)
		refused(t, attack+", by its status", patchNode(t, node, patch, "status"), reason)
	}
	refused(t, "a node takes back a cordon", patchNode(t, node, `{"spec":{"unschedulable":true}}`), "a node may not change its spec")
	refused(t, "a node says that it is another agent's", patchNode(t, node, `{"spec":{"providerID":"mesos://other"}}`), "a node may not change its spec")
	_, err := asNode(t, dir, "n9").CoreV1().Nodes().Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n9"},
		Spec:       corev1.NodeSpec{PodCIDRs: []string{"10.244.0.0/24"}, ProviderID: "mesos://other"},
	}, metav1.CreateOptions{})
	refused(t, "a node creates itself with another's range of addresses", err, "the scheduler creates nodes")

	refused(t, "an administrator writes what Mesos says", patchNode(t, admin, metadataPatch("annotations", api.AnnotationPodPrefixes, `"192.0.2.1/32"`)), only)
	grantCluster(t, admin, "labeler", rule("", []string{"nodes"}, "get", "patch"))
	labeler := as(t, dir, "labeler")
	refused(t, "somebody who may label nodes holds a rollout", patchNode(t, labeler, metadataPatch("annotations", api.AnnotationRollout, `"hold"`)), only)
	accepted(t, "somebody labels a node", patchNode(t, labeler, metadataPatch("labels", "example.com/disk", `"ssd"`)))
}

// testNodeOwnKeys is what kubelets, minions, the scheduler and operators write.
func testNodeOwnKeys(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	scheduler, node := schedulerClient(t, dir), asNode(t, dir, "n1")
	accepted(t, "a minion writes its version",
		patchNode(t, node, `{"metadata":{"annotations":{"k8sm.io/km-version":"v1","k8sm.io/minion-started":"2026-01-01T00:00:00Z","k8sm.io/status-port":"10268"}}}`))
	accepted(t, "a kubelet writes its labels", patchNode(t, node,
		`{"metadata":{"labels":{"kubernetes.io/hostname":"n1","kubernetes.io/arch":"arm64","example.com/mine":"x"}}}`, "status"))
	accepted(t, "a kubelet writes its status", patchNode(t, node,
		`{"metadata":{"annotations":{"volumes.kubernetes.io/controller-managed-attach-detach":"true"}},"status":{"conditions":[{"type":"Ready","status":"True"}]}}`, "status"))
	accepted(t, "the scheduler marks a node", patchNode(t, scheduler, `{"metadata":{"annotations":{"k8sm.io/maintenance":"a/b","k8sm.io/cordoned-for":"maintenance",
		"k8sm.io/rollout":"x","k8sm.io/pod-prefixes":"192.0.2.7/32"},"labels":{"topology.kubernetes.io/zone":"z1"}},"spec":{"unschedulable":true}}`))
	accepted(t, "an operator goes on with a rollout", patchNode(t, admin, metadataPatch("annotations", api.AnnotationRollout, "null")))
	grantCluster(t, admin, "operator", rule("", []string{"nodes", "nodes/rollout"}, "get", "patch", "update"))
	accepted(t, "an operator holds a rollout",
		patchNode(t, as(t, dir, "operator"), metadataPatch("annotations", api.AnnotationRollout, `"hold"`)))
	accepted(t, "the scheduler takes its marks back", patchNode(t, scheduler, `{"metadata":{"annotations":{"k8sm.io/maintenance":null,"k8sm.io/cordoned-for":null,
		"k8sm.io/rollout":null,"k8sm.io/pod-prefixes":null},"labels":{"topology.kubernetes.io/zone":null}},"spec":{"unschedulable":false}}`))
}

// grantCluster gives a user these rights in the whole cluster.
func grantCluster(t *testing.T, admin kubernetes.Interface, user string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	_, err := admin.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: rules}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	subject := rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}
	binding := clusterBinding(user, user, subject).(*rbacv1.ClusterRoleBinding)
	if _, err := admin.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// tenantNamespace is that of somebody who may edit what is in it, and whose pods must be restricted
// (https://kubernetes.io/docs/concepts/security/pod-security-standards/).
const tenantNamespace, tenantUser = "tenant", "tenant"

func makeTenant(t *testing.T, admin kubernetes.Interface) {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: tenantNamespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}
	if _, err := admin.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	subject := rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: tenantUser}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "edit"}, Subjects: []rbacv1.Subject{subject},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"},
	}
	if _, err := admin.RbacV1().RoleBindings(tenantNamespace).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) string {
		_, err := admin.CoreV1().ServiceAccounts(tenantNamespace).Get(ctx, "default", metav1.GetOptions{})
		return problemOf(err)
	})
}

// restricted returns a pod that the tenant may create.
func restricted(name string, annotations map[string]string) *corev1.Pod {
	pod, yes, no, user := annotated(name, annotations), true, false, int64(1000)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{
		RunAsNonRoot: &yes, RunAsUser: &user, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
		AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
	return pod
}

const onlyScheduler = "may only be written by the scheduler"

// testPodKeys attacks what a pod's node and the scheduler trust of it.
func testPodKeys(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	tenant := as(t, dir, tenantUser)
	pods := tenant.CoreV1().Pods(tenantNamespace)
	open := restricted("open", nil)
	open.Spec.NodeName, open.Spec.Containers[0].Ports = "n1", []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
	_, err := pods.Create(t.Context(), open, metav1.CreateOptions{})
	refused(t, "a restricted pod takes a port of its host", err, "PodSecurity")
	for _, key := range []string{api.AnnotationPortMappings, api.AnnotationTaskID, api.AnnotationAgentID, api.AnnotationOfferID, api.AnnotationIPAssigned} {
		forged := restricted("forged-"+strings.TrimPrefix(key, "k8sm.io/"), map[string]string{key: "80/TCP=80"})
		forged.Spec.NodeName = "n1"
		_, err := pods.Create(t.Context(), forged, metav1.CreateOptions{})
		refused(t, "a restricted pod takes a port of its host by "+key, err, "annotation "+key+" "+onlyScheduler)

		quiet := restricted("quiet-"+strings.TrimPrefix(key, "k8sm.io/"), map[string]string{api.AnnotationPortMapping: api.PortMappingWildcard})
		quiet.Spec.NodeName = "n1"
		if quiet, err = pods.Create(t.Context(), quiet, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		patch := []byte(metadataPatch("annotations", key, `"80/TCP=80"`))
		_, err = pods.Patch(t.Context(), quiet.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		refused(t, "a tenant gives "+key+" to its pod", err, onlyScheduler)
		_, err = asNode(t, dir, "n1").CoreV1().Pods(tenantNamespace).Patch(t.Context(), quiet.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		refused(t, "a node gives "+key+" to a pod by its status", err, onlyScheduler)
		_, err = schedulerClient(t, dir).CoreV1().Pods(tenantNamespace).Patch(t.Context(), quiet.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		accepted(t, "the scheduler gives "+key+" to a pod", err)
		_, err = pods.Patch(t.Context(), quiet.Name, types.StrategicMergePatchType, []byte(metadataPatch("annotations", key, "null")), metav1.PatchOptions{})
		refused(t, "a tenant takes "+key+" from its pod", err, onlyScheduler)
		_, err = pods.Patch(t.Context(), quiet.Name, types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"some":"change"}}}`), metav1.PatchOptions{})
		accepted(t, "a change of something else", err)
	}
	before := excluded(t, admin, "k8sm-pod-keys")
	_, err = pods.Create(t.Context(), restricted("plain", nil), metav1.CreateOptions{})
	accepted(t, "a pod without such annotations", err)
	if excluded(t, admin, "k8sm-pod-keys") == before {
		t.Error("the policy was evaluated in full for a pod that it cannot refuse")
	}
	testBindings(t, dir, pods.Create)
	testTemplates(t, tenant)
}

// testPolicyCosts expects that requests of which there are many are not prepared for policies that cannot refuse them.
func testPolicyCosts(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	tenant := as(t, dir, tenantUser).CoreV1().Pods(tenantNamespace)
	pod, err := tenant.Create(t.Context(), restricted("cheap", nil), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before := excluded(t, admin, "k8sm-binding-keys")
	own := &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Annotations: map[string]string{api.AnnotationTaskID: "u.1"}},
		Target:     corev1.ObjectReference{Kind: "Node", Name: "n1"},
	}
	accepted(t, "the scheduler binds a pod", schedulerClient(t, dir).CoreV1().Pods(tenantNamespace).Bind(t.Context(), own, metav1.CreateOptions{}))
	if excluded(t, admin, "k8sm-binding-keys") == before {
		t.Error("the policy was evaluated in full for the scheduler's binding")
	}

	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "n7"}}
	_, err = asNode(t, dir, "n7").CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(t.Context(), lease, metav1.CreateOptions{})
	accepted(t, "a kubelet creates its lease", err)
	if count := excluded(t, admin, "k8sm-dns-leases"); count > 0 {
		t.Errorf("the policy of the DNS servers' leases was evaluated for %d others, such as those of kubelets", count)
	}
}

// excluded counts the requests that a policy's conditions have excluded.
func excluded(t *testing.T, admin kubernetes.Interface, policy string) (count int) {
	t.Helper()
	metrics, err := admin.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(metrics)) {
		if !strings.HasPrefix(line, "apiserver_admission_match_condition_evaluation_seconds_count{") || !strings.Contains(line, `name="`+policy+`"`) {
			continue
		}
		fields := strings.Fields(line)
		each, err := strconv.Atoi(fields[len(fields)-1])
		if err != nil {
			t.Fatal(err)
		}
		count += each
	}
	return count
}

// testBindings binds pods with forged annotations, by both resources that bind.
func testBindings(t *testing.T, dir statedir.Dir, create func(context.Context, *corev1.Pod, metav1.CreateOptions) (*corev1.Pod, error)) {
	pod := restricted("unbound", nil)
	pod.Spec.SchedulerName = "another"
	if _, err := create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	forged := &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Annotations: map[string]string{api.AnnotationPortMappings: "80/TCP=80"}},
		Target:     corev1.ObjectReference{Kind: "Node", Name: "n1"},
	}
	another := as(t, dir, "system:kube-scheduler").CoreV1()
	err := another.RESTClient().Post().Namespace(tenantNamespace).Resource("bindings").Body(forged).Do(t.Context()).Error()
	refused(t, "another scheduler binds a pod to a port by bindings", err, onlyScheduler)
	refused(t, "another scheduler binds a pod to a port", another.Pods(tenantNamespace).Bind(t.Context(), forged, metav1.CreateOptions{}), onlyScheduler)
	err = schedulerClient(t, dir).CoreV1().RESTClient().Post().Namespace(tenantNamespace).Resource("bindings").Body(forged).Do(t.Context()).Error()
	refused(t, "the scheduler binds a pod by bindings", err, "cannot create resource")
	forged.Annotations = map[string]string{"example.com/note": "x"}
	accepted(t, "another scheduler binds a pod", another.Pods(tenantNamespace).Bind(t.Context(), forged, metav1.CreateOptions{}))
}

// testTemplates creates workloads whose pods would be refused.
func testTemplates(t *testing.T, tenant kubernetes.Interface) {
	pod := restricted("x", map[string]string{api.AnnotationTaskID: "u.1"})
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Annotations: pod.Annotations, Labels: map[string]string{"app": "x"}}, Spec: pod.Spec}
	selector := &metav1.LabelSelector{MatchLabels: template.Labels}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template}}
	says := "pod template: annotation " + api.AnnotationTaskID + " " + onlyScheduler + ": remove it"
	_, err := tenant.AppsV1().Deployments(tenantNamespace).Create(t.Context(), deployment, metav1.CreateOptions{})
	refused(t, "a Deployment whose pods nobody may create", err, says)
	job := batchv1.JobSpec{Template: template}
	job.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	_, err = tenant.BatchV1().CronJobs(tenantNamespace).Create(t.Context(), &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: batchv1.CronJobSpec{Schedule: "@daily", JobTemplate: batchv1.JobTemplateSpec{Spec: job}},
	}, metav1.CreateOptions{})
	refused(t, "a CronJob whose pods nobody may create", err, says)
	zero := int32(0)
	deployment.Spec.Template.Annotations, deployment.Spec.Replicas = map[string]string{api.AnnotationIPPool: "office"}, &zero
	_, err = tenant.AppsV1().Deployments(tenantNamespace).Create(t.Context(), deployment, metav1.CreateOptions{})
	accepted(t, "a Deployment that requests an address", err)
}
