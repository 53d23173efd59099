package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/k8sm/k8sm/api/etcd"
)

const (
	storedPods     = 1_000
	storedGets     = 4_000
	storedChanges  = 300 // a multiple of storedBatch
	storedWatchers = 100
	// storedBatch is how many changes watchers are behind at most: the API server cuts off those that are too far behind.
	storedBatch = 20
	// storedPatience is for one control plane: far more than it takes on an idle machine.
	storedPatience = 5 * time.Minute
)

// storedFigures are what is measured of each control plane, in this order.
var storedFigures = []struct{ name, unit string }{
	{"storage_create_rate", "pods/s"}, {"storage_create_cpu", "us"}, {"storage_get_rate", "gets/s"}, {"storage_get_cpu", "us"},
	{"storage_watch_rate", "events/s"}, {"storage_change_cpu", "us"}, {"storage_start", "ms"}, {"storage_start_cpu", "ms"},
	{"storage_memory", "MB"}, {"storage_etcd_size", "MB"},
}

// storedObjects measures a new control plane that creates pods, reads them from etcd, changes them while others watch, and starts again
// with them. The peer stores all objects as JSON, as versions before did. CPU is that of etcd, kube-apiserver and
// kube-controller-manager, which are one process; clients speak protobuf.
func (b *bench) storedObjects(ctx context.Context) error {
	figures := make([]figure, len(storedFigures))
	for i, f := range storedFigures {
		figures[i] = figure{name: f.name, unit: f.unit}
	}
	for round := range b.rounds {
		fmt.Printf("round %d of %d: %d pods on new control planes\n", round+1, b.rounds, storedPods)
		ours, err := b.storedTurn(ctx)
		if err != nil {
			return err
		}
		peer, err := b.storedTurn(ctx, "--kube-apiserver-arg=storage-media-type="+runtime.ContentTypeJSON)
		if err != nil {
			return fmt.Errorf("all as JSON: %w", err)
		}
		for i := range figures {
			figures[i].rounds, figures[i].peer = append(figures[i].rounds, ours[i]), append(figures[i].peer, peer[i])
		}
	}
	for i := range figures {
		figures[i].print(os.Stdout)
	}
	return nil
}

// storedTurn returns the figures of a new control plane with these flags.
func (b *bench) storedTurn(ctx context.Context, flags ...string) (values []float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, storedPatience)
	defer cancel()
	dir, err := os.MkdirTemp(memoryDir(), "k8sm-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	h := newHollow(dir, fleet{})
	defer func() { h.stop() }()
	if err := h.start(ctx, b.km, flags...); err != nil {
		return nil, err
	}
	create, err := h.spend(func() error { return parallel(ctx, storedPods, h.createStored) })
	if err != nil {
		return nil, fmt.Errorf("cannot create the pods: %w", err)
	}
	get, err := h.spend(func() error { return parallel(ctx, storedGets, h.getStored) })
	if err != nil {
		return nil, fmt.Errorf("cannot get the pods: %w", err)
	}
	change, err := h.changeStored(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot change the pods: %w", err)
	}
	size, err := h.etcdSize(ctx)
	if err != nil {
		return nil, err
	}
	h.stop()
	h = newHollow(dir, fleet{})
	begin := time.Now()
	if err := h.start(ctx, b.km, flags...); err != nil {
		return nil, fmt.Errorf("a second time: %w", err)
	}
	start := time.Since(begin)
	use, err := readUsage(h.control.pid())
	return []float64{
		create.rate(storedPods), create.each(storedPods), get.rate(storedGets), get.each(storedGets),
		change.rate(storedChanges * storedWatchers), change.each(storedChanges), milliseconds(start), use.cpu * 1000, use.own, size,
	}, err
}

func storedPod(i int) string { return "stored-7f9c6d5b84-" + strconv.Itoa(i) }

func (h *hollow) createStored(ctx context.Context, i int) error {
	pod := typicalPod(i)
	_, err := h.kube.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	return err
}

