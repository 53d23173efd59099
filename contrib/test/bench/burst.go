package main

import (
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

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// burstSizes are the numbers of pods created at once.
var burstSizes = []int{3, 20, 100}

// burstCalm is longer than --offer-ttl and an allocation interval, so that the scheduler holds no offer when the pods come.
const burstCalm = 8 * time.Second

// bursts measures pods created at once on one node with a running kubelet: the time until all are bound (scheduler and Mesos) and
// until all run. The peer is bare Docker calls. Mesos offers the rest of an offer again once a second.
func (b *bench) bursts(ctx context.Context) error {
	var figures []*figure
	add := func(name string, size int) *figure {
		f := &figure{name: fmt.Sprintf("burst_%s_%d", name, size), unit: "ms"}
		figures = append(figures, f)
		return f
	}
	bound, half, running := map[int]*figure{}, map[int]*figure{}, map[int]*figure{}
	for _, size := range burstSizes {
		bound[size], half[size], running[size] = add("bound", size), add("half_running", size), add("running", size)
	}
	spans := map[string]*figure{}
	for _, stage := range stages {
		spans[stage.name] = add("span_"+stage.name+"_p50", burstSizes[len(burstSizes)-1])
	}
	var problems error
	for round := 1; round <= b.rounds && ctx.Err() == nil; round++ {
		fmt.Printf("round %d of %d: %v pods at once, on a new cluster\n", round, b.rounds, burstSizes)
		err := b.inCluster(ctx, []string{"--resources=" + nodeResources}, func(c *scratch.Cluster, _ startTimes) error {
			pod, err := b.warmPod(ctx, c)
			if err != nil {
				return err
			}
			for _, size := range burstSizes {
				if err := burst(ctx, c, pod, burstFigures{size, bound[size], half[size], running[size], spans, b.profiles}); err != nil {
					return err
				}
			}
			return nil
		})
		problems = errors.Join(problems, err) // the measurements are valid even if the cluster does not stop cleanly
	}
	for _, f := range figures {
		f.print(os.Stdout)
	}
	return problems
}

// burstFigures are those of bursts of a size. Of the largest, spans has where the time of its pods went, by stage.
type burstFigures struct {
	size                 int
	bound, half, running *figure
	spans                map[string]*figure
	profiles             string // a directory for profiles of the kubelet in the largest; "" for none
}

// last says that there is no larger one.
func (f burstFigures) last() bool { return f.size == burstSizes[len(burstSizes)-1] }

// addSpans adds the median of each stage.
func (f burstFigures) addSpans(ctx context.Context, c *scratch.Cluster, pods []string) error {
	if !f.last() {
		return nil
	}
	told, err := timelines(ctx, c.KM, pods...)
	if err != nil {
		return err
	}
	for _, stage := range stages {
		var took []time.Duration
		for _, t := range told {
			took = append(took, sumOf(t, stage.is))
		}
		f.spans[stage.name].rounds = append(f.spans[stage.name].rounds, percentile(took, 50))
	}
	return nil
}

// burst creates count pods at once, records when all are bound and run, removes them, and repeats that with bare calls.
func burst(ctx context.Context, c *scratch.Cluster, like *corev1.Pod, f burstFigures) error {
	size := f.size
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := idle(ctx, burstCalm); err != nil {
		return err
	}
	prefix := "burst-" + strconv.Itoa(size) + "-"
	events, err := c.Kube.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	defer events.Stop()
	finish := f.profile(ctx, c)
	begin := time.Now()
	creating := make(chan error, 1)
	go func() {
		creating <- parallel(ctx, size, func(ctx context.Context, i int) error {
			pod := like.DeepCopy()
			pod.Name = prefix + strconv.Itoa(i)
			_, err := c.Kube.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
			return err
		})
	}()
	isBound, isRunning := map[string]bool{}, map[string]bool{}
	for event := range events.ResultChan() {
		p, ok := event.Object.(*corev1.Pod)
		if !ok || !strings.HasPrefix(p.Name, prefix) {
			continue
		}
		if p.Spec.NodeName != "" && !isBound[p.Name] {
			if isBound[p.Name] = true; len(isBound) == size {
				f.bound.add(time.Since(begin))
			}
		}
		if p.Status.Phase != corev1.PodRunning || isRunning[p.Name] {
			continue
		}
		isRunning[p.Name] = true
		if len(isRunning) == (size+1)/2 {
			f.half.add(time.Since(begin))
		}
		if len(isRunning) == size {
			f.running.add(time.Since(begin))
			break
		}
	}
	if err := <-creating; err != nil || len(isRunning) < size {
		return errors.Join(err, fmt.Errorf("%d of %d pods ran in time", len(isRunning), size), ctx.Err())
	}
	if err := errors.Join(finish(), f.addSpans(ctx, c, slices.Collect(maps.Keys(isRunning)))); err != nil {
		return err
	}
	if err := deleteAll(ctx, c, false); err != nil {
		return err
	}
	return bareBurst(ctx, c, like.Spec.Containers[0].Image, f)
}

// bareBurst makes the containers of so many pods at once by the Docker API alone.
func bareBurst(ctx context.Context, c *scratch.Cluster, image string, f burstFigures) error {
	pods, err := newBarePods(ctx, c, image)
	if err != nil {
		return err
	}
	var mu sync.Mutex // guards made and run
	var made []string
	run := 0
	begin := time.Now()
	err = parallel(ctx, f.size, func(ctx context.Context, _ int) error {
		ids, err := pods.run(ctx)
		mu.Lock()
		defer mu.Unlock()
		made = append(made, ids...)
		if run++; run == (f.size+1)/2 {
			f.half.addPeer(time.Since(begin))
		}
		return err
	})
	if err == nil {
		f.running.addPeer(time.Since(begin))
	}
	return errors.Join(err, pods.remove(ctx, made))
}
