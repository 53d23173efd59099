package minion

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/nodeslices"
	"github.com/k8sm/k8sm/api/resolve"
	"github.com/k8sm/k8sm/minion/network"
)

// surroundings say which prefixes this machine must not route to pods, whatever an annotation of a node says.
type surroundings struct {
	// pools are the addresses that pods may have; nil while no scheduler has published them.
	pools *api.AddressPools
	taken []taken
}

// taken is a range that belongs to others.
type taken struct {
	prefix netip.Prefix
	what   string
}

// take adds addresses.
func (s *surroundings) take(what string, addresses ...netip.Addr) {
	for _, address := range addresses {
		address = address.Unmap().WithZone("")
		s.taken = append(s.taken, taken{netip.PrefixFrom(address, address.BitLen()), what})
	}
}

// refuse returns an error if the prefix must not be routed to pods.
func (s *surroundings) refuse(prefix netip.Prefix) error {
	if s.pools != nil && !s.pools.Contain(prefix) {
		return fmt.Errorf("%s is in no address pool", prefix)
	}
	if i := slices.IndexFunc(s.taken, func(t taken) bool { return prefix.Overlaps(t.prefix) }); i >= 0 {
		return fmt.Errorf("%s overlaps %s, which is %s", prefix, s.taken[i].prefix, s.taken[i].what)
	}
	return nil
}

// takeCluster adds the ranges of services and pods, and the nodes' addresses.
func (s *surroundings) takeCluster(nodes []nodeslices.Node, cluster api.MinionConfig) {
	for _, text := range strings.Split(cluster.ServiceCIDR, ",") {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			s.taken = append(s.taken, taken{prefix, "the range of services"})
		}
	}
	for _, node := range nodes {
		for _, prefix := range node.PodCIDRs {
			s.taken = append(s.taken, taken{prefix, "the pod range of node " + node.Name})
		}
		s.take("an address of node "+node.Name, node.Addresses...)
		if node.Agent.IsValid() {
			s.take("the agent's address of node "+node.Name, node.Agent)
		}
	}
}

// observer watches the machines that are no nodes: API servers, Mesos masters, and what this machine knows itself.
type observer struct {
	apiServer string // URL
	factories []informers.SharedInformerFactory
	pools     corelisters.ConfigMapLister
	servers   discoverylisters.EndpointSliceLister

	resolved []netip.Addr // of apiServer
	at       time.Time
}

const (
	// resolveEvery is how often the name of the API server is resolved.
	resolveEvery = time.Minute
	// observeWait is how long a starting minion waits for what it observes. An older control plane does not let it.
	observeWait = 5 * time.Second
)

// observe watches until ctx ends, and calls change after each change. Call shutdown when ctx has ended.
func observe(ctx context.Context, client kubernetes.Interface, apiServer string, change func()) (*observer, error) {
	inSystem := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(api.AddressPoolsNamespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, api.AddressPoolsName).String()
		}))
	inDefault := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(metav1.NamespaceDefault),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = api.APIServerSlices }))
	pools, servers := inSystem.Core().V1().ConfigMaps(), inDefault.Discovery().V1().EndpointSlices()
	o := &observer{apiServer: apiServer, factories: []informers.SharedInformerFactory{inSystem, inDefault}, pools: pools.Lister(), servers: servers.Lister()}
	if err := errors.Join(onChange(pools.Informer(), change), onChange(servers.Informer(), change)); err != nil {
		return nil, fmt.Errorf("cannot watch the machines that are no nodes: %w", err)
	}
	for _, factory := range o.factories {
		factory.Start(ctx.Done())
	}
	wait, cancel := context.WithTimeout(ctx, observeWait)
	defer cancel()
	cache.WaitForCacheSync(wait.Done(), pools.Informer().HasSynced, servers.Informer().HasSynced)
	return o, nil
}

func (o *observer) shutdown() {
	for _, factory := range o.factories {
		factory.Shutdown()
	}
}

// onChange calls change after each change of an object.
func onChange(informer cache.SharedIndexInformer, change func()) error {
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { change() }, UpdateFunc: func(any, any) { change() }, DeleteFunc: func(any) { change() },
	})
	return err
}

// look returns what is observed now. What cannot be read is left out, with a problem.
func (o *observer) look(ctx context.Context) (s surroundings, problems []error) {
	if object, err := o.pools.ConfigMaps(api.AddressPoolsNamespace).Get(api.AddressPoolsName); err == nil {
		pools, err := api.ReadAddressPools(object.Data)
		if s.pools = pools; err != nil {
			problems = append(problems, err)
			s.pools = &api.AddressPools{} // rather no address than any
		}
	}
	if s.pools != nil {
		s.take("an address of a Mesos master or of ZooKeeper", s.pools.Masters...)
	}
	if now := time.Now(); now.Sub(o.at) >= resolveEvery {
		o.at, o.resolved = now, resolve.Hosts(ctx, o.apiServer)
	}
	s.take("the API server's address", o.resolved...)
	list, err := o.servers.List(labels.Everything())
	if err != nil {
		problems = append(problems, fmt.Errorf("cannot list the API servers' addresses: %w", err))
	}
	for _, slice := range list {
		s.take("the API server's address", api.SliceAddresses([]discoveryv1.EndpointSlice{*slice})...)
	}
	own, routers, err := network.Neighborhood()
	if err != nil {
		problems = append(problems, err)
	}
	s.take("this machine's address", own...)
	s.take("a router's address", routers...)
	return s, problems
}

// routeProblems are the problems with what other nodes ask to be routed to them.
type routeProblems struct {
	mu    sync.Mutex // guards texts
	texts []string
}

// set replaces the problems, and returns the new ones.
func (p *routeProblems) set(problems []error) (fresh []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.texts
	p.texts = nil
	for _, problem := range problems {
		p.texts = append(p.texts, problem.Error())
		if !slices.Contains(before, problem.Error()) {
			fresh = append(fresh, problem.Error())
		}
	}
	return fresh
}

// mostRouteProblems bounds how many stand in the node's condition.
const mostRouteProblems = 3

// get returns the problems for the node's condition.
func (p *routeProblems) get() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	texts := slices.Clone(p.texts[:min(len(p.texts), mostRouteProblems)])
	if more := len(p.texts) - mostRouteProblems; more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more prefixes are not routed", more))
	}
	return texts
}
