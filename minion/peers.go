package minion

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/minion/network"
)

// watchPeers passes the other nodes, and each change, to the pod network until ctx ends. While the API server is down, the network
// keeps the nodes that it knows.
func (n *node) watchPeers(ctx context.Context, client kubernetes.Interface, pods mesh) error {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(onlyNetwork))
	nodes := factory.Core().V1().Nodes()
	changed := make(chan struct{}, 1) // coalesces bursts of changes
	change := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	_, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { change() }, UpdateFunc: func(any, any) { change() }, DeleteFunc: func(any) { change() },
	})
	if err != nil {
		return fmt.Errorf("cannot watch the other nodes: %w", err)
	}
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), nodes.Informer().HasSynced) {
		return ctx.Err()
	}
	var sent []network.Peer
	for {
		list, err := nodes.Lister().List(labels.Everything())
		if err != nil {
			return fmt.Errorf("cannot list the other nodes: %w", err)
		}
		peers, problems := peersOf(list, n.boot.Node, n.cluster)
		for _, problem := range problems {
			n.log.Warn(problem)
		}
		if sent == nil || !slices.EqualFunc(sent, peers, samePeer) {
			pods.Reach(peers)
			sent = peers
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// onlyNetwork strips a node to the fields that peersOf reads, to save memory.
func onlyNetwork(object any) (any, error) {
	node, ok := object.(*corev1.Node)
	if !ok {
		return object, nil
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion,
			Annotations: map[string]string{api.AnnotationPodPrefixes: node.Annotations[api.AnnotationPodPrefixes]},
		},
		Spec:   corev1.NodeSpec{PodCIDRs: node.Spec.PodCIDRs},
		Status: corev1.NodeStatus{Addresses: node.Status.Addresses},
	}, nil
}

// peersOf returns all nodes except this one as the pod network needs them, sorted by name. Nodes announce further prefixes of their
// pods themselves: a prefix that would take packets from others is skipped, with a problem.
func peersOf(nodes []*corev1.Node, self string, cluster api.MinionConfig) (peers []network.Peer, problems []error) {
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	taken := takenPrefixes(nodes, cluster)
	peers = []network.Peer{}
	for _, node := range nodes {
		peer := network.Peer{Node: node.Name, Addresses: internalIPs(node), Prefixes: podCIDRs(node)}
		further, err := api.ParsePodPrefixes(node.Annotations[api.AnnotationPodPrefixes])
		if err != nil {
			problems = append(problems, fmt.Errorf("node %s: annotation %s: %w", node.Name, api.AnnotationPodPrefixes, err))
		}
		for _, prefix := range further {
			if i := slices.IndexFunc(taken, prefix.Overlaps); i >= 0 {
				problems = append(problems, fmt.Errorf("node %s: annotation %s: %s overlaps %s, which belongs to others",
					node.Name, api.AnnotationPodPrefixes, prefix, taken[i]))
				continue
			}
			peer.Prefixes, taken = append(peer.Prefixes, prefix), append(taken, prefix)
		}
		if node.Name != self && len(peer.Addresses) > 0 && len(peer.Prefixes) > 0 {
			peers = append(peers, peer)
		}
	}
	return peers, problems
}

// takenPrefixes returns the ranges of services, machines and the nodes' pod CIDRs.
func takenPrefixes(nodes []*corev1.Node, cluster api.MinionConfig) (taken []netip.Prefix) {
	for _, text := range strings.Split(cluster.ServiceCIDR, ",") {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			taken = append(taken, prefix)
		}
	}
	for _, node := range nodes {
		taken = append(taken, podCIDRs(node)...)
		for _, address := range internalIPs(node) {
			taken = append(taken, netip.PrefixFrom(address, address.BitLen()))
		}
	}
	return taken
}

func podCIDRs(node *corev1.Node) (prefixes []netip.Prefix) {
	for _, text := range node.Spec.PodCIDRs {
		if prefix, err := netip.ParsePrefix(text); err == nil { // the API server validates them
			prefixes = append(prefixes, prefix.Masked())
		}
	}
	return prefixes
}

// internalIPs returns the node's InternalIPs, the first of each family.
func internalIPs(node *corev1.Node) (addresses []netip.Addr) {
	for _, a := range node.Status.Addresses {
		address, err := netip.ParseAddr(a.Address)
		if a.Type != corev1.NodeInternalIP || err != nil {
			continue
		}
		if !slices.ContainsFunc(addresses, func(b netip.Addr) bool { return b.Is4() == address.Is4() }) {
			addresses = append(addresses, address)
		}
	}
	return addresses
}

func samePeer(a, b network.Peer) bool {
	return a.Node == b.Node && slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Prefixes, b.Prefixes)
}
