package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api/podtrace"
	"github.com/k8sm/k8sm/contrib/test/scratch"
	"github.com/k8sm/k8sm/executor"
)

// onePods is how many pods come in a round, one after the other.
const onePods = 15

// stage is a part of a pod's start.
type stage struct {
	name string
	is   func(podtrace.Row) bool
}

// stages are where the time of a pod's start goes, by the rows of `km trace pod`. What no row tells is the API server's.
var stages = []stage{
	{"place", func(r podtrace.Row) bool { return r.What == podtrace.Place }},
	{"place_offer", func(r podtrace.Row) bool { return r.What == podtrace.Offer }},
	{"launch", func(r podtrace.Row) bool { return r.What == podtrace.Launch }},
	{"bind", func(r podtrace.Row) bool { return r.What == podtrace.Bind }},
	{"kubelet_prepare", func(r podtrace.Row) bool { return r.What == podtrace.Prepare }},
	{"sandbox_ahead", func(r podtrace.Row) bool { return r.What == podtrace.Ahead }},
	{"sandbox", func(r podtrace.Row) bool { return r.Who == podtrace.Runtime && r.What == "run the sandbox" }},
	{"sandbox_network", func(r podtrace.Row) bool { return r.Who == podtrace.Network }},
	{"kubelet_between", func(r podtrace.Row) bool { return r.What == podtrace.Between }},
	{"container", func(r podtrace.Row) bool {
		return r.Who == podtrace.Runtime && r.Depth == 0 && r.What != "run the sandbox"
	}},
	{"turn", func(r podtrace.Row) bool { return r.What == podtrace.Turn }},
	{"engine", func(r podtrace.Row) bool { return r.Who == podtrace.Engine }},
	{"engine_create", func(r podtrace.Row) bool { return r.Who == podtrace.Engine && r.What == "create" }},
	{"engine_start", func(r podtrace.Row) bool { return r.Who == podtrace.Engine && r.What == "start" }},
	{"kubelet_report", func(r podtrace.Row) bool { return r.What == podtrace.Report }},
}

// start is how one pod came to run, counted from its creation.
type start struct {
	running, ready, bare, dockerRun time.Duration
	api                             time.Duration // until the scheduler has seen the pod
	timeline                        podtrace.Timeline
}

// onePod measures pods that come one at a time to an idle node whose kubelet runs, beside bare Docker: the calls that make a pod's two
// containers, and `docker run` of its image.
func (b *bench) onePod(ctx context.Context) error {
	var all []start
	var problems error
	for round := 1; round <= b.rounds && ctx.Err() == nil; round++ {
		fmt.Printf("round %d of %d: %d pods, one after the other, on a new cluster\n", round, b.rounds, onePods)
		err := b.inCluster(ctx, []string{"--resources=" + nodeResources}, func(c *scratch.Cluster, _ startTimes) error {
			pod, err := b.warmPod(ctx, c)
			if err != nil {
				return err
			}
			for i := range onePods {
				s, err := startOne(ctx, c, pod, i)
				if err != nil {
					return err
				}
				all = append(all, s)
			}
			return nil
		})
		problems = errors.Join(problems, err)
	}
	if len(all) > 0 {
		printStarts(all)
	}
	return problems
}

func printStarts(all []start) {
	durations := func(of func(start) time.Duration) (list []time.Duration) {
		for _, s := range all {
			list = append(list, of(s))
		}
		return list
	}
	bare := durations(func(s start) time.Duration { return s.bare })
	for _, percent := range []int{50, 99} {
		for name, of := range map[string]func(start) time.Duration{
			"running": func(s start) time.Duration { return s.running }, "ready": func(s start) time.Duration { return s.ready },
		} {
			f := figure{name: fmt.Sprintf("pod_%s_p%d", name, percent), unit: "ms", rounds: []float64{percentile(durations(of), percent)}, peer: []float64{percentile(bare, percent)}}
			f.print(os.Stdout)
		}
		f := figure{name: fmt.Sprintf("pod_docker_run_p%d", percent), unit: "ms", rounds: []float64{percentile(durations(func(s start) time.Duration { return s.dockerRun }), percent)}}
		f.print(os.Stdout)
	}
	show := func(name string, of func(start) time.Duration) {
		list := durations(of)
		f := figure{name: "pod_span_" + name + "_p50", unit: "ms", rounds: []float64{percentile(list, 50)}}
		f.print(os.Stdout)
	}
	show("api", func(s start) time.Duration { return s.api })
	for _, stage := range stages {
		show(stage.name, func(s start) time.Duration { return sumOf(s.timeline, stage.is) })
	}
	show("watch", func(s start) time.Duration { return s.running - s.api - s.timeline.Running })
}

