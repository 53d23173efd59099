package controlplane

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/statedir"
)

// caRotation connects anew, as each step of km certs rotate-ca does.
func caRotation(t *testing.T, dir statedir.Dir) *CARotation {
	t.Helper()
	r, err := NewCARotation(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// asOf is a client with the administrator's certificate and the CA of now, whatever the files have later.
func asOf(t *testing.T, dir statedir.Dir) kubernetes.Interface {
	t.Helper()
	config := adminConfig(t, dir)
	if err := rest.LoadTLSFiles(config); err != nil {
		t.Fatal(err)
	}
	config.CAFile, config.CertFile, config.KeyFile = "", "", ""
	config.Dial = nil
	return clientOf(t, config)
}

// All CAs are replaced while every certificate is used, also by those who have read the CA only once, and nothing fails.
func TestCAsAreReplacedUnderLoad(t *testing.T) {
	transport.CertCallbackRefreshDuration = time.Second
	dir := statedir.Dir(t.TempDir())
	running := startChild(t, dir)
	admin := clientOf(t, restartingConfig(t, dir))
	kubelet := startKubelet(t, dir, admin)
	former, formerCA := asOf(t, dir), filepath.Join(t.TempDir(), "ca.crt")
	text, err := os.ReadFile(dir.CA())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(formerCA, text, 0o600); err != nil {
		t.Fatal(err)
	}
	token := serviceAccountToken(t, admin)
	uses := loads(t, dir, kubelet)
	uses["a pod that has read its CA once"] = func(ctx context.Context) error {
		return podCalls(ctx, adminConfig(t, dir).Host, formerCA, token)
	}

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var l load
	var all sync.WaitGroup
	for what, do := range uses {
		all.Go(func() { l.every(ctx, what, 100*time.Millisecond, do) })
	}
	replaceCAs(t, dir, admin)
	stop()
	all.Wait()
	l.report(t)
	testControllerManagerLives(t, admin)
	if _, err := former.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("a certificate of the former CA: %v", err)
	}
	testNoFormerCA(t, dir, admin, text)
	running.stop(t) // which fails if it has ended by itself
	startChild(t, dir).stop(t)
}

// podCalls asks the API server as a pod does that connects anew each time.
func podCalls(ctx context.Context, host, caFile, token string) error {
	client, err := kubernetes.NewForConfig(&rest.Config{Host: host, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAFile: caFile}})
	if err != nil {
		return err
	}
	_, err = client.Discovery().ServerVersion()
	return err
}

// replaceCAs goes through the steps.
func replaceCAs(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	t.Helper()
	refuses(t, caRotation(t, dir).Finish(t.Context(), time.Now()), "no former CA")
	if err := caRotation(t, dir).Begin(time.Now(), statedir.Lives{}); err != nil {
		t.Fatal(err)
	}
	refuses(t, caRotation(t, dir).Issue(t.Context(), time.Now()), "do not get the CA yet")
	eventually(t, func(ctx context.Context) string { return problemOf(caRotation(t, dir).Issue(ctx, time.Now())) })
	eventually(t, func(ctx context.Context) string {
		config, err := minionConfigOf(ctx, admin)
		if err != nil {
			return err.Error()
		}
		if cas, err := dir.ForNodes(); err != nil || !bytes.Equal(cas.CA, config.CA) {
			return fmt.Sprintf("minions are told of other CAs: %v", err)
		}
		return ""
	})
	eventually(t, func(ctx context.Context) string { return problemOf(caRotation(t, dir).Finish(ctx, time.Now())) })
	eventually(t, func(ctx context.Context) string {
		config, err := minionConfigOf(ctx, admin)
		if err == nil && bytes.Count(config.CA, []byte("BEGIN CERTIFICATE")) != 1 {
			err = fmt.Errorf("minions trust several CAs")
		}
		return problemOf(err)
	})
}

func minionConfigOf(ctx context.Context, admin kubernetes.Interface) (c api.MinionConfig, err error) {
	object, err := admin.CoreV1().ConfigMaps(api.MinionConfigNamespace).Get(ctx, api.MinionConfigName, metav1.GetOptions{})
	if err != nil {
		return c, err
	}
	return api.ReadMinionConfig(object.Data)
}

// testNoFormerCA checks that nothing in the cluster names the former CA.
func testNoFormerCA(t *testing.T, dir statedir.Dir, admin kubernetes.Interface, former []byte) {
	t.Helper()
	eventually(t, func(ctx context.Context) string {
		maps, err := admin.CoreV1().ConfigMaps("").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		for _, m := range maps.Items {
			for key, value := range m.Data {
				if strings.Contains(value, strings.TrimSpace(string(former))) {
					return fmt.Sprintf("ConfigMap %s/%s has the former CA in %s", m.Namespace, m.Name, key)
				}
			}
		}
		return ""
	})
	if text, err := os.ReadFile(dir.AdminKubeconfig()); err != nil || bytes.Contains(text, former) {
		t.Errorf("the administrator's kubeconfig: %v", err)
	}
}

