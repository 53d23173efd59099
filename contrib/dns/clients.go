package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	corednskube "github.com/coredns/coredns/plugin/kubernetes"
	"github.com/miekg/dns"
	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	"go4.org/netipx"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/k8sm/k8sm/api"
)

// Access says who may ask besides the cluster's pods, its nodes and this machine.
type Access struct {
	// AllowedNetworks are networks in CIDR notation, or single addresses.
	AllowedNetworks []string
}

func (a *Access) addFlags(fs *pflag.FlagSet, prefix string) {
	fs.StringSliceVar(&a.AllowedNetworks, prefix+"allowed-networks", nil,
		"more networks whose queries are answered, as `CIDR,...`; pods, nodes and this machine need none, and all others are refused")
}

// validate checks the networks. Errors name the flag, which begins with the prefix.
func (a Access) validate(prefix string) error {
	if _, err := a.networks(); err != nil {
		return fmt.Errorf("cannot use --%sallowed-networks: %w", prefix, err)
	}
	return nil
}

func (a Access) networks() ([]netip.Prefix, error) {
	var networks []netip.Prefix
	for _, text := range a.AllowedNetworks {
		if address, err := netip.ParseAddr(text); err == nil {
			networks = append(networks, netip.PrefixFrom(address, address.BitLen()))
			continue
		}
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%q is not a network such as 10.0.0.0/8", text)
		}
		networks = append(networks, network.Masked())
	}
	return networks, nil
}

// clients knows whose queries are answered. All others are refused: answers for strangers would tell them what runs in the cluster,
// and would make the server an open resolver (https://www.rfc-editor.org/rfc/rfc5358). Its methods may be called concurrently.
type clients struct {
	fixed   *netipx.IPSet                // loopback, the cluster's ranges and the configured networks
	machine atomic.Pointer[netipx.IPSet] // this machine's addresses
	nodes   atomic.Pointer[netipx.IPSet] // the nodes' addresses, and their prefixes of pods
	warn    rate.Sometimes
}

// guard is whom the server answers. CoreDNS makes its plugins itself, and once more at each reload.
var guard atomic.Pointer[clients]

// clientsPlugin is the directive of a Corefile that refuses strangers.
const clientsPlugin = "clients"

func init() {
	plugin.Register(clientsPlugin, func(c *caddy.Controller) error {
		config := dnsserver.GetConfig(c)
		config.AddPlugin(func(next plugin.Handler) plugin.Handler { return &refusal{next: next, config: config} })
		return nil
	})
	// Before all that answer, and after those that count and log.
	at := slices.Index(dnsserver.Directives, "log") + 1
	dnsserver.Directives = slices.Insert(dnsserver.Directives, at, clientsPlugin)
}

// newClients returns the clients that a cluster has without nodes.
func newClients(cluster api.MinionConfig, access Access) (*clients, error) {
	networks, err := access.networks()
	if err != nil {
		return nil, err
	}
	for _, text := range []string{cluster.ClusterCIDR, cluster.ServiceCIDR} {
		ranges, err := api.ParseRanges(text)
		if text != "" && err != nil {
			return nil, fmt.Errorf("cannot read the cluster's ranges: %w", err)
		}
		networks = append(networks, ranges...)
	}
	networks = append(networks, netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
	c := &clients{fixed: set(networks), warn: rate.Sometimes{First: 1, Interval: time.Minute}}
	c.nodes.Store(set(nil))
	return c, c.lookAround()
}

// lookAround reads this machine's addresses, which its own programs ask from.
func (c *clients) lookAround() error {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("cannot read this machine's addresses: %w", err)
	}
	var own []netip.Prefix
	for _, a := range addresses {
		if network, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, netip.PrefixFrom(network.Addr(), network.Addr().BitLen()))
		}
	}
	c.machine.Store(set(own))
	return nil
}

