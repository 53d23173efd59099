package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// domain is the cluster's in the tests of its DNS.
const domain = "k8s.test"

func TestDNS(t *testing.T) {
	dir := stateDir(t)
	more := filepath.Join(t.TempDir(), "more.corefile")
	if err := os.WriteFile(more, []byte("hosts {\n  192.0.2.8 inside.example\n  fallthrough\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	metrics := freePort(t)
	c := up(t, dir, "--cluster-domain="+domain, "--dns-replicas=2", "--dns-upstream="+outside(t), "--dns-import="+more, fmt.Sprintf("--dns-metrics-port=%d", metrics))
	database(t, c)
	web := service(t, c, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "db"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt(5432)}}},
	})
	service(t, c, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "ext"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "outside.example"},
	})
	t.Run("the names of services, pods and the world resolve", func(t *testing.T) { namesResolve(t, c, web) })
	t.Run("pods resolve names, on the host's network too", func(t *testing.T) { podsResolve(t, c, web) })
	t.Run("strangers are refused", func(t *testing.T) { strangersRefused(t, c) })
	t.Run("metrics are for those who may see them", func(t *testing.T) { dnsMetrics(t, c, metrics) })
	t.Run("a server that is killed is started again, and names resolve meanwhile", func(t *testing.T) { dnsKilled(t, c) })
	t.Run("a further server comes into the service and leaves it", func(t *testing.T) { dnsJoins(t, c, dir) })
}

// outside is a DNS server of the world, which knows one name.
func outside(t *testing.T) (address string) {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		answer := new(dns.Msg).SetReply(query)
		if q := query.Question[0]; q.Name != "outside.example." {
			answer.Rcode = dns.RcodeNameError
		} else if q.Qtype == dns.TypeA {
			answer.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 30}, A: net.IPv4(192, 0, 2, 7)}}
		}
		_ = w.WriteMsg(answer)
	})
	started := make(chan struct{}, 2)
	for _, server := range []*dns.Server{{PacketConn: udp}, {Listener: tcp}} {
		server.Handler, server.NotifyStartedFunc = handler, func() { started <- struct{}{} }
		go func() { _ = server.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = server.Shutdown() })
	}
	return tcp.Addr().String()
}

func service(t *testing.T, c *scratch.Cluster, s *corev1.Service) *corev1.Service {
	t.Helper()
	s, err := c.Kube.CoreV1().Services("default").Create(t.Context(), s, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// database is a headless service of two pods, db-0 and db-1, which listen on a port.
func database(t *testing.T, c *scratch.Cluster) {
	t.Helper()
	service(t, c, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{"app": "db"},
			Ports: []corev1.ServicePort{{Name: "sql", Port: 5432}}},
	})
	for _, name := range []string{"db-0", "db-1"} {
		p := pod(name, "busybox httpd -f -p 5432")
		p.Labels = map[string]string{"app": "db"}
		p.Spec.Hostname, p.Spec.Subdomain = name, "db"
		create(t, c, p)
		awaitPhase(t, c, name, corev1.PodRunning)
	}
}

