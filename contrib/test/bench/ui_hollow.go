package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	uiTeams   = 10    // namespaces of the pods
	uiRunning = 1_000 // pods that run, before any change
	// churnRate is how many pods change a second, and leaseRate how many leases of nodes: each node's once in 30 s, and a third as often
	// its status.
	churnRate, leaseRate = 50, hollowNodes / 30
)

// uiCluster is a control plane with our scheduler, that gets pods.
type uiCluster struct{ *k8smOnHollow }

// startMesos starts Mesos and the scheduler, and returns when all agents are nodes.
func (c *uiCluster) startMesos(ctx context.Context) error {
	if err := c.k8smOnHollow.start(ctx); err != nil {
		return err
	}
	return c.waitForNodes(ctx)
}

func (c *uiCluster) stop() error {
	err := c.k8smOnHollow.stop()
	c.hollow.stop()
	return err
}

// freeAddress is an address of loopback that nobody has taken.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func team(i int) string { return "team-" + strconv.Itoa(i%uiTeams) }

// fill creates the pods, waits until they are bound, and says that some run.
func (c *uiCluster) fill(ctx context.Context) error {
	for i := range uiTeams {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: team(i)}}
		if _, err := c.kube.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	if err := c.awaitAccounts(ctx, uiTeams, team); err != nil {
		return err
	}
	w := newWatcher("web", hollowPods)
	stop, err := w.run(ctx, c.kube)
	if err != nil {
		return err
	}
	defer stop()
	if err := parallel(ctx, hollowPods, c.create); err != nil {
		return fmt.Errorf("cannot create the pods: %w", err)
	}
	if err := w.wait(ctx); err != nil {
		return err
	}
	return parallel(ctx, uiRunning, c.change)
}

// awaitAccounts waits for the service accounts of these namespaces, without which there are no pods.
func (h *hollow) awaitAccounts(ctx context.Context, count int, namespace func(i int) string) error {
	poll(ctx, func() bool {
		for i := range count {
			if _, err := h.kube.CoreV1().ServiceAccounts(namespace(i)).Get(ctx, "default", metav1.GetOptions{}); err != nil {
				return false
			}
		}
		return true
	})
	return ctx.Err()
}

// hollowTolerations keep pods on nodes of which no kubelet says that they are ready.
var hollowTolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}

// webPod has a text, "p-", that no id has.
func webPod(i int) string { return fmt.Sprintf("web-x4k2p-%05d", i) }

// create creates the i-th pod.
func (c *uiCluster) create(ctx context.Context, i int) error {
	pod := hollowPod("web", i)
	pod.Namespace, pod.Name = team(i), webPod(i)
	pod.Spec.Tolerations = hollowTolerations
	pod.Labels = map[string]string{"app": "web", "pod-template-hash": "x4k2p", "team": team(i)}
	_, err := c.kube.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	return err
}

// change says what a kubelet would of the i-th pod: that it runs, and has been restarted a few times.
func (c *uiCluster) change(ctx context.Context, i int) error {
	now := metav1.Now()
	status := corev1.PodStatus{
		Phase: corev1.PodRunning, StartTime: &now, PodIP: fmt.Sprintf("10.64.%d.%d", i/250%250, 1+i%250),
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now}},
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: "main", Ready: true, RestartCount: rand.Int32N(10), Image: "none", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		}},
	}
	patch, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return err
	}
	_, err = c.kube.CoreV1().Pods(team(i)).Patch(ctx, webPod(i), types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// remove deletes the i-th pod at once, as its kubelet would in the end.
func (c *uiCluster) remove(ctx context.Context, i int) error {
	return c.kube.CoreV1().Pods(team(i)).Delete(ctx, webPod(i), *metav1.NewDeleteOptions(0))
}

// churn changes pods and nodes until stop is called, which returns how many pods were changed.
func (c *uiCluster) churn(ctx context.Context) (stop func() (int, error)) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	var done int
	var failed error
	group.Go(func() { done, failed = c.churnPods(ctx) })
	group.Go(func() { c.renewNodes(ctx) })
	return func() (int, error) {
		cancel()
		group.Wait()
		return done, failed
	}
}

// churnPods replaces the oldest pod or changes any, churnRate times a second if the API server can.
func (c *uiCluster) churnPods(ctx context.Context) (done int, err error) {
	oldest, next := 0, hollowPods
	tick := time.NewTicker(time.Second / churnRate)
	defer tick.Stop()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(hollowParallel)
	for ; ; done++ {
		select {
		case <-ctx.Done():
			return done, group.Wait()
		case <-tick.C:
		}
		act, pod := c.change, oldest+hollowParallel+rand.IntN(next-oldest-2*hollowParallel) // none that others create or delete now
		switch done % 5 {
		case 0:
			act, pod = c.create, next
			next++
		case 1:
			act, pod = c.remove, oldest
			oldest++
		}
		group.Go(func() error {
			if err := act(ctx, pod); err != nil && ctx.Err() == nil {
				return fmt.Errorf("cannot change a pod: %w", err)
			}
			return nil
		})
	}
}

// renewNodes renews leases and the status of nodes, as kubelets do.
func (c *uiCluster) renewNodes(ctx context.Context) {
	nodes, err := c.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return
	}
	tick := time.NewTicker(time.Second / leaseRate)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		name := nodes.Items[i%len(nodes.Items)].Name
		lease := fmt.Sprintf(`{"spec":{"renewTime":%q}}`, metav1.NowMicro().UTC().Format("2006-01-02T15:04:05.000000Z"))
		_, err := c.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Patch(ctx, name, types.MergePatchType, []byte(lease), metav1.PatchOptions{})
		if i%3 == 0 && err == nil {
			heartbeat := fmt.Sprintf(`{"status":{"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":%q}]}}`, metav1.Now().UTC().Format(time.RFC3339))
			_, err = c.kube.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, []byte(heartbeat), metav1.PatchOptions{}, "status")
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
			fmt.Fprintf(c.log, "cannot renew node %s: %v\n", name, err)
		}
	}
}
