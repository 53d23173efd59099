package cri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/k8sm/k8sm/contrib/up/engine"
)

func TestEngineThatDiesAndComesBackLosesNothing(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("engine")
	id := n.runContainer(t, n.runPod(t, config), config, shell("main", "i=0; while [ ! -e /tmp/stop ]; do echo $i; i=$((i+1)); sleep 0.01; done"))
	before := n.status(t, id)
	events, err := n.GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	killEngine(t)
	startEngine(t)
	after := n.status(t, id)
	if after.State != runtimeapi.ContainerState_CONTAINER_RUNNING || after.StartedAt != before.StartedAt {
		t.Errorf("after the Engine's restart: %v", after)
	}
	if _, err := n.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/sh", "-c", "> /tmp/stop"}}); err != nil {
		t.Fatal(err)
	}
	n.waitExited(t, id)
	var lines []string
	eventually(t, "the log is complete", func() bool {
		now := logLines(t, before.LogPath)
		defer func() { lines = now }()
		return len(now) > 0 && len(now) == len(lines)
	})
	for i, line := range lines {
		if line != fmt.Sprintf("stdout F %d", i) {
			t.Fatalf("line %d of %d of the log is %q", i, len(lines), line)
		}
	}
	for {
		e, err := events.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.ContainerId == id && e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT {
			return // the new Engine's events come through
		}
	}
}

// signalEngine signals dockerd and returns its pid.
func signalEngine(t *testing.T, signal syscall.Signal) int {
	t.Helper()
	return signalProcess(t, "dockerd", signal)
}

// signalProcess signals one of the Engine's programs and returns its pid.
func signalProcess(t *testing.T, name string, signal syscall.Signal) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(testEngineDir, name+".pid"))
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	must(t, err)
	must(t, syscall.Kill(pid, signal))
	return pid
}

// killEngine kills dockerd, as the OOM killer would, and waits until it is gone.
func killEngine(t *testing.T) {
	t.Helper()
	pid := signalEngine(t, syscall.SIGKILL)
	eventually(t, "dockerd is gone", func() bool { return !exists(fmt.Sprintf("/proc/%d", pid)) })
}

func startEngine(t *testing.T) {
	t.Helper()
	_, err := engine.Start(t.Context(), engine.Config{Dir: testEngineDir})
	must(t, err)
}

// hangEngine stops dockerd as if it hung; the returned function lets it go on, which the end of the test does too.
func hangEngine(t *testing.T) (goOn func()) {
	t.Helper()
	pid := signalEngine(t, syscall.SIGSTOP)
	eventually(t, "dockerd stands still", func() bool { return standsStill(t, pid) })
	goOn = func() { signalEngine(t, syscall.SIGCONT) }
	t.Cleanup(goOn)
	return goOn
}

// standsStill reports whether all threads of the process are stopped (proc_pid_stat(5)).
func standsStill(t *testing.T, pid int) bool {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	must(t, err)
	return len(threads) > 0 && !slices.ContainsFunc(threads, func(path string) bool {
		data, err := os.ReadFile(path)
		return err == nil && !strings.Contains(string(data), ") T ")
	})
}

