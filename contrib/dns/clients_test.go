package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/miekg/dns"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/heldport"
	"github.com/k8sm/k8sm/minion/supervise"
)

// world is a DNS server that answers every name.
func world(t *testing.T) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	server := &dns.Server{PacketConn: conn, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		answer := new(dns.Msg).SetReply(query)
		answer.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: query.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 30}, Txt: []string{"forwarded"}}}
		_ = w.WriteMsg(answer)
	})}
	go func() { _ = server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = server.Shutdown() })
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// coredns serves our Corefile on loopback.
func coredns(t *testing.T) netip.AddrPort {
	t.Helper()
	listen := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(heldport.OfTest(t)))
	instance, err := caddy.Start(input(corefile{Listen: listen, Domain: "cluster.local", Upstreams: []netip.AddrPort{world(t)}}.render()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(append(instance.ShutdownCallbacks(), instance.Stop())...); err != nil {
			t.Error(err)
		}
	})
	return listen
}

// askFrom returns what a client with this address is answered.
func askFrom(t *testing.T, transport, from string, server netip.AddrPort, name string) *dns.Msg {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}
	if transport == "tcp" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	client := dns.Client{Net: transport, Dialer: dialer, Timeout: 10 * time.Second}
	answer, _, err := client.ExchangeContext(t.Context(), new(dns.Msg).SetQuestion(name, dns.TypeTXT), server.String())
	if err != nil {
		t.Fatalf("from %s by %s: %v", from, transport, err)
	}
	return answer
}

func TestStrangersQueriesAreRefusedAndNotForwarded(t *testing.T) {
	c := &clients{fixed: set([]netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}), warn: rate.Sometimes{First: 1}}
	c.machine.Store(set(nil))
	c.nodes.Store(set(nil))
	guard.Store(c)
	server := coredns(t)
	for _, transport := range []string{"udp", "tcp"} {
		if got := askFrom(t, transport, "127.0.0.1", server, "example.com."); got.Rcode != dns.RcodeSuccess || len(got.Answer) != 1 {
			t.Errorf("a client by %s got %v", transport, got)
		}
		// The first name is in the cache, the second is not.
		for _, name := range []string{"example.com.", transport + ".example.com.", "kubernetes.default.svc.cluster.local."} {
			if got := askFrom(t, transport, "127.0.0.2", server, name); got.Rcode != dns.RcodeRefused || len(got.Answer) != 0 {
				t.Errorf("a stranger by %s got for %s %s with %v", transport, name, dns.RcodeToString[got.Rcode], got.Answer)
			}
		}
	}
}

// nodeWith has an address of each family, a name, and a pod with a pool's address.
func nodeWith(name string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{api.AnnotationPodPrefixes: "198.51.100.9/32"}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}, {Type: corev1.NodeInternalIP, Address: "fd00::7"}, {Type: corev1.NodeHostName, Address: name},
		}},
	}
}

func TestAnsweredAreTheClusterItsNodesAndThisMachine(t *testing.T) {
	c, err := newClients(api.MinionConfig{ClusterCIDR: "10.244.0.0/16,fd44::/48", ServiceCIDR: "10.96.0.0/16"}, Access{AllowedNetworks: []string{"10.1.2.3/24", "10.2.0.7"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.follow(t.Context(), fake.NewClientset(nodeWith("a"))); err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]bool{
		"10.244.7.7": true, "fd44::7": true, "10.96.0.10": true, "127.0.0.53": true, "::1": true, // fixed
		"192.0.2.7": true, "fd00::7": true, "198.51.100.9": true, // of the node
		"10.1.2.99": true, "10.2.0.7": true, // by flag
		"192.0.2.8": false, "198.51.100.8": false, "10.2.0.8": false, "8.8.8.8": false, "2001:db8::1": false,
	} {
		if got := c.allowed(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: allowed is %t", address, got)
		}
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range own {
		if ip := netip.MustParsePrefix(a.String()).Addr(); !c.allowed(ip) {
			t.Errorf("this machine's address %s is refused", ip)
		}
	}
}

func TestAddressesOfNodesAreFollowed(t *testing.T) {
	c, err := newClients(api.MinionConfig{}, Access{})
	if err != nil {
		t.Fatal(err)
	}
	kube := fake.NewClientset()
	if err := c.follow(t.Context(), kube); err != nil {
		t.Fatal(err)
	}
	await := func(address string, want bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for c.allowed(netip.MustParseAddr(address)) != want {
			if err := supervise.Sleep(ctx, time.Millisecond); err != nil {
				t.Fatalf("%s: allowed is still %t", address, !want)
			}
		}
	}
	nodes := kube.CoreV1().Nodes()
	await("192.0.2.7", false)
	node, err := nodes.Create(t.Context(), nodeWith("a"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	await("192.0.2.7", true)
	node.Status.Addresses[0].Address = "192.0.2.8"
	if _, err := nodes.UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	await("192.0.2.8", true)
	await("192.0.2.7", false)
	if err := nodes.Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await("192.0.2.8", false)
	await("198.51.100.9", false)
}
