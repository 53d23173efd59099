package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// changesLast is how long services change while others are used.
const changesLast = 20 * time.Second

// keptService is a service without a selector, used on one node, whose endpoints are servers of this test on the node's address.
type keptService struct {
	*servicesCluster
	node    place
	host    string // the node's address
	service *corev1.Service
}

func (c *servicesCluster) kept(t *testing.T, name string, protocol corev1.Protocol) *keptService {
	t.Helper()
	s := service(t, c.Cluster, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		Ports: []corev1.ServicePort{{Name: "p", Port: 80, Protocol: protocol}},
	}})
	return &keptService{c, c.first, c.addresses["node-1"], s}
}

// slice leads a service to a port of the node, or to none.
func (s *keptService) slice(name, service string, to ...int) *discoveryv1.EndpointSlice {
	portName, port := "p", int32(9)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service, discoveryv1.LabelManagedBy: "e2e"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &s.service.Spec.Ports[0].Protocol}},
	}
	for _, number := range to {
		port = int32(number)
		slice.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{s.host}}}
	}
	return slice
}

// lead writes a slice of this service, which may have several.
func (s *keptService) lead(ctx context.Context, name string, to ...int) error {
	slices, slice := s.Kube.DiscoveryV1().EndpointSlices("default"), s.slice(name, s.service.Name, to...)
	_, err := slices.Update(ctx, slice, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = slices.Create(ctx, slice, metav1.CreateOptions{})
	}
	return err
}

// address is the service's.
func (s *keptService) address() string { return at(s.service.Spec.ClusterIP, 80) }

// dial connects to the service.
func (s *keptService) dial() (conn net.Conn, err error) {
	err = s.node.do(func() (err error) {
		conn, err = net.DialTimeout("tcp", s.address(), 3*time.Second)
		return err
	})
	return conn, err
}

