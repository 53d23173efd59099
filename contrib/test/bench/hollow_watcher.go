package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// watcher records when each of its pods was created and when the watch showed its binding.
type watcher struct {
	prefix         string // of the pods' names
	pods           int
	visit          func(node string) // called with the node of each pod that is bound; nil for nothing
	mu             sync.Mutex        // guards created and bound
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
	return watchPods(ctx, client, w.see)
}

// watchPods calls see with each pod, and whenever one changes, until stop is called.
func watchPods(ctx context.Context, client kubernetes.Interface, see func(*corev1.Pod)) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	factory := informers.NewSharedInformerFactory(client, 0)
	stop = func() {
		cancel()
		factory.Shutdown()
	}
	tell := func(obj any) {
		if pod, ok := obj.(*corev1.Pod); ok {
			see(pod)
		}
	}
	handler, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: tell, UpdateFunc: func(_, obj any) { tell(obj) },
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

func (w *watcher) see(pod *corev1.Pod) {
	if pod.Spec.NodeName == "" || !strings.HasPrefix(pod.Name, w.prefix) {
		return
	}
	if w.visit != nil {
		w.visit(pod.Spec.NodeName)
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
