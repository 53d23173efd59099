package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/scheduler/kube"
)

const (
	hollowNodes    = 1_000
	hollowPods     = 5_000
	hollowParallel = 16 // callers that create, and delete, at the same time
	hollowPatience = 2 * time.Minute
)

// hollow is the API server that both schedulers work on, each in its turn with nodes of its own. Nothing runs on the
// nodes: what is measured is the way of a pod from its creation to its binding, through the API, the scheduler and, on
// our side, Mesos and the executor.
type hollow struct {
	dir  statedir.Dir
	kube kubernetes.Interface // the administrator, without limits
	rest *rest.Config
	logs io.Writer
}

// contender is a scheduler with its nodes.
type contender interface {
	// start returns when the scheduler runs; the nodes may come later.
	start(ctx context.Context) error
	// stop returns when all that start started has ended.
	stop() error
}

// binding is what a round of one contender has shown.
type binding struct {
	rate     float64 // pods a second, from the first creation to the last binding
	p50, p99 float64 // milliseconds from a pod's creation to its binding
}

// endToEnd measures the binding of pods that are created through the API, beside the stock kube-scheduler's.
func (b *bench) endToEnd(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "k8sm-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	h, stop, err := startHollow(ctx, b.km, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()

	rate := figure{name: "hollow_bound_rate", unit: "pods/s"}
	p50 := figure{name: "hollow_create_bound_p50", unit: "ms"}
	p99 := figure{name: "hollow_create_bound_p99", unit: "ms"}
	for round := range b.rounds {
		ours, err := h.round(ctx, &k8smOnHollow{hollow: h, name: "bench-" + strconv.Itoa(round)})
		if err != nil {
			return fmt.Errorf("k8sm on hollow nodes: %w", err)
		}
		peer, err := h.round(ctx, &stockOnHollow{hollow: h})
		if err != nil {
			return fmt.Errorf("kube-scheduler on plain nodes: %w", err)
		}
		rate.rounds, rate.peer = append(rate.rounds, ours.rate), append(rate.peer, peer.rate)
		p50.rounds, p50.peer = append(p50.rounds, ours.p50), append(p50.peer, peer.p50)
		p99.rounds, p99.peer = append(p99.rounds, ours.p99), append(p99.peer, peer.p99)
	}
	for _, f := range []*figure{&rate, &p50, &p99} {
		f.print(os.Stdout)
	}
	return nil
}

// startHollow starts the control plane, in a process of its own.
func startHollow(ctx context.Context, km, dir string) (_ *hollow, stop func() error, err error) {
	h := &hollow{dir: statedir.Dir(dir)}
	log, err := os.Create(dir + "/bench.log")
	if err != nil {
		return nil, nil, err
	}
	h.logs = log
	before := logrus.StandardLogger().Out
	logrus.SetOutput(log) // a scheduler writes its log to a file, too
	plane := exec.Command(km, "--state-dir", dir, "apiserver", "--secure-port=0", "--etcd-port=0", "--cluster-cidr=10.64.0.0/12")
	plane.Stdout, plane.Stderr = log, log
	plane.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the terminal's Ctrl-C is ours first
	stop = func() error {
		defer log.Close()
		defer logrus.SetOutput(before)
		if err := plane.Process.Signal(syscall.SIGINT); err != nil {
			return fmt.Errorf("cannot stop the control plane: %w", err)
		}
		return plane.Wait()
	}
	if err := plane.Start(); err != nil {
		return nil, nil, fmt.Errorf("cannot start the control plane: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	poll(ctx, func() bool { return h.connect(ctx) == nil })
	if ctx.Err() != nil {
		return nil, nil, errors.Join(errors.New("the control plane did not become ready"), stop())
	}
	return h, stop, nil
}

// connect makes the clients when the API server is ready, with all that it makes for itself.
func (h *hollow) connect(ctx context.Context) (err error) {
	if h.rest, err = clientcmd.BuildConfigFromFlags("", h.dir.AdminKubeconfig()); err != nil {
		return err
	}
	h.rest.QPS = -1
	if h.kube, err = kube.NewClient(h.rest); err != nil {
		return err
	}
	if _, err = h.kube.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{}); err != nil {
		return err
	}
	_, err = h.kube.CoreV1().ConfigMaps(api.MinionConfigNamespace).Get(ctx, api.MinionConfigName, metav1.GetOptions{})
	return err
}

// round lets one contender bind all pods, and leaves nothing behind.
func (h *hollow) round(ctx context.Context, c contender) (result binding, err error) {
	ctx, cancel := context.WithTimeout(ctx, hollowPatience)
	defer cancel()
	defer func() { err = errors.Join(err, c.stop(), h.clear(context.WithoutCancel(ctx))) }()
	if err := c.start(ctx); err != nil {
		return result, err
	}
	if err := h.waitForNodes(ctx); err != nil {
		return result, err
	}
	return h.bindAll(ctx)
}

// waitForNodes returns when pods may go to each node. It looks seldom: a list of all of them is dear.
func (h *hollow) waitForNodes(ctx context.Context) error {
	look := time.NewTicker(500 * time.Millisecond)
	defer look.Stop()
	for {
		open, err := h.openNodes(ctx)
		if open == hollowNodes {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%d of %d nodes became ready in time", open, hollowNodes), err)
		}
	}
}

// openNodes counts the nodes that pods may go to. It does the node lifecycle controller's work of taking the first taint
// off a ready node: that controller makes 20 calls a second.
func (h *hollow) openNodes(ctx context.Context) (int, error) {
	nodes, err := h.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return 0, err
	}
	var tainted []string
	for i := range nodes.Items {
		if len(nodes.Items[i].Spec.Taints) > 0 {
			tainted = append(tainted, nodes.Items[i].Name)
		}
	}
	err = parallel(ctx, len(tainted), func(ctx context.Context, i int) error {
		_, err := h.kube.CoreV1().Nodes().Patch(ctx, tainted[i], types.MergePatchType, []byte(`{"spec":{"taints":null}}`), metav1.PatchOptions{})
		return err
	})
	return len(nodes.Items) - len(tainted), err
}

