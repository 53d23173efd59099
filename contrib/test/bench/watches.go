package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api/nodeslices"
)

const (
	watchedNodes      = 1_000
	watchedPods       = 1_000
	watchedNamespaces = 20
	// namespacesOfNode is of how many namespaces a node has pods: the policies there let the pods of the same namespace in.
	namespacesOfNode = 2
	watchedChanges   = 30
	// watchedPatience is for one control plane: far more than it takes on an idle machine.
	watchedPatience = 9 * time.Minute
	// watchedImages is how many images a node's status has. A kubelet names 50 at most.
	watchedImages = 30
)

// changed is what one change of an object costs the control plane with all watches of the minions.
type changed struct{ cpu, megabytes float64 }

// watchedChange is a kind of change, and how minions hear of it. The peer is how they did before; nil for nothing to compare with.
type watchedChange struct {
	name       string
	ours, peer *listening
}

// listening is how minions hear of a change that do makes.
type listening struct {
	of     func(i int) []watchQuery // of the i-th node's minion
	do     func(context.Context, int) error
	events int // of each minion for each change; 0 if they hear nothing of it, and -1 for as many as of the first one
}

// watchedKinds are the kinds of changes. Nodes were watched as Node objects, in protobuf; pods were watched in JSON, in all namespaces.
func (h *hollow) watchedKinds() []watchedChange {
	return []watchedChange{
		{"node_status", &listening{sliceQueries, h.beatNode, 0}, &listening{nodeQueries, h.beatNode, 1}},
		{"node_route", &listening{sliceQueries, h.changeSlice, 2}, &listening{nodeQueries, h.changeRoute, 1}},
		{"slices_renewal", &listening{sliceQueries, h.renewSlices, 1}, nil},
		{"pod_change", &listening{podQueries, h.changeWatchedPod, -1}, &listening{formerPodQueries, h.changeWatchedPod, -1}},
	}
}

// minionWatches measures what changes of nodes and pods cost the control plane while the minions of 1,000 nodes watch: slices of nodes,
// for the routes to their pods, and, with a network policy in each namespace, pods. It also measures how soon a minion hears of a route.
func (b *bench) minionWatches(ctx context.Context) error {
	var sheet []*figure
	for round := range b.rounds {
		fmt.Printf("round %d of %d: %d nodes watch\n", round+1, b.rounds, watchedNodes)
		figures, err := b.watchedTurn(ctx)
		if err != nil {
			return err
		}
		for i, f := range figures {
			if round == 0 {
				sheet = append(sheet, &figure{name: "watches_" + f.name, unit: f.unit})
			}
			sheet[i].rounds, sheet[i].peer = append(sheet[i].rounds, f.rounds...), append(sheet[i].peer, f.peer...)
		}
	}
	for _, f := range sheet {
		f.print(os.Stdout)
	}
	return nil
}

// watchedTurn returns the figures of a new control plane.
func (b *bench) watchedTurn(ctx context.Context) (figures []figure, err error) {
	ctx, cancel := context.WithTimeout(ctx, watchedPatience)
	defer cancel()
	dir, err := os.MkdirTemp(memoryDir(), "k8sm-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	h := newHollow(dir, fleet{})
	defer h.stop()
	// That controller would mark the nodes, which have no kubelets, one after the other, and each mark is an event of its own.
	if err := h.start(ctx, b.km, "--kube-controller-manager-arg=controllers=-node-lifecycle-controller"); err != nil {
		return nil, err
	}
	if err := h.populate(ctx); err != nil {
		return nil, err
	}
	for _, kind := range h.watchedKinds() {
		ours, err := h.costOf(ctx, kind.ours)
		var peer changed
		if err == nil && kind.peer != nil {
			peer, err = h.costOf(ctx, kind.peer)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind.name, err)
		}
		cpu, size := figure{name: kind.name + "_cpu", unit: "ms", rounds: []float64{ours.cpu}}, figure{name: kind.name + "_bytes", unit: "MB", rounds: []float64{ours.megabytes}}
		if kind.peer != nil {
			cpu.peer, size.peer = []float64{peer.cpu}, []float64{peer.megabytes}
		}
		figures = append(figures, cpu, size)
	}
	heard, err := h.routeHeard(ctx)
	return append(figures, heard), err
}

// populate creates nodes, pods, and the slices of the nodes.
func (h *hollow) populate(ctx context.Context) error {
	if err := errors.Join(parallel(ctx, watchedNodes, h.createWatchedNode), parallel(ctx, watchedNamespaces, h.createNamespace)); err != nil {
		return fmt.Errorf("cannot create the nodes: %w", err)
	}
	if err := h.awaitAccounts(ctx, watchedNamespaces, watchedNamespace); err != nil {
		return err
	}
	if err := parallel(ctx, watchedPods, h.createWatchedPod); err != nil {
		return fmt.Errorf("cannot create the pods: %w", err)
	}
	stop, err := h.keepSlices()
	if err != nil {
		return err
	}
	defer stop() // what it does every 15 s would be counted
	poll(ctx, func() bool {
		objects, err := h.slices(ctx)
		return err == nil && len(nodeslices.Read(objects).Nodes) == watchedNodes
	})
	return ctx.Err()
}

func sliceQueries(int) []watchQuery {
	path := "/api/v1/namespaces/" + nodeslices.Namespace + "/configmaps?labelSelector=" + url.QueryEscape(nodeslices.Selector)
	return []watchQuery{{path: path, accept: runtime.ContentTypeProtobuf}}
}

