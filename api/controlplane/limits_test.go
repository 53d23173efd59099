package controlplane

import (
	"context"
	"fmt"
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/statedir"
)

// token returns a bootstrap token's secret as the scheduler writes it.
func token(id, node string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id, Labels: map[string]string{api.LabelNode: node}},
		Type:       corev1.SecretTypeBootstrapToken,
		Data: map[string][]byte{
			"token-id": []byte(id), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-authentication": []byte("true"),
			"auth-extra-groups": []byte(api.BootstrapGroup), "expiration": []byte("2100-01-01T00:00:00Z"), "description": []byte("minion"),
		},
	}
}

// testSchedulerSecrets tries to become an administrator with the scheduler's identity.
func testSchedulerSecrets(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	secrets := schedulerClient(t, dir).CoreV1().Secrets(metav1.NamespaceSystem)
	of := admin.CoreV1().Secrets(metav1.NamespaceSystem)
	if _, err := of.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "cloud"}, StringData: map[string]string{"key": "s"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := secrets.Get(t.Context(), "cloud", metav1.GetOptions{})
	refused(t, "the scheduler reads a secret", err, "cannot get resource")
	_, err = secrets.Patch(t.Context(), "cloud", types.MergePatchType, []byte(`{}`), metav1.PatchOptions{})
	refused(t, "the scheduler reads a secret by a patch", err, "cannot patch resource")
	only := "the scheduler may only write bootstrap tokens"
	_, err = secrets.Update(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "cloud"}, Type: corev1.SecretTypeOpaque}, metav1.UpdateOptions{})
	refused(t, "the scheduler overwrites a secret", err, only)
	refused(t, "the scheduler deletes a secret", secrets.Delete(t.Context(), "cloud", metav1.DeleteOptions{}), only)
	escalator := "clusterrole-aggregation-controller" // may give itself every right
	if _, err := admin.CoreV1().ServiceAccounts(metav1.NamespaceSystem).Get(t.Context(), escalator, metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	_, err = secrets.Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-escala", Annotations: map[string]string{corev1.ServiceAccountNameKey: escalator}},
		Type:       corev1.SecretTypeServiceAccountToken,
	}, metav1.CreateOptions{})
	refused(t, "the scheduler has a token of a service account made that may give itself every right", err, only)
	for attack, spoil := range map[string]func(*corev1.Secret){
		"another group": func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:bootstrappers:other") },
		"two groups": func(s *corev1.Secret) {
			s.Data["auth-extra-groups"] = []byte(api.BootstrapGroup + ",system:bootstrappers:other")
		},
		"no end":         func(s *corev1.Secret) { delete(s.Data, "expiration") },
		"another use":    func(s *corev1.Secret) { s.Data["usage-bootstrap-signing"] = []byte("true") },
		"no node":        func(s *corev1.Secret) { s.Labels = nil },
		"another's name": func(s *corev1.Secret) { s.Name = "cloud-2" },
	} {
		secret := token("bad123", "n1")
		spoil(secret)
		_, err := secrets.Create(t.Context(), secret, metav1.CreateOptions{})
		refused(t, "the scheduler creates a token with "+attack, err, "the scheduler may")
	}
	others := token("other1", "n1")
	others.Data["auth-extra-groups"] = []byte("system:bootstrappers:other")
	if _, err := of.Create(t.Context(), others, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = secrets.Update(t.Context(), others, metav1.UpdateOptions{})
	refused(t, "the scheduler lives on another's token", err, "the scheduler may")

	own := token("own123", "n1")
	_, err = secrets.Create(t.Context(), own, metav1.CreateOptions{})
	accepted(t, "the scheduler creates a token", err)
	_, err = secrets.Update(t.Context(), own, metav1.UpdateOptions{})
	accepted(t, "the scheduler renews a token", err)
	accepted(t, "the scheduler deletes a token", secrets.Delete(t.Context(), own.Name, metav1.DeleteOptions{}))
}