// bindAll creates the pods and watches them being bound.
func (h *hollow) bindAll(ctx context.Context) (binding, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{created: make(map[string]time.Time, hollowPods), bound: make(map[string]time.Time, hollowPods), done: make(chan struct{})}
	factory := informers.NewSharedInformerFactory(h.kube, 0)
	defer factory.Shutdown()
	defer cancel()
	handler, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: w.see, UpdateFunc: func(_, obj any) { w.see(obj) },
	})
	if err != nil {
		return binding{}, err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), handler.HasSynced) {
		return binding{}, ctx.Err()
	}
	begin := time.Now()
	err = parallel(ctx, hollowPods, func(ctx context.Context, i int) error {
		pod := hollowPod(i)
		w.create(pod.Name)
		_, err := h.kube.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return binding{}, fmt.Errorf("cannot create the pods: %w", err)
	}
	select {
	case <-w.done:
		return w.result(begin), nil
	case <-ctx.Done():
		return binding{}, fmt.Errorf("%d of %d pods were bound in time", w.count(), hollowPods)
	}
}

// watcher notes when each pod was created, and when it was seen to be bound.
type watcher struct {
	mu             sync.Mutex // guards created and bound
	created, bound map[string]time.Time
	done           chan struct{} // closed when all are bound
}

func (w *watcher) create(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.created[name] = time.Now()
}

func (w *watcher) see(obj any) {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known := w.bound[pod.Name]; known {
		return
	}
	if w.bound[pod.Name] = time.Now(); len(w.bound) == hollowPods {
		close(w.done)
	}
}

func (w *watcher) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.bound)
}

// result sums up from the beginning of the creation to the last binding.
func (w *watcher) result(begin time.Time) binding {
	w.mu.Lock()
	defer w.mu.Unlock()
	last, waits := begin, make([]float64, 0, hollowPods)
	for name, at := range w.bound {
		waits = append(waits, milliseconds(at.Sub(w.created[name])))
		if at.After(last) {
			last = at
		}
	}
	slices.Sort(waits)
	return binding{rate: hollowPods / last.Sub(begin).Seconds(), p50: waits[len(waits)/2], p99: waits[len(waits)*99/100]}
}

// clear deletes the pods, the nodes and the nodes' leases.
func (h *hollow) clear(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, hollowPatience)
	defer cancel()
	now := int64(0)
	pods, err := h.kube.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	err = parallel(ctx, len(pods.Items), func(ctx context.Context, i int) error {
		return h.kube.CoreV1().Pods("default").Delete(ctx, pods.Items[i].Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
	})
	if err != nil {
		return err
	}
	nodes, err := h.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	leases := h.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	err = parallel(ctx, len(nodes.Items), func(ctx context.Context, i int) error {
		return errors.Join(h.kube.CoreV1().Nodes().Delete(ctx, nodes.Items[i].Name, metav1.DeleteOptions{}),
			leases.Delete(ctx, nodes.Items[i].Name, metav1.DeleteOptions{}))
	})
	if err != nil {
		return err
	}
	return h.kube.EventsV1().Events("default").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
}

// parallel calls do for each number below count, by a few callers at the same time.
func parallel(ctx context.Context, count int, do func(context.Context, int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	next := make(chan int)
	group.Go(func() error {
		defer close(next)
		for i := range count {
			select {
			case next <- i:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range hollowParallel {
		group.Go(func() error {
			for i := range next {
				if err := do(ctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func hollowPod(i int) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceDefault, Name: "hollow-" + strconv.Itoa(i)},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "main", Image: "none",
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi"),
			}},
		}}},
	}
}