// sumOf adds up the rows of a timeline until the pod ran.
func sumOf(t podtrace.Timeline, is func(podtrace.Row) bool) (sum time.Duration) {
	for _, r := range t.Rows {
		if is(r) && r.Begin < t.Running {
			sum += r.End - r.Begin
		}
	}
	return sum
}

// timelines asks km where the time of these pods went.
func timelines(ctx context.Context, km func(context.Context, ...string) *exec.Cmd, pods ...string) (list []podtrace.Timeline, err error) {
	out, err := km(ctx, append([]string{"trace", "pod", "-o", "json"}, pods...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("km trace pod: %w", err)
	}
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var told struct {
			Pod      string            `json:"pod"`
			Timeline podtrace.Timeline `json:"timeline"`
			Missing  []string          `json:"missing"`
		}
		if err := decoder.Decode(&told); err != nil {
			return nil, fmt.Errorf("km trace pod: %w", err)
		}
		if len(told.Missing) > 0 {
			return nil, fmt.Errorf("km trace pod %s misses %v", told.Pod, told.Missing)
		}
		list = append(list, told.Timeline)
	}
	return list, nil
}

// startOne creates a pod on a node that has been idle for a while, and then the same containers by bare calls.
func startOne(ctx context.Context, c *scratch.Cluster, like *corev1.Pod, i int) (s start, err error) {
	if err := idle(ctx, burstCalm); err != nil {
		return s, err
	}
	pod := like.DeepCopy()
	pod.Name = fmt.Sprintf("one-%d", i)
	if err := s.run(ctx, c, pod); err != nil {
		return s, err
	}
	if err := remove(ctx, c, pod.Name); err != nil {
		return s, err
	}
	image := pod.Spec.Containers[0].Image
	if s.bare, err = bareCalls(ctx, c, image); err != nil {
		return s, err
	}
	s.dockerRun, err = dockerRun(ctx, c, image)
	return s, err
}

func idle(ctx context.Context, pause time.Duration) error {
	select {
	case <-time.After(pause):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run creates the pod, waits until it is ready, and asks km where the time went.
func (s *start) run(ctx context.Context, c *scratch.Cluster, pod *corev1.Pod) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	events, err := c.Kube.CoreV1().Pods("default").Watch(ctx, named(pod.Name))
	if err != nil {
		return err
	}
	defer events.Stop()
	begin := time.Now()
	if _, err := c.Kube.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return err
	}
	for event := range events.ResultChan() {
		p, ok := event.Object.(*corev1.Pod)
		if !ok || p.Status.Phase != corev1.PodRunning {
			continue
		}
		if s.running == 0 {
			s.running = time.Since(begin)
		}
		if executor.NewPod(p).Ready {
			s.ready = time.Since(begin)
			break
		}
	}
	if s.ready == 0 {
		return fmt.Errorf("pod %s was not ready in time", pod.Name)
	}
	told, err := timelines(ctx, c.KM, pod.Name)
	if err != nil {
		return err
	}
	s.timeline, s.api = told[0], told[0].Begin.Sub(begin)
	return nil
}

// dockerRun returns how long `docker run` of the image takes until its container runs.
func dockerRun(ctx context.Context, c *scratch.Cluster, image string) (took time.Duration, err error) {
	begin := time.Now()
	made, err := c.Docker.ContainerCreate(ctx, &container.Config{Image: image}, &container.HostConfig{}, &network.NetworkingConfig{}, nil, "")
	if err != nil {
		return 0, fmt.Errorf("cannot make a container: %w", err)
	}
	err = c.Docker.ContainerStart(ctx, made.ID, container.StartOptions{})
	took = time.Since(begin)
	return took, errors.Join(err, c.Docker.ContainerRemove(context.WithoutCancel(ctx), made.ID, container.RemoveOptions{Force: true}))
}