// testSchedulerPods tries to change, with the scheduler's identity, what runs and who is reached.
func testSchedulerPods(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	pod := annotated("victim", nil)
	pod.Spec.NodeName = "n1"
	if _, err := admin.CoreV1().Pods(metav1.NamespaceDefault).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pods := schedulerClient(t, dir).CoreV1().Pods(metav1.NamespaceDefault)
	patch := func(text string, subresource ...string) error {
		_, err := pods.Patch(t.Context(), pod.Name, types.StrategicMergePatchType, []byte(text), metav1.PatchOptions{}, subresource...)
		return err
	}
	for attack, text := range map[string]string{
		"runs another image":               `{"spec":{"containers":[{"name":"main","image":"evil"}]}}`,
		"puts a pod behind a service":      `{"metadata":{"labels":{"app":"bank"}}}`,
		"writes another's annotation":      `{"metadata":{"annotations":{"example.com/x":"y"}}}`,
		"gives a pod to another owner":     `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n1","uid":"u"}]}}`,
		"keeps a pod from being collected": `{"metadata":{"finalizers":["example.com/stay"]}}`,
	} {
		refused(t, "the scheduler "+attack, patch(text), "the scheduler may only change")
	}
	for attack, text := range map[string]string{
		"redirects a service to an address of its choice": `{"status":{"podIP":"192.0.2.1","podIPs":[{"ip":"192.0.2.1"}]}}`,
		"ends a pod":                    `{"status":{"phase":"Failed"}}`,
		"calls a pod ready":             `{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`,
		"puts a pod behind a service":   `{"metadata":{"labels":{"app":"bank"}}}`,
		"annotates a pod by its status": `{"metadata":{"annotations":{"example.com/x":"y"}}}`,
	} {
		refused(t, "the scheduler "+attack, patch(text, "status"), "the scheduler may only change")
	}
	accepted(t, "the scheduler annotates a pod", patch(`{"metadata":{"annotations":{"k8sm.io/task-id":"u.2","k8sm.io/port-mappings":"80/TCP=31000"}}}`))
	accepted(t, "a kubelet goes on", func() error {
		_, err := asNode(t, dir, "n1").CoreV1().Pods(metav1.NamespaceDefault).Patch(t.Context(), pod.Name, types.StrategicMergePatchType,
			[]byte(`{"status":{"phase":"Running","podIP":"10.244.0.9","podIPs":[{"ip":"10.244.0.9"}],"conditions":[{"type":"Ready","status":"True"}]}}`), metav1.PatchOptions{}, "status")
		return err
	}())
	waiting := annotated("waiting", nil)
	if _, err := admin.CoreV1().Pods(metav1.NamespaceDefault).Create(t.Context(), waiting, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for what, status := range map[string]string{
		"says why a pod waits": `{"status":{"nominatedNodeName":"n1","conditions":[{"type":"PodScheduled","status":"False"},{"type":"DisruptionTarget","status":"True"}]}}`,
		"nominates no node":    `{"status":{"nominatedNodeName":null,"conditions":[{"type":"PodScheduled","status":"False","reason":"x"}]}}`,
	} {
		_, err := pods.Patch(t.Context(), waiting.Name, types.StrategicMergePatchType, []byte(status), metav1.PatchOptions{}, "status")
		accepted(t, "the scheduler "+what, err)
	}
	for _, meta := range []metav1.ObjectMeta{
		{Name: waiting.Name, Labels: map[string]string{"app": "bank"}}, {Name: waiting.Name, Annotations: map[string]string{"example.com/x": "y"}},
	} {
		err := pods.Bind(t.Context(), &corev1.Binding{ObjectMeta: meta, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}, metav1.CreateOptions{})
		refused(t, fmt.Sprintf("the scheduler binds a pod with %v %v", meta.Labels, meta.Annotations), err, "the scheduler may only change")
	}
}

// testSchedulerVolumes tries to take, with the scheduler's identity, what is on another's volume. It runs after testLateClaim.
func testSchedulerVolumes(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	bound, err := admin.CoreV1().PersistentVolumes().Get(t.Context(), "pv1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	scheduler := schedulerClient(t, dir).CoreV1()
	for attack, spoil := range map[string]func(*corev1.PersistentVolume){
		"gives a bound volume to another claim": func(pv *corev1.PersistentVolume) { pv.Spec.ClaimRef.Namespace, pv.Spec.ClaimRef.UID = "evil", "u" },
		"takes a bound volume from its claim":   func(pv *corev1.PersistentVolume) { pv.Spec.ClaimRef = nil },
		"has a volume deleted that was retained": func(pv *corev1.PersistentVolume) {
			pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
		},
	} {
		pv := bound.DeepCopy()
		spoil(pv)
		_, err := scheduler.PersistentVolumes().Update(t.Context(), pv, metav1.UpdateOptions{})
		refused(t, "the scheduler "+attack, err, "the scheduler may only")
	}
	claim, err := admin.CoreV1().PersistentVolumeClaims(metav1.NamespaceDefault).Create(t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "free"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	claim.Spec.VolumeName = "pv1"
	_, err = scheduler.PersistentVolumeClaims(metav1.NamespaceDefault).Update(t.Context(), claim, metav1.UpdateOptions{})
	refused(t, "the scheduler gives a claim another's volume", err, "the scheduler may only")
	claim.Spec.VolumeName = ""
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, "volume.kubernetes.io/selected-node", "n1")
	_, err = scheduler.PersistentVolumeClaims(metav1.NamespaceDefault).Update(t.Context(), claim, metav1.UpdateOptions{})
	accepted(t, "the scheduler selects a claim's node", err)
}

// slice returns an EndpointSlice of a server with this name, in a service.
func slice(m api.Membership, name, server, service string) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{m.Label: server, discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.1"}}},
	}
}

// testMemberLimits attacks other services with the identity of a service's servers.
func testMemberLimits(t *testing.T, m api.Membership, kubeconfig string, admin kubernetes.Interface) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	server := clientOf(t, config)
	slices, of := server.DiscoveryV1().EndpointSlices(m.Namespace), admin.DiscoveryV1().EndpointSlices(m.Namespace)
	only, name := "servers may only write their own", m.ObjectPrefix()+"b"
	eventually(t, func(ctx context.Context) string { // a policy takes effect a moment after it is there
		_, err := slices.Create(ctx, slice(m, name, "b", "another"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil || !strings.Contains(err.Error(), only) {
			return fmt.Sprintf("%s takes over another service: %v", m.User, err)
		}
		return ""
	})
	vip := slice(m, name, "b", m.Service)
	vip.Endpoints[0].Addresses[0] = "10.96.0.1"
	two := slice(m, name, "b", m.Service)
	two.Endpoints = append(two.Endpoints, discoveryv1.Endpoint{Addresses: []string{"192.0.2.2"}})
	for attack, s := range map[string]*discoveryv1.EndpointSlice{
		"takes over another service":       slice(m, name, "b", "another"),
		"writes a slice of another name":   slice(m, "another-b", "b", m.Service),
		"writes a slice of no server":      slice(m, name, "", m.Service),
		"writes another server's slice":    slice(m, name, "c", m.Service),
		"sends clients to another service": vip,
		"sends clients to others":          two,
	} {
		_, err := slices.Create(t.Context(), s, metav1.CreateOptions{})
		refused(t, m.User+" "+attack, err, only)
	}
	others := slice(m, "another-x", "", "another")
	if _, err := of.Create(t.Context(), others, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = slices.Patch(t.Context(), others.Name, types.MergePatchType, []byte(`{"endpoints":[{"addresses":["192.0.2.9"]}]}`), metav1.PatchOptions{})
	refused(t, m.User+" redirects another service", err, only)
	refused(t, m.User+" cuts off another service", slices.Delete(t.Context(), others.Name, metav1.DeleteOptions{}), only)
	accepted(t, "another service's slice is removed", of.Delete(t.Context(), others.Name, metav1.DeleteOptions{}))

	_, err = slices.Create(t.Context(), slice(m, name, "b", m.Service), metav1.CreateOptions{})
	accepted(t, m.User+" joins its service", err)
	_, err = slices.Patch(t.Context(), name, types.MergePatchType, []byte(`{"metadata":{"labels":{"kubernetes.io/service-name":"another"}}}`), metav1.PatchOptions{})
	refused(t, m.User+" rededicates a slice", err, only)
	_, err = slices.Patch(t.Context(), name, types.MergePatchType, []byte(`{"endpoints":[{"addresses":["192.0.2.3"]}]}`), metav1.PatchOptions{})
	accepted(t, m.User+" moves", err)
	accepted(t, m.User+" leaves its service", slices.Delete(t.Context(), name, metav1.DeleteOptions{}))
	testMemberLeases(t, m, server)
}

func testMemberLeases(t *testing.T, m api.Membership, server kubernetes.Interface) {
	leases, name := server.CoordinationV1().Leases(m.LeaseNamespace), m.ObjectPrefix()+"b"
	lease := func(name, member string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{m.Label: member}}}
	}
	for _, bad := range []*coordinationv1.Lease{lease("b", "b"), lease(name, ""), lease(name, "c")} {
		_, err := leases.Create(t.Context(), bad, metav1.CreateOptions{})
		refused(t, fmt.Sprintf("%s takes the lease %s of server %q", m.User, bad.Name, bad.Labels[m.Label]), err, "servers may only write their own")
	}
	_, err := leases.Create(t.Context(), lease(name, "b"), metav1.CreateOptions{})
	accepted(t, m.User+" takes its lease", err)
	accepted(t, m.User+" removes a lease", leases.Delete(t.Context(), name, metav1.DeleteOptions{}))
	_, err = server.CoordinationV1().Leases(metav1.NamespaceSystem).Create(t.Context(), lease(name, "b"), metav1.CreateOptions{})
	refused(t, m.User+" takes a lease by which controllers elect leaders", err, "cannot create resource")
}

// external returns a service that takes over these addresses.
func external(name string, addresses ...string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 5050}}, ExternalIPs: addresses, Type: corev1.ServiceTypeLoadBalancer},
		Status:     corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}}},
	}
}

