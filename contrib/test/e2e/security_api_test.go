package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/retry"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/commit"
	"github.com/k8sm/k8sm/api/nodeslices"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// apiUser is an identity of the API.
type apiUser struct {
	config *rest.Config
	kube   kubernetes.Interface
}

func newAPIUser(t *testing.T, config *rest.Config) apiUser {
	t.Helper()
	config.QPS, config.Burst = 1000, 1000
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return apiUser{config, kube}
}

// userOf is the user of a kubeconfig. Those of nodes name the balancer in the node's network.
func userOf(t *testing.T, c *scratch.Cluster, kubeconfig string) apiUser {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.Host = c.REST.Host
	return newAPIUser(t, config)
}

// tokenUser calls with a bearer token; without one, as nobody.
func tokenUser(t *testing.T, c *scratch.Cluster, token string) apiUser {
	t.Helper()
	config := rest.AnonymousClientConfig(c.REST)
	config.BearerToken = token
	return newAPIUser(t, config)
}

// dry are the options of writes: nothing that the table tries stays.
var dry = []string{metav1.DryRunAll}

// judged turns an answer of the API server into that of an attempt. Policies refuse with whatever code they have.
func judged(err error) error {
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) ||
		err != nil && (strings.Contains(err.Error(), "ValidatingAdmissionPolicy") || strings.Contains(err.Error(), "denied the request")) {
		return refusedf("%v", err)
	}
	return err
}

// apiTargets are what the attempts are aimed at: a pod on a node, which uses a Secret.
type apiTargets struct {
	pod     *corev1.Pod
	pending *corev1.Pod
	// slice, metricsSlice and logsSlice are EndpointSlices of the DNS, of the metrics and of the logs.
	slice, metricsSlice, logsSlice string

	nodes  *corev1.ConfigMap // a slice of nodes
	policy string            // an admission policy of k8sm
	commit *unstructured.Unstructured
	minion string // URL of the node's minion
}

const (
	targetNode   = "node-1"
	targetSecret = "seen-by-pod"
	systemSecret = "seen-by-few"
)

