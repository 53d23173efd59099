package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// bench is one run.
type bench struct {
	km, image, manifest string
	usual               fleet  // of hollow rounds
	profiles            string // a directory for profiles of hollow rounds; "" for none
	rounds              int
	minutes             int // for which pods change that the web page shows
	logLines            int // how many the log store gets
	proxyModes          []string
	serviceCounts       []int  // ascending
	scaleNodes          []int  // ascending
	logMixDir           string // with real log files; "" for those of a control plane
}

// run measures each round in a new cluster.
func (b *bench) run(ctx context.Context) error {
	apiReady := figure{name: "up_to_api_ready", unit: "ms"}
	nodeReady := figure{name: "up_to_first_node_ready", unit: "ms"}
	cold := figure{name: "pod_create_running_cold_node", unit: "ms"}
	warm := figure{name: "pod_create_running", unit: "ms"}
	memory := memory{}
	for round := 1; round <= b.rounds; round++ {
		fmt.Printf("round %d of %d: a new cluster\n", round, b.rounds)
		err := b.inCluster(ctx, nil, func(c *scratch.Cluster, s startTimes) error {
			apiReady.add(s.api)
			nodeReady.add(s.node)
			return errors.Join(b.pods(ctx, c, &cold, &warm), memory.measure(ctx, c))
		})
		if err != nil {
			return err
		}
	}
	for _, f := range append([]*figure{&apiReady, &nodeReady, &cold, &warm}, memory.figures()...) {
		f.print(os.Stdout)
	}
	return nil
}

// startTimes are counted from the start of `km up`.
type startTimes struct{ api, node time.Duration }

// inCluster starts a cluster with those flags in a directory of its own, calls use, and takes the cluster down.
func (b *bench) inCluster(ctx context.Context, flags []string, use func(*scratch.Cluster, startTimes) error) (err error) {
	dir, err := os.MkdirTemp("", "k8sm-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	begin := time.Now()
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	times := make(chan startTimes, 1)
	go func() { times <- watchStart(watching, begin, dir+"/admin.kubeconfig") }()

	cluster, err := scratch.Start(ctx, scratch.Config{KM: b.km, Dir: dir, Flags: flags})
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		err = errors.Join(err, cluster.Stop(last))
	}()
	if err != nil {
		return err
	}
	select {
	case s := <-times:
		return use(cluster, s)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watchStart notes when the API first answers that it is ready, and when the first node is Ready.
func watchStart(ctx context.Context, begin time.Time, kubeconfig string) (s startTimes) {
	var kube kubernetes.Interface
	poll(ctx, func() bool {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return false
		}
		if kube, err = kubernetes.NewForConfig(config); err != nil {
			return false
		}
		client, err := rest.HTTPClientFor(config)
		if err != nil {
			return false
		}
		response, err := client.Get(config.Host + "/readyz")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	if ctx.Err() != nil {
		return s
	}
	s.api = time.Since(begin)
	poll(ctx, func() bool {
		nodes, err := kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return false
		}
		for _, n := range nodes.Items {
			if api.NodeReady(&n) {
				return true
			}
		}
		return false
	})
	s.node = time.Since(begin)
	return s
}

// poll asks every 20 ms until the answer is yes or ctx ends.
func poll(ctx context.Context, ask func() bool) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ask() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// pods measures create → Running of a node's first pod, which starts the kubelet, and of the second. The peer is the bare Docker
// Engine calls for the same two containers. The image is present.
func (b *bench) pods(ctx context.Context, c *scratch.Cluster, cold, warm *figure) error {
	first, err := b.examplePod(ctx, c)
	if err != nil {
		return err
	}
	second := first.DeepCopy()
	second.Name += "-2"
	took, err := createToRunning(ctx, c, first)
	if err != nil {
		return err
	}
	cold.add(took)
	if took, err = createToRunning(ctx, c, second); err != nil {
		return err
	}
	warm.add(took)
	bare, err := bareCalls(ctx, c, first.Spec.Containers[0].Image)
	if err != nil {
		return err
	}
	warm.addPeer(bare)
	return errors.Join(remove(ctx, c, first.Name), remove(ctx, c, second.Name))
}

// examplePod is the example's pod, for a cluster that takes pods and has its image.
func (b *bench) examplePod(ctx context.Context, c *scratch.Cluster) (*corev1.Pod, error) {
	program, err := os.ReadFile(b.image)
	if err != nil {
		return nil, err
	}
	manifest, err := os.ReadFile(b.manifest)
	if err != nil {
		return nil, err
	}
	pod := new(corev1.Pod)
	if err := json.Unmarshal(manifest, pod); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", b.manifest, err)
	}
	if err := scratch.ImportImage(ctx, c.Docker, pod.Spec.Containers[0].Image, "/web", program); err != nil {
		return nil, err
	}
	return pod, c.Usable(ctx)
}

// createToRunning creates the pod and returns the time until a watch says that it runs.
func createToRunning(ctx context.Context, c *scratch.Cluster, pod *corev1.Pod) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	events, err := c.Kube.CoreV1().Pods("default").Watch(ctx, named(pod.Name))
	if err != nil {
		return 0, err
	}
	defer events.Stop()
	begin := time.Now()
	if _, err := c.Kube.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return 0, err
	}
	for event := range events.ResultChan() {
		if p, ok := event.Object.(*corev1.Pod); ok && p.Status.Phase == corev1.PodRunning {
			return time.Since(begin), nil
		}
	}
	return 0, fmt.Errorf("pod %s did not run in time", pod.Name)
}

