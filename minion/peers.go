package minion

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/nodeslices"
	"github.com/k8sm/k8sm/minion/network"
)

// watchPeers passes the other nodes, and each change, to the pod network until ctx ends. While the API server is down, the network
// keeps the nodes that it knows. reachable says why no API server can be reached now.
func (n *node) watchPeers(ctx context.Context, client kubernetes.Interface, pods mesh, reachable func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := make(chan struct{}, 1) // coalesces bursts of changes
	change := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	others := &neighbors{client: client, reachable: reachable, changed: change, log: n.log}
	if err := others.start(ctx); err != nil {
		return err
	}
	defer others.shutdown()
	machines, err := observe(ctx, client, n.namedServer, change)
	if err != nil {
		cancel()
		return err
	}
	defer machines.shutdown()
	defer cancel() // before the informers are awaited
	overdue := time.NewTicker(overdueEvery)
	defer overdue.Stop()
	for look := true; ; {
		if look {
			all, known, err := others.look(ctx, time.Now())
			if err != nil {
				return err
			}
			if known {
				n.reachPeers(ctx, pods, all, machines)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
			look = true
		case now := <-overdue.C:
			look = others.overdue(now)
		}
	}
}

// reachPeers passes the other nodes to the pod network if they have changed.
func (n *node) reachPeers(ctx context.Context, pods mesh, all followed, machines *observer) {
	known := pods.Peers()
	around, unread := machines.look(ctx)
	around.takeCluster(all.nodes, n.cluster)
	if !all.whole {
		for _, peer := range known {
			around.take("an address of node "+peer.Node, peer.Addresses...)
		}
	}
	peers, problems := peersOf(all.nodes, n.boot.Node, around)
	for _, problem := range n.routes.set(append(unread, problems...)) {
		n.log.Warn(problem)
	}
	if !all.whole {
		peers = network.Join(known, peers)
	}
	n.metrics.Peers(all.source, len(peers))
	if !n.reached || !slices.EqualFunc(known, peers, samePeer) {
		pods.Reach(peers)
		n.reached = true
	}
}

// peersOf returns all nodes except this one as the pod network needs them, sorted by name. A further prefix of pods that would take
// packets from others is skipped, with a problem: whoever can write to a node's annotations could redirect any traffic.
func peersOf(nodes []nodeslices.Node, self string, around surroundings) (peers []network.Peer, problems []error) {
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b nodeslices.Node) int { return strings.Compare(a.Name, b.Name) })
	peers = []network.Peer{}
	for _, node := range nodes {
		peer := network.Peer{Node: node.Name, Addresses: node.Addresses, Prefixes: slices.Clone(node.PodCIDRs)}
		further, err := api.ParsePodPrefixes(node.PodPrefixes)
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

func samePeer(a, b network.Peer) bool {
	return a.Node == b.Node && slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Prefixes, b.Prefixes)
}