// prepareTargets creates the targets.
func prepareTargets(t *testing.T, c *scratch.Cluster) apiTargets {
	t.Helper()
	for namespace, name := range map[string]string{"default": targetSecret, "kube-system": systemSecret} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"word": "sesame"}}
		if _, err := c.Kube.CoreV1().Secrets(namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	p := pod("target", forever)
	p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: targetNode}
	p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: targetSecret}}}}
	p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "WORD", Value: openWord}}
	create(t, c, p)
	waits := pod("waits", forever)
	waits.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "nowhere"}
	targets := apiTargets{pod: awaitPhase(t, c, p.Name, corev1.PodRunning), pending: create(t, c, waits)}
	sliceOf := func(service string) string {
		slices, err := c.Kube.DiscoveryV1().EndpointSlices("kube-system").List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
		if err != nil || len(slices.Items) == 0 {
			t.Fatalf("service %s has no EndpointSlice: %v", service, err)
		}
		return slices.Items[0].Name
	}
	policies, err := c.Kube.AdmissionregistrationV1().ValidatingAdmissionPolicies().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(policies.Items) == 0 {
		t.Fatalf("there is no admission policy: %v", err)
	}
	node, err := c.Kube.CoreV1().Nodes().Get(t.Context(), targetNode, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if targets.nodes, err = c.Kube.CoreV1().ConfigMaps(nodeslices.Namespace).Get(t.Context(), "nodes-0", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	targets.minion = onMinion(node, "")
	targets.commit = commitOf(t, c, targets.pod)
	targets.logsSlice = sliceOf("k8sm-logs")
	targets.slice, targets.metricsSlice, targets.policy = sliceOf("kube-dns"), sliceOf("k8sm-metrics"), policies.Items[0].Name
	return targets
}

// commitOf creates a Commit of the pod, of a container that it does not have.
func commitOf(t *testing.T, c *scratch.Cluster, p *corev1.Pod) *unstructured.Unstructured {
	t.Helper()
	object, err := commit.Commit{
		ObjectMeta: metav1.ObjectMeta{Name: "target", Namespace: "default"},
		Spec:       commit.Spec{NodeName: targetNode, PodName: p.Name, PodUID: p.UID, Container: "none", Image: "127.0.0.1:1/none:1"},
	}.Object()
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(c.REST)
	if err == nil {
		_, err = client.Resource(commit.Resource).Namespace("default").Create(t.Context(), object, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return object
}

// commits are the Commits as somebody sees them.
func (u apiUser) commits() (dynamic.ResourceInterface, error) {
	client, err := dynamic.NewForConfig(u.config)
	if err != nil {
		return nil, err
	}
	return client.Resource(commit.Resource).Namespace("default"), nil
}

// patchCommit patches the status of the target's Commit.
func (x apiTargets) patchCommit(ctx context.Context, as apiUser, patch string) error {
	commits, err := as.commits()
	if err != nil {
		return err
	}
	_, err = commits.Patch(ctx, x.commit.GetName(), types.MergePatchType, []byte(patch), metav1.PatchOptions{DryRun: dry}, "status")
	return err
}

// bootstrapToken creates a token as the scheduler does for a minion.
func bootstrapToken(t *testing.T, c *scratch.Cluster, node string) string {
	t.Helper()
	const id, secret = "table1", "0123456789abcdef"
	_, err := c.Kube.CoreV1().Secrets("kube-system").Create(t.Context(), tokenSecret(id, secret, node), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return id + "." + secret
}

func tokenSecret(id, secret, node string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id, Labels: map[string]string{api.LabelNode: node}},
		Type:       corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{
			"token-id": id, "token-secret": secret, "usage-bootstrap-authentication": "true", "auth-extra-groups": api.BootstrapGroup,
			"expiration": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
		},
	}
}

// apiUsers are the columns of the table.
func apiUsers(t *testing.T, c *scratch.Cluster, dir string, targets apiTargets) map[string]apiUser {
	t.Helper()
	p := targets.pod
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{
		APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID}}}
	request, err := c.Kube.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "default", request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	nodeConfig := func(node string) string { return filepath.Join(dir, "nodes", "k8sm", node, "kubeconfig") }
	return map[string]apiUser{
		"administrator":      userOf(t, c, filepath.Join(dir, "admin.kubeconfig")),
		"scheduler":          userOf(t, c, filepath.Join(dir, "scheduler.kubeconfig")),
		"controller manager": userOf(t, c, filepath.Join(dir, "controller-manager.kubeconfig")),
		"DNS":                userOf(t, c, filepath.Join(dir, "dns.kubeconfig")),
		"metrics":            userOf(t, c, filepath.Join(dir, "metrics.kubeconfig")),
		"logs":               userOf(t, c, filepath.Join(dir, "logs.kubeconfig")),
		"node":               userOf(t, c, nodeConfig(targetNode)),
		"another node":       userOf(t, c, nodeConfig("node-2")),
		"bootstrap token":    tokenUser(t, c, bootstrapToken(t, c, "node-9")),
		"pod":                tokenUser(t, c, request.Status.Token),
		"nobody":             tokenUser(t, c, ""),
	}
}

// identitiesMayDoWhatThePageSays tries the table of the API.
func identitiesMayDoWhatThePageSays(t *testing.T, c *scratch.Cluster, dir string, targets apiTargets) {
	attempts := map[string]attempt[apiUser]{}
	for _, part := range []map[string]attempt[apiUser]{targets.reads(), targets.writesOfPods(), targets.writesOfNodes(), targets.writesOfServices(), targets.escalations()} {
		for name, try := range part {
			attempts[name] = func(ctx context.Context, as apiUser) error { return judged(try(ctx, as)) }
		}
	}
	tryTable(t, "In the API", apiUsers(t, c, dir, targets), attempts)
}

