package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/docker/docker/client"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"

	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/test/power/notes"
	"github.com/k8sm/k8sm/contrib/test/scratch"
	"github.com/k8sm/k8sm/contrib/up/engine"
)

const (
	namespace = "default"
	image     = "k8sm.test/guest:1"
	// seen is how long a line must have been in answers of the log store to count as acknowledged. The store syncs each second what it
	// has taken, and does not tell readers when.
	seen = 15 * time.Second
	// upTo is how long the cluster may take to come up.
	upTo = 5 * time.Minute
)

// guest is a boot of the machine.
type guest struct {
	known  notes.Notes // from before
	notes  notes.File
	client kubernetes.Interface
}

// work waits for the cluster, looks for what it must have, and writes.
func (g *guest) work(ctx context.Context) error {
	if err := scratch.Until(ctx, upTo, g.connect); err != nil {
		return err
	}
	fmt.Println("a node is ready")
	if g.known.Back == 0 {
		if err := g.deploy(ctx); err != nil {
			return err
		}
	}
	if err := scratch.Until(ctx, upTo, g.running); err != nil {
		return fmt.Errorf("the pod does not run: %w", err)
	}
	fmt.Println("the pod runs")
	if err := errors.Join(g.checkObjects(ctx), g.checkVolume(), scratch.Until(ctx, time.Minute, g.checkLogs)); err != nil {
		if err := g.notes.Problem("%v", err); err != nil {
			return err
		}
	}
	if err := g.notes.Back(g.known.Back + 1); err != nil {
		return err
	}
	reading := make(chan error, 1)
	go func() { reading <- g.readLogs(ctx) }()
	return errors.Join(g.makeObjects(ctx), <-reading)
}

// connect makes the client, once the cluster has a kubeconfig, and is an error until a node is ready.
func (g *guest) connect(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", statedir.Dir(stateDir).AdminKubeconfig())
	if err != nil {
		return err
	}
	if g.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	nodes, err := g.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, node := range nodes.Items {
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
				return nil
			}
		}
	}
	return fmt.Errorf("of %d nodes none is ready", len(nodes.Items))
}

// deploy makes the pod that writes, and its image.
func (g *guest) deploy(ctx context.Context) error {
	program, err := os.ReadFile(filepath.Join(host, "guest"))
	if err != nil {
		return err
	}
	docker, err := client.NewClientWithOpts(client.WithHost(engine.Host(filepath.Join(stateDir, "engine"))), client.WithAPIVersionNegotiation())
	if err != nil {
		return err
	}
	defer docker.Close()
	if err := scratch.ImportImage(ctx, docker, image, "/guest", program); err != nil {
		return err
	}
	labels := map[string]string{"app": "writer"}
	volume := func(name, path string) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path}}}
	}
	_, err = g.client.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "writer"},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](1), Selector: &metav1.LabelSelector{MatchLabels: labels}, Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					Volumes: []corev1.Volume{volume("data", data), volume("host", host)},
					Containers: []corev1.Container{{
						Name: "writer", Image: image, ImagePullPolicy: corev1.PullNever, Args: []string{"write"},
						VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: data}, {Name: "host", MountPath: host}},
					}},
				},
			},
		},
	}, metav1.CreateOptions{})
	return err
}

