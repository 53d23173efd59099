package minion

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/minion/network"
	"github.com/k8sm/k8sm/minion/status"
)

// inMachine runs the rest of the test in a network namespace of its own: a machine at 192.0.2.1 with router 192.0.2.254.
func inMachine(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test's goroutine, and the namespace with it
	namespace, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { namespace.Close() })
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}}
	address, err := netlink.ParseAddr("192.0.2.1/24")
	if err := errors.Join(err, netlink.LinkAdd(link), netlink.AddrAdd(link, address), netlink.LinkSetUp(link)); err != nil {
		t.Fatal(err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.IPv4(192, 0, 2, 254)}); err != nil {
		t.Fatal(err)
	}
}

// reached is a pod network that ends the watch once it knows the other nodes.
type reached struct {
	*network.Network
	done context.CancelFunc
}

func (r reached) Reach(peers []network.Peer) {
	r.Network.Reach(peers)
	r.done()
}

// routeOf says by which router the machine sends to the address; the address itself if none.
func routeOf(t *testing.T, address string) string {
	t.Helper()
	routes, err := netlink.RouteGet(net.ParseIP(address))
	if err != nil || len(routes) == 0 {
		t.Fatal(address, err)
	}
	if routes[0].Gw == nil {
		return address
	}
	return routes[0].Gw.String()
}

// watchOnce runs the watch on other nodes in this namespace until it has set the routes.
func watchOnce(t *testing.T, objects ...k8sruntime.Object) *node {
	t.Helper()
	pods, err := network.New(network.Config{Cluster: "test", Node: "self", ClusterCIDR: "10.244.0.0/16", ServiceCIDR: "10.96.0.0/16",
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Dir: filepath.Join(t.TempDir(), "network")})
	if err != nil {
		t.Fatal(err)
	}
	if err := pods.Setup([]string{"10.244.1.0/24"}); err != nil {
		t.Fatal(err)
	}
	n := &node{boot: api.Bootstrap{Node: "self"}, namedServer: "https://192.0.2.100:6443", cluster: api.MinionConfig{ServiceCIDR: "10.96.0.0/16"},
		log: logrus.WithField("node", "self"), metrics: status.NewMetrics("", "")}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := n.watchPeers(ctx, fake.NewClientset(objects...), reached{pods, cancel}, func() error { return nil }); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	return n
}

// attacker is a node that asks for other machines' packets, beside a pod of its own that has an address of a pool.
func attacker(prefixes ...string) *corev1.Node {
	evil := networkNode("evil", "192.0.2.66", "10.244.66.0/24", strings.Join(prefixes, ","))
	evil.Status.Addresses = evil.Status.Addresses[:2]
	return evil
}

func publishedPools(t *testing.T, pools api.AddressPools) *corev1.ConfigMap {
	t.Helper()
	data, err := pools.Data()
	if err != nil {
		t.Fatal(err)
	}
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: api.AddressPoolsNamespace, Name: api.AddressPoolsName}, Data: data}
}

// victims are the machines that an attacker wants to be, and how this one reaches them.
var victims = map[string]string{
	"192.0.2.100":   "192.0.2.100", // the API server of the minion's bootstrap
	"198.51.100.20": "192.0.2.254", // another API server
	"198.51.100.30": "192.0.2.254", // a Mesos master, in a pool by mistake
	"192.0.2.3":     "192.0.2.3",   // an agent without a kubelet
	"192.0.2.254":   "192.0.2.254", // the router
	"203.0.113.9":   "192.0.2.254", // anyone on the internet
}

func servers() *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.100", "198.51.100.20"}}},
	}
}

func agentOnly() *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "idle", Annotations: map[string]string{api.AnnotationAgentAddress: "192.0.2.3:5051"}}}
}

func TestNodeCannotMakeOthersSendItThePacketsOfMachines(t *testing.T) {
	inMachine(t)
	const pod = "198.51.100.40"
	asked := []string{pod + "/32"}
	for victim := range victims {
		asked = append(asked, victim+"/32")
	}
	n := watchOnce(t, attacker(asked...), agentOnly(), servers(), publishedPools(t, api.AddressPools{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("192.0.2.0/24")},
		Masters:  []netip.Addr{netip.MustParseAddr("198.51.100.30")},
	}))
	if got := routeOf(t, pod); got != "192.0.2.66" {
		t.Errorf("the pod's address goes by %s", got)
	}
	for victim, want := range victims {
		if got := routeOf(t, victim); got != want {
			t.Errorf("packets to %s go by %s, want %s", victim, got, want)
		}
	}
	told := strings.Join(n.routes.texts, "\n")
	for _, want := range []string{"192.0.2.100/32 overlaps 192.0.2.100/32, which is the API server's address", "which is an address of a Mesos master",
		"the agent's address of node idle", "a router's address", "203.0.113.9/32 is in no address pool"} {
		if !strings.Contains(told, want) {
			t.Errorf("no problem has %q:\n%s", want, told)
		}
	}
	if shown := n.watchNetwork(fake.NewClientset())(t.Context()); len(shown) != mostRouteProblems+1 || !strings.Contains(shown[3], "3 more") {
		t.Errorf("the node's condition has %q", shown)
	}
	if again := n.routes.set([]error{errors.New("new"), errors.New(n.routes.texts[0])}); !slices.Equal(again, []string{"new"}) {
		t.Errorf("it logs again: %q", again)
	}
}

// A scheduler of an older version publishes no pools. Its pods' addresses are routed as ever, and machines' addresses are not.
func TestPrefixesWithoutPublishedPoolsAreRoutedUnlessMachinesHaveThem(t *testing.T) {
	for name, objects := range map[string][]k8sruntime.Object{
		"an older control plane": {},
		"an older scheduler":     {&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: api.AddressPoolsNamespace, Name: api.AddressPoolsName}}},
	} {
		t.Run(name, func(t *testing.T) {
			inMachine(t)
			watchOnce(t, append(objects, attacker("198.51.100.40/32", "192.0.2.100/32", "192.0.2.254/32"))...)
			for address, want := range map[string]string{"198.51.100.40": "192.0.2.66", "192.0.2.100": "192.0.2.100", "192.0.2.254": "192.0.2.254"} {
				if got := routeOf(t, address); got != want {
					t.Errorf("packets to %s go by %s, want %s", address, got, want)
				}
			}
		})
	}
}

func TestUnreadablePoolsHaveNoAddress(t *testing.T) {
	inMachine(t)
	broken := publishedPools(t, api.AddressPools{})
	broken.Data[api.AddressPoolsKey] = "{"
	n := watchOnce(t, attacker("198.51.100.40/32"), broken)
	if got := routeOf(t, "198.51.100.40"); got != "192.0.2.254" || !strings.Contains(strings.Join(n.routes.texts, "\n"), "cannot read pools.json") {
		t.Errorf("packets go by %s; problems: %q", got, n.routes.texts)
	}
}
