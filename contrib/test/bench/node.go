package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/prometheus/procfs"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

const (
	// nodePods come to one node, nodePace apart. A kubelet takes 110.
	nodePods = 100
	nodePace = 200 * time.Millisecond
	// nodeResources make the node's agent large enough for them, whatever the machine has.
	nodeResources = "cpus:64;mem:65536;disk:100000;ports:[31000-32000]"
)

// load starts pods on one node at a steady pace. The peer is bare Docker calls at the same pace. Both create two containers per pod.
// Each round is a new cluster.
func (b *bench) load(ctx context.Context) error {
	p50 := figure{name: "node_create_running_p50", unit: "ms"}
	p99 := figure{name: "node_create_running_p99", unit: "ms"}
	figures := []*figure{&p50, &p99}
	use := map[string]*figure{}
	note := func(name, unit string, value float64) {
		if use[name] == nil {
			use[name] = &figure{name: name, unit: unit}
			figures = append(figures, use[name])
		}
		use[name].rounds = append(use[name].rounds, value)
	}
	var problems error
	for round := 1; round <= b.rounds && ctx.Err() == nil; round++ {
		fmt.Printf("round %d of %d: %d pods, one each %s, on a new cluster\n", round, b.rounds, nodePods, nodePace)
		err := b.inCluster(ctx, []string{"--resources=" + nodeResources}, func(c *scratch.Cluster, _ startTimes) error {
			ours, bare, err := b.loadNode(ctx, c, note)
			if err != nil {
				return err
			}
			p50.rounds, p50.peer = append(p50.rounds, percentile(ours, 50)), append(p50.peer, percentile(bare, 50))
			p99.rounds, p99.peer = append(p99.rounds, percentile(ours, 99)), append(p99.peer, percentile(bare, 99))
			return nil
		})
		problems = errors.Join(problems, err) // a cluster that does not stop cleanly takes nothing from what was measured
	}
	for _, f := range figures {
		f.print(os.Stdout)
	}
	return problems
}

// loadNode returns the time of each pod from its creation until a watch shows it running, and the times of the bare calls. It also
// records the usage of the node's processes.
func (b *bench) loadNode(ctx context.Context, c *scratch.Cluster, note func(name, unit string, value float64)) (ours, bare []time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	pod, err := b.warmPod(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	node, err := nodeProcesses(c)
	if err != nil {
		return nil, nil, err
	}
	before, err := usageOf(node)
	if err != nil {
		return nil, nil, err
	}
	if ours, err = createAtPace(ctx, c, pod); err != nil {
		return nil, nil, err
	}
	after, err := usageOf(node)
	if err != nil {
		return nil, nil, err
	}
	for _, role := range []string{"minion", "kubelet"} {
		note("node_"+role+"_cpu", "s", after[role].cpu-before[role].cpu)
		note("node_"+role+"_own_memory", "MB", after[role].own)
		note("node_"+role+"_resident", "MB", after[role].resident)
	}
	if err := removeAll(ctx, c); err != nil {
		return nil, nil, err
	}
	bare, err = bareAtPace(ctx, c, pod.Spec.Containers[0].Image)
	return ours, bare, err
}

// warmPod returns the small pod after one such pod has run: the first one starts the kubelet, which is not measured.
func (b *bench) warmPod(ctx context.Context, c *scratch.Cluster) (*corev1.Pod, error) {
	pod, err := b.smallPod(ctx, c)
	if err == nil {
		_, err = createToRunning(ctx, c, pod)
	}
	return pod, err
}

// smallPod is the example's pod with small requests and without its probe, which would ask each pod once a second.
func (b *bench) smallPod(ctx context.Context, c *scratch.Cluster) (*corev1.Pod, error) {
	pod, err := b.examplePod(ctx, c)
	if err != nil {
		return nil, err
	}
	main := &pod.Spec.Containers[0]
	main.ReadinessProbe = nil
	main.Resources.Requests = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("16Mi"),
	}
	return pod, nil
}