// running is an error until the node is ready and a pod writes, which started since the machine has booted.
func (g *guest) running(ctx context.Context) error {
	deployment, err := g.client.AppsV1().Deployments(namespace).Get(ctx, "writer", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if deployment.Status.AvailableReplicas != 1 {
		return fmt.Errorf("of the Deployment's pods %d are available; the last event is %s", deployment.Status.AvailableReplicas, g.lastEvent(ctx))
	}
	now, err := notes.Read(filepath.Join(host, "notes"))
	if err == nil && now.Acknowledged[notes.Volume] <= g.known.Acknowledged[notes.Volume] {
		err = errors.New("the Deployment's pod writes nothing")
	}
	return err
}

// lastEvent is what happened last in the namespace.
func (g *guest) lastEvent(ctx context.Context) string {
	list, err := g.client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) == 0 {
		return "unknown"
	}
	last := slices.MaxFunc(list.Items, func(a, b corev1.Event) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return fmt.Sprintf("%s of %s %s: %s", last.Reason, last.InvolvedObject.Kind, last.InvolvedObject.Name, last.Message)
}

// object is the name of a ConfigMap.
func object(number int) string { return fmt.Sprintf("object-%d", number) }

// checkObjects is an error if an object is not there that the API server has acknowledged.
func (g *guest) checkObjects(ctx context.Context) error {
	list, err := g.client.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	present := map[int]int{}
	for _, item := range list.Items {
		if number, err := strconv.Atoi(item.Data["number"]); err == nil && item.Name == object(number) {
			present[number]++
		}
	}
	if missing := absent(present, g.known.Acknowledged[notes.Objects]); len(missing) > 0 {
		return fmt.Errorf("%d objects are not there: %v", len(missing), missing)
	}
	return nil
}

// checkVolume is an error if a line is not on the volume that was.
func (g *guest) checkVolume() error {
	present, err := numbersIn(lines)
	if err != nil {
		return err
	}
	if missing := absent(present, g.known.Acknowledged[notes.Volume]); len(missing) > 0 {
		return fmt.Errorf("%d lines are not on the volume: %v", len(missing), missing)
	}
	return nil
}

// checkLogs is an error if a line is not in the log store that was, or is there twice. The container's log had the lines after these, of
// which the machine's disk may have some; the others are skipped from now on.
func (g *guest) checkLogs(ctx context.Context) error {
	present, err := logged(ctx)
	if err != nil {
		return err
	}
	var problems []error
	for _, number := range absent(present, g.known.Acknowledged[notes.Volume]) {
		switch {
		case g.known.Skipped[number]:
		case number > g.known.Acknowledged[notes.Logs]:
			problems = append(problems, g.notes.Skip(number))
			g.known.Skipped[number] = true
		default:
			problems = append(problems, fmt.Errorf("line %d is not in the log store", number))
		}
	}
	for _, number := range slices.Sorted(maps.Keys(present)) {
		if present[number] > 1 {
			problems = append(problems, fmt.Errorf("line %d is %d times in the log store", number, present[number]))
		}
	}
	return errors.Join(problems...)
}

// logged returns how often the log store has each line of all pods.
func logged(ctx context.Context) (map[int]int, error) {
	var out, said bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(host, "km"), "--state-dir="+stateDir, "logs", "deploy/writer", "-n", namespace, "-o", "raw")
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("km logs: %w: %s", err, &said)
	}
	return numbers(bufio.NewScanner(&out))
}

// makeObjects makes ConfigMaps until ctx ends.
func (g *guest) makeObjects(ctx context.Context) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for number := g.known.Acknowledged[notes.Objects] + 1; ; number++ {
		made := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: object(number)}, Data: map[string]string{"number": strconv.Itoa(number)}}
		_, err := g.client.CoreV1().ConfigMaps(namespace).Create(ctx, made, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) { // it was made, but the answer was not seen
			return err
		}
		if err := g.notes.Acknowledge(notes.Objects, number); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// readLogs notes what the log store has.
func (g *guest) readLogs(ctx context.Context) error {
	type answer struct {
		last int
		at   time.Time
	}
	var answers []answer
	for {
		present, err := logged(ctx)
		if err != nil {
			return err
		}
		last := 0
		for present[last+1] > 0 || g.known.Skipped[last+1] {
			last++
		}
		answers = append(answers, answer{last, time.Now()})
		for len(answers) > 0 && time.Since(answers[0].at) > seen {
			if err := g.notes.Acknowledge(notes.Logs, answers[0].last); err != nil {
				return err
			}
			answers = answers[1:]
		}
		select {
		case <-time.After(3 * time.Second):
		case <-ctx.Done():
			return nil
		}
	}
}