func (x apiTargets) reads() map[string]attempt[apiUser] {
	return map[string]attempt[apiUser]{
		"read the API server's version": func(ctx context.Context, as apiUser) error {
			return as.kube.CoreV1().RESTClient().Get().AbsPath("/version").Do(ctx).Error()
		},
		"read the logs of all namespaces in the log store": func(ctx context.Context, as apiUser) error {
			return as.kube.CoreV1().RESTClient().Get().AbsPath("/apis/logs.k8sm.io/v1/pods/*/log").Param("tail", "0").Do(ctx).Error()
		},
		"list Secrets of kube-system": func(ctx context.Context, as apiUser) error {
			_, err := as.kube.CoreV1().Secrets("kube-system").List(ctx, metav1.ListOptions{})
			return err
		},
		"read a Secret of kube-system": func(ctx context.Context, as apiUser) error {
			_, err := as.kube.CoreV1().Secrets("kube-system").Get(ctx, systemSecret, metav1.GetOptions{})
			return err
		},
		"read a Secret that a pod of the node uses": func(ctx context.Context, as apiUser) error {
			_, err := as.kube.CoreV1().Secrets("default").Get(ctx, targetSecret, metav1.GetOptions{})
			return err
		},
		"list the pods of all namespaces": func(ctx context.Context, as apiUser) error {
			_, err := as.kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
			return err
		},
		"list the nodes": func(ctx context.Context, as apiUser) error {
			_, err := as.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
			return err
		},
		"list the slices of nodes": func(ctx context.Context, as apiUser) error {
			_, err := as.kube.CoreV1().ConfigMaps(nodeslices.Namespace).List(ctx, metav1.ListOptions{LabelSelector: nodeslices.Selector})
			return err
		},
		"read the minions' configuration": func(ctx context.Context, as apiUser) error {
			_, err := as.kube.CoreV1().ConfigMaps(api.MinionConfigNamespace).Get(ctx, api.MinionConfigName, metav1.GetOptions{})
			return err
		},
		"query the metrics of all namespaces": func(ctx context.Context, as apiUser) error {
			return as.kube.CoreV1().RESTClient().Get().AbsPath(historyPath).Param("query", "up").Do(ctx).Error()
		},
		"read the usage of all nodes": func(ctx context.Context, as apiUser) error {
			return as.kube.CoreV1().RESTClient().Get().AbsPath(usagePath).Do(ctx).Error()
		},
		"read the node's kubelet through the API server": func(ctx context.Context, as apiUser) error {
			return as.kube.CoreV1().RESTClient().Get().Resource("nodes").Name(targetNode).SubResource("proxy").Suffix("configz").Do(ctx).Error()
		},
		"read the metrics of the node's minion":  func(ctx context.Context, as apiUser) error { return x.readMinion(ctx, as, "/metrics") },
		"read the profiles of the node's minion": func(ctx context.Context, as apiUser) error { return x.readMinion(ctx, as, "/debug/pprof/heap") },
	}
}

// readMinion reads a path of the node's minion.
func (x apiTargets) readMinion(ctx context.Context, as apiUser, path string) error {
	config := rest.CopyConfig(as.config)
	config.Host, config.CAFile, config.CAData, config.Insecure = x.minion, "", nil, true // who asks is what is tried
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	_, err = kube.Discovery().RESTClient().Get().AbsPath(path).DoRaw(ctx)
	return err
}

// patchPod writes an annotation of a pod.
func (x apiTargets) patchPod(ctx context.Context, as apiUser, key string) error {
	patch := fmt.Sprintf(`{"metadata": {"annotations": {%q: "80/TCP=22"}}}`, key)
	_, err := as.kube.CoreV1().Pods("default").Patch(ctx, x.pod.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{DryRun: dry})
	return err
}

