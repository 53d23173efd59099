package membership

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logrustest "github.com/sirupsen/logrus/hooks/test"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/k8sm/k8sm/api"
)

func member(kube kubernetes.Interface, host, listen string) *Member {
	return &Member{Kube: kube, Of: api.DNSMembership(), What: "DNS server", Host: host, Listen: netip.MustParseAddrPort(listen), Ports: []Port{
		{api.DNSPortName, corev1.ProtocolUDP}, {api.DNSTCPPortName, corev1.ProtocolTCP},
	}}
}

// inService returns the addresses of the servers in the service.
func inService(t *testing.T, kube kubernetes.Interface) []string {
	t.Helper()
	list, err := kube.DiscoveryV1().EndpointSlices(api.DNSServiceNamespace).List(t.Context(), metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=" + api.DNSServiceName,
	})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, slice := range list.Items {
		if len(slice.Ports) != 2 || *slice.Ports[0].Port != *slice.Ports[1].Port {
			t.Errorf("ports of %s: %+v", slice.Name, slice.Ports)
		}
		all = append(all, fmt.Sprint(slice.Endpoints[0].Addresses[0], ":", *slice.Ports[0].Port))
	}
	return all
}

func beats(t *testing.T, m *Member, answers bool) {
	t.Helper()
	if err := m.Beat(t.Context(), answers); err != nil {
		t.Fatal(err)
	}
}

func TestServerIsInTheServiceWhileItAnswers(t *testing.T) {
	kube := fake.NewClientset()
	m := member(kube, "a", "10.0.0.5:10053")
	for _, step := range []struct {
		answers bool
		want    []string
	}{{false, nil}, {true, []string{"10.0.0.5:10053"}}, {true, []string{"10.0.0.5:10053"}}, {false, nil}, {true, []string{"10.0.0.5:10053"}}} {
		beats(t, m, step.answers)
		if diff := cmp.Diff(step.want, inService(t, kube)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if err := m.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	leases, err := kube.CoordinationV1().Leases("").List(t.Context(), metav1.ListOptions{})
	if got := inService(t, kube); err != nil || len(got) > 0 || len(leases.Items) > 0 {
		t.Errorf("left behind: %v, %v, %v", got, leases, err)
	}
}

func TestServerIsKeptInTheServiceUntilTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		var answers atomic.Bool
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- member(kube, "a", "10.0.0.5:10053").Keep(ctx, func(context.Context) error {
				if answers.Load() {
					return nil
				}
				return errors.New("it hangs")
			}, time.Second)
		}()
		for i, want := range []int{0, 1, 0, 1} {
			answers.Store(i%2 == 1)
			time.Sleep(2 * interval)
			synctest.Wait()
			if got := inService(t, kube); len(got) != want {
				t.Errorf("step %d: in the service are %v", i, got)
			}
		}
		cancel()
		if err := <-ended; err != nil || len(inService(t, kube)) > 0 {
			t.Errorf("it has not left: %v", err)
		}
	})
}

func TestServerIsReadyWhileItIsInTheServiceAndItsLeaseIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		down := errors.New("no API server")
		kube.PrependReactor("patch", "leases", func(clienttesting.Action) (bool, runtime.Object, error) { return down != nil, nil, down })
		m := member(kube, "a", "10.0.0.5:10053")
		says := func(want string) {
			t.Helper()
			if err := m.Ready(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		}
		says("not in the service")
		if err := m.Beat(t.Context(), true); err == nil {
			t.Error("it writes although no API server answers")
		}
		says("no API server")
		down = nil
		beats(t, m, true)
		says("")
		beats(t, m, false)
		says("does not answer")
		beats(t, m, true)
		down = errors.New("gone")
		_ = m.Beat(t.Context(), true)
		says("") // others take it for alive
		time.Sleep(lifetime + time.Second)
		_ = m.Beat(t.Context(), true)
		says("gone")
		down = nil
		beats(t, m, true)
		says("")
		if err := m.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		says("not in the service")
	})
}

func TestProbeChecksWhoAnswersAndWhat(t *testing.T) {
	code := http.StatusOK
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }))
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(name string) error {
		probe, err := Prober(ca, name, server.URL, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return probe(t.Context())
	}
	if err := ask("example.com"); err != nil { // the name in the certificate
		t.Error(err)
	}
	if err := ask("another.name"); err == nil {
		t.Error("a certificate with another name is believed")
	}
	code = http.StatusServiceUnavailable
	if err := ask("example.com"); err == nil {
		t.Error("a server that does not work is believed")
	}
}