// dnsAddress is where pods are told that the DNS is.
func dnsAddress(t *testing.T, c *scratch.Cluster) string {
	t.Helper()
	s, err := c.Kube.CoreV1().Services("kube-system").Get(t.Context(), "kube-dns", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort(s.Spec.ClusterIP, "53")
}

// resolve returns the data of the records that answer the question, sorted, or what the server says instead.
func resolve(ctx context.Context, transport, server, name string, kind uint16) ([]string, error) {
	client := dns.Client{Net: transport, Timeout: 2 * time.Second}
	answer, _, err := client.ExchangeContext(ctx, new(dns.Msg).SetQuestion(dns.Fqdn(name), kind), server)
	if err != nil {
		return nil, err
	}
	if answer.Rcode != dns.RcodeSuccess {
		return []string{dns.RcodeToString[answer.Rcode]}, nil
	}
	var data []string
	for _, record := range answer.Answer {
		data = append(data, strings.TrimPrefix(record.String(), record.Header().String()))
	}
	slices.Sort(data)
	return data, nil
}

func namesResolve(t *testing.T, c *scratch.Cluster, web *corev1.Service) {
	server := dnsAddress(t, c)
	var pods []string
	for _, name := range []string{"db-0", "db-1"} {
		pods = append(pods, awaitPhase(t, c, name, corev1.PodRunning).Status.PodIP)
	}
	reverse, err := dns.ReverseAddr(web.Spec.ClusterIP)
	if err != nil {
		t.Fatal(err)
	}
	services := ".default.svc." + domain
	for _, test := range []struct {
		what, name string
		kind       uint16
		want       []string
	}{
		{"a service", "web" + services, dns.TypeA, []string{web.Spec.ClusterIP}},
		{"a service's port", "_http._tcp.web" + services, dns.TypeSRV, []string{"0 100 80 web" + services + "."}},
		{"a service's address", reverse, dns.TypePTR, []string{"web" + services + "."}},
		{"a headless service", "db" + services, dns.TypeA, slices.Sorted(slices.Values(pods))},
		{"a pod of it", "db-0.db" + services, dns.TypeA, pods[:1]},
		{"its port", "_sql._tcp.db" + services, dns.TypeSRV, []string{"0 50 5432 db-0.db" + services + ".", "0 50 5432 db-1.db" + services + "."}},
		{"a pod's address", strings.ReplaceAll(pods[0], ".", "-") + ".default.pod." + domain, dns.TypeA, pods[:1]},
		{"an address of no pod", "10-1-2-3.default.pod." + domain, dns.TypeA, []string{"NXDOMAIN"}},
		{"a pod's address in another namespace", strings.ReplaceAll(pods[0], ".", "-") + ".kube-system.pod." + domain, dns.TypeA, []string{"NXDOMAIN"}},
		{"an external name", "ext" + services, dns.TypeA, []string{"192.0.2.7", "outside.example."}},
		{"a service that is none", "none" + services, dns.TypeA, []string{"NXDOMAIN"}},
		{"a name of the world", "outside.example", dns.TypeA, []string{"192.0.2.7"}},
		{"no name of the world", "none.example", dns.TypeA, []string{"NXDOMAIN"}},
		{"a name of the imported plugins", "inside.example", dns.TypeA, []string{"192.0.2.8"}},
	} {
		for _, transport := range []string{"udp", "tcp"} {
			err := scratch.Until(t.Context(), 30*time.Second, func(ctx context.Context) error {
				got, err := resolve(ctx, transport, server, test.name, test.kind)
				if err != nil {
					return err
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					return fmt.Errorf("(-want +got):\n%s", diff)
				}
				return nil
			})
			if err != nil {
				t.Errorf("%s, by %s: %v", test.what, transport, err)
			}
		}
	}
}

func podsResolve(t *testing.T, c *scratch.Cluster, web *corev1.Service) {
	// The name of a service in the pod's own namespace, in full, as the pod's search list completes it, and of the world.
	script := fmt.Sprintf("set -ex; busybox nslookup -type=a web.default.svc.%[1]s | busybox grep %[2]s; busybox nslookup -type=a outside.example | busybox grep 192.0.2.7; "+
		"busybox grep 'search default.svc.%[1]s svc.%[1]s %[1]s' /etc/resolv.conf; busybox nc -w 5 db-0.db.default.svc.%[1]s 5432 </dev/null", domain, web.Spec.ClusterIP)
	inside, host := pod("asks", script), pod("asks-from-the-host", script)
	host.Spec.HostNetwork, host.Spec.DNSPolicy = true, corev1.DNSClusterFirstWithHostNet
	for _, p := range []*corev1.Pod{inside, host} {
		create(t, c, p)
		awaitPhase(t, c, p.Name, corev1.PodSucceeded)
	}
}

// strangersRefused asks from an address that is neither a pod's nor a node's, and again when a pod has it.
func strangersRefused(t *testing.T, c *scratch.Cluster) {
	const address, name = "198.51.100.9", "198-51-100-9.default.pod." + domain
	ask := stranger(t, address)
	awaitServers(t, c, 2, 30*time.Second)
	all, err := servers(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	await := func(name string, want ...string) {
		t.Helper()
		err := scratch.Until(t.Context(), 10*time.Second, func(context.Context) error {
			got, err := ask(all[0], name)
			if err == nil && !slices.Equal(got, want) {
				err = fmt.Errorf("got %v, want %v", got, want)
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"outside.example", "kubernetes.default.svc." + domain, name} {
		await(name, "REFUSED")
	}
	p := pod("far-away", forever)
	p.Spec.SchedulerName = "nobody"
	p = create(t, c, p)
	p.Status.PodIP, p.Status.PodIPs = address, []corev1.PodIP{{IP: address}}
	if _, err := c.Kube.CoreV1().Pods(p.Namespace).UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	await("outside.example", "192.0.2.7")
	await(name, address)
	remove(t, c, p)
	await("outside.example", "REFUSED")
}

// stranger is a machine beside this one. The returned function asks a server for the addresses of a name.
func stranger(t *testing.T, address string) (ask func(server, name string) ([]string, error)) {
	t.Helper()
	ends := make(chan func(), 1)
	joined := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the namespace with it
		joined <- joinStranger(address)
		for do := range ends {
			do()
		}
	}()
	if err := <-joined; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(ends) })
	return func(server, name string) (got []string, err error) {
		answered := make(chan struct{})
		ends <- func() {
			defer close(answered)
			got, err = resolve(t.Context(), "udp", server, name, dns.TypeA)
		}
		<-answered
		return got, err
	}
}

// joinStranger moves the calling thread into a namespace of its own, with a cable to this machine's.
func joinStranger(address string) error {
	home, err := netns.Get()
	if err != nil {
		return err
	}
	defer home.Close()
	away, err := netns.New()
	if err != nil {
		return err
	}
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "k8sm-test-far"}, PeerName: "k8sm-test-near", PeerNamespace: netlink.NsFd(home)}
	if err := errors.Join(netlink.LinkAdd(cable), netlink.LinkSetUp(cable)); err != nil {
		return err
	}
	own := netlink.NewIPNet(net.ParseIP(address))
	everywhere := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	err = errors.Join(netlink.AddrAdd(cable, &netlink.Addr{IPNet: own}),
		netlink.RouteAdd(&netlink.Route{LinkIndex: cable.Index, Dst: everywhere, Scope: netlink.SCOPE_LINK}), netns.Set(home))
	if err != nil {
		return err
	}
	near, err := netlink.LinkByName(cable.PeerName)
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetUp(near), netlink.RouteAdd(&netlink.Route{LinkIndex: near.Attrs().Index, Dst: own, Scope: netlink.SCOPE_LINK}), netns.Set(away))
}