func (x apiTargets) writesOfPods() map[string]attempt[apiUser] {
	return map[string]attempt[apiUser]{
		"create a pod": func(ctx context.Context, as apiUser) error {
			_, err := as.kube.CoreV1().Pods("default").Create(ctx, pod("new", "true"), metav1.CreateOptions{DryRun: dry})
			return err
		},
		"bind a pod to a node": func(ctx context.Context, as apiUser) error {
			return as.kube.CoreV1().Pods("default").Bind(ctx, &corev1.Binding{
				ObjectMeta: metav1.ObjectMeta{Name: x.pending.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: targetNode},
			}, metav1.CreateOptions{DryRun: dry})
		},
		"write `k8sm.io/ip-assigned` of a pod":   func(ctx context.Context, as apiUser) error { return x.patchPod(ctx, as, api.AnnotationIPAssigned) },
		"write `k8sm.io/port-mappings` of a pod": func(ctx context.Context, as apiUser) error { return x.patchPod(ctx, as, api.AnnotationPortMappings) },
		"change the image of a pod": func(ctx context.Context, as apiUser) error {
			patch := fmt.Sprintf(`{"spec": {"containers": [{"name": %q, "image": "another"}]}}`, x.pod.Spec.Containers[0].Name)
			_, err := as.kube.CoreV1().Pods("default").Patch(ctx, x.pod.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{DryRun: dry})
			return err
		},
		"write the status of a pod of the node": func(ctx context.Context, as apiUser) error {
			_, err := as.kube.CoreV1().Pods("default").Patch(ctx, x.pod.Name, types.StrategicMergePatchType, []byte(`{"status": {"message": "x"}}`),
				metav1.PatchOptions{DryRun: dry}, "status")
			return err
		},
		"delete a pod of the node": func(ctx context.Context, as apiUser) error {
			return as.kube.CoreV1().Pods("default").Delete(ctx, x.pod.Name, metav1.DeleteOptions{DryRun: dry})
		},
		"run a command in a pod": x.exec,
		"create a Commit of a pod": func(ctx context.Context, as apiUser) error {
			commits, err := as.commits()
			if err != nil {
				return err
			}
			another := x.commit.DeepCopy()
			another.SetName("another")
			_, err = commits.Create(ctx, another, metav1.CreateOptions{DryRun: dry})
			return err
		},
		"write the status of a Commit on the node": func(ctx context.Context, as apiUser) error {
			return x.patchCommit(ctx, as, `{"status": {"message": "x"}}`)
		},
		"write the address of a Commit on the node": func(ctx context.Context, as apiUser) error {
			return x.patchCommit(ctx, as, `{"status": {"address": "198.51.100.1"}}`)
		},
	}
}

func (x apiTargets) exec(ctx context.Context, as apiUser) error {
	request := as.kube.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name(x.pod.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Stdout: true, Command: []string{"/bin/busybox", "echo", "hello"}}, scheme.ParameterCodec)
	executor, err := remotecommand.NewSPDYExecutor(as.config, "POST", request.URL())
	if err != nil {
		return err
	}
	var out bytes.Buffer
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out})
	if err != nil && (strings.Contains(err.Error(), "is forbidden") || strings.Contains(err.Error(), "Unauthorized")) { // it has no type
		return refusedf("%v", err)
	}
	if err != nil {
		return err
	}
	if out.String() != "hello\n" {
		return fmt.Errorf("it said %q", out.String())
	}
	return nil
}

// patchNode writes the node; subresource is "" or "status".
func patchNode(ctx context.Context, as apiUser, patch string, subresources ...string) error {
	_, err := as.kube.CoreV1().Nodes().Patch(ctx, targetNode, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{DryRun: dry}, subresources...)
	return err
}

