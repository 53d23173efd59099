package cri

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestPodLifeFromSandboxToRemoval(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("web")
	pod := n.runPod(t, config)

	sandbox, err := n.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil {
		t.Fatal(err)
	}
	got := sandbox.Status
	if got.State != runtimeapi.PodSandboxState_SANDBOX_READY || got.Metadata.Name != "web" ||
		got.Labels["app"] != "web" || got.Annotations["note"] != "kept" || got.CreatedAt == 0 {
		t.Errorf("sandbox status %v", got)
	}
	if ip, err := netip.ParseAddr(got.Network.Ip); err != nil || !netip.MustParsePrefix(testSubnet).Contains(ip) {
		t.Errorf("pod IP %q is not of %s", got.Network.Ip, testSubnet)
	}

	id := n.runContainer(t, pod, config, shell("main", "echo $HOSTNAME; hostname; cat /etc/resolv.conf; echo oops >&2; exit 7"))
	ended := n.waitExited(t, id)
	if ended.ExitCode != 7 || ended.Reason != "Error" || ended.StartedAt == 0 || ended.FinishedAt < ended.StartedAt {
		t.Errorf("container status %v", ended)
	}
	lines := logLines(t, ended.LogPath)
	slices.SortStableFunc(lines, func(a, b string) int { return strings.Compare(a[:6], b[:6]) }) // the two streams race
	want := []string{"stderr F oops", "stdout F web", "stdout F web", "stdout F search svc.cluster.local",
		"stdout F nameserver 10.0.0.10", "stdout F options ndots:5"}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}

	for range 2 { // each of these may be called again
		if _, err := n.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := n.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"app": "web"}}})
	if err != nil || len(list.Items) != 1 || list.Items[0].State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("after stop: %v, %v", list, err)
	}
	for range 2 {
		if _, err := n.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id}); status.Code(err) != codes.NotFound {
		t.Errorf("a removed container's status: %v; want NotFound", err)
	}
	if left, _ := filepath.Glob(filepath.Join(n.root, "pods", "*")); len(left) > 0 {
		t.Errorf("files left behind: %v", left)
	}
}

// logLines returns the log without its times.
func logLines(t *testing.T, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(data)) {
		at, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if _, ok := lineTime([]byte(at + " ")); !ok {
			t.Errorf("log line %q begins with no time", line)
		}
		lines = append(lines, rest)
	}
	return lines
}

func TestLogSurvivesARestartOfTheServerWithoutLossOrDoubles(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("log")
	pod := n.runPod(t, config)
	id := n.runContainer(t, pod, config, shell("count", "i=0; while [ $i -lt 3000 ]; do echo line $i; echo error $i >&2; i=$((i+1)); [ $((i%500)) = 0 ] && sleep 0.3; done; exit 0"))
	path := n.status(t, id).LogPath
	for round := range 3 {
		eventually(t, "the log grows", func() bool {
			info, err := os.Stat(path)
			return err == nil && info.Size() > int64(round)*20_000
		})
		n.stop()
		n.start(t)
	}
	n.waitExited(t, id)
	var out, errs int
	for _, line := range logLines(t, path) {
		switch line {
		case fmt.Sprintf("stdout F line %d", out):
			out++
		case fmt.Sprintf("stderr F error %d", errs):
			errs++
		default:
			t.Fatalf("after %d and %d lines stands %q", out, errs, line)
		}
	}
	if out != 3000 || errs != 3000 {
		t.Errorf("%d lines of stdout and %d of stderr; want 3000 of each", out, errs)
	}
}

func TestRotatedLogGoesOnInANewFile(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("rotate")
	pod := n.runPod(t, config)
	id := n.runContainer(t, pod, config, shell("main", "echo before; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo after"))
	path := n.status(t, id).LogPath
	eventually(t, "the first line is there", func() bool { data, _ := os.ReadFile(path); return len(data) > 0 })
	rotated := path + ".20260101-000000"
	if err := os.Rename(path, rotated); err != nil {
		t.Fatal(err)
	}
	if _, err := n.ReopenContainerLog(t.Context(), &runtimeapi.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	n.stop() // and a restart right after the rotation doubles nothing
	n.start(t)
	if _, err := n.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/sh", "-c", "> /tmp/go"}}); err != nil {
		t.Fatal(err)
	}
	n.waitExited(t, id)
	if diff := cmp.Diff([]string{"stdout F before"}, logLines(t, rotated)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"stdout F after"}, logLines(t, path)); diff != "" {
		t.Error(diff)
	}
}

