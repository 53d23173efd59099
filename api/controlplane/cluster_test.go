package controlplane

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/etcd"
	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/api/statedir"
)

// eventually waits until the condition holds; its last complaint is the test's.
func eventually(t *testing.T, condition func(context.Context) (problem string)) {
	t.Helper()
	problem := ""
	met := func(ctx context.Context) (bool, error) {
		problem = condition(ctx)
		return problem == "", nil
	}
	if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true, met); err != nil {
		t.Fatal(problem)
	}
}

func testStranger(t *testing.T, dir statedir.Dir) {
	config := rest.AnonymousClientConfig(adminConfig(t, dir))
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{
		"/readyz": http.StatusOK, "/livez": http.StatusOK,
		"/api/v1/namespaces/kube-system/secrets": http.StatusUnauthorized, "/version": http.StatusUnauthorized,
	} {
		response, err := client.Get(config.Host + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: got %d, want %d", path, response.StatusCode, want)
		}
	}
}

// bootstrapToken hands out a token for the node, as the scheduler does.
func bootstrapToken(t *testing.T, scheduler kubernetes.Interface, node string) string {
	t.Helper()
	_, err := scheduler.CoreV1().Secrets(metav1.NamespaceSystem).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: "bootstrap-token-abcdef", Labels: map[string]string{api.LabelNode: node},
			Annotations: map[string]string{api.AnnotationMinionBefore: ""},
		},
		Type: corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{
			"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
			"auth-extra-groups": api.BootstrapGroup, "expiration": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return "abcdef.0123456789abcdef"
}

func testBootstrap(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	scheduler, err := clientcmd.BuildConfigFromFlags("", dir.SchedulerKubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(adminConfig(t, dir))
	config.BearerToken = bootstrapToken(t, clientOf(t, scheduler), "n1")
	kubelet := clientOf(t, config)
	eventually(t, func(ctx context.Context) string { // the token authenticator has to see the secret first
		return problemOf(readMinionConfig(ctx, kubelet))
	})
	_, err = kubelet.CoreV1().Secrets(metav1.NamespaceSystem).List(t.Context(), metav1.ListOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("listing secrets: got %v, want forbidden", err)
	}
	_, err = kubelet.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("listing nodes: got %v, want forbidden", err)
	}
	if condition, _ := requestCertificate(t, kubelet, admin, "n2"); condition != certificatesv1.CertificateDenied {
		t.Errorf("a certificate for another node: %s", condition)
	}
	condition, identity := requestCertificate(t, kubelet, admin, "n1")
	if condition != certificatesv1.CertificateApproved {
		t.Fatalf("a certificate for the token's node: %s", condition)
	}
	if condition, _ := requestCertificate(t, kubelet, admin, "n1"); condition != certificatesv1.CertificateDenied {
		t.Errorf("a second certificate with the same token: %s", condition)
	}
	config = rest.CopyConfig(config)
	config.BearerToken, config.CertData, config.KeyData = "", identity.cert, identity.key
	who, err := clientOf(t, config).AuthenticationV1().SelfSubjectReviews().
		Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || who.Status.UserInfo.Username != "system:node:n1" {
		t.Errorf("the certificate is %q's, %v", who.Status.UserInfo.Username, err)
	}
	node := clientOf(t, config)
	if err := readMinionConfig(t.Context(), node); err != nil {
		t.Errorf("a node reads the minions' configuration: %v", err)
	}
	if _, err := node.CoreV1().Services("").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("a node lists services for kube-proxy: %v", err)
	}
}

// testUsedToken runs after n1 was made. Readers of the Mesos master may still see the token that n1's minion has used.
func testUsedToken(t *testing.T, dir statedir.Dir) {
	started := []byte(`{"metadata":{"annotations":{"` + api.AnnotationMinionStarted + `":"2026-01-01T00:00:00Z"}}}`)
	if _, err := nodeClient(t, dir, "n1").CoreV1().Nodes().Patch(t.Context(), "n1", types.StrategicMergePatchType, started, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(adminConfig(t, dir))
	config.BearerToken = "abcdef.0123456789abcdef"
	thief := clientOf(t, config)
	eventually(t, func(ctx context.Context) string {
		if err := readMinionConfig(ctx, thief); !apierrors.IsUnauthorized(err) {
			return fmt.Sprintf("with the token of a minion that runs: %v", err)
		}
		return ""
	})
}

func readMinionConfig(ctx context.Context, client kubernetes.Interface) error {
	_, err := client.CoreV1().ConfigMaps(api.MinionConfigNamespace).Get(ctx, api.MinionConfigName, metav1.GetOptions{})
	return err
}

func problemOf(err error) string {
	if err != nil {
		return err.Error()
	}
	return ""
}

type identity struct{ cert, key []byte }

// requestCertificate asks, as a kubelet does, for a node's client certificate, and returns what became of it.
func requestCertificate(
	t *testing.T, kubelet, admin kubernetes.Interface, node string,
) (certificatesv1.RequestConditionType, identity) {
	t.Helper()
	request, key := signedRequest(t, x509.CertificateRequest{Subject: nodeSubject(node)})
	condition, certificate := decided(t, kubelet, admin, request)
	return condition, identity{cert: certificate, key: key}
}

func nodeSubject(node string) pkix.Name {
	return pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}
}