func TestEngineThatHangsIsAnErrorInTimeAndNothingStartsTwice(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("hang")
	pod := n.runPod(t, config)
	once := shell("once", "echo started >> /count/starts; sleep 1000")
	once.Mounts = []*runtimeapi.Mount{{HostPath: filepath.Join(n.root, "count"), ContainerPath: "/count"}}
	made, err := n.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: once, SandboxConfig: config})
	must(t, err)
	runs := n.runContainer(t, pod, config, shell("runs", "sleep 1000"))
	before := n.status(t, runs)
	n.restart(t, func(c *Config) { c.CallTimeout, c.PullTimeout = time.Second, time.Second })

	goOn := hangEngine(t)
	ctx, other := t.Context(), n.podConfig("other")
	allMissTheDeadline(t, callsOf(ctx, n, hanging{made: made.ContainerId, runs: runs, other: other}))
	node, err := n.Status(ctx, &runtimeapi.StatusRequest{})
	must(t, err)
	if ready := node.Status.Conditions[0]; ready.Status || !strings.Contains(ready.Message, "hangs: no answer in 1s") {
		t.Errorf("the runtime's condition is %v", ready)
	}

	goOn()
	n.restart(t, func(*Config) {})
	eventually(t, "the pod that could not be made is made", func() bool {
		_, err := n.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: other})
		return err == nil
	})
	list, err := n.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"app": "other"}}})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("sandboxes of the pod: %v, %v", list.GetItems(), err)
	}
	if after := n.status(t, runs); after.State != runtimeapi.ContainerState_CONTAINER_RUNNING || after.StartedAt != before.StartedAt {
		t.Errorf("after the hang: %v", after)
	}
	// What the Engine was asked before it hung it may do after it; either way the container is started once.
	_, _ = n.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: made.ContainerId})
	eventually(t, "the container runs", func() bool { return exists(filepath.Join(n.root, "count", "starts")) })
	starts, err := os.ReadFile(filepath.Join(n.root, "count", "starts"))
	if err != nil || string(starts) != "started\n" {
		t.Errorf("starts: %q, %v", starts, err)
	}
}

// hanging are a container that was made and one that runs on an Engine that hangs, and a pod that is to come.
type hanging struct {
	made, runs string
	other      *runtimeapi.PodSandboxConfig
}

// callsOf are calls of each kind that need the Engine.
func callsOf(ctx context.Context, n *node, h hanging) map[string]func() error {
	return map[string]func() error{
		"ListPodSandbox": func() error { _, err := n.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{}); return err },
		"StreamContainers": func() error {
			stream, err := n.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
		"RunPodSandbox": func() error {
			_, err := n.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: h.other})
			return err
		},
		"StartContainer": func() error {
			_, err := n.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: h.made})
			return err
		},
		"StopContainer": func() error {
			_, err := n.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: "none", Timeout: 1})
			return err
		},
		"ExecSync": func() error {
			_, err := n.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: h.runs, Cmd: []string{"true"}})
			return err
		},
		"Exec": func() error {
			_, err := n.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: h.runs, Cmd: []string{"true"}, Stdout: true})
			return err
		},
		"ContainerStats": func() error {
			_, err := n.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: h.runs})
			return err
		},
		"PullImage": func() error {
			_, err := n.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "127.0.0.1:1/none"}})
			return err
		},
		"ImageFsInfo": func() error { _, err := n.images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{}); return err },
	}
}

func allMissTheDeadline(t *testing.T, calls map[string]func() error) {
	t.Helper()
	results := make(chan error, len(calls))
	for name, call := range calls {
		go func() {
			if err := call(); status.Code(err) != codes.DeadlineExceeded {
				results <- fmt.Errorf("%s returned %w; want DeadlineExceeded", name, err)
				return
			}
			results <- nil
		}()
	}
	for range calls {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func TestSandboxThatRunsThoughTheEngineDiedWhileStartingItIsFitForUse(t *testing.T) {
	proxied, through := countCalls(t)
	n := newNode(t)
	n.restart(t, func(c *Config) { c.DockerHost, c.CallTimeout = through, 5*time.Second })
	proxied.answered = func(r *http.Response) error {
		if strings.HasSuffix(r.Request.URL.Path, "/start") {
			killEngine(t)
			return errors.New("the Engine died before it could answer")
		}
		return nil
	}
	config := n.podConfig("cut")
	if _, err := n.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config}); err == nil {
		t.Error("the sandbox was started without an answer")
	}
	startEngine(t)
	n.restart(t, func(*Config) {})
	list, err := n.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
	must(t, err)
	if len(list.Items) != 1 || list.Items[0].State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Fatalf("sandboxes %v; want the one that runs", list.Items)
	}
	ended := n.waitExited(t, n.runContainer(t, list.Items[0].Id, config, shell("main", "cat /etc/resolv.conf")))
	if got := logLines(t, ended.LogPath); !slices.Contains(got, "stdout F nameserver 10.0.0.10") {
		t.Errorf("/etc/resolv.conf in the pod: %q", got)
	}
}