func TestExecSyncReturnsOutputAndExitCode(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("exec")
	id := n.runContainer(t, n.runPod(t, config), config, shell("main", "sleep 1000"))
	r, err := n.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/sh", "-c", "echo out; echo err >&2; exit 3"}})
	if err != nil {
		t.Fatal(err)
	}
	if string(r.Stdout) != "out\n" || string(r.Stderr) != "err\n" || r.ExitCode != 3 {
		t.Errorf("ExecSync returned %q, %q, %d", r.Stdout, r.Stderr, r.ExitCode)
	}
}

func TestExecSyncThatTimesOutLeavesNoProcess(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("exec")
	id := n.runContainer(t, n.runPod(t, config), config, shell("main", "sleep 1000"))
	_, err := n.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Timeout: 1,
		Cmd: []string{"/bin/sh", "-c", "(sleep 4711 & sleep 4711 & wait) & sleep 4711"}})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("ExecSync returned %v; want DeadlineExceeded", err)
	}
	eventually(t, "no process of the command is left", func() bool {
		top, err := testEngine.ContainerTop(t.Context(), id, nil)
		if err != nil {
			t.Fatal(err)
		}
		return !strings.Contains(fmt.Sprint(top.Processes), "4711")
	})
}

// stream runs a command or attaches, at one of the server's URLs.
func stream(t *testing.T, at string, options remotecommand.StreamOptions) error {
	t.Helper()
	target, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	executor, err := remotecommand.NewSPDYExecutor(&restclient.Config{}, "POST", target)
	if err != nil {
		t.Fatal(err)
	}
	return executor.StreamWithContext(t.Context(), options)
}

func TestExecCarriesInputOutputAndExitCode(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("exec")
	id := n.runContainer(t, n.runPod(t, config), config, shell("main", "sleep 1000"))
	r, err := n.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true,
		Cmd: []string{"/bin/sh", "-c", "cat; echo done >&2; exit 5"}})
	if err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	err = stream(t, r.Url, remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: &errOut})
	if err == nil || !strings.Contains(err.Error(), "exit code 5") {
		t.Errorf("exec ended with %v; want exit code 5", err)
	}
	if out.String() != "hello" || errOut.String() != "done\n" {
		t.Errorf("exec wrote %q and %q", out.String(), errOut.String())
	}
}

func TestAttachReachesTheMainProcess(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("attach")
	main := shell("main", "read line; echo got $line")
	main.Stdin, main.StdinOnce = true, true
	id := n.runContainer(t, n.runPod(t, config), config, main)
	r, err := n.Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := stream(t, r.Url, remotecommand.StreamOptions{Stdin: strings.NewReader("it\n"), Stdout: &out, Stderr: io.Discard}); err != nil {
		t.Fatal(err)
	}
	if out.String() != "got it\n" {
		t.Errorf("attach read %q", out.String())
	}
	if diff := cmp.Diff([]string{"stdout F got it"}, logLines(t, n.waitExited(t, id).LogPath)); diff != "" {
		t.Error(diff)
	}
}

func TestPortForwardReachesThePodsLoopback(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("forward")
	pod := n.runPod(t, config)
	id := n.runContainer(t, pod, config, shell("main", "while true; do echo hello from the pod | /bin/busybox nc -l -p 8080; done"))
	eventually(t, "the pod listens", func() bool {
		r, err := n.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/busybox", "netstat", "-ltn"}})
		return err == nil && strings.Contains(string(r.Stdout), ":8080")
	})
	r, err := n.PortForward(t.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: pod, Port: []int32{8080}})
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(r.Url)
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(&restclient.Config{})
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.New(spdy.NewDialer(upgrader, newHTTPClient(transport), "POST", target),
		[]string{"0:8080"}, stop, ready, io.Discard, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()
	<-ready
	ports, err := forwarder.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
	if err != nil {
		t.Fatal(err)
	}
	text := make([]byte, len("hello from the pod\n"))
	if _, err := io.ReadFull(conn, text); err != nil || string(text) != "hello from the pod\n" {
		t.Errorf("read %q, %v", text, err)
	}
	conn.Close()
	close(stop)
	<-ended
}

