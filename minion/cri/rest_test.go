package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// callCounter stands between a server and the Engine and keeps what is asked.
type callCounter struct {
	mu    sync.Mutex // guards calls
	calls []string
	// answered is called with each of the Engine's answers; its error goes to the server in its place.
	answered func(*http.Response) error
}

func (c *callCounter) taken() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls := c.calls
	c.calls = nil
	return calls
}

// countCalls returns a counter and the address under which the Engine can be had through it.
func countCalls(t *testing.T) (*callCounter, string) {
	t.Helper()
	if testEngine == nil {
		t.Skip("a Docker Engine needs root")
	}
	engine, err := url.Parse(testEngine.DaemonHost())
	must(t, err)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "engine"})
	proxy.FlushInterval = -1
	proxy.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", engine.Path)
	}}
	counter := &callCounter{answered: func(*http.Response) error { return nil }}
	proxy.ModifyResponse = func(r *http.Response) error { return counter.answered(r) }
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	dir, err := os.MkdirTemp("/tmp", "p") // short, as a socket's path has to be
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	socket := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	must(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		counter.mu.Lock()
		counter.calls = append(counter.calls, r.Method+" "+r.URL.Path)
		counter.mu.Unlock()
		proxy.ServeHTTP(w, r)
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Close()
		<-ended
	})
	return counter, "unix://" + socket
}

func TestServerAsksTheEngineNothingWhileNothingHappens(t *testing.T) {
	counter, through := countCalls(t)
	n := newNode(t)
	n.restart(t, func(c *Config) { c.DockerHost = through })
	config := n.podConfig("rest")
	pod := n.runPod(t, config)
	n.runContainer(t, pod, config, shell("quiet", "sleep 1000"))
	busy := n.runContainer(t, pod, config, shell("busy", "while true; do echo here; sleep 0.1; done"))
	events, err := n.GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	must(t, err)
	_, err = events.Header()
	must(t, err)

	const rest = 3 * time.Second
	eventually(t, "the Engine is asked nothing for "+rest.String(), func() bool {
		counter.taken() // which a slow machine has not done before
		must(t, pause(t.Context(), rest))
		calls := counter.taken()
		if len(calls) > 0 {
			t.Logf("the Engine was asked %q", calls)
		}
		return len(calls) == 0
	})
	// And yet the end of a container is known when it comes.
	_, err = n.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: busy})
	must(t, err)
	for e := new(runtimeapi.ContainerEventResponse); e.ContainerId != busy || e.ContainerEventType != runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT; {
		e, err = events.Recv()
		must(t, err)
	}
}

func TestSizesAreMeasuredOnceForManyQuestions(t *testing.T) {
	counter, through := countCalls(t)
	n := newNode(t)
	n.restart(t, func(c *Config) { c.DockerHost = through })
	counter.taken()
	var fs *runtimeapi.ImageFsInfoResponse
	for range 5 {
		var err error
		fs, err = n.images.ImageFsInfo(t.Context(), &runtimeapi.ImageFsInfoRequest{})
		must(t, err)
	}
	if calls := counter.taken(); len(calls) != 1 {
		t.Errorf("five questions made the Engine measure by %q", calls)
	}
	images := fs.ImageFilesystems[0]
	if want := filepath.Join(testEngineDir, "data"); images.FsId.Mountpoint != want || images.UsedBytes.Value < 1<<20 {
		t.Errorf("the images take %d bytes below %s; want over 1 MB below %s", images.UsedBytes.Value, images.FsId.Mountpoint, want)
	}
}