func nodeQueries(int) []watchQuery {
	return []watchQuery{{path: "/api/v1/nodes", accept: runtime.ContentTypeProtobuf}}
}

func podQueries(i int) (pods []watchQuery) {
	peers := url.QueryEscape(podsWithNetwork + ",spec.nodeName!=" + watchedNode(i) + ",status.podIP!=")
	for n := range namespacesOfNode {
		path := "/api/v1/namespaces/" + watchedNamespace(i+n*7) + "/pods?fieldSelector=" + peers
		pods = append(pods, watchQuery{path: path, accept: runtime.ContentTypeProtobuf})
	}
	return pods
}

func formerPodQueries(int) []watchQuery {
	return []watchQuery{{path: "/api/v1/pods?fieldSelector=" + url.QueryEscape(podsWithNetwork), accept: runtime.ContentTypeJSON}}
}

// podsWithNetwork selects those that network policies are about.
const podsWithNetwork = "spec.hostNetwork=false,status.phase!=Succeeded,status.phase!=Failed"

// costOf makes changes one after the other while all minions listen.
func (h *hollow) costOf(ctx context.Context, l *listening) (c changed, err error) {
	var all []watchQuery
	for i := range watchedNodes {
		all = append(all, l.of(i)...)
	}
	w, err := h.watch(ctx, all)
	if err != nil {
		return c, err
	}
	defer w.stop()
	for i := range watchedChanges { // the first change of an object may bring about another one
		if err := l.do(ctx, i); err != nil {
			return c, err
		}
	}
	w.rest(ctx)
	first := w.events.Load()
	if err := l.do(ctx, 0); err != nil {
		return c, err
	}
	w.rest(ctx)
	events, before := w.events.Load(), w.bytes.Load()
	each := int64(l.events * watchedNodes)
	if l.events < 0 {
		each = events - first
	} else if told := events - first; told != each {
		return c, fmt.Errorf("a change was told %d times, not %d", told, each)
	}
	s, err := h.spend(func() error {
		for i := range watchedChanges {
			if err := l.do(ctx, i); err != nil {
				return err
			}
			if err := w.await(ctx, events+int64(i+1)*each); err != nil {
				return err
			}
		}
		return nil
	})
	w.calm(ctx)
	if heard := w.events.Load() - events; err == nil && l.events == 0 && heard > 0 {
		err = fmt.Errorf("minions heard %d times of changes that do not concern them", heard)
	}
	return changed{cpu: s.each(watchedChanges) / 1000, megabytes: float64(w.bytes.Load()-before) / watchedChanges / (1 << 20)}, err
}

func watchedNode(i int) string { return "agent-" + strconv.Itoa(i) + ".example" }

func watchedNamespace(i int) string { return "watched-" + strconv.Itoa(i%watchedNamespaces) }

func (h *hollow) createNamespace(ctx context.Context, i int) error {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: watchedNamespace(i)}}
	_, err := h.kube.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{})
	return err
}

// createWatchedNode creates a node with what its kubelet would say.
func (h *hollow) createWatchedNode(ctx context.Context, i int) error {
	node := newNode(0)
	node.Name = watchedNode(i)
	node.Spec.ProviderID = ""
	made, err := h.kube.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	made.Status, made.ResourceVersion = node.Status, "" // whatever controllers have written meanwhile
	made.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.0.%d.%d", i/250, 1+i%250)}, {Type: corev1.NodeHostName, Address: node.Name},
	}
	for n := range watchedImages {
		name := fmt.Sprintf("registry.example/team-%d/application-%d", n%5, n)
		made.Status.Images = append(made.Status.Images, corev1.ContainerImage{
			Names: []string{fmt.Sprintf("%s@sha256:%064x", name, n), name + ":v1.2.3"}, SizeBytes: int64(100_000_000 + n),
		})
	}
	for _, kind := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		made.Status.Conditions = append(made.Status.Conditions, corev1.NodeCondition{
			Type: kind, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientResources", Message: "kubelet has sufficient resources available",
			LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now(),
		})
	}
	_, err = h.kube.CoreV1().Nodes().UpdateStatus(ctx, made, metav1.UpdateOptions{})
	return err
}

// beatNode renews the node's status, as a kubelet does every five minutes.
func (h *hollow) beatNode(ctx context.Context, i int) error {
	beat := fmt.Sprintf(`{"status":{"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":%q}]}}`, time.Now().UTC().Format(time.RFC3339Nano))
	_, err := h.kube.CoreV1().Nodes().Patch(ctx, watchedNode(i), types.StrategicMergePatchType, []byte(beat), metav1.PatchOptions{}, "status")
	return err
}

// createWatchedPod creates a pod that runs.
func (h *hollow) createWatchedPod(ctx context.Context, i int) error {
	pod := typicalPod(i)
	pod.Namespace, pod.Spec.NodeName = watchedNamespace(i), watchedNode(i)
	pod.Spec.Tolerations = hollowTolerations
	if _, err := h.kube.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return err
	}
	return h.runPod(ctx, pod.Namespace, i)
}

// changeWatchedPod restarts a container of a pod.
func (h *hollow) changeWatchedPod(ctx context.Context, i int) error {
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"containerStatuses": []corev1.ContainerStatus{{
		Name: "main", Ready: true, RestartCount: int32(time.Now().UnixNano() % 1_000_000), Image: "registry.example/team/web:v1.2.3",
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}},
	}}}})
	if err != nil {
		return err
	}
	_, err = h.kube.CoreV1().Pods(watchedNamespace(i)).Patch(ctx, storedPod(i), types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}