// testExternalIPs has a tenant take over the Mesos master's address (CVE-2020-8554).
func testExternalIPs(t *testing.T, dir statedir.Dir) {
	services := as(t, dir, tenantUser).CoreV1().Services(tenantNamespace)
	_, err := services.Create(t.Context(), external("master", "192.0.2.1"), metav1.CreateOptions{})
	refused(t, "a tenant takes over the Mesos master's address", err, "external IPs")
	plain, err := services.Create(t.Context(), external("plain"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(plain.Status.LoadBalancer.Ingress) > 0 {
		t.Errorf("a tenant's service came with an address of its choice: %v", plain.Status)
	}
	plain.Spec.ExternalIPs = []string{"192.0.2.1"}
	_, err = services.Update(t.Context(), plain, metav1.UpdateOptions{})
	refused(t, "a tenant takes over the Mesos master's address later", err, "external IPs")
	plain.Spec.ExternalIPs = nil
	plain.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
	if got, err := services.Update(t.Context(), plain, metav1.UpdateOptions{}); err != nil || len(got.Status.LoadBalancer.Ingress) > 0 {
		t.Errorf("a tenant wrote its service's status: %v, %v", got.Status, err)
	}
	_, err = services.UpdateStatus(t.Context(), plain, metav1.UpdateOptions{})
	refused(t, "a tenant takes over the Mesos master's address by its service's status", err, "cannot update resource")
}

// allowedExternalIPs is the allow-list of a control plane in testAllowedExternalIPs.
const allowedExternalIPs = "203.0.113.0/28,2001:db8::/64"

// testAllowedExternalIPs runs on a control plane with that allow-list.
func testAllowedExternalIPs(t *testing.T, dir statedir.Dir) {
	services := as(t, dir, tenantUser).CoreV1().Services(tenantNamespace)
	only := "external IPs are limited to " + strings.ReplaceAll(allowedExternalIPs, ",", ", ")
	eventually(t, func(ctx context.Context) string {
		_, err := services.Create(ctx, external("master", "203.0.113.3", "192.0.2.1"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil || !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), only) {
			return fmt.Sprintf("a tenant takes over the Mesos master's address: %v", err)
		}
		return ""
	})
	given, err := services.Create(t.Context(), external("given", "203.0.113.3"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	given.Spec.ExternalIPs = []string{"203.0.113.3", "203.0.113.16"}
	_, err = services.Update(t.Context(), given, metav1.UpdateOptions{})
	refused(t, "a tenant takes over an address beyond the range", err, only)
	given.Spec.ExternalIPs = []string{"203.0.113.3", "203.0.113.15"}
	_, err = services.Update(t.Context(), given, metav1.UpdateOptions{})
	accepted(t, "a tenant uses two addresses of the range", err)
}

// testExternalIPsRemain runs after testAllowedExternalIPs, on a control plane without an allow-list.
func testExternalIPsRemain(t *testing.T, dir statedir.Dir) {
	services := as(t, dir, tenantUser).CoreV1().Services(tenantNamespace)
	_, err := services.Create(t.Context(), external("again", "203.0.113.3"), metav1.CreateOptions{})
	refused(t, "a tenant uses what was allowed once", err, "external IPs")
	_, err = services.Patch(t.Context(), "given", types.MergePatchType, []byte(`{"metadata":{"labels":{"some":"change"}}}`), metav1.PatchOptions{})
	accepted(t, "a service keeps its addresses", err)
	_, err = clientOf(t, adminConfig(t, dir)).AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(t.Context(), "k8sm-service-external-ips", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("the policy of the allow-list is still there: %v", err)
	}
}
