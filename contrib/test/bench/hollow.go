package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

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
	"github.com/k8sm/k8sm/api/protobuf"
	"github.com/k8sm/k8sm/api/statedir"
)

const (
	hollowNodes    = 1_000
	hollowPods     = 5_000
	hollowParallel = 16              // callers that create at the same time
	hollowPatience = 5 * time.Minute // for one contender: far more than it takes on an idle machine
)

// hollow is a control plane with hollow nodes. Each contender gets a new one, so that all start equal. Nothing runs on the nodes: the
// time is from a pod's creation to its binding, through the API, the scheduler and, on our side, Mesos and the executor.
type hollow struct {
	dir statedir.Dir
	fleet
	control  *program
	log      *os.File // of all parts
	kube     kubernetes.Interface
	rest     *rest.Config // of the administrator, without a limit of calls
	profiles string       // a directory for profiles; "" for none
}

// fleet says how much a contender gets.
type fleet struct {
	nodes, pods int
	backlog     int           // how many pods are there before the scheduler, at last
	patience    time.Duration // for all of it: far more than it takes on an idle machine
}

// contender is a scheduler with its nodes.
type contender interface {
	// start returns when the scheduler runs; the nodes may come later.
	start(ctx context.Context) error
	// pause ends the scheduler alone, and resume starts it again.
	pause() error
	resume(ctx context.Context) error
	// stop returns when all that start started has ended.
	stop() error
	// processes are those of the contender, by what they are.
	processes() map[string]int
	// profile returns the URL of the scheduler's processor profile, which the administrator may read.
	profile() string
}

// binding is the result of one contender in a round.
type binding struct {
	rate     float64 // pods a second, from the first creation to the last binding
	p50, p99 float64 // milliseconds from a pod's creation to its binding
	backlog  float64 // pods a second, from the first binding to the last, of pods that were there before the scheduler
	costs    []cost
}

// endToEnd compares the binding of pods created through the API with the stock kube-scheduler's. During creation the API server uses
// most of two cores and limits both; the backlog shows how fast a scheduler binds.
func (b *bench) endToEnd(ctx context.Context) error {
	s := sheet{prefix: "hollow_"}
	usual := b.usual
	usual.backlog, usual.patience = 2*usual.pods/5, hollowPatience
	for range b.rounds {
		ours, err := b.turn(ctx, usual, func(h *hollow) contender { return &k8smOnHollow{hollow: h, km: b.km} })
		if err != nil {
			return fmt.Errorf("k8sm on hollow nodes: %w", err)
		}
		peer, err := b.turn(ctx, usual, func(h *hollow) contender { return &stockOnHollow{hollow: h} })
		if err != nil {
			return fmt.Errorf("kube-scheduler on plain nodes: %w", err)
		}
		s.add(ours)
		s.addPeer(peer)
	}
	s.print(os.Stdout)
	return nil
}

// figures are the binding's, as they are printed.
func (r binding) figures() []cost {
	figures := []cost{{"bound_rate", "pods/s", r.rate}, {"create_bound_p50", "ms", r.p50}, {"create_bound_p99", "ms", r.p99}}
	if r.backlog > 0 {
		figures = append(figures, cost{"backlog_rate", "pods/s", r.backlog})
	}
	return append(figures, r.costs...)
}

// turn runs one contender on a new control plane.
func (b *bench) turn(ctx context.Context, of fleet, enter func(*hollow) contender) (result binding, err error) {
	ctx, cancel := context.WithTimeout(ctx, of.patience)
	defer cancel()
	dir, err := os.MkdirTemp(memoryDir(), "k8sm-bench-")
	if err != nil {
		return result, err
	}
	defer os.RemoveAll(dir)
	h := newHollow(dir, of)
	h.profiles = b.profiles
	defer h.stop()
	var flags []string
	if h.profiles != "" {
		flags = []string{"--kube-apiserver-arg=profiling=true"}
	}
	if err := h.start(ctx, b.km, flags...); err != nil {
		return result, err
	}
	c := enter(h)
	defer func() { err = errors.Join(err, c.stop()) }()
	if err := c.start(ctx); err != nil {
		return result, err
	}
	if err := h.waitForNodes(ctx); err != nil {
		return result, err
	}
	if result, err = h.bindAll(ctx, c); err != nil {
		return result, err
	}
	if of.backlog > 0 {
		result.backlog, err = h.bindBacklog(ctx, c)
	}
	return result, err
}