func TestStatsCountWhatAPodUses(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("stats")
	pod := n.runPod(t, config)
	id := n.runContainer(t, pod, config, shell("main", "while true; do :; done"))
	var usage *runtimeapi.PodSandboxStats
	eventually(t, "CPU time is counted", func() bool {
		r, err := n.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: pod})
		if err != nil {
			t.Fatal(err)
		}
		usage = r.Stats
		return len(usage.Linux.Containers) == 1 && usage.Linux.Cpu.UsageNanoCores.GetValue() > 1e8
	})
	c := usage.Linux.Containers[0]
	if c.Attributes.Id != id || c.Attributes.Labels["container"] != "main" || c.Memory.WorkingSetBytes.Value == 0 ||
		usage.Linux.Network.DefaultInterface.GetName() != "eth0" {
		t.Errorf("stats %v", usage)
	}
	list, err := n.ListContainerStats(t.Context(), &runtimeapi.ListContainerStatsRequest{})
	if err != nil || len(list.Stats) != 1 {
		t.Errorf("ListContainerStats returned %v, %v", list, err)
	}
}

func TestEventsTellALifeInOrder(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("events")
	pod := n.runPod(t, config)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := n.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Header(); err != nil { // the server listens now
		t.Fatal(err)
	}
	id := n.runContainer(t, pod, config, shell("main", "true"))
	n.waitExited(t, id)
	if _, err := n.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for len(got) < 4 {
		e, err := events.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.ContainerId == id {
			got = append(got, e.ContainerEventType.String())
			if e.PodSandboxStatus.GetId() != pod {
				t.Errorf("%s carries the sandbox %q", e.ContainerEventType, e.PodSandboxStatus.GetId())
			}
		}
	}
	want := []string{"CONTAINER_CREATED_EVENT", "CONTAINER_STARTED_EVENT", "CONTAINER_STOPPED_EVENT", "CONTAINER_DELETED_EVENT"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func (n *node) containers(t *testing.T) []*runtimeapi.Container {
	t.Helper()
	r, err := n.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Containers
}

func TestRestartedServerAdoptsRunningPods(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("adopt")
	pod := n.runPod(t, config)
	id := n.runContainer(t, pod, config, shell("main", "sleep 1000"))
	before := n.status(t, id)
	n.stop()
	n.start(t)
	after := n.status(t, id)
	if after.State != runtimeapi.ContainerState_CONTAINER_RUNNING || after.StartedAt != before.StartedAt {
		t.Errorf("after the restart: %v", after)
	}
	if list := n.containers(t); len(list) != 1 || list[0].PodSandboxId != pod || list[0].Labels["container"] != "main" {
		t.Errorf("containers after the restart: %v", list)
	}
}

func TestForeignContainersAreNeitherSeenNorTouched(t *testing.T) {
	n := newNode(t)
	for name, labels := range map[string]map[string]string{
		"unlabelled":    nil,
		"other-node":    withKind(ourLabels("another-node")),
		"other-cluster": withKind(map[string]string{"io.k8sm.framework": "another", "io.k8sm.node": n.name}),
	} {
		t.Run(name, func(t *testing.T) {
			made, err := testEngine.ContainerCreate(t.Context(), &container.Config{Image: testImage, Labels: labels}, nil, nil, nil, "k8s_"+name)
			if err != nil {
				t.Fatal(err)
			}
			if list := n.containers(t); len(list) != 0 {
				t.Errorf("listed: %v", list)
			}
			if _, err := n.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: made.ID}); status.Code(err) != codes.NotFound {
				t.Errorf("status: %v; want NotFound", err)
			}
			if _, err := n.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: made.ID}); err != nil {
				t.Error(err)
			}
			if _, err := testEngine.ContainerInspect(t.Context(), made.ID); err != nil {
				t.Errorf("it was removed: %v", err)
			}
		})
	}
}

func withKind(labels map[string]string) map[string]string {
	labels[labelKind], labels[labelRecord] = kindContainer, "{}"
	return labels
}

func TestPodCIDRGoesToTheNetwork(t *testing.T) {
	n := newNode(t)
	if _, err := n.UpdateRuntimeConfig(t.Context(), &runtimeapi.UpdateRuntimeConfigRequest{RuntimeConfig: &runtimeapi.RuntimeConfig{
		NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: "10.1.0.0/24,fd00::/64"}}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"10.1.0.0/24", "fd00::/64"}, <-n.cidrs); diff != "" {
		t.Error(diff)
	}
}