// set never fails, because prefixes are valid or left out.
func set(prefixes []netip.Prefix) *netipx.IPSet {
	var b netipx.IPSetBuilder
	for _, p := range prefixes {
		if p.IsValid() {
			b.AddPrefix(p)
		}
	}
	s, _ := b.IPSet()
	return s
}

// follow keeps the nodes' addresses until ctx ends. It returns as soon as it has read all nodes.
func (c *clients) follow(ctx context.Context, kube kubernetes.Interface) error {
	factory := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithTransform(essence))
	nodes := factory.Core().V1().Nodes()
	changed := make(chan struct{}, 1)
	tell := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	_, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { tell() },
		DeleteFunc: func(any) { tell() },
		UpdateFunc: func(before, after any) {
			if !slices.Equal(prefixesOf(before.(*corev1.Node)), prefixesOf(after.(*corev1.Node))) {
				tell()
			}
		},
	})
	if err != nil {
		return fmt.Errorf("cannot follow the nodes: %w", err)
	}
	read := func() {
		var all []netip.Prefix
		for _, node := range nodes.Informer().GetStore().List() {
			all = append(all, prefixesOf(node.(*corev1.Node))...)
		}
		c.nodes.Store(set(all))
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), nodes.Informer().HasSynced) {
		return errors.Join(errors.New("cannot read the nodes"), ctx.Err())
	}
	read()
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
				read()
			}
		}
	}()
	return nil
}

// essence keeps what prefixesOf reads of a node, because a cluster may have thousands.
func essence(object any) (any, error) {
	node, ok := object.(*corev1.Node)
	if !ok {
		return object, nil
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: node.Name, ResourceVersion: node.ResourceVersion,
			Annotations: map[string]string{api.AnnotationPodPrefixes: node.Annotations[api.AnnotationPodPrefixes]},
		},
		Status: corev1.NodeStatus{Addresses: node.Status.Addresses},
	}, nil
}

// prefixesOf returns the addresses that a node and its pods ask from, besides the cluster's range: packets that leave a machine have
// the machine's address, and those to a server on the same machine have the pod's.
func prefixesOf(node *corev1.Node) []netip.Prefix {
	prefixes, _ := api.ParsePodPrefixes(node.Annotations[api.AnnotationPodPrefixes]) // minions complain about it
	for _, a := range node.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil { // others are names
			prefixes = append(prefixes, netip.PrefixFrom(ip, ip.BitLen()))
		}
	}
	return prefixes
}

// allowed tells whether queries from the address are answered.
func (c *clients) allowed(ip netip.Addr) bool {
	return c.fixed.Contains(ip) || c.machine.Load().Contains(ip) || c.nodes.Load().Contains(ip)
}

// refusal is the plugin that refuses strangers.
type refusal struct {
	next   plugin.Handler
	config *dnsserver.Config
}

// Name implements plugin.Handler.
func (*refusal) Name() string { return clientsPlugin }

// ServeDNS implements plugin.Handler.
func (r *refusal) ServeDNS(ctx context.Context, w dns.ResponseWriter, query *dns.Msg) (int, error) {
	c := guard.Load()
	from, err := netip.ParseAddrPort(w.RemoteAddr().String())
	ip := from.Addr().Unmap().WithZone("")
	if err == nil && c != nil && (c.allowed(ip) || r.pod(ip)) {
		return plugin.NextOrFailure(clientsPlugin, r.next, ctx, w, query)
	}
	if c != nil {
		c.warn.Do(func() {
			logrus.WithField("client", ip).Warn("refused a DNS query: the client is neither a pod nor a node nor in --dns-allowed-networks (km dns: --allowed-networks)")
		})
	}
	return dns.RcodeRefused, nil
}

// pod tells whether a pod has the address. CNI plugins and routers may give pods addresses outside the cluster's range.
func (r *refusal) pod(ip netip.Addr) bool {
	cluster, ok := r.config.Handler("kubernetes").(*corednskube.Kubernetes)
	return ok && len(cluster.APIConn.PodIndex(ip.String())) > 0
}