func TestNodesThatLagAreNamed(t *testing.T) {
	next := &x509.Certificate{Raw: []byte("next")}
	cluster := statedir.Rotation{Authority: clusterCA, Phase: statedir.Issued, Issuer: next, Other: &x509.Certificate{Raw: []byte("former")}}
	node := func(name, reason, authorities string) corev1.Node {
		n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{api.AnnotationAuthorities: authorities}}}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Reason: reason}}
		return n
	}
	r := lagging(t, cluster, node("old", "KubeletReady", `{"client":"x"}`), node("new", "KubeletReady", `{"client":"`+api.AuthorityID(next)+`"}`),
		node("silent", "NodeStatusUnknown", ""), node("idle", "AgentOffersResources", ""))
	who, err := r.needing(t.Context())
	if err != nil || len(who) != 2 || !strings.Contains(who[0], "node old calls with") || !strings.Contains(who[1], "node silent does not say") {
		t.Errorf("%q, %v", who, err)
	}
	refuses(t, r.check(t.Context(), "finish", r.needing), "cannot finish: node old calls with")
	r.Force = true
	if err := r.check(t.Context(), "finish", r.needing); err != nil {
		t.Errorf("with --force: %v", err)
	}
}

// Those of CAs that no API server shows a certificate of.
func TestControlPlanesThatLagAreNamed(t *testing.T) {
	former, next := &x509.Certificate{Raw: []byte("former")}, &x509.Certificate{Raw: []byte("next")}
	const name, host = "front-proxy-ca", "192.0.2.1:6443"
	begun := statedir.Rotation{Authority: name, Phase: statedir.Begun, Issuer: former, Other: next}
	issued := statedir.Rotation{Authority: name, Phase: statedir.Issued, Issuer: next, Other: former}
	both := []string{api.AuthorityID(former), api.AuthorityID(next)}
	for _, test := range []struct {
		ca   statedir.Rotation
		said map[string]caReport
		late string // "" if nobody is
	}{
		{begun, nil, "does not say which CAs it has"},
		{begun, map[string]caReport{}, "does not trust the next front-proxy-ca yet: bring it the authorities"},
		{begun, map[string]caReport{name: {Issuer: both[0], Trusts: both[:1], Settled: true}}, "does not trust the next front-proxy-ca yet"},
		{begun, map[string]caReport{name: {Issuer: both[0], Trusts: both, Settled: true}}, ""},
		{issued, nil, "does not say which CAs it has"},
		{issued, map[string]caReport{name: {Issuer: both[0], Trusts: both, Settled: true}}, "issues certificates by the front-proxy-ca that is to go: bring it the authorities"},
		{issued, map[string]caReport{name: {Issuer: both[1], Trusts: both}}, "has issued certificates by this front-proxy-ca for less than 20s"},
		{issued, map[string]caReport{name: {Issuer: both[1], Trusts: both, Settled: true}}, ""},
	} {
		r := lagging(t, test.ca)
		r.servers, r.said = []string{"https://" + host}, map[string]map[string]caReport{}
		if test.said != nil {
			r.said[host] = test.said
		}
		late := r.needing
		if test.ca.Phase == statedir.Begun {
			late = r.distrusting
		}
		who, err := late(t.Context())
		if err != nil || (len(who) > 0) != (test.late != "") || !strings.Contains(strings.Join(who, "; "), test.late) {
			t.Errorf("%s, and it says %v: late: %q, %v, want %q", test.ca.Phase, test.said, who, err, test.late)
		}
	}
}

// lagging is a rotation of a cluster with these nodes and no API server to ask.
func lagging(t *testing.T, ca statedir.Rotation, nodes ...corev1.Node) *CARotation {
	t.Helper()
	return &CARotation{client: fake.NewClientset(&corev1.NodeList{Items: nodes}), names: []string{ca.Authority}, cas: map[string]statedir.Rotation{ca.Authority: ca}}
}

// What minions are told comes after what etcd is told. If the next CA replaced the former one before, etcd would be a stranger's.
func TestNextCAIssuesOnlyAfterMinionsAreTold(t *testing.T) {
	dir := statedir.Dir(t.TempDir())
	if err := dir.Prepare(statedir.Spec{Now: time.Now(), ServerURL: "https://127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	former, err := os.ReadFile(dir.CA())
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.BeginRotation(time.Now(), statedir.Lives{}, clusterCA); err != nil {
		t.Fatal(err)
	}
	both, err := os.ReadFile(dir.CA())
	if err != nil {
		t.Fatal(err)
	}
	all, err := dir.Rotations(clusterCA)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{string(former): true, string(both): false} {
		config, err := json.Marshal(api.MinionConfig{CA: []byte(text)})
		if err != nil {
			t.Fatal(err)
		}
		r := lagging(t, all[0])
		r.client = fake.NewClientset(&corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: api.MinionConfigNamespace, Name: api.MinionConfigName}, Data: map[string]string{api.MinionConfigKey: string(config)},
		})
		who, err := r.distrusting(t.Context())
		if err != nil || strings.Contains(strings.Join(who, "\n"), "minions are not told of the next CA yet") != want {
			t.Errorf("late: %q, %v; minions among them: want %t", who, err, want)
		}
	}
}