// memoryDir returns a directory on tmpfs, or "": the speed of a disk says nothing about a scheduler.
func memoryDir() string {
	const dir = "/dev/shm"
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return ""
	}
	return dir
}

func newHollow(dir string, of fleet) *hollow { return &hollow{dir: statedir.Dir(dir), fleet: of} }

// start starts the control plane in a process of its own, with these flags too, and returns when it is ready.
func (h *hollow) start(ctx context.Context, km string, flags ...string) (err error) {
	if h.log, err = os.Create(string(h.dir) + "/bench.log"); err != nil {
		return err
	}
	args := []string{"--state-dir", string(h.dir), "apiserver", "--secure-port=0", "--etcd-port=0", "--cluster-cidr=10.128.0.0/9"}
	if h.control, err = startProgram(h.log, km, append(args, flags...)...); err != nil {
		return err
	}
	poll(ctx, func() bool { return h.control.ended() || h.connect(ctx) == nil })
	if h.control.ended() {
		text, err := os.ReadFile(h.log.Name())
		return errors.Join(fmt.Errorf("the control plane ended: %s", text[bytes.LastIndexByte(bytes.TrimSpace(text), '\n')+1:]), err)
	}
	if ctx.Err() != nil {
		return errors.New("the control plane did not become ready in time")
	}
	return nil
}

// stop kills the control plane. Its data is not needed.
func (h *hollow) stop() {
	if h.control != nil {
		_ = h.control.end(os.Kill)
	}
	if h.log != nil {
		_ = h.log.Close()
	}
}

// connect creates the clients after the API server and its default objects are ready.
func (h *hollow) connect(ctx context.Context) (err error) {
	if h.rest, err = clientcmd.BuildConfigFromFlags("", h.dir.AdminKubeconfig()); err != nil {
		return err
	}
	h.rest.QPS = -1
	if h.kube, err = protobuf.NewClient(h.rest); err != nil {
		return err
	}
	if _, err = h.kube.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{}); err != nil {
		return err
	}
	_, err = h.kube.CoreV1().ConfigMaps(api.MinionConfigNamespace).Get(ctx, api.MinionConfigName, metav1.GetOptions{})
	return err
}

// waitForNodes waits until all nodes are schedulable. It polls slowly, because listing them all is expensive.
func (h *hollow) waitForNodes(ctx context.Context) error {
	look := time.NewTicker(time.Duration(h.nodes) * time.Millisecond / 2)
	defer look.Stop()
	for {
		open, err := h.openNodes(ctx)
		if open == h.nodes {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%d of %d nodes became ready in time", open, h.nodes), err)
		}
	}
}

// openNodes counts the schedulable nodes. It removes the initial taint of ready nodes itself, because the node lifecycle controller
// makes only 20 calls a second.
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
func (h *hollow) bindAll(ctx context.Context, c contender) (binding, error) {
	w := newWatcher("hollow", h.pods)
	stop, err := w.run(ctx, h.kube)
	if err != nil {
		return binding{}, err
	}
	defer stop()
	before, err := h.takeStock(ctx, c)
	if err != nil {
		return binding{}, err
	}
	profiled := h.profile(ctx, c)
	begin := time.Now()
	if err := h.create(ctx, w); err != nil {
		return binding{}, err
	}
	if err := w.wait(ctx); err != nil {
		return binding{}, err
	}
	result := w.result(begin)
	after, err := h.takeStock(ctx, c)
	if err != nil {
		return binding{}, err
	}
	result.costs = after.since(before, w.pods)
	return result, profiled()
}

