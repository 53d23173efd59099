package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/k8sm/k8sm/api/podtrace"
)

// aheadPod is a pod whose cgroup is there as soon as the test calls accept, as if the kubelet had made it.
func (n *node) aheadPod(t *testing.T, name string) (config *runtimeapi.PodSandboxConfig, accept func()) {
	t.Helper()
	config = n.podConfig(name)
	config.Annotations[AnnotationSeen] = "before"
	config.Linux.CgroupParent = "/" + testCluster + "/" + config.Metadata.Uid
	return config, func() { must(t, os.MkdirAll(n.server.host.cgroupDir(config.Linux.CgroupParent), 0o755)) }
}

// removeCgroups removes those of the tests. The Engine has made them in each hierarchy, and never removes parents.
func removeCgroups() (problems error) {
	for _, pattern := range []string{testCluster + "/*", testCluster, "*/" + testCluster + "/*", "*/" + testCluster} {
		found, err := filepath.Glob(filepath.Join(cgroupRoot, pattern))
		problems = errors.Join(problems, err)
		for _, dir := range found {
			if info, err := os.Stat(dir); err == nil && info.IsDir() {
				problems = errors.Join(problems, os.Remove(dir))
			}
		}
	}
	return problems
}

// asked is what the kubelet asks for: the pod as it saw it.
func asked(config *runtimeapi.PodSandboxConfig) *runtimeapi.PodSandboxConfig {
	annotations := map[string]string{}
	for key, value := range config.Annotations {
		annotations[key] = value
	}
	annotations[AnnotationSeen] = "later"
	return &runtimeapi.PodSandboxConfig{Metadata: config.Metadata, Hostname: config.Hostname, LogDirectory: config.LogDirectory,
		Labels: config.Labels, Annotations: annotations, DnsConfig: config.DnsConfig, Linux: config.Linux}
}

// ofPod are the pod's containers that the Engine has, by id, with their states.
func ofPod(t *testing.T, config *runtimeapi.PodSandboxConfig) map[string]string {
	t.Helper()
	list, err := testEngine.ContainerList(t.Context(), container.ListOptions{All: true})
	must(t, err)
	states := map[string]string{}
	for _, c := range list {
		if strings.Contains(c.Names[0], "_"+config.Metadata.Uid+"_") {
			states[c.ID] = c.State
		}
	}
	return states
}

func (n *node) listed(t *testing.T) []*runtimeapi.PodSandbox {
	t.Helper()
	list, err := n.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
	must(t, err)
	return list.Items
}

// prepare begins to make the sandbox of a pod ahead; it has ended when ended is closed.
func (n *node) prepare(t *testing.T, config *runtimeapi.PodSandboxConfig) (ended chan struct{}) {
	t.Helper()
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		if err := n.server.Prepare(context.WithoutCancel(t.Context()), config); err != nil {
			fmt.Fprintln(t.Output(), err)
		}
	}()
	eventually(t, "the Engine has the sandbox", func() bool { return len(ofPod(t, config)) == 1 })
	return ended
}

func TestSandboxMadeAheadIsTheKubeletsWhenItAsks(t *testing.T) {
	counter, through := countCalls(t)
	n := newNode(t)
	n.restart(t, func(c *Config) { c.DockerHost, c.Traces = through, podtrace.NewBook(10) })
	config, accept := n.aheadPod(t, "ahead")
	ended := n.prepare(t, config)
	must(t, pause(t.Context(), 100*time.Millisecond))
	for _, state := range ofPod(t, config) {
		if state != container.StateCreated {
			t.Errorf("the sandbox is %s before the kubelet has accepted the pod", state)
		}
	}
	accept()
	<-ended
	if list := n.listed(t); len(list) > 0 {
		t.Errorf("the kubelet sees %v before it has asked", list)
	}
	counter.taken()
	want := asked(config)
	id := n.runPod(t, want)
	calls := slices.DeleteFunc(counter.taken(), func(call string) bool { return strings.HasPrefix(call, "GET ") })
	if states := ofPod(t, config); len(calls) > 0 || states[id] != container.StateRunning || len(states) != 1 {
		t.Errorf("for sandbox %s the Engine was asked %q, and has %v", id, calls, states)
	}
	status, err := n.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	must(t, err)
	if list := n.listed(t); len(list) != 1 || status.Status.GetNetwork().GetIp() == "" {
		t.Errorf("the list %v, the status %v", list, status)
	}
	exited := n.waitExited(t, n.runContainer(t, id, want, shell("main", "cat /etc/resolv.conf")))
	if got := logLines(t, exited.LogPath); !slices.Contains(got, "stdout F nameserver 10.0.0.10") {
		t.Errorf("/etc/resolv.conf in the pod: %q", got)
	}
}