// decided submits a request, waits until it is decided and, if approved, signed, and returns what became of it.
func decided(
	t *testing.T, kubelet, admin kubernetes.Interface, request *certificatesv1.CertificateSigningRequest,
) (certificatesv1.RequestConditionType, []byte) {
	t.Helper()
	created, err := kubelet.CertificatesV1().CertificateSigningRequests().Create(t.Context(), request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var status certificatesv1.CertificateSigningRequestStatus
	eventually(t, func(ctx context.Context) string {
		r, err := admin.CertificatesV1().CertificateSigningRequests().Get(ctx, created.Name, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		status = r.Status
		if len(status.Conditions) == 0 {
			return "the request is not decided"
		}
		if status.Conditions[0].Type == certificatesv1.CertificateApproved && len(status.Certificate) == 0 {
			return "the request is not signed"
		}
		return ""
	})
	return status.Conditions[0].Type, status.Certificate
}

// signedRequest returns a request for a client certificate and the PEM of its key.
func signedRequest(t *testing.T, template x509.CertificateRequest) (*certificatesv1.CertificateSigningRequest, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	}, keyPEM
}

func testPodCIDR(t *testing.T, admin kubernetes.Interface) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	if _, err := admin.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) string {
		n, err := admin.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{})
		if err != nil || n.Spec.PodCIDR == "10.244.0.0/24" {
			return problemOf(err)
		}
		return "the node's podCIDR is " + n.Spec.PodCIDR
	})
}

func testEtcd(t *testing.T, dir statedir.Dir) {
	access, err := dir.Etcd()
	if err != nil {
		t.Fatal(err)
	}
	client, err := etcd.Dial(access)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	r, err := client.Get(t.Context(), "/registry/minions/", clientv3.WithPrefix())
	if err != nil || len(r.Kvs) != 1 {
		t.Fatalf("got %v, %v, want one node", r, err)
	}
	var node corev1.Node
	if err := json.Unmarshal(r.Kvs[0].Value, &node); err != nil || node.Name != "n1" || node.Kind != "Node" {
		t.Errorf("node %q is stored as %s: %v", node.Name, r.Kvs[0].Value, err)
	}

	trusted, err := certutil.NewPool(access.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", strings.TrimPrefix(access.Endpoints[0], "https://"), &tls.Config{RootCAs: trusted})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("a client without a certificate: got %v", err)
	}
}

