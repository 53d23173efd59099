package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

const (
	image = "k8sm.test/busybox:1"
	// lifetime is how long a pod stays after it runs. Every second pod ends by itself before that.
	lifetime = 8 * time.Second
	// mostPods bounds the pods of the load that are there at once: while a node is cut off, its pods stay.
	mostPods = 150
	// rolloutEvery is the time between rollouts.
	rolloutEvery = time.Minute
	// evicted is how long pods of the Deployment stay on a node that does not answer, in seconds.
	evicted = int64(20)
	// endLimit is how long the last pods may take to go.
	endLimit = 5 * time.Minute
)

// labels of the load's pods, and of the Deployment's.
var (
	loadLabels = map[string]string{"soak": "load"}
	webLabels  = map[string]string{"soak": "web"}
)

// prepare puts the image on each node, and makes the Deployment and its service.
func (s *soak) prepare(ctx context.Context) error {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return fmt.Errorf("%w; run `make deps` first", err)
	}
	for node, engine := range s.cluster.Engines {
		if err := scratch.ImportImage(ctx, engine, image, "/bin/busybox", busybox); err != nil {
			return fmt.Errorf("node %s: %w", node, err)
		}
	}
	if err := s.cluster.Usable(ctx); err != nil {
		return err
	}
	spec := podSpec("mkdir /www; echo ok > /www/index.html; trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait")
	spec.Tolerations = []corev1.Toleration{
		{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(evicted)},
		{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(evicted)},
	}
	spec.RestartPolicy = corev1.RestartPolicyAlways
	spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}}, PeriodSeconds: 5}
	_, err = s.cluster.Kube.AppsV1().Deployments("default").Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: new(int32(2 * s.nodes)), Selector: &metav1.LabelSelector{MatchLabels: webLabels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: webLabels}, Spec: spec}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = s.cluster.Kube.CoreV1().Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: webLabels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	return err
}

func podSpec(script string) corev1.PodSpec {
	return corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64(1)), RestartPolicy: corev1.RestartPolicyNever,
		Containers: []corev1.Container{{Name: "main", Image: image, ImagePullPolicy: corev1.PullNever,
			Command: []string{"/bin/busybox", "sh", "-c", "/bin/busybox --install -s /bin; " + script}}},
	}
}

// load is the load of one phase.
type load struct {
	soak  *soak
	watch informers.SharedInformerFactory
	done  context.CancelFunc // ends the watch
	parts sync.WaitGroup

	mu       sync.Mutex // guards the rest
	made     int
	held     int // not created, since too many were there
	ran      map[types.UID]time.Duration
	there    map[types.UID]bool
	rollouts int
	cuts     int
	problems map[string]int
}

// startLoad starts the load, which ends with ctx. The caller must call stop.
func (s *soak) startLoad(ctx context.Context) *load {
	watching, done := context.WithCancel(context.WithoutCancel(ctx))
	l := &load{soak: s, done: done, ran: map[types.UID]time.Duration{}, there: map[types.UID]bool{}, problems: map[string]int{}}
	l.watch = informers.NewSharedInformerFactoryWithOptions(s.cluster.Kube, 0, informers.WithNamespace("default"),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.LabelSelector = metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: loadLabels})
		}))
	_, err := l.watch.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { l.see(watching, object.(*corev1.Pod)) },
		UpdateFunc: func(_, object any) { l.see(watching, object.(*corev1.Pod)) },
		DeleteFunc: func(object any) {
			if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = gone.Obj
			}
			if p, ok := object.(*corev1.Pod); ok {
				l.mu.Lock()
				defer l.mu.Unlock()
				delete(l.there, p.UID)
			}
		},
	})
	l.note(err)
	l.watch.Start(watching.Done())
	tick := func(every time.Duration, do func(n int)) {
		l.parts.Go(func() { repeat(ctx, every, do) })
	}
	tick(time.Duration(float64(time.Second)/s.pace), func(n int) { l.create(ctx, n) })
	tick(rolloutEvery, func(n int) { l.rollOut(ctx, n) })
	tick(s.cutEvery, func(n int) { l.cut(ctx, n) })
	return l
}

