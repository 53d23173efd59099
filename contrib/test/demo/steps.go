package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// demo is one run: its parameters and the results of earlier steps.
type demo struct {
	km, image, manifest string

	cluster *scratch.Cluster
	pod     *corev1.Pod
}

// steps are all but the last one, in order.
func (d *demo) steps(cfg scratch.Config) []step {
	return []step{
		{"bring a cluster up", func(ctx context.Context) (err error) { d.cluster, err = scratch.Start(ctx, cfg); return err }},
		{"make the example's image from a static program and import it", d.importImage},
		{"submit " + d.manifest + " by a plain REST POST", d.submit},
		{"wait until the pod runs", d.awaitRunning},
		{"the worker nodes, by km kubectl get nodes", d.command("kubectl", "get", "nodes", "-o", "wide")},
		{"the worker nodes, by km etcdctl get --prefix /registry/minions", d.command("etcdctl", "get", "--prefix", "/registry/minions")},
		{"the pod's containers, by the Docker API", d.showContainers},
		{"the task and the used resources, by the Mesos master's /state", d.showTasks},
		{"fetch a page from the pod's IP", d.fetch},
		{"read the pod's log", d.command("kubectl", "logs", "web")},
		{"run a command in the pod", d.command("kubectl", "exec", "web", "--", "/web", "whoami")},
		{"delete the pod", d.remove},
		{"see that container, task and resources are gone", d.awaitGone},
	}
}

// down stops the cluster if it runs.
func (d *demo) down(ctx context.Context) error {
	if d.cluster == nil {
		return nil
	}
	return d.cluster.Stop(ctx)
}

// showLog prints the end of the cluster's log, for a person to find out what went wrong.
func (d *demo) showLog(dir string) {
	log, err := os.ReadFile(filepath.Join(dir, "log", "km.log"))
	if err != nil {
		return
	}
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	fmt.Printf("\n== the last lines of the cluster's log\n%s\n", strings.Join(lines[max(0, len(lines)-40):], "\n"))
}

// command is a step that runs another km command on the cluster and shows its output. A command without output has failed.
func (d *demo) command(args ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		var out bytes.Buffer
		cmd := d.cluster.KM(ctx, args...)
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		for _, line := range strings.Split(strings.TrimRight(out.String(), "\n"), "\n") {
			fmt.Println(clip(line))
		}
		if err == nil && out.Len() == 0 {
			err = errors.New("it printed nothing")
		}
		return err
	}
}

// clip shortens a line to what a terminal shows without folding it many times over.
func clip(line string) string {
	const most = 300
	if len(line) <= most {
		return line
	}
	return fmt.Sprintf("%s … (%d more characters)", line[:most], len(line)-most)
}

func (d *demo) importImage(ctx context.Context) error {
	program, err := os.ReadFile(d.image)
	if err != nil {
		return err
	}
	const name = "k8sm.io/examples/web:latest"
	if err := scratch.ImportImage(ctx, d.cluster.Docker, name, "/web", program); err != nil {
		return err
	}
	fmt.Printf("%s, %d bytes\n", name, len(program))
	return nil
}

func (d *demo) submit(ctx context.Context) error {
	body, err := os.ReadFile(d.manifest)
	if err != nil {
		return err
	}
	if err := d.cluster.Usable(ctx); err != nil {
		return fmt.Errorf("the default namespace takes no pods: %w", err)
	}
	client, err := rest.HTTPClientFor(d.cluster.REST)
	if err != nil {
		return err
	}
	url := d.cluster.REST.Host + "/api/v1/namespaces/default/pods"
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	fmt.Printf("POST %s: %s\n", url, response.Status)
	if response.StatusCode != http.StatusCreated {
		reason, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		return fmt.Errorf("the API server answered %s: %s", response.Status, reason)
	}
	d.pod = &corev1.Pod{}
	return json.NewDecoder(response.Body).Decode(d.pod)
}

func (d *demo) awaitRunning(ctx context.Context) error {
	err := scratch.Until(ctx, 2*time.Minute, func(ctx context.Context) (err error) {
		if d.pod, err = d.get(ctx); err != nil {
			return err
		}
		for _, c := range d.pod.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("pod %s is %s: %s", d.pod.Name, d.pod.Status.Phase, why(d.pod))
	})
	if err != nil {
		return err
	}
	fmt.Printf("pod %s runs on node %s with IP %s\n", d.pod.Name, d.pod.Spec.NodeName, d.pod.Status.PodIP)
	return nil
}