// dnsMetrics reads them as the cluster's administrator, and as nobody.
func dnsMetrics(t *testing.T, c *scratch.Cluster, port int) {
	config := rest.CopyConfig(c.REST)
	config.ServerName = "dns.k8sm.io"
	read := func(config *rest.Config, path string) (string, error) {
		client, err := rest.HTTPClientFor(config)
		if err != nil {
			return "", err
		}
		response, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d%s", port, path))
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return string(body), err
	}
	if body, err := read(config, "/metrics"); err != nil || !strings.Contains(body, "coredns_dns_requests_total{") {
		t.Errorf("the administrator gets %v, %.2000s", err, body)
	}
	if body, err := read(config, "/debug/pprof/goroutine?debug=1"); err != nil || !strings.Contains(body, "goroutine profile:") {
		t.Errorf("the administrator gets %v, %.2000s", err, body)
	}
	nobody := rest.AnonymousClientConfig(config)
	if body, err := read(nobody, "/metrics"); err == nil {
		t.Errorf("nobody gets %.200s", body)
	}
}

// servers returns the addresses in the service, sorted.
func servers(ctx context.Context, c *scratch.Cluster) ([]string, error) {
	list, err := c.Kube.DiscoveryV1().EndpointSlices("kube-system").List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=kube-dns"})
	if err != nil {
		return nil, err
	}
	var all []string
	for _, slice := range list.Items {
		for _, endpoint := range slice.Endpoints {
			all = append(all, fmt.Sprintf("%s:%d", endpoint.Addresses[0], *slice.Ports[0].Port))
		}
	}
	slices.Sort(all)
	return all, nil
}

func awaitServers(t *testing.T, c *scratch.Cluster, count int, limit time.Duration) {
	t.Helper()
	err := scratch.Until(t.Context(), limit, func(ctx context.Context) error {
		all, err := servers(ctx, c)
		if err == nil && len(all) != count {
			err = fmt.Errorf("in the service are %v, want %d", all, count)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func dnsKilled(t *testing.T, c *scratch.Cluster) {
	server := dnsAddress(t, c)
	awaitServers(t, c, 2, 30*time.Second)
	before := running(t, c, "dns")
	if len(before) != 2 {
		t.Fatalf("processes of the DNS: %v", before)
	}
	if err := syscall.Kill(before[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		// As a resolver does it: an answer that does not come is asked for again.
		err := scratch.Until(t.Context(), 5*time.Second, func(ctx context.Context) error {
			got, err := resolve(ctx, "udp", server, "kubernetes.default.svc."+domain, dns.TypeA)
			if err == nil && len(got) != 1 {
				err = fmt.Errorf("answered %v", got)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	err := scratch.Until(t.Context(), 30*time.Second, func(context.Context) error {
		if now := running(t, c, "dns"); len(now) != 2 || slices.Contains(now, before[0]) {
			return fmt.Errorf("processes of the DNS: %v, before %v", now, before)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	awaitServers(t, c, 2, 30*time.Second)
}

// dnsJoins runs a server as it is run on another machine.
func dnsJoins(t *testing.T, c *scratch.Cluster, dir string) {
	port := freePort(t)
	start := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), program(t, "km"), "dns", "--kubeconfig="+filepath.Join(dir, "dns.kubeconfig"), fmt.Sprintf("--port=%d", port))
		cmd.Stdout, cmd.Stderr = testWriter{t}, testWriter{t}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		awaitServers(t, c, 3, 30*time.Second)
		return cmd
	}
	awaitServers(t, c, 2, 30*time.Second)
	first := start()
	if err := first.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err != nil {
		t.Errorf("it did not end cleanly: %v", err)
	}
	if all, err := servers(t.Context(), c); err != nil || len(all) != 2 {
		t.Errorf("it left the service at its end to %v, %v", all, err)
	}
	second := start()
	if err := second.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = second.Wait()
	awaitServers(t, c, 2, 25*time.Second)
}
