package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

const (
	// servicesReady is how long a cluster may take until all services work.
	servicesReady = 10 * time.Minute
	// flipLimit is how long one change may take.
	flipLimit = 2 * time.Minute
	// flipPause lies between changes: kube-proxy writes its rules at most once a second.
	flipPause = 3 * time.Second
	// dialPause lies between attempts to reach a changed service. Without it they would take the processor that kube-proxy needs.
	dialPause = 5 * time.Millisecond

	dnsClients = 8
	dnsTime    = 5 * time.Second
)

// services measures, on one node, the time from a change of a service's endpoints until new connections reach the new one, with few
// and many services, for the modes of kube-proxy, beside a stock kube-proxy with its default settings. It also measures the cluster's
// DNS, through its service and directly. Clients and servers are on the same machine.
func (b *bench) services(ctx context.Context) error {
	for _, mode := range b.proxyModes {
		if err := b.servicesBy(ctx, mode); err != nil {
			return fmt.Errorf("%s: %w", mode, err)
		}
	}
	return nil
}

func (b *bench) servicesBy(ctx context.Context, mode string) (err error) {
	dir, err := os.MkdirTemp("", "k8sm-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cluster, err := scratch.Start(ctx, scratch.Config{KM: b.km, Dir: dir, Flags: []string{"--proxy-mode=" + mode, "--warm-nodes=all"}})
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
		defer cancel()
		err = errors.Join(err, cluster.Stop(last))
	}()
	if err != nil {
		return err
	}
	if err := b.dns(ctx, cluster, mode); err != nil {
		return err
	}
	f, err := newFlipper(cluster)
	if err != nil {
		return err
	}
	defer f.close()
	stock, err := startStockProxy(ctx, stockConfig{km: b.km, dir: dir, mode: mode, cluster: cluster})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stock.stop()) }()
	node, err := newNodeProxy(ctx, cluster, stock.pid())
	if err != nil {
		return err
	}
	for _, count := range b.serviceCounts {
		if err := f.grow(ctx, count, node, stock); err != nil {
			return fmt.Errorf("%d services: %w", count, err)
		}
		changed := figure{name: fmt.Sprintf("service_change_%s_%d", mode, count), unit: "ms"}
		if err := b.flips(ctx, f, &changed, [2]side{node, stock}); err != nil {
			return err
		}
		changed.print(os.Stdout)
	}
	return nil
}

// side is what makes a service's address lead to its endpoints: k8sm's node, or a kube-proxy alone.
type side interface {
	// dial connects to a service.
	dial(ctx context.Context, address string) (net.Conn, error)
	// pause stops its processes, so that they leave the processor to the other side, and resume lets them go on.
	pause() error
	resume() error
}

// flips measures k8sm's node and the stock kube-proxy in turns, each while the other is stopped.
func (b *bench) flips(ctx context.Context, f *flipper, into *figure, sides [2]side) error {
	for range b.rounds {
		for i, take := range []func(time.Duration){into.add, into.addPeer} {
			took, err := f.flip(ctx, sides[i], sides[1-i])
			if err != nil {
				return err
			}
			take(took)
		}
	}
	return nil
}

// flipper switches the endpoint of the last of many services between two servers. All services point to its own servers, which
// answer with their letter.
type flipper struct {
	kube    kubernetes.Interface
	host    netip.Addr
	servers [2]net.Listener
	made    int
	address string // of the service that is flipped
	to      int
}

func newFlipper(c *scratch.Cluster) (*flipper, error) {
	config := rest.CopyConfig(c.REST)
	config.QPS, config.Burst = 1000, 2000
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("udp", "192.0.2.1:9") // which sends nothing
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	f := &flipper{kube: kube, host: conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr()}
	for i := range f.servers {
		if f.servers[i], err = net.Listen("tcp", net.JoinHostPort(f.host.String(), "0")); err != nil {
			return nil, err
		}
		go serveLetter(f.servers[i], byte('a'+i))
	}
	return f, nil
}

func (f *flipper) close() {
	for _, l := range f.servers {
		l.Close()
	}
}

func serveLetter(l net.Listener, letter byte) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = conn.Write([]byte{letter})
		conn.Close()
	}
}

// grow makes services until there are so many, and waits until the newest one answers on both sides: kube-proxy takes them in their
// order. The stock kube-proxy is stopped meanwhile, because it would take half of the machine.
func (f *flipper) grow(ctx context.Context, count int, node, stock side) error {
	if err := stock.pause(); err != nil {
		return err
	}
	if err := errors.Join(f.makeServices(ctx, count), stock.resume()); err != nil {
		return err
	}
	service, err := f.kube.CoreV1().Services("default").Get(ctx, f.name(), metav1.GetOptions{})
	if err != nil {
		return err
	}
	f.address, f.to = net.JoinHostPort(service.Spec.ClusterIP, "80"), 0
	ready, cancel := context.WithTimeout(ctx, servicesReady)
	defer cancel()
	return errors.Join(f.await(ready, node), f.await(ready, stock))
}

func (f *flipper) makeServices(ctx context.Context, count int) error {
	group, making := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for ; f.made < count; f.made++ {
		name := "s" + strconv.Itoa(f.made)
		group.Go(func() error { return f.makeService(making, name) })
	}
	return group.Wait()
}

func (f *flipper) name() string { return "s" + strconv.Itoa(f.made-1) }

func (f *flipper) makeService(ctx context.Context, name string) error {
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "p", Port: 80}}}}
	if _, err := f.kube.CoreV1().Services("default").Create(ctx, service, metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err := f.kube.DiscoveryV1().EndpointSlices("default").Create(ctx, f.slice(name, 0), metav1.CreateOptions{})
	return err
}

