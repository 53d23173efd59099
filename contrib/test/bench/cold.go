package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/docker/docker/client"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api/podtrace"
	"github.com/k8sm/k8sm/contrib/test/scratch"
	"github.com/k8sm/k8sm/contrib/up/engine"
)

// coldIsolations are those of the agents whose first pod is measured, by the figures' names: what an agent has that is given none, and
// all of which the minion has to step out.
var coldIsolations = []struct{ name, isolation string }{
	{"posix", ""}, {"isolated", "cgroups/all,filesystem/linux,namespaces/pid"},
}

// coldStages are where the time goes of a pod that starts its node.
var coldStages = append(stages[:len(stages):len(stages)], stage{"begins", func(r podtrace.Row) bool { return r.What == podtrace.Begins }},
	stage{"take", func(r podtrace.Row) bool { return r.What == podtrace.Take }})

// coldNodes measures the first pod of an agent that has never had km: Mesos' fetcher gets it from the scheduler, the executor starts the
// node, and the kubelet the pod. Offers come once a second, as with a Mesos that nobody has configured otherwise.
func (b *bench) coldNodes(ctx context.Context) error {
	for _, kind := range coldIsolations {
		running := figure{name: "cold_" + kind.name + "_running", unit: "ms"}
		spans := map[string]*figure{}
		for round := 1; round <= b.rounds && ctx.Err() == nil; round++ {
			fmt.Printf("round %d of %d: the first pod of an agent, %s\n", round, b.rounds, kind.name)
			took, told, err := b.coldPod(ctx, kind.isolation)
			if err != nil {
				return err
			}
			running.add(took)
			for _, stage := range coldStages {
				if spans[stage.name] == nil {
					spans[stage.name] = &figure{name: "cold_" + kind.name + "_span_" + stage.name, unit: "ms"}
				}
				spans[stage.name].add(sumOf(told, stage.is))
			}
		}
		running.print(os.Stdout)
		for _, stage := range coldStages {
			spans[stage.name].print(os.Stdout)
		}
	}
	return nil
}

// coldPod returns how long the pod took until it ran, and what it waited for.
func (b *bench) coldPod(ctx context.Context, isolation string) (took time.Duration, told podtrace.Timeline, err error) {
	dir, err := os.MkdirTemp("", "k8sm-bench-")
	if err != nil {
		return 0, told, err
	}
	defer os.RemoveAll(dir)
	own, err := engine.Start(ctx, engine.Config{Dir: filepath.Join(dir, "engine")})
	if err != nil {
		return 0, told, err
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, own.Stop(last))
	}()
	docker, err := client.NewClientWithOpts(client.WithHost(own.Host()), client.WithAPIVersionNegotiation())
	if err != nil {
		return 0, told, err
	}
	defer docker.Close()
	h := newHollow(dir, fleet{})
	defer h.stop()
	if err := h.start(ctx, b.km, "--docker-host="+own.Host(), "--node-root-dir="+filepath.Join(dir, "nodes")); err != nil {
		return 0, told, err
	}
	stop, err := h.mesosAndScheduler(b.km, isolation)
	defer func() { err = errors.Join(err, stop()) }()
	if err != nil {
		return 0, told, err
	}
	c := &scratch.Cluster{Kube: h.kube, Docker: docker}
	pod, err := b.smallPod(ctx, c)
	if err != nil {
		return 0, told, err
	}
	if err := h.aNode(ctx); err != nil {
		return 0, told, err
	}
	if took, err = createToRunning(ctx, c, pod); err != nil {
		return 0, told, err
	}
	all, err := timelines(ctx, h.run(b.km), pod.Name)
	if err != nil {
		return 0, told, err
	}
	return took, all[0], errors.Join(b.keepLogs(dir), remove(ctx, c, pod.Name))
}

// run returns what runs km for the cluster.
func (h *hollow) run(km string) func(ctx context.Context, args ...string) *exec.Cmd {
	return func(ctx context.Context, args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, km, append([]string{"--state-dir", string(h.dir)}, args...)...)
	}
}

// mesosAndScheduler starts a Mesos with an agent, and a scheduler that gives km to it. Call stop also with an error.
func (h *hollow) mesosAndScheduler(km, isolation string) (stop func() error, err error) {
	var started []*program
	stop = func() (problems error) {
		for i := range started {
			problems = errors.Join(problems, started[len(started)-1-i].end(os.Interrupt))
		}
		return problems
	}
	port, err := scratch.FreePort()
	if err != nil {
		return stop, err
	}
	master, mesos := fmt.Sprintf("127.0.0.1:%d", port), filepath.Join(string(h.dir), "mesos")
	local := []string{"local-mesos", "--agents=1", fmt.Sprintf("--port=%d", port), "--work-dir=" + mesos, "--resources=" + nodeResources}
	if isolation != "" {
		local = append(local, "--isolation="+isolation)
	}
	for _, args := range [][]string{local, {"scheduler", "--mesos-master=" + master, "--artifact-address=127.0.0.1:0", "--status-address=127.0.0.1:0",
		"--mesos-principal=k8sm", "--mesos-secret-file=" + filepath.Join(mesos, "secret")}} {
		p, err := startProgram(h.log, km, append([]string{"--state-dir", string(h.dir)}, args...)...)
		if err != nil {
			return stop, err
		}
		started = append(started, p)
		if err := awaitFile(filepath.Join(mesos, "secret")); err != nil {
			return stop, err
		}
	}
	return stop, nil
}

// awaitFile waits until a file is there.
func awaitFile(path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	poll(ctx, func() bool {
		_, err := os.Stat(path)
		return err == nil
	})
	return ctx.Err()
}

// aNode waits until there is a node, and until the scheduler has given back the offers that made it.
func (h *hollow) aNode(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	poll(waiting, func() bool {
		nodes, err := h.kube.CoreV1().Nodes().List(waiting, metav1.ListOptions{})
		return err == nil && len(nodes.Items) == 1 && noneNew(nodes.Items[0])
	})
	if err := waiting.Err(); err != nil {
		return fmt.Errorf("the agent did not become a node in time: %w", err)
	}
	return idle(ctx, burstCalm)
}

func noneNew(node corev1.Node) bool { return len(node.Spec.Taints) == 0 }

// keepLogs copies what the parts of the node have written to the directory for profiles, if there is one.
func (b *bench) keepLogs(dir string) error {
	if b.profiles == "" {
		return nil
	}
	logs, err := filepath.Glob(filepath.Join(dir, "mesos/agents/*/slaves/*/frameworks/*/executors/*/runs/latest/*"))
	for _, log := range append(logs, filepath.Join(dir, "bench.log")) {
		text, readErr := os.ReadFile(log)
		if readErr != nil {
			continue // a directory
		}
		err = errors.Join(err, os.WriteFile(filepath.Join(b.profiles, filepath.Base(log)), text, 0o600))
	}
	return err
}