func TestKubeletThatAsksWhileASandboxIsMadeWaitsForIt(t *testing.T) {
	n := newNode(t)
	config, _ := n.aheadPod(t, "meanwhile") // its cgroup is not found: that the kubelet asks is enough
	ended := n.prepare(t, config)
	id := n.runPod(t, asked(config))
	<-ended
	if states := ofPod(t, config); states[id] != container.StateRunning || len(states) != 1 {
		t.Errorf("sandbox %s, the Engine has %v", id, states)
	}
}

func TestSandboxThatTheKubeletWantsInAnotherWayIsMadeAnew(t *testing.T) {
	n := newNode(t)
	for i := range maxMisses + 1 {
		config, accept := n.aheadPod(t, fmt.Sprint("other", i))
		accept()
		if i == maxMisses {
			must(t, n.server.Prepare(t.Context(), config))
			if states := ofPod(t, config); len(states) > 0 {
				t.Errorf("another sandbox was made ahead, in vain: %v", states)
			}
			break
		}
		<-n.prepare(t, config)
		want := asked(config)
		want.Hostname = "another"
		id := n.runPod(t, want)
		c, err := testEngine.ContainerInspect(t.Context(), id)
		must(t, err)
		if states := ofPod(t, config); c.Config.Hostname != "another" || len(states) != 1 {
			t.Errorf("the sandbox is called %s, the Engine has %v", c.Config.Hostname, states)
		}
	}
}

func TestSandboxThatNobodyAsksForIsRemoved(t *testing.T) {
	n := newNode(t)
	config, accept := n.aheadPod(t, "gone")
	ended := n.prepare(t, config) // waits for the kubelet
	must(t, n.server.Dismiss(t.Context(), "another"))
	if len(ofPod(t, config)) != 1 {
		t.Error("another pod's end removed the sandbox")
	}
	must(t, n.server.Dismiss(t.Context(), types.UID(config.Metadata.Uid)))
	<-ended
	if states := ofPod(t, config); len(states) > 0 {
		t.Errorf("the Engine still has %v", states)
	}
	accept()
	<-n.prepare(t, config) // runs
	must(t, n.server.Dismiss(t.Context(), types.UID(config.Metadata.Uid)))
	if states := ofPod(t, config); len(states) > 0 {
		t.Errorf("the Engine still has %v", states)
	}
	<-n.prepare(t, config)
	n.stop()
	if states := ofPod(t, config); len(states) > 0 {
		t.Errorf("the server has ended, and the Engine still has %v", states)
	}
	n.start(t)
}

// TestSandboxOfTheKubeletIsNotTouched: what has the name already is the kubelet's.
func TestSandboxOfTheKubeletIsNotTouched(t *testing.T) {
	n := newNode(t)
	config, accept := n.aheadPod(t, "late")
	accept()
	id := n.runPod(t, asked(config))
	if err := n.server.Prepare(t.Context(), config); err == nil {
		t.Error("a second sandbox was made")
	}
	must(t, n.server.Dismiss(t.Context(), types.UID(config.Metadata.Uid)))
	if states := ofPod(t, config); states[id] != container.StateRunning || len(n.listed(t)) != 1 {
		t.Errorf("the Engine has %v, the kubelet sees %v", states, n.listed(t))
	}
}