func TestCommandThatStartsAfterItsCallerGaveUpIsEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ours, engines := net.Pipe()
	answer, undone := make(chan struct{}), make(chan struct{})
	cancel()
	_, err := hijack(ctx, func() (types.HijackedResponse, error) {
		<-answer // an Engine that hangs, whatever becomes of ctx
		return types.NewHijackedResponse(ours, ""), nil
	}, func() { close(undone) })
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("hijack returned %v", err)
	}
	close(answer)
	<-undone
	if _, err := engines.Read(make([]byte, 1)); err == nil {
		t.Error("the connection was left open")
	}
}

func TestSessionsEndWithAnErrorWhenTheEngineDies(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("sessions")
	id := n.runContainer(t, n.runPod(t, config), config, shell("main", "while true; do echo here; sleep 0.1; done"))
	execution, err := n.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: id, Stdout: true, Cmd: []string{"/bin/sh", "-c", "while true; do echo here; sleep 0.1; done"}})
	must(t, err)
	attachment, err := n.Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: id, Stdout: true})
	must(t, err)
	ended := map[string]chan error{}
	for name, url := range map[string]string{"exec": execution.Url, "attach": attachment.Url} {
		ended[name] = make(chan error, 1)
		reads := firstWrite{make(chan struct{}, 1)}
		go func() { ended[name] <- stream(t, url, remotecommand.StreamOptions{Stdout: reads}) }()
		<-reads.happened
	}
	defer startEngine(t)
	killEngine(t)
	for name, c := range ended {
		select {
		case err := <-c:
			if err == nil {
				t.Errorf("%s ended as if all were well", name)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s does not end", name)
		}
	}
}

// firstWrite tells that something was written.
type firstWrite struct{ happened chan struct{} }

func (w firstWrite) Write(p []byte) (int, error) {
	select {
	case w.happened <- struct{}{}:
	default:
	}
	return len(p), nil
}

func TestEventsThatTheEngineMissedWhileItWasDownAreToldOnce(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("missed")
	pod := n.runPod(t, config)
	events, err := n.GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	must(t, err)
	_, err = events.Header()
	must(t, err)
	ends := n.runContainer(t, pod, config, shell("ends", "while [ ! -e /host/end ]; do sleep 0.05; done"), mountOf(n.root))
	stays := n.runContainer(t, pod, config, shell("stays", "sleep 1000"))
	names := map[string]string{ends: "ends", stays: "stays", pod: "pod"}
	until := func(last string) (got []string) {
		for len(got) == 0 || got[len(got)-1] != last {
			e, err := events.Recv()
			must(t, err)
			got = append(got, names[e.ContainerId]+" "+e.ContainerEventType.String())
		}
		return got[:len(got)-1]
	}
	until("stays CONTAINER_STARTED_EVENT")

	pid := n.pid(t, ends)
	killEngine(t)
	must(t, os.WriteFile(filepath.Join(n.root, "end"), nil, 0o600))
	eventually(t, "the container ends while there is no Engine", func() bool { return !exists(fmt.Sprintf("/proc/%d", pid)) })
	startEngine(t)
	_, err = n.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: stays})
	must(t, err)
	_, err = n.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: stays})
	must(t, err)
	want := []string{"ends CONTAINER_STOPPED_EVENT", "stays CONTAINER_STOPPED_EVENT"}
	got := until("stays CONTAINER_DELETED_EVENT")
	slices.Sort(got) // "stays" may end before the Engine is heard again, and then both are found out at once, in any order
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