// TestListsAndStatusesAreAnsweredFromMemoryUntilSomethingHappens also holds that what happens is seen, whoever did it.
func TestListsAndStatusesAreAnsweredFromMemoryUntilSomethingHappens(t *testing.T) {
	counter, through := countCalls(t)
	n := newNode(t)
	n.restart(t, func(c *Config) { c.DockerHost = through })
	config := n.podConfig("memory")
	sandbox := n.runPod(t, config)
	id := n.runContainer(t, sandbox, config, shell("main", "sleep 1000"))
	ask := func() (states []runtimeapi.ContainerState) {
		t.Helper()
		list, err := n.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
		must(t, err)
		sandboxes, err := n.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
		must(t, err)
		status, err := n.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: sandbox})
		must(t, err)
		if len(sandboxes.Items) != 1 || status.Status.GetNetwork().GetIp() == "" {
			t.Errorf("sandboxes %v, status %v", sandboxes, status)
		}
		for _, c := range list.Containers {
			states = append(states, c.State)
		}
		return states
	}
	eventually(t, "nothing is left to be asked for", func() bool {
		ask()
		counter.taken()
		ask()
		return len(counter.taken()) == 0
	})

	timeout := 0
	must(t, testEngine.ContainerRestart(t.Context(), id, container.StopOptions{Timeout: &timeout}))
	must(t, testEngine.ContainerKill(t.Context(), id, "KILL"))
	eventually(t, "the end is seen", func() bool {
		return slices.Equal(ask(), []runtimeapi.ContainerState{runtimeapi.ContainerState_CONTAINER_EXITED})
	})
	must(t, testEngine.ContainerStart(t.Context(), id, container.StartOptions{}))
	eventually(t, "the life that somebody gave it again is seen", func() bool {
		return slices.Equal(ask(), []runtimeapi.ContainerState{runtimeapi.ContainerState_CONTAINER_RUNNING})
	})
	must(t, testEngine.ContainerRemove(t.Context(), id, container.RemoveOptions{Force: true}))
	eventually(t, "that it is gone is seen", func() bool { return len(ask()) == 0 })
}

func TestWhatWasDoneIsInTheNextList(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("next")
	sandbox := n.runPod(t, config)
	for i := range 10 {
		name := fmt.Sprintf("c%d", i)
		made, err := n.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{
			PodSandboxId: sandbox, Config: shell(name, "sleep 1000"), SandboxConfig: config})
		must(t, err)
		id := made.ContainerId
		want := func(state string) {
			t.Helper()
			list, err := n.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: id}})
			must(t, err)
			got := "gone"
			for _, c := range list.Containers {
				got = c.State.String()
			}
			if got != state {
				t.Errorf("%s is %s, not %s", name, got, state)
			}
		}
		want("CONTAINER_CREATED")
		_, err = n.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id})
		must(t, err)
		want("CONTAINER_RUNNING")
		_, err = n.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id})
		must(t, err)
		want("CONTAINER_EXITED")
		_, err = n.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id})
		must(t, err)
		want("gone")
	}
}

// TestListsDoNotWaitForWhatIsBeingStarted: the Engine answers nothing about a container while it starts it. When a hundred pods start at
// once, one always is, and the kubelet would learn of none that runs.
func TestListsDoNotWaitForWhatIsBeingStarted(t *testing.T) {
	proxied, through := countCalls(t)
	n := newNode(t)
	n.restart(t, func(c *Config) { c.DockerHost = through })
	config, other := n.podConfig("slow"), n.podConfig("other")
	runs := n.runPod(t, config)
	made, err := n.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: runs, Config: shell("main", "sleep 1000"), SandboxConfig: config})
	must(t, err)
	created, goOn := make(chan struct{}), func() { signalProcess(t, "containerd", syscall.SIGCONT) }
	proxied.answered = func(r *http.Response) error {
		if strings.HasSuffix(r.Request.URL.Path, "/containers/create") {
			signalProcess(t, "containerd", syscall.SIGSTOP)
			close(created)
		}
		return nil
	}
	t.Cleanup(goOn)
	done := make(chan error, 2)
	go func() {
		_, err := n.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: other})
		done <- err
	}()
	<-created
	go func() {
		_, err := n.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: made.ContainerId})
		done <- err
	}()
	for _, id := range []string{sandboxName(other.Metadata), made.ContainerId} {
		eventually(t, "the Engine starts "+id, func() bool { return answersNothing(t, id) })
	}

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	sandboxes, err := n.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	must(t, err)
	if len(sandboxes.Items) != 1 || sandboxes.Items[0].Id != runs {
		t.Errorf("sandboxes %v; want the one that runs", sandboxes.Items)
	}
	containers, err := n.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	must(t, err)
	if len(containers.Containers) != 1 || containers.Containers[0].State != runtimeapi.ContainerState_CONTAINER_CREATED {
		t.Errorf("containers %v; want one that does not run yet", containers.Containers)
	}
	goOn()
	must(t, errors.Join(<-done, <-done))
	sandboxes, err = n.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
	must(t, err)
	if state := n.status(t, made.ContainerId).State; len(sandboxes.Items) != 2 || state != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("sandboxes %v, container %s; want both, and the container running", sandboxes.Items, state)
	}
}

// answersNothing tells whether the Engine leaves a question about a container unanswered.
func answersNothing(t *testing.T, id string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := testEngine.ContainerInspect(ctx, id)
	return errors.Is(err, context.DeadlineExceeded)
}
