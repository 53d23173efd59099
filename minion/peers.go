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
	ctx, cancel := context.WithCancel(ctx)
	changed := make(chan struct{}, 1) // coalesces bursts of changes
	change := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	if err := onChange(nodes.Informer(), change); err != nil {
		cancel()
		return fmt.Errorf("cannot watch the other nodes: %w", err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	others, err := observe(ctx, client, n.namedServer, change)
	if err != nil {
		cancel()
		return err
	}
	defer others.shutdown()
	defer cancel() // before the informers are awaited
	if !cache.WaitForCacheSync(ctx.Done(), nodes.Informer().HasSynced) {
		return ctx.Err()
	}
	var sent []network.Peer
	for {
		list, err := nodes.Lister().List(labels.Everything())
		if err != nil {
			return fmt.Errorf("cannot list the other nodes: %w", err)
		}
		around, unread := others.look(ctx)
		around.takeCluster(list, n.cluster)
		peers, problems := peersOf(list, n.boot.Node, around)
		for _, problem := range n.routes.set(append(unread, problems...)) {
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
			Annotations: map[string]string{
				api.AnnotationPodPrefixes: node.Annotations[api.AnnotationPodPrefixes], api.AnnotationAgentAddress: node.Annotations[api.AnnotationAgentAddress],
			},
		},
		Spec:   corev1.NodeSpec{PodCIDRs: node.Spec.PodCIDRs},
		Status: corev1.NodeStatus{Addresses: node.Status.Addresses},
	}, nil
}

// peersOf returns all nodes except this one as the pod network needs them, sorted by name. A further prefix of pods that would take
// packets from others is skipped, with a problem: whoever can write to a node's annotations could redirect any traffic.
func peersOf(nodes []*corev1.Node, self string, around surroundings) (peers []network.Peer, problems []error) {
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	peers = []network.Peer{}
	for _, node := range nodes {
		peer := network.Peer{Node: node.Name, Addresses: internalIPs(node), Prefixes: podCIDRs(node)}
		further, err := api.ParsePodPrefixes(node.Annotations[api.AnnotationPodPrefixes])
		if err != nil {
			problems = append(problems, fmt.Errorf("node %s: annotation %s: %w", node.Name, api.AnnotationPodPrefixes, err))
		}
		for _, prefix := range further {
			if err := around.refuse(prefix); err != nil {
				problems = append(problems, fmt.Errorf("pods on node %s are not reached by this address: annotation %s: %w", node.Name, api.AnnotationPodPrefixes, err))
				continue
			}
			peer.Prefixes = append(peer.Prefixes, prefix)
			around.taken = append(around.taken, taken{prefix, "an address of pods on node " + node.Name})
		}
		if node.Name != self && len(peer.Addresses) > 0 && len(peer.Prefixes) > 0 {
			peers = append(peers, peer)
		}
	}
	return peers, problems
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