// echoTCP answers each byte with a letter, and returns its port.
func (s *keptService) echoTCP(t *testing.T, letter byte) (port int) {
	t.Helper()
	var l net.Listener
	err := s.node.do(func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(s.host, "0"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for b := make([]byte, 1); ; {
					if _, err := io.ReadFull(conn, b); err != nil {
						return
					}
					if _, err := conn.Write([]byte{letter}); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// echoUDP does the same for each packet.
func (s *keptService) echoUDP(t *testing.T, letter byte) (port int) {
	t.Helper()
	var l net.PacketConn
	err := s.node.do(func() (err error) {
		l, err = net.ListenPacket("udp", net.JoinHostPort(s.host, "0"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for b := make([]byte, 16); ; {
			_, from, err := l.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = l.WriteTo([]byte{letter}, from)
		}
	}()
	return l.LocalAddr().(*net.UDPAddr).Port
}

// ask sends a byte and returns the server's letter.
func ask(conn net.Conn) (byte, error) {
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return 0, err
	}
	if _, err := conn.Write([]byte{'?'}); err != nil {
		return 0, err
	}
	b := make([]byte, 1)
	_, err := io.ReadFull(conn, b)
	return b[0], err
}

// killProxy kills the node's kube-proxy. The minion starts another.
func (s *keptService) killProxy() error {
	there, err := os.Stat(s.node.namespace)
	if err != nil {
		return err
	}
	processes, err := s.Processes()
	if err != nil {
		return err
	}
	for _, p := range processes {
		own, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", p.PID))
		if p.Role == "proxy" && err == nil && os.SameFile(there, own) {
			return syscall.Kill(p.PID, syscall.SIGKILL)
		}
	}
	return errors.New("node-1 has no kube-proxy")
}

// traffic is what uses a service, and what is counted of it.
type traffic struct {
	*keptService
	old           []net.Conn
	asked, opened atomic.Int64      // answers over old connections, and new connections
	changed       atomic.Int64      // other services that were made and moved
	seen          [256]atomic.Int64 // new connections, by the letter of their server
}

// connectionsKept uses connections of a service, and opens new ones, while other services and their endpoints come, change and go,
// the service gets more endpoints, and kube-proxy is killed.
func connectionsKept(t *testing.T, c *servicesCluster) {
	s := traffic{keptService: c.kept(t, "kept", corev1.ProtocolTCP)}
	if err := s.lead(t.Context(), "kept-a", s.echoTCP(t, 'a')); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		s.connect(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), changesLast)
	defer cancel()
	var using errgroup.Group
	for i, conn := range s.old {
		using.Go(func() error { return s.use(ctx, i, conn) })
	}
	for range 4 {
		using.Go(func() error { return s.open(ctx) })
	}
	for i := range 4 {
		using.Go(func() error { return s.changeOthers(ctx, i) })
	}
	b, third := s.echoTCP(t, 'b'), s.echoTCP(t, 'c')
	using.Go(func() error {
		pause(ctx, changesLast/4)
		if err := s.lead(t.Context(), "kept-b", b); err != nil {
			return err
		}
		pause(ctx, changesLast/4)
		return errors.Join(s.killProxy(), s.lead(t.Context(), "kept-c", third))
	})
	if err := using.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("%d answers over %d old connections, %d new connections (%d to a, %d to b, %d to c), %d other services", s.asked.Load(),
		len(s.old), s.opened.Load(), s.seen['a'].Load(), s.seen['b'].Load(), s.seen['c'].Load(), s.changed.Load())
	for _, letter := range "abc" {
		if s.seen[letter].Load() == 0 {
			t.Errorf("no new connection reached %c", letter)
		}
	}
	if s.changed.Load() < 20 {
		t.Errorf("only %d other services changed", s.changed.Load())
	}
}

// connect adds an old connection.
func (s *traffic) connect(t *testing.T) {
	t.Helper()
	err := scratch.Until(t.Context(), 30*time.Second, func(context.Context) error {
		conn, err := s.dial()
		if err == nil {
			s.old = append(s.old, conn)
			t.Cleanup(func() { conn.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// use uses an old connection until ctx ends.
func (s *traffic) use(ctx context.Context, number int, conn net.Conn) error {
	for ctx.Err() == nil {
		if got, err := ask(conn); err != nil || got != 'a' {
			return fmt.Errorf("connection %d was lost: %q, %w", number, got, err)
		}
		s.asked.Add(1)
		pause(ctx, 20*time.Millisecond)
	}
	return nil
}

// open opens new connections until ctx ends.
func (s *traffic) open(ctx context.Context) error {
	for ctx.Err() == nil {
		got, err := s.askAnew()
		if err != nil {
			return fmt.Errorf("a new connection failed: %w", err)
		}
		s.opened.Add(1)
		s.seen[got].Add(1)
		pause(ctx, 5*time.Millisecond)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (s *keptService) askAnew() (byte, error) {
	conn, err := s.dial()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return ask(conn)
}

// changeOthers makes, changes and deletes services until ctx ends.
func (s *traffic) changeOthers(ctx context.Context, who int) error {
	services, slices := s.Kube.CoreV1().Services("default"), s.Kube.DiscoveryV1().EndpointSlices("default")
	for round := 0; ctx.Err() == nil; round++ {
		name := fmt.Sprintf("other-%d-%d", who, round)
		spec := corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "p", Port: 80}}}
		_, made := services.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
		_, led := slices.Create(ctx, s.slice(name, name, 1000), metav1.CreateOptions{})
		_, moved := slices.Update(ctx, s.slice(name, name, 2000), metav1.UpdateOptions{})
		err := errors.Join(made, led, moved)
		if old := fmt.Sprintf("other-%d-%d", who, round-10); round >= 10 {
			err = errors.Join(err, services.Delete(ctx, old, metav1.DeleteOptions{}), slices.Delete(ctx, old, metav1.DeleteOptions{}))
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		s.changed.Add(1)
	}
	return nil
}

// datagrams sends packets from one port to a service all the time, and notes who answers.
type datagrams struct {
	conn   net.Conn
	latest atomic.Int32 // letter
}

func (s *keptService) send(ctx context.Context, t *testing.T) *datagrams {
	t.Helper()
	d := &datagrams{}
	err := s.node.do(func() (err error) {
		dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(s.host), Port: 19_053}}
		d.conn, err = dialer.Dial("udp", s.address())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			_, _ = d.conn.Write([]byte{'?'}) // refused as long as nobody is there
			<-tick.C
		}
		d.conn.Close()
	}()
	go func() {
		for b := make([]byte, 1); ; {
			switch n, err := d.conn.Read(b); {
			case errors.Is(err, net.ErrClosed):
				return
			case err == nil && n == 1:
				d.latest.Store(int32(b[0]))
			}
		}
	}()
	return d
}

// reach waits until a server answers, and sees that from then on no other does.
func (d *datagrams) reach(ctx context.Context, letter byte) error {
	err := scratch.Until(ctx, 30*time.Second, func(context.Context) error {
		if got := byte(d.latest.Load()); got != letter {
			return fmt.Errorf("%q answers, not %q", got, letter)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for range 25 {
		pause(ctx, 20*time.Millisecond)
		if got := byte(d.latest.Load()); got != letter {
			return fmt.Errorf("%q answers after %q did", got, letter)
		}
	}
	return nil
}

// tracked are the ports that the kernel's connection tracking leads packets for the service to.
func (s *keptService) tracked() (ports []int, err error) {
	err = s.node.do(func() error {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.InetFamily(syscall.AF_INET))
		for _, flow := range flows {
			if flow.Forward.Protocol == syscall.IPPROTO_UDP && flow.Forward.DstIP.String() == s.service.Spec.ClusterIP {
				ports = append(ports, int(flow.Reverse.SrcPort))
			}
		}
		return err
	})
	return slices.Compact(slices.Sorted(slices.Values(ports))), err
}

// datagramsFollow sends from one port to a service all the time. The kernel would lead these packets to the first endpoint for ever,
// because they keep its connection alive; kube-proxy has to remove that when the endpoint is gone.
func datagramsFollow(t *testing.T, c *servicesCluster) {
	s := c.kept(t, "datagrams", corev1.ProtocolUDP)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ports := map[byte]int{}
	for _, letter := range []byte("abcd") {
		ports[letter] = s.echoUDP(t, letter)
	}
	lead := func(to ...int) {
		t.Helper()
		if err := s.lead(ctx, "datagrams", to...); err != nil {
			t.Fatal(err)
		}
	}
	lead(ports['a'])
	d := s.send(ctx, t)
	follows := func(letter byte, when string) {
		t.Helper()
		if err := d.reach(ctx, letter); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if got, err := s.tracked(); err != nil || !slices.Equal(got, []int{ports[letter]}) {
			t.Errorf("%s: the kernel leads packets to %v, %v, want %d", when, got, err, ports[letter])
		}
	}
	follows('a', "with the first endpoint")
	lead(ports['b'])
	follows('b', "after the endpoint changed")
	lead()
	pause(ctx, 3*time.Second) // until kube-proxy has seen that there is none
	lead(ports['c'])
	follows('c', "after the last endpoint went and another came")
	if err := s.killProxy(); err != nil {
		t.Fatal(err)
	}
	lead(ports['d'])
	follows('d', "after the endpoint changed while kube-proxy was dead")
}