func (x apiTargets) writesOfNodes() map[string]attempt[apiUser] {
	write := func(kind, key, value string) attempt[apiUser] {
		return func(ctx context.Context, as apiUser) error {
			return patchNode(ctx, as, fmt.Sprintf(`{"metadata": {%q: {%q: %q}}}`, kind, key, value), "status")
		}
	}
	return map[string]attempt[apiUser]{
		"write `k8sm.io/pod-prefixes` of the node": write("annotations", api.AnnotationPodPrefixes, "192.0.2.1/32"),
		"write `k8sm.io/rollout` of the node":      write("annotations", api.AnnotationRollout, "hold"),
		"write an attribute label of the node":     write("labels", api.AttributeLabel("rack"), "r1"),
		"write the zone of the node":               write("labels", corev1.LabelTopologyZone, "z1"),
		"write a slice of nodes": func(ctx context.Context, as apiUser) error {
			changed := x.nodes.DeepCopy()
			changed.ResourceVersion, changed.Data = "", nodeslices.Object("", `{"name":"evil"}`).Data
			_, err := as.kube.CoreV1().ConfigMaps(nodeslices.Namespace).Update(ctx, changed, metav1.UpdateOptions{DryRun: dry})
			return err
		},
		"write the node's conditions": func(ctx context.Context, as apiUser) error {
			return patchNode(ctx, as, `{"status": {"conditions": [{"type": "Tried", "status": "True"}]}}`, "status")
		},
		"cordon the node": func(ctx context.Context, as apiUser) error {
			return patchNode(ctx, as, `{"spec": {"unschedulable": true}}`)
		},
		"delete the node": func(ctx context.Context, as apiUser) error {
			return as.kube.CoreV1().Nodes().Delete(ctx, targetNode, metav1.DeleteOptions{DryRun: dry})
		},
		"renew the node's lease": func(ctx context.Context, as apiUser) error {
			leases := as.kube.CoordinationV1().Leases("kube-node-lease")
			return retry.RetryOnConflict(retry.DefaultRetry, func() error { // its kubelet renews it, too
				lease, err := leases.Get(ctx, targetNode, metav1.GetOptions{})
				if err != nil {
					return err
				}
				lease.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
				_, err = leases.Update(ctx, lease, metav1.UpdateOptions{DryRun: dry})
				return err
			})
		},
	}
}

func (x apiTargets) writesOfServices() map[string]attempt[apiUser] {
	service := func(ctx context.Context, as apiUser, externalIPs ...string) error {
		_, err := as.kube.CoreV1().Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "new"}, Spec: corev1.ServiceSpec{
			ExternalIPs: externalIPs, Ports: []corev1.ServicePort{{Port: 5050}}}}, metav1.CreateOptions{DryRun: dry})
		return err
	}
	return map[string]attempt[apiUser]{
		"create a service":                     func(ctx context.Context, as apiUser) error { return service(ctx, as) },
		"create a service with an external IP": func(ctx context.Context, as apiUser) error { return service(ctx, as, "192.0.2.1") },
		"write an EndpointSlice of another service": func(ctx context.Context, as apiUser) error {
			_, err := as.kube.DiscoveryV1().EndpointSlices("kube-system").Create(ctx, &discoveryv1.EndpointSlice{
				ObjectMeta:  metav1.ObjectMeta{Name: "kube-dns-x", Labels: map[string]string{discoveryv1.LabelServiceName: "another", api.LabelDNSReplica: "x"}},
				AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.1"}}},
			}, metav1.CreateOptions{DryRun: dry})
			return err
		},
		"write an EndpointSlice of `kube-dns`":     func(ctx context.Context, as apiUser) error { return patchSlice(ctx, as, x.slice) },
		"write an EndpointSlice of `k8sm-metrics`": func(ctx context.Context, as apiUser) error { return patchSlice(ctx, as, x.metricsSlice) },
		"write an EndpointSlice of `k8sm-logs`":    func(ctx context.Context, as apiUser) error { return patchSlice(ctx, as, x.logsSlice) },
	}
}

