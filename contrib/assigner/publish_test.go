package assigner

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/state/etcdtest"
)

// published reads what minions are told.
func published(t *testing.T, client *fake.Clientset) *api.AddressPools {
	t.Helper()
	object, err := client.CoreV1().ConfigMaps(api.AddressPoolsNamespace).Get(t.Context(), api.AddressPoolsName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pools, err := api.ReadAddressPools(object.Data)
	if err != nil {
		t.Fatal(err)
	}
	return pools
}

func publishingCluster() *fake.Clientset {
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: api.AddressPoolsNamespace, Name: name}
	}
	return fake.NewClientset(
		&corev1.ConfigMap{ObjectMeta: meta(api.AddressPoolsName)},
		&corev1.ConfigMap{ObjectMeta: meta(api.MinionConfigName), Data: map[string]string{api.MinionConfigKey: `{"clusterCIDR":"10.244.0.0/16"}`}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Annotations: map[string]string{api.AnnotationAgentAddress: "192.0.2.3:5051"}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.4"}}}},
	)
}

func TestSchedulerTellsMinionsWhichAddressesPodsMayHave(t *testing.T) {
	client, masters := publishingCluster(), []netip.Addr{netip.MustParseAddr("198.51.100.5")}
	p := NewPublisher(open(t, etcdtest.Start(t)).Folder(Folder), client, "https://192.0.2.6:6443", func(context.Context) []netip.Addr { return masters })
	now := time.Now()
	expect := func(prefixes ...string) {
		t.Helper()
		if err := p.publish(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		want := &api.AddressPools{Prefixes: []netip.Prefix{}, Masters: masters}
		for _, text := range prefixes {
			want.Prefixes = append(want.Prefixes, netip.MustParsePrefix(text))
		}
		if diff := cmp.Diff(want, published(t, client), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	expect()
	load(t, p.Assigner, "pools: [{name: a, addresses: [203.0.113.8-203.0.113.12]}, {name: b, addresses: [2001:db8:7::/126]}]")
	expect("203.0.113.8/30", "203.0.113.12/32", "2001:db8:7::/126")
	if actions := len(client.Actions()); true {
		expect("203.0.113.8/30", "203.0.113.12/32", "2001:db8:7::/126")
		if more := len(client.Actions()) - actions; more != 1 { // the test's own read
			t.Errorf("%d requests although nothing has changed", more)
		}
	}
	masters = []netip.Addr{netip.MustParseAddr("198.51.100.6")}
	now = now.Add(lookEvery)
	expect("203.0.113.8/30", "203.0.113.12/32", "2001:db8:7::/126")
}

func TestMinionsMayRouteAnAddressBeforeAPodHasIt(t *testing.T) {
	client := publishingCluster()
	p := NewPublisher(open(t, etcdtest.Start(t)).Folder(Folder), client, "https://192.0.2.6:6443", func(context.Context) []netip.Addr { return nil })
	if err := p.publish(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	load(t, p.Assigner, "pools: [{name: a, addresses: [203.0.113.8]}]")
	answers := p.Assign(t.Context(), []api.AddressClaim{claim("x", "a", "")})
	if pools := published(t, client); answers[0].IP != "203.0.113.8" || !pools.Contain(netip.MustParsePrefix("203.0.113.8/32")) {
		t.Errorf("a pod has %+v, and minions route only %v", answers[0], pools.Prefixes)
	}
}

func TestPodGetsNoAddressOfAMachineEvenIfAPoolHasIt(t *testing.T) {
	masters := func(context.Context) []netip.Addr { return []netip.Addr{netip.MustParseAddr("192.0.2.5")} }
	p := NewPublisher(open(t, etcdtest.Start(t)).Folder(Folder), publishingCluster(), "https://192.0.2.6:6443", masters)
	load(t, p.Assigner, "pools: [{name: a, addresses: [192.0.2.3-192.0.2.7]}]")
	if err := p.publish(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	for address, what := range map[string]string{
		"192.0.2.3": "the agent's address of node n1", "192.0.2.4": "an address of node n1", "192.0.2.5": "an address of a Mesos master", "192.0.2.6": "the API server's address",
	} {
		if got := ask(t, p.Assigner, claim("x", "a", address)); !strings.Contains(got, "is "+what) || !strings.Contains(got, "exclude it") {
			t.Errorf("a pod that wants %s gets %q", address, got)
		}
	}
	if got := ask(t, p.Assigner, claim("any", "a", "")); got != "192.0.2.7" {
		t.Errorf("a pod that wants any address gets %q", got)
	}
}
