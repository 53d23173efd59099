package minion

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/k8sm/k8sm/api"
	protocol "github.com/k8sm/k8sm/api/logs"
)

func storeSlice(name, service, address string, port int32) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: api.LogsServiceNamespace, Name: "k8sm-logs-" + name,
			Labels: map[string]string{discoveryv1.LabelServiceName: service, api.LabelLogsServer: name},
		},
		Ports: []discoveryv1.EndpointPort{{Port: &port}},
	}
	if address != "" {
		s.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{address}}}
	}
	return s
}

func TestStoresAreWhereTheirSlicesSay(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := fake.NewClientset(
		storeSlice("a-10261", api.LogsServiceName, "192.0.2.1", 10261),
		storeSlice("b-10261", api.LogsServiceName, "2001:db8::2", 10261),
		storeSlice("empty", api.LogsServiceName, "", 10261),
		storeSlice("other", "another", "192.0.2.3", 10261),
	)
	var at storeAddresses
	names, done := make(chan []string), make(chan error, 1)
	go func() { done <- watchStores(ctx, client, &at, names) }()
	if diff := cmp.Diff([]string{"a-10261", "b-10261"}, <-names); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string]string{"a-10261": "192.0.2.1:10261", "b-10261": "[2001:db8::2]:10261"} {
		if got, ok := at.get(name); got != want || !ok {
			t.Errorf("%s is at %q, want %q", name, got, want)
		}
	}
	all := client.DiscoveryV1().EndpointSlices(api.LogsServiceNamespace)
	if err := all.Delete(ctx, "k8sm-logs-b-10261", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a-10261"}, <-names); diff != "" {
		t.Error(diff)
	}
	if _, err := all.Update(ctx, storeSlice("a-10261", api.LogsServiceName, "192.0.2.9", 10261), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	<-names
	if got, _ := at.get("a-10261"); got != "192.0.2.9:10261" {
		t.Errorf("after a change of its address it is at %q", got)
	}
	cancel()
	<-done
}

// Only a server with the stores' name in a certificate of the cluster's CA gets logs, and it sees the node's certificate.
func TestStoreAndNodeProveWhoTheyAre(t *testing.T) {
	a := newAuthority(t)
	files, boot := testNode(t, a)
	a.issue(files.certificate(), api.NodeUserPrefix+boot.Node)
	n := &node{boot: boot, files: files}
	for _, c := range []struct {
		name, want string
		ca         *authority
		host       string
	}{
		{"a store", "", a, protocol.ServerName},
		{"another server of the cluster", "valid for", a, "k8sm-metrics.kube-system.svc"},
		{"a server of another cluster", "unknown authority", newAuthority(t), protocol.ServerName},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile(n.files.ca(), a.pem, 0o600); err != nil {
				t.Fatal(err)
			}
			caller := ""
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { caller = r.TLS.PeerCertificates[0].Subject.CommonName }))
			pair := filepath.Join(t.TempDir(), "pair.pem")
			c.ca.issueFor(pair, "store", x509.ExtKeyUsageServerAuth, c.host)
			loaded, err := tls.LoadX509KeyPair(pair, pair)
			if err != nil {
				t.Fatal(err)
			}
			server.TLS = &tls.Config{Certificates: []tls.Certificate{loaded}, ClientAuth: tls.RequireAnyClientCert}
			server.StartTLS()
			defer server.Close()
			at := storeAddresses{of: map[string]string{"a-10261": server.Listener.Addr().String()}}
			client, err := n.storesClient(&at)
			if err != nil {
				t.Fatal(err)
			}
			response, err := client.Get("https://a-10261/")
			if err == nil {
				_ = response.Body.Close()
			}
			if c.want == "" && (err != nil || caller != api.NodeUserPrefix+boot.Node) {
				t.Errorf("the store sees %q; error %v", caller, err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if _, err := client.Get("https://b-10261/"); err == nil || !strings.Contains(err.Error(), "b-10261 is not in the service") {
				t.Errorf("to a store that is not there: %v", err)
			}
		})
	}
}

func TestMultilineIsThatOfThePod(t *testing.T) {
	annotated := func(uid, mirrorOf, pattern string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", Annotations: map[string]string{api.AnnotationLogMultiline: pattern}}}
		if p.UID = types.UID(uid); mirrorOf != "" {
			p.Annotations[corev1.MirrorPodAnnotationKey] = mirrorOf
		}
		return p
	}
	for _, c := range []struct {
		pod   *corev1.Pod
		uid   string
		want  string
		known bool
	}{
		{annotated("u-1", "", "^a"), "u-1", "^a", true},
		{annotated("u-1", "", "^a"), "u-2", "", false}, // of the same name
		{annotated("u-3", "hash", "^b"), "hash", "^b", true},
	} {
		if got, known := multiline([]*corev1.Pod{c.pod}, "shop", "web", c.uid); got != c.want || known != c.known {
			t.Errorf("%s: %q, known %t", c.uid, got, known)
		}
	}
}