// getStored gets a pod: without a resource version, the API server reads it from etcd.
func (h *hollow) getStored(ctx context.Context, i int) error {
	_, err := h.kube.CoreV1().Pods(metav1.NamespaceDefault).Get(ctx, storedPod(i*7%storedPods), metav1.GetOptions{})
	return err
}

// changeStored changes the status of pods, as kubelets do, while others watch all pods. It returns when all have read all events.
func (h *hollow) changeStored(ctx context.Context) (spent, error) {
	w, err := h.watch(ctx, slices.Repeat([]watchQuery{{path: "/api/v1/pods", accept: runtime.ContentTypeProtobuf}}, storedWatchers))
	if err != nil {
		return spent{}, err
	}
	defer w.stop()
	return h.spend(func() error {
		for done := 0; done < storedChanges; done += storedBatch {
			err := parallel(ctx, storedBatch, func(ctx context.Context, i int) error { return h.runPod(ctx, metav1.NamespaceDefault, done+i) })
			if err != nil {
				return err
			}
			if err := w.await(ctx, int64(done+storedBatch)*storedWatchers); err != nil {
				return err
			}
		}
		return nil
	})
}

// runPod says what a kubelet would of the i-th pod: that it runs.
func (h *hollow) runPod(ctx context.Context, namespace string, i int) error {
	now := metav1.Now()
	status := corev1.PodStatus{
		Phase: corev1.PodRunning, StartTime: &now, PodIP: fmt.Sprintf("10.64.%d.%d", i/250%250, 1+i%250),
		Conditions: []corev1.PodCondition{
			{Type: corev1.PodInitialized, Status: corev1.ConditionTrue, LastTransitionTime: now}, {Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now},
			{Type: corev1.ContainersReady, Status: corev1.ConditionTrue, LastTransitionTime: now},
		},
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: "main", Ready: true, Image: "registry.example/team/web:v1.2.3", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		}},
	}
	patch, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return err
	}
	_, err = h.kube.CoreV1().Pods(namespace).Patch(ctx, storedPod(i), types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// etcdSize is what the embedded etcd's database takes, in MB.
func (h *hollow) etcdSize(ctx context.Context) (float64, error) {
	access, err := h.dir.Etcd()
	if err != nil {
		return 0, err
	}
	client, err := etcd.Dial(access)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	status, err := client.Status(ctx, access.Endpoints[0])
	if err != nil {
		return 0, fmt.Errorf("cannot tell the size of etcd: %w", err)
	}
	return float64(status.DbSizeInUse) / (1 << 20), nil
}

// typicalPod is a pod as a Deployment's template has it: with variables, probes, and volumes.
func typicalPod(i int) *corev1.Pod {
	pod := hollowPod("", i)
	pod.Name = storedPod(i)
	pod.Labels = map[string]string{"app.kubernetes.io/name": "web", "app.kubernetes.io/instance": "web-production", "pod-template-hash": "7f9c6d5b84"}
	pod.Annotations = map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": "8080", "checksum/config": "8b1a9953c4611296a827abf8c47804d7"}
	main := &pod.Spec.Containers[0]
	main.Image, main.Args = "registry.example/team/web:v1.2.3", []string{"--listen=:8080", "--config=/etc/web/config.yaml"}
	main.Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}
	for n := range 10 {
		main.Env = append(main.Env, corev1.EnvVar{Name: "WEB_SETTING_" + strconv.Itoa(n), Value: "https://backend.production.svc.cluster.local/v1"})
	}
	main.Env = append(main.Env, corev1.EnvVar{Name: "POD_IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}})
	probe := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromString("http")}}
	main.ReadinessProbe, main.LivenessProbe = &corev1.Probe{ProbeHandler: probe, PeriodSeconds: 5}, &corev1.Probe{ProbeHandler: probe, PeriodSeconds: 10}
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "web"}}}},
		{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	}
	main.VolumeMounts = []corev1.VolumeMount{{Name: "config", MountPath: "/etc/web"}, {Name: "scratch", MountPath: "/tmp"}}
	return pod
}
