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
)

const (
	watchedNodes      = 1_000
	watchedPods       = 1_000
	watchedNamespaces = 20
	// namespacesOfNode is of how many namespaces a node has pods: the policies there let the pods of the same namespace in.
	namespacesOfNode = 2
	watchedChanges   = 30
	// watchedImages is how many images a node's status has. A kubelet names 50 at most.
	watchedImages = 30
)

// changed is what one change of an object costs the control plane with all watches of the minions.
type changed struct{ cpu, megabytes float64 }

// minionWatches measures what a change of a node and one of a pod cost the control plane while the minions of 1,000 nodes watch: all
// nodes, for the routes to their pods, and, with a network policy in each namespace, pods. The peer are the watches of minions of
// before: in JSON, and of the pods of all namespaces.
func (b *bench) minionWatches(ctx context.Context) error {
	names := []string{"watches_node_change_cpu", "watches_node_change_bytes", "watches_pod_change_cpu", "watches_pod_change_bytes"}
	figures := make([]figure, len(names))
	for i, name := range names {
		figures[i] = figure{name: name, unit: []string{"ms", "MB"}[i%2]}
	}
	for round := range b.rounds {
		fmt.Printf("round %d of %d: %d nodes watch\n", round+1, b.rounds, watchedNodes)
		ours, peer, err := b.watchedTurn(ctx)
		if err != nil {
			return err
		}
		for i := range figures {
			figures[i].rounds, figures[i].peer = append(figures[i].rounds, ours[i]), append(figures[i].peer, peer[i])
		}
	}
	for i := range figures {
		figures[i].print(os.Stdout)
	}
	return nil
}

// watchedTurn returns the figures of the minions' watches, and those of before, on a new control plane.
func (b *bench) watchedTurn(ctx context.Context) (ours, peer []float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, storedPatience)
	defer cancel()
	dir, err := os.MkdirTemp(memoryDir(), "k8sm-bench-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	h := newHollow(dir, fleet{})
	defer h.stop()
	// That controller would mark the nodes, which have no kubelets, one after the other, and each mark is an event of its own.
	if err := h.start(ctx, b.km, "--kube-controller-manager-arg=controllers=-node-lifecycle-controller"); err != nil {
		return nil, nil, err
	}
	if err := errors.Join(parallel(ctx, watchedNodes, h.createWatchedNode), parallel(ctx, watchedNamespaces, h.createNamespace)); err != nil {
		return nil, nil, fmt.Errorf("cannot create the nodes: %w", err)
	}
	if err := h.awaitAccounts(ctx, watchedNamespaces, watchedNamespace); err != nil {
		return nil, nil, err
	}
	if err := parallel(ctx, watchedPods, h.createWatchedPod); err != nil {
		return nil, nil, fmt.Errorf("cannot create the pods: %w", err)
	}
	if ours, err = h.watchedBy(ctx, minionQueries); err != nil {
		return nil, nil, err
	}
	peer, err = h.watchedBy(ctx, formerQueries)
	return ours, peer, err
}

// queries are the watches of the i-th node's minion.
type queries func(i int) (nodes watchQuery, pods []watchQuery)

func minionQueries(i int) (nodes watchQuery, pods []watchQuery) {
	peers := url.QueryEscape(podsWithNetwork + ",spec.nodeName!=" + watchedNode(i) + ",status.podIP!=")
	for n := range namespacesOfNode {
		path := "/api/v1/namespaces/" + watchedNamespace(i+n*7) + "/pods?fieldSelector=" + peers
		pods = append(pods, watchQuery{path: path, accept: runtime.ContentTypeProtobuf})
	}
	return watchQuery{path: "/api/v1/nodes", accept: runtime.ContentTypeProtobuf}, pods
}

func formerQueries(int) (nodes watchQuery, pods []watchQuery) {
	return watchQuery{path: "/api/v1/nodes", accept: runtime.ContentTypeJSON}, []watchQuery{{
		path: "/api/v1/pods?fieldSelector=" + url.QueryEscape(podsWithNetwork), accept: runtime.ContentTypeJSON,
	}}
}

// podsWithNetwork selects those that network policies are about.
const podsWithNetwork = "spec.hostNetwork=false,status.phase!=Succeeded,status.phase!=Failed"

// watchedBy returns what a change of a node and one of a pod cost.
func (h *hollow) watchedBy(ctx context.Context, minion queries) ([]float64, error) {
	var ofNodes, ofPods []watchQuery
	for i := range watchedNodes {
		nodes, pods := minion(i)
		ofNodes, ofPods = append(ofNodes, nodes), append(ofPods, pods...)
	}
	node, err := h.costOf(ctx, ofNodes, h.beatNode)
	if err != nil {
		return nil, fmt.Errorf("changes of nodes: %w", err)
	}
	pod, err := h.costOf(ctx, ofPods, h.changeWatchedPod)
	if err != nil {
		return nil, fmt.Errorf("changes of pods: %w", err)
	}
	return []float64{node.cpu, node.megabytes, pod.cpu, pod.megabytes}, nil
}

// costOf changes objects one after the other while the queries watch them.
func (h *hollow) costOf(ctx context.Context, all []watchQuery, change func(context.Context, int) error) (c changed, err error) {
	w, err := h.watch(ctx, all)
	if err != nil {
		return c, err
	}
	defer w.stop()
	w.calm(ctx)
	first := w.events.Load()
	if err := change(ctx, watchedChanges); err != nil {
		return c, err
	}
	w.calm(ctx)
	events, before := w.events.Load(), w.bytes.Load()
	s, err := h.spend(func() error {
		for i := range watchedChanges {
			if err := change(ctx, i); err != nil {
				return err
			}
			if err := w.await(ctx, events+int64(i+1)*(events-first)); err != nil { // each change is told to as many
				return err
			}
		}
		return nil
	})
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