func patchSlice(ctx context.Context, as apiUser, name string) error {
	_, err := as.kube.DiscoveryV1().EndpointSlices("kube-system").Patch(ctx, name, types.MergePatchType, []byte(`{"metadata": {"annotations": {"x": "y"}}}`),
		metav1.PatchOptions{DryRun: dry})
	return err
}

func (x apiTargets) escalations() map[string]attempt[apiUser] {
	tokenFor := func(ctx context.Context, as apiUser, namespace, account string, bound *authenticationv1.BoundObjectReference) error {
		_, err := as.kube.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account,
			&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound}}, metav1.CreateOptions{DryRun: dry})
		return err
	}
	return map[string]attempt[apiUser]{
		"create a bootstrap token": func(ctx context.Context, as apiUser) error {
			_, err := as.kube.CoreV1().Secrets("kube-system").Create(ctx, tokenSecret("table2", "0123456789abcdef", targetNode), metav1.CreateOptions{DryRun: dry})
			return err
		},
		"create a Secret with the token of a service account of kube-system": func(ctx context.Context, as apiUser) error {
			_, err := as.kube.CoreV1().Secrets("kube-system").Create(ctx, &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-table3", Annotations: map[string]string{corev1.ServiceAccountNameKey: "default"}},
				Type:       corev1.SecretTypeServiceAccountToken,
			}, metav1.CreateOptions{DryRun: dry})
			return err
		},
		"get a token of a service account of kube-system": func(ctx context.Context, as apiUser) error {
			return tokenFor(ctx, as, "kube-system", "default", nil)
		},
		"get the token of a pod of the node": func(ctx context.Context, as apiUser) error {
			return tokenFor(ctx, as, "default", "default", &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: x.pod.Name, UID: x.pod.UID})
		},
		"bind somebody to cluster-admin": func(ctx context.Context, as apiUser) error {
			_, err := as.kube.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: "new"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
				Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "somebody"}},
			}, metav1.CreateOptions{DryRun: dry})
			return err
		},
		"act as another user": func(ctx context.Context, as apiUser) error {
			config := rest.CopyConfig(as.config)
			config.Impersonate = rest.ImpersonationConfig{UserName: "kubernetes-admin", Groups: []string{"system:masters"}}
			kube, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			_, err = kube.CoreV1().Secrets("kube-system").Get(ctx, systemSecret, metav1.GetOptions{})
			return err
		},
		"change an admission policy of k8sm": func(ctx context.Context, as apiUser) error {
			return as.kube.AdmissionregistrationV1().ValidatingAdmissionPolicies().Delete(ctx, x.policy, metav1.DeleteOptions{DryRun: dry})
		},
		"get a serving certificate for `kubernetes.default.svc`": servingCertificate,
	}
}

// servingCertificate asks for a kubelet's serving certificate with the API server's name, and waits for the verdict. One that is left
// without a verdict is refused.
func servingCertificate(ctx context.Context, as apiUser) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "system:node:" + targetNode, Organization: []string{"system:nodes"}},
		DNSNames: []string{targetNode, "kubernetes.default.svc"},
	}, key)
	if err != nil {
		return err
	}
	requests := as.kube.CertificatesV1().CertificateSigningRequests()
	request, err := requests.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "tried-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: certificatesv1.KubeletServingSignerName, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	err = scratch.Until(ctx, 2*time.Second, func(context.Context) error {
		request, err = requests.Get(ctx, request.Name, metav1.GetOptions{})
		if err == nil && len(request.Status.Conditions) == 0 {
			err = refusedf("nobody decides about the request")
		}
		return err
	})
	if err != nil {
		return err
	}
	if condition := request.Status.Conditions[0]; condition.Type != certificatesv1.CertificateApproved {
		return refusedf("%s: %s", condition.Type, condition.Message)
	}
	return nil
}