// slice returns an EndpointSlice that points a service to one of the servers.
func (f *flipper) slice(name string, to int) *discoveryv1.EndpointSlice {
	portName, port, ready := "p", int32(f.servers[to].Addr().(*net.TCPAddr).Port), true
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: "bench"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{f.host.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
	}
}

// flip points the service to the other server, and returns the time until connections reach it on one side. The other side is
// stopped meanwhile, and follows before flip returns.
func (f *flipper) flip(ctx context.Context, measured, other side) (took time.Duration, err error) {
	if err := other.pause(); err != nil {
		return 0, err
	}
	took, err = f.point(ctx, measured)
	if err := errors.Join(err, other.resume()); err != nil {
		return 0, err
	}
	limited, cancel := context.WithTimeout(ctx, flipLimit)
	defer cancel()
	return took, f.await(limited, other)
}

func (f *flipper) point(ctx context.Context, s side) (time.Duration, error) {
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(flipPause):
	}
	f.to = 1 - f.to
	limited, cancel := context.WithTimeout(ctx, flipLimit)
	defer cancel()
	begin := time.Now()
	if _, err := f.kube.DiscoveryV1().EndpointSlices("default").Update(limited, f.slice(f.name(), f.to), metav1.UpdateOptions{}); err != nil {
		return 0, err
	}
	err := f.await(limited, s)
	return time.Since(begin), err
}

// await connects until the wanted server answers.
func (f *flipper) await(ctx context.Context, s side) error {
	want := []byte{byte('a' + f.to)}
	tick := time.NewTicker(dialPause)
	defer tick.Stop()
	for {
		got, err := answer(ctx, s, f.address)
		if err == nil && bytes.Equal(got, want) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the service %s does not lead to server %s: %q answers, %w", f.address, want, got, errors.Join(ctx.Err(), err))
		}
	}
}

func answer(ctx context.Context, s side, address string) ([]byte, error) {
	conn, err := s.dial(ctx, address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return nil, err
	}
	return io.ReadAll(conn)
}

// dns measures what the cluster's DNS answers to clients that ask one question after another, each through a socket of its own.
func (b *bench) dns(ctx context.Context, c *scratch.Cluster, mode string) error {
	service, err := c.Kube.CoreV1().Services("kube-system").Get(ctx, "kube-dns", metav1.GetOptions{})
	if err != nil {
		return err
	}
	servers, err := c.Kube.DiscoveryV1().EndpointSlices("kube-system").List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kube-dns"})
	if err != nil {
		return err
	}
	if len(servers.Items) == 0 {
		return errors.New("the cluster has no DNS")
	}
	direct := servers.Items[0]
	for name, server := range map[string]string{
		"service_" + mode: net.JoinHostPort(service.Spec.ClusterIP, "53"),
		"direct_" + mode:  net.JoinHostPort(direct.Endpoints[0].Addresses[0], strconv.Itoa(int(*direct.Ports[0].Port))),
	} {
		if err := awaitDNS(ctx, server); err != nil {
			return err
		}
		rate, p99 := figure{name: "dns_rate_" + name, unit: "1/s"}, figure{name: "dns_p99_" + name, unit: "ms"}
		for range b.rounds {
			times, failed, err := askMany(ctx, server)
			if err != nil {
				return err
			}
			if failed > 0 {
				return fmt.Errorf("%s: %d of %d questions were not answered", server, failed, failed+len(times))
			}
			rate.rounds = append(rate.rounds, float64(len(times))/dnsTime.Seconds())
			p99.add(times[len(times)*99/100])
		}
		rate.print(os.Stdout)
		p99.print(os.Stdout)
	}
	return nil
}

const dnsQuestion = "kubernetes.default.svc.cluster.local."

// awaitDNS waits until a server answers.
func awaitDNS(ctx context.Context, server string) error {
	return scratch.Until(ctx, time.Minute, func(ctx context.Context) error {
		client := dns.Client{Timeout: 2 * time.Second}
		answer, _, err := client.ExchangeContext(ctx, new(dns.Msg).SetQuestion(dnsQuestion, dns.TypeA), server)
		if err == nil && (answer.Rcode != dns.RcodeSuccess || len(answer.Answer) != 1) {
			err = fmt.Errorf("%s answers %v", server, answer)
		}
		return err
	})
}

// askMany has clients ask for a while, and returns how long the answers took, sorted.
func askMany(ctx context.Context, server string) (times []time.Duration, failed int, err error) {
	asking, cancel := context.WithTimeout(ctx, dnsTime)
	defer cancel()
	var lost atomic.Int64
	each := make([][]time.Duration, dnsClients)
	var group errgroup.Group
	for i := range dnsClients {
		group.Go(func() (err error) {
			client := dns.Client{Timeout: 2 * time.Second}
			conn, err := client.Dial(server)
			if err != nil {
				return err
			}
			defer conn.Close()
			for asking.Err() == nil {
				answer, took, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion(dnsQuestion, dns.TypeA), conn)
				if err != nil || answer.Rcode != dns.RcodeSuccess || len(answer.Answer) != 1 {
					lost.Add(1)
					continue
				}
				each[i] = append(each[i], took)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, 0, err
	}
	if ctx.Err() != nil {
		return nil, 0, ctx.Err()
	}
	times = slices.Concat(each...)
	if len(times) == 0 {
		return nil, 0, fmt.Errorf("%s answers nothing", server)
	}
	slices.Sort(times)
	return times, int(lost.Load()), nil
}
