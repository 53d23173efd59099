package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
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
	kubelets *kubelets
	profiles string // a directory for profiles; "" for none
}

// fleet says how much a contender gets.
type fleet struct {
	nodes, pods int
	backlog     int           // how many pods are there before the scheduler, at last
	patience    time.Duration // for all of it: far more than it takes on an idle machine
	idle        time.Duration // how long it is measured before there are pods
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
	// address returns the URL of the scheduler's metrics and profiles, which the administrator may read; "" if it has none.
	address() string
}

// binding is the result of one contender in a round.
type binding struct {
	rate     float64 // pods a second, from the first creation to the last binding
	p50, p99 float64 // milliseconds from a pod's creation to its binding
	backlog  float64 // pods a second, from the first binding to the last, of pods that were there before the scheduler
	created  float64 // of these, a second, while there was no scheduler
	idle     float64 // processor time of the API server before there are pods, milliseconds a second
	costs    []cost
}

// endToEnd compares the binding of pods created through the API with the stock kube-scheduler's. During creation the API server uses
// most of two cores and limits both; the backlog shows how fast a scheduler binds. What binds without a thought shows the limit.
func (b *bench) endToEnd(ctx context.Context) error {
	s, ceiling := sheet{prefix: "hollow_"}, sheet{prefix: "hollow_ceiling_"}
	usual := b.usual
	usual.backlog, usual.patience = 2*usual.pods/5, hollowPatience
	defer func() { // also those of the others, if one fails
		s.print(os.Stdout)
		ceiling.print(os.Stdout)
	}()
	for range b.rounds {
		ours, err := b.turn(ctx, usual, func(h *hollow) contender { return &k8smOnHollow{hollow: h, km: b.km} })
		if err != nil {
			return fmt.Errorf("k8sm on hollow nodes: %w", err)
		}
		s.add(ours)
		peer, err := b.turn(ctx, usual, func(h *hollow) contender { return &stockOnHollow{hollow: h} })
		if err != nil {
			return fmt.Errorf("kube-scheduler on plain nodes: %w", err)
		}
		s.addPeer(peer)
		most, err := b.turn(ctx, usual, func(h *hollow) contender { return &binderOnHollow{hollow: h} })
		if err != nil {
			return fmt.Errorf("without a scheduler: %w", err)
		}
		ceiling.add(most)
	}
	return nil
}

// figures are the binding's, as they are printed.
func (r binding) figures() []cost {
	figures := []cost{{"bound_rate", "pods/s", r.rate}, {"create_bound_p50", "ms", r.p50}, {"create_bound_p99", "ms", r.p99}}
	if r.backlog > 0 {
		figures = append(figures, cost{"backlog_rate", "pods/s", r.backlog}, cost{"create_rate_without_scheduler", "pods/s", r.created})
	}
	if r.idle > 0 {
		figures = append(figures, cost{"idle_cpu_apiserver", "ms/s", r.idle})
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
	stop, err := h.startKubelets(ctx)
	if err != nil {
		return result, err
	}
	defer stop()
	c := enter(h)
	defer func() { err = errors.Join(err, c.stop()) }()
	if err := c.start(ctx); err != nil {
		return result, err
	}
	if err := h.waitForNodes(ctx); err != nil {
		return result, err
	}
	if err := h.settle(ctx); err != nil {
		return result, err
	}
	idle, err := h.idleUse(ctx, of.idle)
	if err != nil {
		return result, err
	}
	if result, err = h.bindAll(ctx, c); err != nil {
		return result, err
	}
	result.idle = idle
	if of.backlog > 0 {
		err = h.bindBacklog(ctx, c, &result)
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

// identity returns a certificate and its key by which the API server knows a user.
func (h *hollow) identity(user string, groups ...string) (cert, key []byte, err error) {
	return issue(h.dir.CAIssuer(), h.dir.CAKey(), &x509.Certificate{
		Subject: pkix.Name{CommonName: user, Organization: groups}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
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

// settle waits until the nodes are left alone but for their leases: the controllers give each a range of addresses and an event, long
// after it is schedulable.
func (h *hollow) settle(ctx context.Context) error {
	look := time.NewTicker(2 * time.Second)
	defer look.Stop()
	var before float64
	for {
		counts, err := h.counts(ctx)
		if err != nil {
			return err
		}
		var writes float64
		for name, count := range counts {
			if strings.HasPrefix(name, "etcd_") && !strings.HasPrefix(name, "etcd_get") && !strings.HasPrefix(name, "etcd_list") && !strings.HasSuffix(name, "_leases") {
				writes += count
			}
		}
		if writes == before {
			return nil
		}
		before = writes
		select {
		case <-look.C:
		case <-ctx.Done():
			return errors.New("the nodes did not settle in time")
		}
	}
}

// idleUse returns the processor time that the API server takes, in milliseconds a second, while nodes do no more than live.
func (h *hollow) idleUse(ctx context.Context, wait time.Duration) (float64, error) {
	if wait == 0 {
		return 0, nil
	}
	before, err := readUsage(h.control.pid())
	if err != nil {
		return 0, err
	}
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	after, err := readUsage(h.control.pid())
	return 1000 * (after.cpu - before.cpu) / wait.Seconds(), err
}

// startKubelets starts the kubelets. Those of our nodes begin with their first pods. They have one identity for all nodes, which is that of
// a node to flow control and the audit log.
func (h *hollow) startKubelets(ctx context.Context) (stop func(), err error) {
	config := rest.CopyConfig(h.rest)
	config.CertFile, config.KeyFile = "", ""
	if config.CertData, config.KeyData, err = h.identity("hollow-kubelets", "system:masters", api.NodesGroup); err != nil {
		return nil, err
	}
	client, err := protobuf.NewClient(config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	h.kubelets = newKubelets(client, h.nodes)
	var group sync.WaitGroup
	group.Go(func() { h.kubelets.run(ctx) })
	return func() {
		cancel()
		group.Wait()
	}, nil
}

// bindAll creates the pods and watches them being bound.
func (h *hollow) bindAll(ctx context.Context, c contender) (binding, error) {
	w := newWatcher("hollow", h.pods)
	w.visit = h.kubelets.start
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

// bindBacklog creates pods while the scheduler is paused, so that their creation does not count, and notes how many per second are
// created, and bound after it resumes.
func (h *hollow) bindBacklog(ctx context.Context, c contender, result *binding) error {
	if err := c.pause(); err != nil {
		return err
	}
	w := newWatcher("backlog", h.backlog)
	w.visit = h.kubelets.start
	stop, err := w.run(ctx, h.kube)
	if err != nil {
		return err
	}
	defer stop()
	begin := time.Now()
	if err := h.create(ctx, w); err != nil {
		return err
	}
	result.created = float64(h.backlog) / time.Since(begin).Seconds()
	if err := c.resume(ctx); err != nil {
		return err
	}
	if err := w.wait(ctx); err != nil {
		return err
	}
	first, last := w.span()
	result.backlog = float64(h.backlog) / last.Sub(first).Seconds()
	return nil
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