// repeat calls do at each tick until ctx ends.
func repeat(ctx context.Context, every time.Duration, do func(n int)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
			do(n)
		case <-ctx.Done():
			return
		}
	}
}

// note counts an error by its text.
func (l *load) note(err error) {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.problems[err.Error()]++
}

// create creates the nth pod unless too many are there.
func (l *load) create(ctx context.Context, n int) {
	l.mu.Lock()
	full := len(l.there) >= mostPods
	if full {
		l.held++
	}
	l.mu.Unlock()
	if full {
		return
	}
	script := "exec sleep 1000"
	if n%2 == 1 {
		script = "sleep 3"
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "load-", Labels: loadLabels}, Spec: podSpec(script)}
	got, err := l.soak.cluster.Kube.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		l.note(err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.made++
	if _, seen := l.ran[got.UID]; !seen { // else the watch was faster, and the pod may be gone again
		l.there[got.UID] = true
	}
}

// see notes when a pod runs, and deletes it later.
func (l *load) see(ctx context.Context, p *corev1.Pod) {
	if p.Status.Phase == corev1.PodPending || p.DeletionTimestamp != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, seen := l.ran[p.UID]; seen {
		return
	}
	l.ran[p.UID] = time.Since(p.CreationTimestamp.Time)
	time.AfterFunc(lifetime, func() {
		err := l.soak.cluster.Kube.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(p.UID))})
		if !apierrors.IsNotFound(err) {
			l.note(err)
		}
	})
}

// rollOut replaces all pods of the Deployment.
func (l *load) rollOut(ctx context.Context, n int) {
	patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"rollout":"%d-%d"}}}}}`, time.Now().Unix(), n)
	_, err := l.soak.cluster.Kube.AppsV1().Deployments("default").Patch(ctx, "web", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	l.note(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rollouts++
}

// cut cuts a node off, and heals it after a while.
func (l *load) cut(ctx context.Context, n int) {
	node := "node-" + strconv.Itoa(n%l.soak.nodes+1)
	l.note(l.do("node", "cut", node))
	l.mu.Lock()
	l.cuts++
	l.mu.Unlock()
	select {
	case <-time.After(l.soak.cutFor):
	case <-ctx.Done():
	}
	l.note(l.do("node", "heal", node))
}

// do runs a km command, also while the load is being ended.
func (l *load) do(args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := l.soak.cluster.KM(ctx, args...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("km %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return err
}

// stop waits until the load has ended and all of its pods are gone.
func (l *load) stop(ctx context.Context) error {
	l.parts.Wait()
	err := scratch.Until(ctx, endLimit, func(ctx context.Context) error {
		pods := l.soak.cluster.Kube.CoreV1().Pods("default")
		err := pods.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "soak=load"})
		list, listErr := pods.List(ctx, metav1.ListOptions{LabelSelector: "soak=load"})
		if err := errors.Join(err, listErr); err != nil {
			return err
		}
		if len(list.Items) > 0 {
			return fmt.Errorf("%d pods of the load do not go", len(list.Items))
		}
		return nil
	})
	l.done()
	l.watch.Shutdown()
	return err
}

// String tells what the load has done so far.
func (l *load) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := fmt.Sprintf("%d pods made, %d ran, %d are there, %d were held back, %d rollouts, %d cuts", l.made, len(l.ran), len(l.there), l.held, l.rollouts, l.cuts)
	if len(l.ran) > 0 {
		var took []time.Duration
		for _, t := range l.ran {
			took = append(took, t)
		}
		slices.Sort(took)
		text += fmt.Sprintf(", created to running p50 %.1f s, p99 %.1f s", took[len(took)/2].Seconds(), took[len(took)*99/100].Seconds())
	}
	for problem, times := range l.problems {
		text += fmt.Sprintf("\n  %d times: %s", times, problem)
	}
	return text
}