// remove deletes the pod and returns when it is gone.
func remove(ctx context.Context, c *scratch.Cluster, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	events, err := c.Kube.CoreV1().Pods("default").Watch(ctx, named(name))
	if err != nil {
		return err
	}
	defer events.Stop()
	if err := c.Kube.CoreV1().Pods("default").Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	for event := range events.ResultChan() {
		if event.Type == watch.Deleted {
			return nil
		}
	}
	return fmt.Errorf("pod %s did not go in time", name)
}

func named(name string) metav1.ListOptions {
	return metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()}
}

// bareCalls returns how long a pod's two containers take by the Docker API alone.
func bareCalls(ctx context.Context, c *scratch.Cluster, image string) (took time.Duration, err error) {
	pods, err := newBarePods(ctx, c, image)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	ids, err := pods.run(ctx)
	took = time.Since(begin)
	return took, errors.Join(err, pods.remove(ctx, ids))
}

// barePods makes, by the Docker API alone, the containers of which the cluster's pods consist, on a network of the
// Engine's own.
type barePods struct {
	docker              *client.Client
	sandboxImage, image string
}

// bareNetwork is their network's name.
const bareNetwork = "k8sm-bench"

func newBarePods(ctx context.Context, c *scratch.Cluster, image string) (b barePods, err error) {
	b = barePods{docker: c.Docker, image: image}
	if b.sandboxImage, err = c.SandboxImage(ctx); err != nil {
		return b, err
	}
	_, err = b.docker.NetworkCreate(ctx, bareNetwork, network.CreateOptions{Driver: "bridge"})
	if err != nil {
		return b, fmt.Errorf("cannot make the bare containers' network: %w", err)
	}
	return b, nil
}

// run makes and starts two containers, the second in the first one's network, and returns those that it made.
func (b barePods) run(ctx context.Context) (ids []string, err error) {
	for i, config := range []container.Config{{Image: b.sandboxImage}, {Image: b.image}} {
		host := &container.HostConfig{NetworkMode: container.NetworkMode(bareNetwork)}
		if i > 0 {
			host.NetworkMode = container.NetworkMode("container:" + ids[0])
		}
		made, err := b.docker.ContainerCreate(ctx, &config, host, &network.NetworkingConfig{}, nil, "")
		if err != nil {
			return ids, fmt.Errorf("cannot make a bare container: %w", err)
		}
		ids = append(ids, made.ID)
		if err := b.docker.ContainerStart(ctx, made.ID, container.StartOptions{}); err != nil {
			return ids, fmt.Errorf("cannot start a bare container: %w", err)
		}
	}
	return ids, nil
}

// remove removes containers, those that use another one's network first, and the network.
func (b barePods) remove(ctx context.Context, ids []string) (err error) {
	for _, id := range slices.Backward(ids) {
		err = errors.Join(err, b.docker.ContainerRemove(context.WithoutCancel(ctx), id, container.RemoveOptions{Force: true}))
	}
	return errors.Join(err, b.docker.NetworkRemove(context.WithoutCancel(ctx), bareNetwork))
}