// bindBacklog creates pods while the scheduler is paused, so that their creation does not count, and returns how many per second are
// bound after it resumes.
func (h *hollow) bindBacklog(ctx context.Context, c contender) (float64, error) {
	if err := c.pause(); err != nil {
		return 0, err
	}
	w := newWatcher("backlog", h.backlog)
	stop, err := w.run(ctx, h.kube)
	if err != nil {
		return 0, err
	}
	defer stop()
	if err := h.create(ctx, w); err != nil {
		return 0, err
	}
	if err := c.resume(ctx); err != nil {
		return 0, err
	}
	if err := w.wait(ctx); err != nil {
		return 0, err
	}
	first, last := w.span()
	return float64(h.backlog) / last.Sub(first).Seconds(), nil
}

// create creates the pods that the watcher waits for.
func (h *hollow) create(ctx context.Context, w *watcher) error {
	err := parallel(ctx, w.pods, func(ctx context.Context, i int) error {
		pod := hollowPod(w.prefix, i)
		w.create(pod.Name)
		_, err := h.kube.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot create the pods: %w", err)
	}
	return nil
}

// watcher records when each of its pods was created and when the watch showed its binding.
type watcher struct {
	prefix         string // of the pods' names
	pods           int
	mu             sync.Mutex // guards created and bound
	created, bound map[string]time.Time
	done           chan struct{} // closed when all are bound
}

func newWatcher(prefix string, pods int) *watcher {
	return &watcher{
		prefix: prefix, pods: pods,
		created: make(map[string]time.Time, pods), bound: make(map[string]time.Time, pods), done: make(chan struct{}),
	}
}

// run watches until stop is called.
func (w *watcher) run(ctx context.Context, client kubernetes.Interface) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	factory := informers.NewSharedInformerFactory(client, 0)
	stop = func() {
		cancel()
		factory.Shutdown()
	}
	handler, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: w.see, UpdateFunc: func(_, obj any) { w.see(obj) },
	})
	if err != nil {
		stop()
		return nil, err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), handler.HasSynced) {
		stop()
		return nil, errors.New("the pods could not be watched in time")
	}
	return stop, nil
}

// wait returns when all pods are bound.
func (w *watcher) wait(ctx context.Context) error {
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%d of %d pods were bound in time", w.count(), w.pods)
	}
}

func (w *watcher) create(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.created[name] = time.Now()
}

func (w *watcher) see(obj any) {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" || !strings.HasPrefix(pod.Name, w.prefix) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known := w.bound[pod.Name]; known {
		return
	}
	if w.bound[pod.Name] = time.Now(); len(w.bound) == w.pods {
		close(w.done)
	}
}

func (w *watcher) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.bound)
}

// span returns the times of the first binding and of the last.
func (w *watcher) span() (first, last time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	times := slices.SortedFunc(maps.Values(w.bound), time.Time.Compare)
	return times[0], times[len(times)-1]
}

// result sums up from the beginning of the creation to the last binding.
func (w *watcher) result(begin time.Time) binding {
	_, last := w.span()
	w.mu.Lock()
	defer w.mu.Unlock()
	waits := make([]float64, 0, w.pods)
	for name, at := range w.bound {
		waits = append(waits, milliseconds(at.Sub(w.created[name])))
	}
	slices.Sort(waits)
	return binding{rate: float64(w.pods) / last.Sub(begin).Seconds(), p50: waits[len(waits)/2], p99: waits[len(waits)*99/100]}
}

// parallel calls do for each number below count, from several goroutines.
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

func hollowPod(prefix string, i int) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceDefault, Name: prefix + "-" + strconv.Itoa(i)},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "main", Image: "none",
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi"),
			}},
		}}},
	}
}
