package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/nodeslices"
	"github.com/k8sm/k8sm/api/protobuf"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/kube"
)

const (
	heardRoutes = 10
	// heardPause is between two of them: the first changes after a pause are written at once.
	heardPause = 4 * time.Second
)

// scheduler returns a client of the scheduler, which alone may write routes and slices.
func (h *hollow) scheduler() (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", h.dir.SchedulerKubeconfig())
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	return protobuf.NewClient(config)
}

// keepSlices does what the leading scheduler does for minions, until stop is called.
func (h *hollow) keepSlices() (stop func(), err error) {
	client, err := h.scheduler()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = kube.New(client).Run(ctx, func(scheduler.Event) error { return nil })
	}()
	return func() { cancel(); <-ended }, nil
}

// slices returns the slices of nodes with their summary.
func (h *hollow) slices(ctx context.Context) (objects []*corev1.ConfigMap, err error) {
	list, err := h.kube.CoreV1().ConfigMaps(nodeslices.Namespace).List(ctx, metav1.ListOptions{LabelSelector: nodeslices.Selector})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		objects = append(objects, &list.Items[i])
	}
	return objects, nil
}

// route returns a prefix for the i-th change.
func route(i int) string { return fmt.Sprintf("198.51.100.%d/32", 1+i%250) }

// changeRoute gives a node another route, as the scheduler does when a pod has an address of a pool.
func (h *hollow) changeRoute(ctx context.Context, i int) error {
	client, err := h.scheduler()
	if err != nil {
		return err
	}
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:"%s,%s"}}}`, api.AnnotationPodPrefixes, route(i), route(time.Now().Nanosecond()))
	_, err = client.CoreV1().Nodes().Patch(ctx, watchedNode(i), types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	return err
}

// changeSlice tells another route of a node by its slice and the summary, as the scheduler does.
func (h *hollow) changeSlice(ctx context.Context, i int) error {
	return h.writeSlices(ctx, func(texts nodeslices.Texts) (name string, err error) {
		for name, text := range texts {
			nodes, err := nodeslices.Decode(text)
			if err != nil {
				return "", err
			}
			for n := range nodes {
				if nodes[n].Name == watchedNode(i) {
					nodes[n].PodPrefixes = route(i) + "," + route(time.Now().Nanosecond())
					texts[name], err = nodeslices.Encode(nodes)
					return name, err
				}
			}
		}
		return "", fmt.Errorf("no slice has node %s", watchedNode(i))
	})
}

// renewSlices renews the summary, as the scheduler does when nothing has changed.
func (h *hollow) renewSlices(ctx context.Context, _ int) error {
	return h.writeSlices(ctx, func(nodeslices.Texts) (string, error) { return "", nil })
}

// writeSlices writes the slice that change names, if any, and then the summary.
func (h *hollow) writeSlices(ctx context.Context, change func(nodeslices.Texts) (string, error)) error {
	client, err := h.scheduler()
	if err != nil {
		return err
	}
	objects, err := h.slices(ctx)
	if err != nil {
		return err
	}
	texts := nodeslices.TextsOf(objects)
	name, err := change(texts)
	if err == nil && name != "" {
		_, err = client.CoreV1().ConfigMaps(nodeslices.Namespace).Update(ctx, nodeslices.Object(name, texts[name]), metav1.UpdateOptions{})
	}
	if err == nil {
		_, err = client.CoreV1().ConfigMaps(nodeslices.Namespace).Update(ctx, nodeslices.SummaryObject(texts, watchedNodes, time.Now()), metav1.UpdateOptions{})
	}
	return err
}

// routeHeard measures how long it takes from a node's change to the end of what a minion has to hear of it: by slices, which a scheduler
// keeps, and by the node itself.
func (h *hollow) routeHeard(ctx context.Context) (f figure, err error) {
	f = figure{name: "route_heard_p50", unit: "ms"}
	stop, err := h.keepSlices()
	if err != nil {
		return f, err
	}
	defer stop()
	for _, side := range []struct {
		of     func(int) []watchQuery
		events int64
		put    *[]float64
	}{{sliceQueries, 2, &f.rounds}, {nodeQueries, 1, &f.peer}} {
		w, err := h.watch(ctx, side.of(0))
		if err != nil {
			return f, err
		}
		var took []float64
		for i := 0; i < heardRoutes && err == nil; i++ {
			time.Sleep(heardPause)
			before, begin := w.events.Load(), time.Now()
			if err = h.changeRoute(ctx, i); err != nil {
				break
			}
			for w.events.Load() < before+side.events && w.problem(ctx) == nil {
				time.Sleep(time.Millisecond)
			}
			took, err = append(took, milliseconds(time.Since(begin))), w.problem(ctx)
		}
		w.stop()
		if err != nil {
			return f, err
		}
		*side.put = []float64{median(took)}
	}
	return f, nil
}