// etcdAs is a client of etcd with somebody's certificate.
func etcdAs(t *testing.T, who func() (statedir.Etcd, error)) *clientv3.Client {
	t.Helper()
	access, err := who()
	if err != nil {
		t.Fatal(err)
	}
	client, err := etcd.Dial(access)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// testMetricsEtcd has the metrics servers' identity read more than who leads.
func testMetricsEtcd(t *testing.T, dir statedir.Dir) {
	client := etcdAs(t, dir.MetricsEtcd)
	leaders := state.LeaderPrefix("k8sm")
	for what, try := range map[string]func() error{
		"read secrets": func() error {
			_, err := client.Get(t.Context(), "/registry/secrets/", clientv3.WithPrefix())
			return err
		},
		"read executors": func() error { _, err := client.Get(t.Context(), state.Prefix, clientv3.WithPrefix()); return err },
		"lead":           func() error { _, err := client.Put(t.Context(), leaders+"x", "x"); return err },
	} {
		if err := try(); !errors.Is(err, rpctypes.ErrPermissionDenied) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := client.Get(t.Context(), leaders, clientv3.WithPrefix()); err != nil {
		t.Errorf("who leads: %v", err)
	}
}

// testSchedulersEtcd has the scheduler's identity read and write the API server's keys.
func testSchedulersEtcd(t *testing.T, dir statedir.Dir) {
	client := etcdAs(t, dir.SchedulerEtcd)
	lease, err := client.Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	forged := "/registry/secrets/default/forged"
	for what, try := range map[string]func() error{
		"read secrets": func() error {
			_, err := client.Get(t.Context(), "/registry/secrets/", clientv3.WithPrefix())
			return err
		},
		"read everything": func() error { _, err := client.Get(t.Context(), "\x00", clientv3.WithFromKey()); return err },
		"write a secret": func() error {
			_, err := client.Put(t.Context(), forged, "{}", clientv3.WithLease(lease.ID))
			return err
		},
		"delete nodes": func() error {
			_, err := client.Delete(t.Context(), "/registry/minions/nobody")
			return err
		},
		"read the keys of secrets": func() error {
			_, err := client.Get(t.Context(), "/k8sm-keys/ring")
			return err
		},
		"say that it is a control plane": func() error {
			_, err := client.Put(t.Context(), "/k8sm-keys/servers/192.0.2.66:6443", "{}")
			return err
		},
		"write in a transaction": func() error {
			_, err := client.Txn(t.Context()).Then(clientv3.OpPut("/k8sm/c/x", ""), clientv3.OpPut(forged, "{}")).Commit()
			return err
		},
		"become root": func() error {
			_, err := client.UserGrantRole(t.Context(), statedir.SchedulerEtcdUser, "root")
			return err
		},
		"copy everything": func() error {
			snapshot, err := client.Snapshot(t.Context())
			if err != nil {
				return err
			}
			defer snapshot.Close()
			_, err = io.Copy(io.Discard, snapshot)
			return err
		},
	} {
		if err := try(); !errors.Is(err, rpctypes.ErrPermissionDenied) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := client.Put(t.Context(), "/k8sm/c/x", "", clientv3.WithLease(lease.ID)); err != nil {
		t.Errorf("the scheduler's own keys: %v", err)
	}
	if _, err := client.Revoke(t.Context(), lease.ID); err != nil {
		t.Errorf("the scheduler's own lease: %v", err)
	}
}

func testScheduler(t *testing.T, dir statedir.Dir) {
	config, err := clientcmd.BuildConfigFromFlags("", dir.SchedulerKubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	client := clientOf(t, config)
	for _, test := range []struct {
		may  bool
		what authorizationv1.ResourceAttributes
	}{
		{true, authorizationv1.ResourceAttributes{Verb: "create", Resource: "pods", Subresource: "binding", Namespace: "default"}},
		{true, authorizationv1.ResourceAttributes{Verb: "delete", Resource: "pods", Namespace: "default"}},
		{true, authorizationv1.ResourceAttributes{Verb: "patch", Resource: "pods", Subresource: "status", Namespace: "default"}},
		{true, authorizationv1.ResourceAttributes{Verb: "watch", Group: "policy", Resource: "poddisruptionbudgets"}},
		{true, authorizationv1.ResourceAttributes{Verb: "create", Resource: "nodes"}},
		{true, authorizationv1.ResourceAttributes{
			Verb: "update", Group: "coordination.k8s.io", Resource: "leases", Namespace: "kube-node-lease"}},
		{true, authorizationv1.ResourceAttributes{Verb: "update", Resource: "persistentvolumeclaims", Namespace: "default"}},
		{true, authorizationv1.ResourceAttributes{Verb: "watch", Group: "storage.k8s.io", Resource: "storageclasses"}},
		{true, authorizationv1.ResourceAttributes{Verb: "watch", Resource: "namespaces"}},
		{false, authorizationv1.ResourceAttributes{Verb: "delete", Resource: "persistentvolumes"}},
		{false, authorizationv1.ResourceAttributes{Verb: "create", Resource: "pods", Namespace: "default"}},
		{false, authorizationv1.ResourceAttributes{Verb: "get", Resource: "secrets", Namespace: "default"}},
		{false, authorizationv1.ResourceAttributes{Verb: "list", Resource: "secrets", Namespace: "kube-system"}},
		{false, authorizationv1.ResourceAttributes{Verb: "create", Resource: "pods", Subresource: "exec", Namespace: "default"}},
	} {
		review := &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &test.what},
		}
		r, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if r.Status.Allowed != test.may {
			t.Errorf("%+v: got %v", test.what, r.Status.Allowed)
		}
	}
}

func testMinionConfig(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	m, err := admin.CoreV1().ConfigMaps(api.MinionConfigNamespace).Get(t.Context(), api.MinionConfigName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got api.MinionConfig
	if err := json.Unmarshal([]byte(m.Data[api.MinionConfigKey]), &got); err != nil {
		t.Fatal(err)
	}
	contain, enforce, pids, port := false, true, int64(4096), 10268
	cas, err := dir.ForNodes()
	if err != nil {
		t.Fatal(err)
	}
	want := api.MinionConfig{
		ClusterDomain: "cluster.local", ClusterCIDR: "10.244.0.0/16", ServiceCIDR: "10.96.0.0/16",
		IdleTimeout: &metav1.Duration{Duration: 20 * time.Minute}, CleanupDelay: &metav1.Duration{Duration: 5 * time.Minute}, ContainPods: &contain, NetworkPolicy: &enforce,
		ProxyMode: "iptables", NodePorts: "30000-30999",
		Network: api.PodNetwork{Mode: api.NetworkAuto, VXLANVNI: 5050, VXLANPort: 8472, CNIConfDir: "/etc/cni/net.d", CNIBinDir: "/opt/cni/bin"},
		CA:      cas.CA, KubeletServingCA: cas.KubeletServingCA, StatusPort: &port, Falcon: api.Falcon{Step: 60},
		EvictionHard:   map[string]string{"memory.available": "100Mi", "nodefs.available": "1Gi", "imagefs.available": "1Gi"},
		SeccompDefault: &enforce, PodPidsLimit: &pids, TLSCipherSuites: api.CipherSuites(), TLSMinVersion: "VersionTLS12",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func testServiceAccount(t *testing.T, admin kubernetes.Interface) {
	eventually(t, func(ctx context.Context) string {
		_, err := admin.CoreV1().ConfigMaps("default").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return problemOf(err)
	})
	eventually(t, func(ctx context.Context) string {
		_, err := admin.CoreV1().ServiceAccounts("default").
			CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		return problemOf(err)
	})
}

// marks are what a restart must not change.
type marks struct{ NodeUID, Authority, Certificate string }

func mark(t *testing.T, dir statedir.Dir) marks {
	t.Helper()
	n, err := clientOf(t, adminConfig(t, dir)).CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := os.ReadFile(dir.CA())
	if err != nil {
		t.Fatal(err)
	}
	file, _ := dir.Pair(statedir.APIServer)
	certificate, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return marks{NodeUID: string(n.UID), Authority: string(authority), Certificate: string(certificate)}
}

func checkMark(t *testing.T, dir statedir.Dir, before marks) {
	t.Helper()
	if diff := cmp.Diff(before, mark(t, dir)); diff != "" {
		t.Errorf("after a restart (-before +after):\n%s", diff)
	}
}

// testAssignedAddress runs after the scheduler's test, so that the policy is known to the API server.
func testAssignedAddress(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	pods := admin.CoreV1().Pods(metav1.NamespaceDefault)
	forged := annotated("forged", map[string]string{api.AnnotationIPAssigned: "10.96.0.1"})
	says := "annotation k8sm.io/ip-assigned may only be written by the scheduler"
	eventually(t, func(ctx context.Context) string {
		_, err := pods.Create(ctx, forged, metav1.CreateOptions{})
		if err == nil {
			_ = pods.Delete(ctx, forged.Name, *metav1.NewDeleteOptions(0))
			return "a pod was made with an address of its own choice"
		}
		if !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), says) {
			return "refused for " + err.Error()
		}
		return ""
	})
	plain, err := pods.Create(t.Context(), annotated("plain", map[string]string{api.AnnotationIPPool: "office"}), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	plain.Annotations[api.AnnotationIPAssigned] = "192.0.2.1"
	if _, err := pods.Update(t.Context(), plain, metav1.UpdateOptions{}); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("an address was written by somebody: %v", err)
	}
	binding := &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: plain.Name, Annotations: map[string]string{api.AnnotationIPAssigned: "192.0.2.1"}},
		Target:     corev1.ObjectReference{Kind: "Node", Name: "n1"},
	}
	if err := pods.Bind(t.Context(), binding, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("somebody has bound a pod with an address: %v", err)
	}
	if err := schedulerClient(t, dir).CoreV1().Pods(metav1.NamespaceDefault).Bind(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Errorf("the scheduler may not: %v", err)
	}
	bound, err := pods.Get(t.Context(), plain.Name, metav1.GetOptions{})
	if err != nil || bound.Annotations[api.AnnotationIPAssigned] != "192.0.2.1" {
		t.Errorf("bound: %v, %v", bound.Annotations, err)
	}
	bound.Labels = map[string]string{"some": "change"}
	if bound, err = pods.Update(t.Context(), bound, metav1.UpdateOptions{}); err != nil {
		t.Errorf("a change of something else: %v", err)
	}
	delete(bound.Annotations, api.AnnotationIPAssigned)
	if _, err := pods.Update(t.Context(), bound, metav1.UpdateOptions{}); err == nil {
		t.Error("an address was taken from the pod that has it")
	}
	if err := pods.Delete(t.Context(), plain.Name, *metav1.NewDeleteOptions(0)); err != nil {
		t.Error(err)
	}
}

func annotated(name string, annotations map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "none"}}},
	}
}

// schedulerClient has the scheduler's identity.
func schedulerClient(t *testing.T, dir statedir.Dir) kubernetes.Interface {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", dir.SchedulerKubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}