// why returns the reason why a pod does not run.
func why(pod *corev1.Pod) string {
	for _, s := range pod.Status.ContainerStatuses {
		if s.State.Waiting != nil {
			return s.State.Waiting.Reason + " " + s.State.Waiting.Message
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Status == corev1.ConditionFalse && c.Message != "" {
			return c.Message
		}
	}
	return "nothing is known yet"
}

func (d *demo) get(ctx context.Context) (*corev1.Pod, error) {
	return d.cluster.Kube.CoreV1().Pods(d.pod.Namespace).Get(ctx, d.pod.Name, metav1.GetOptions{})
}

// containers are those of the pod, sandbox included.
func (d *demo) containers(ctx context.Context) ([]container.Summary, error) {
	return d.cluster.Docker.ContainerList(ctx, container.ListOptions{All: true,
		Filters: filters.NewArgs(filters.Arg("label", "io.kubernetes.pod.uid="+string(d.pod.UID)))})
}

func (d *demo) showContainers(ctx context.Context) error {
	list, err := d.containers(ctx)
	if err != nil {
		return err
	}
	for _, c := range list {
		fmt.Printf("%.12s  %-28s %-24s %s\n", c.ID, c.Image, c.Status, strings.Join(c.Names, " "))
	}
	if len(list) != 2 {
		return fmt.Errorf("the pod has %d containers; a sandbox and the web server were expected", len(list))
	}
	return nil
}

// task finds the pod's task in the master's state, and the agent that it runs on.
func (d *demo) task(ctx context.Context) (task *scratch.Task, used map[string]scratch.UsedResources, err error) {
	state, err := d.cluster.State(ctx)
	if err != nil {
		return nil, nil, err
	}
	used = map[string]scratch.UsedResources{}
	for _, a := range state.Agents {
		used[a.ID] = a.UsedResources
	}
	for _, t := range state.Tasks() {
		if uid, _, err := api.TaskID(t.ID).Parse(); err == nil && uid == d.pod.UID {
			return &t, used, nil
		}
	}
	return nil, used, nil
}

func (d *demo) showTasks(ctx context.Context) error {
	return scratch.Until(ctx, 10*time.Second, func(ctx context.Context) error {
		task, used, err := d.task(ctx)
		if err != nil {
			return err
		}
		if task == nil || task.State != "TASK_RUNNING" {
			return fmt.Errorf("the master knows no running task of the pod: %+v", task)
		}
		fmt.Printf("task %s (%s) is %s\n", task.ID, task.Name, task.State)
		fmt.Printf("agent %s uses cpus:%g mem:%g\n", task.Agent, used[task.Agent].CPUs, used[task.Agent].Mem)
		return nil
	})
}

func (d *demo) fetch(ctx context.Context) error {
	url := fmt.Sprintf("http://%s:8080/", d.pod.Status.PodIP)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	page, err := io.ReadAll(io.LimitReader(response.Body, 4096))
	if err != nil {
		return err
	}
	fmt.Printf("GET %s: %s\n%s", url, response.Status, page)
	if !strings.Contains(string(page), "Hello from pod "+d.pod.Name) {
		return errors.New("that is not the example's page")
	}
	return nil
}

func (d *demo) remove(ctx context.Context) error {
	if err := d.cluster.Kube.CoreV1().Pods(d.pod.Namespace).Delete(ctx, d.pod.Name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return scratch.Until(ctx, time.Minute, func(ctx context.Context) error {
		_, err := d.get(ctx)
		if apierrors.IsNotFound(err) {
			fmt.Printf("pod %s is gone\n", d.pod.Name)
			return nil
		}
		return errors.Join(errors.New("the pod is still there"), err)
	})
}

func (d *demo) awaitGone(ctx context.Context) error {
	return scratch.Until(ctx, 30*time.Second, func(ctx context.Context) error {
		list, err := d.containers(ctx)
		if err != nil {
			return err
		}
		task, used, err := d.task(ctx)
		if err != nil {
			return err
		}
		if len(list) > 0 || task != nil {
			return fmt.Errorf("%d containers are left, and task %+v", len(list), task)
		}
		fmt.Println("no container, no task of the pod")
		for agent, u := range used {
			fmt.Printf("agent %s uses cpus:%g mem:%g (its executor)\n", agent, u.CPUs, u.Mem)
		}
		return nil
	})
}