func TestServerThatIsStartedAgainElsewhereTakesItsPlace(t *testing.T) {
	kube := fake.NewClientset()
	beats(t, member(kube, "a", "10.0.0.5:10053"), true)
	beats(t, member(kube, "a", "10.0.0.6:10053"), true)
	if diff := cmp.Diff([]string{"10.0.0.6:10053"}, inService(t, kube)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	beats(t, member(kube, "a", "[fd00::6]:10053"), true)
	if diff := cmp.Diff([]string{"fd00::6:10053"}, inService(t, kube)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestServersOfOneNameAreToldOf(t *testing.T) {
	kube, log := fake.NewClientset(), logrustest.NewGlobal()
	first, second := member(kube, "debian", "10.0.0.5:10053"), member(kube, "debian", "10.0.0.6:10053")
	for range 3 {
		beats(t, first, true)
		beats(t, second, true)
	}
	var told []string
	for _, entry := range log.AllEntries() {
		if entry.Level == logrus.ErrorLevel {
			told = append(told, entry.Message)
		}
	}
	want := []string{"another DNS server has the name of this one, and clients find only one of the two: give their machines different host names"}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDeadServerIsTakenOutByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		a, b := member(kube, "a", "10.0.0.5:1"), member(kube, "b", "10.0.0.6:1")
		beats(t, a, true)
		beats(t, b, true)
		began := time.Now()
		for len(inService(t, kube)) == 2 {
			if time.Since(began) > time.Minute {
				t.Fatal("it is still there")
			}
			time.Sleep(interval)
			beats(t, b, true)
		}
		if took := time.Since(began); took < lifetime || took > lifetime+2*interval {
			t.Errorf("after %s", took)
		}
		if diff := cmp.Diff([]string{"10.0.0.6:1"}, inService(t, kube)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		// It was only stopped, and goes on.
		beats(t, a, true)
		if got := inService(t, kube); len(got) != 2 {
			t.Errorf("in the service: %v", got)
		}
	})
}

func TestServersAreDeadWhenNothingNewIsSeenOfThemForTheirLifetime(t *testing.T) {
	at := func(seconds int) time.Time { return time.Unix(int64(1000+seconds), 0) }
	type look struct {
		at    int
		found map[string]string
		dead  []string
	}
	for name, looks := range map[string][]look{
		"one that renews lives": {
			{0, map[string]string{"a": "1"}, nil}, {3, map[string]string{"a": "2"}, nil}, {6, map[string]string{"a": "3"}, nil}, {9, map[string]string{"a": "4"}, nil},
		},
		"one that does not is dead after its lifetime": {
			{0, map[string]string{"a": "1"}, nil}, {3, map[string]string{"a": "1"}, nil}, {6, map[string]string{"a": "1"}, nil}, {7, map[string]string{"a": "1"}, []string{"a"}},
		},
		"one without a lease too": {
			{0, map[string]string{"b": "", "a": ""}, nil}, {4, map[string]string{"b": "", "a": ""}, nil}, {7, map[string]string{"b": "", "a": ""}, []string{"a", "b"}},
		},
		"time in which nobody could look does not count": {
			{0, map[string]string{"a": "1"}, nil}, {60, map[string]string{"a": "1"}, nil}, {63, map[string]string{"a": "1"}, nil}, {65, map[string]string{"a": "1"}, []string{"a"}},
		},
		"time before that counts": {
			{0, map[string]string{"a": "1"}, nil}, {4, map[string]string{"a": "1"}, nil}, {64, map[string]string{"a": "1"}, nil}, {65, map[string]string{"a": "1"}, []string{"a"}},
		},
		"one that renews after such a time lives": {
			{0, map[string]string{"a": "1"}, nil}, {4, map[string]string{"a": "1"}, nil}, {64, map[string]string{"a": "1"}, nil}, {65, map[string]string{"a": "2"}, nil},
		},
		"one that went and came is new": {
			{0, map[string]string{"a": "1"}, nil}, {3, nil, nil}, {6, map[string]string{"a": "1"}, nil}, {9, map[string]string{"a": "1"}, nil},
		},
	} {
		var w watch
		for _, l := range looks {
			if diff := cmp.Diff(l.dead, w.step(at(l.at), l.found)); diff != "" {
				t.Errorf("%s, at %d (-want +got):\n%s", name, l.at, diff)
			}
		}
	}
}

func TestServerNamesFitInLabelsAndTellPortsApart(t *testing.T) {
	for host, want := range map[string]string{"node1": "node1-10053", "Node_1.example.com": "node-1-example-com-10053", "...": "server-10053"} {
		if got := member(nil, host, "10.0.0.5:10053").name(); got != want {
			t.Errorf("%s: %s", host, got)
		}
	}
	m := member(nil, strings.Repeat("x", 100), "10.0.0.5:10053")
	if got := m.name(); len(m.Of.ObjectPrefix()+got) > 63 || !strings.HasSuffix(got, "x-10053") {
		t.Errorf("%d characters: %s", len(got), got)
	}
}