// atPace starts do for each pod in its turn, waits for all, and returns how long each took.
func atPace(ctx context.Context, do func(ctx context.Context, i int) (time.Duration, error)) ([]time.Duration, error) {
	took := make([]time.Duration, nodePods)
	group, ctx := errgroup.WithContext(ctx)
	tick := time.NewTicker(nodePace)
	defer tick.Stop()
	for i := range took {
		group.Go(func() (err error) {
			took[i], err = do(ctx, i)
			return err
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, group.Wait()
		}
	}
	return took, group.Wait()
}

func createAtPace(ctx context.Context, c *scratch.Cluster, like *corev1.Pod) ([]time.Duration, error) {
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := c.Kube.CoreV1().Pods("default").Watch(watching, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	defer events.Stop()
	running := map[string]chan time.Time{}
	for i := range nodePods {
		running[podName(i)] = make(chan time.Time, 1)
	}
	go func() {
		for event := range events.ResultChan() {
			if p, ok := event.Object.(*corev1.Pod); ok && p.Status.Phase == corev1.PodRunning {
				select {
				case running[p.Name] <- time.Now():
				default: // told already, or none of these pods
				}
			}
		}
	}()
	return atPace(ctx, func(ctx context.Context, i int) (time.Duration, error) {
		pod := like.DeepCopy()
		pod.Name = podName(i)
		begin := time.Now()
		if _, err := c.Kube.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return 0, err
		}
		select {
		case at := <-running[pod.Name]:
			return at.Sub(begin), nil
		case <-ctx.Done():
			return 0, fmt.Errorf("pod %s does not run: %w", pod.Name, ctx.Err())
		}
	})
}

func podName(i int) string { return "load-" + strconv.Itoa(i) }

// removeAll deletes the pods and returns when they and their containers are gone.
func removeAll(ctx context.Context, c *scratch.Cluster) error { return deleteAll(ctx, c, true) }

// deleteAll deletes the pods and returns when none of their containers runs any more; all of them are gone if ended is true.
func deleteAll(ctx context.Context, c *scratch.Cluster, ended bool) error {
	now := int64(0)
	err := c.Kube.CoreV1().Pods("default").DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{})
	if err != nil {
		return err
	}
	return scratch.Until(ctx, 3*time.Minute, func(ctx context.Context) error {
		list, err := c.Docker.ContainerList(ctx, container.ListOptions{All: ended})
		if err == nil && len(list) > 0 {
			err = fmt.Errorf("%d containers are left", len(list))
		}
		return err
	})
}

func bareAtPace(ctx context.Context, c *scratch.Cluster, image string) ([]time.Duration, error) {
	pods, err := newBarePods(ctx, c, image)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex // guards made
	var made []string
	took, err := atPace(ctx, func(ctx context.Context, _ int) (time.Duration, error) {
		begin := time.Now()
		ids, err := pods.run(ctx)
		took := time.Since(begin)
		mu.Lock()
		defer mu.Unlock()
		made = append(made, ids...)
		return took, err
	})
	return took, errors.Join(err, pods.remove(ctx, made))
}

// percentile returns a percentile of the durations, in milliseconds.
func percentile(durations []time.Duration, percent int) float64 {
	sorted := slices.Sorted(slices.Values(durations))
	return milliseconds(sorted[(len(sorted)*percent+99)/100-1])
}

// usage is a process's CPU time since its start, in seconds, and its memory, in MB: own is anonymous memory; resident includes pages
// of the program's file, which all km processes of a machine share.
type usage struct{ cpu, own, resident float64 }

// nodeProcesses are the minion and its kubelet, by their roles.
func nodeProcesses(c *scratch.Cluster) (map[string]int, error) {
	all, err := c.Processes()
	if err != nil {
		return nil, err
	}
	node := map[string]int{}
	for _, p := range all {
		if p.Role == "minion" || p.Role == "kubelet" {
			node[p.Role] = p.PID
		}
	}
	if len(node) != 2 {
		return nil, fmt.Errorf("of minion and kubelet there is only %v", node)
	}
	return node, nil
}

func usageOf(node map[string]int) (map[string]usage, error) {
	used := map[string]usage{}
	for role, pid := range node {
		u, err := readUsage(pid)
		if err != nil {
			return nil, fmt.Errorf("cannot tell what the %s uses: %w", role, err)
		}
		used[role] = u
	}
	return used, nil
}

func readUsage(pid int) (u usage, err error) {
	process, err := procfs.NewProc(pid)
	if err != nil {
		return u, err
	}
	stat, err := process.Stat()
	if err != nil {
		return u, err
	}
	status, err := process.NewStatus()
	if err != nil {
		return u, err
	}
	const megabyte = 1 << 20
	return usage{cpu: stat.CPUTime(), own: float64(status.RssAnon) / megabyte, resident: float64(status.VmRSS) / megabyte}, nil
}
