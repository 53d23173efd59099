package cri

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/heldport"
)

func TestPrivilegedContainerGetsWhatTheHostCanGive(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("root")
	pod := n.runPod(t, config)
	privileged := shell("main", "busybox mount -t tmpfs none /tmp && ls /dev && [ -w /sys/kernel/uevent_helper -o -w /sys/kernel ]")
	privileged.Linux.SecurityContext.Privileged = true
	privileged.Linux.Resources = &runtimeapi.LinuxContainerResources{OomScoreAdj: -997}
	ended := n.waitExited(t, n.runContainer(t, pod, config, privileged))
	if ended.ExitCode != 0 {
		t.Errorf("it ended with %d: %v", ended.ExitCode, logLines(t, ended.LogPath))
	}
	ended = n.waitExited(t, n.runContainer(t, pod, config, shell("plain", "busybox mount -t tmpfs none /tmp")))
	if ended.ExitCode == 0 {
		t.Error("a plain container may mount")
	}
}

func TestHalfMadeContainerDoesNotBlockItsSuccessor(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("twice")
	pod := n.runPod(t, config)
	first, err := n.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: shell("main", "sleep 1000"), SandboxConfig: config})
	if err != nil {
		t.Fatal(err)
	}
	second := n.runContainer(t, pod, config, shell("main", "sleep 1000"))
	if list := n.containers(t); len(list) != 1 || list[0].Id != second || second == first.ContainerId {
		t.Errorf("containers: %v", list)
	}
	if _, err := n.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: shell("main", "sleep 1000"), SandboxConfig: config}); err == nil {
		t.Error("a container that runs was made a second time")
	}
	if _, err := n.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: second}); err == nil {
		t.Error("a container that runs was started a second time")
	}
}

func TestSandboxThatCannotStartLeavesNothing(t *testing.T) {
	n := newNode(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	config := n.podConfig("taken")
	config.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: int32(taken.Addr().(*net.TCPAddr).Port), HostIp: "127.0.0.1"}}
	if _, err := n.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config}); err == nil {
		t.Fatal("a sandbox got a host port that is in use")
	}
	list, err := n.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
	if err != nil || len(list.Items) > 0 {
		t.Errorf("sandboxes: %v, %v", list, err)
	}
	if left, _ := filepath.Glob(filepath.Join(n.root, "pods", "*")); len(left) > 0 {
		t.Errorf("files left behind: %v", left)
	}
}

func TestPageIsFetchedThroughThePortThatTheSchedulerChose(t *testing.T) {
	n := newNode(t)
	port := heldport.OfTest(t)
	config := n.podConfig("page")
	config.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 8080}} // as the kubelet passes a port without host port
	config.Annotations[api.AnnotationPortMappings] = api.FormatPortMappings([]api.PortMapping{
		{ContainerPort: 8080, Protocol: "TCP", HostPort: int32(port)}, {ContainerPort: 8080, Protocol: "UDP", HostPort: int32(port)},
	})
	script := "echo hello > /tmp/index.html; exec busybox httpd -f -p 8080 -h /tmp"
	n.runContainer(t, n.runPod(t, config), config, shell("main", script))
	var page []byte
	eventually(t, "the page is there", func() bool {
		response, err := http.Get("http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) + "/")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		page, err = io.ReadAll(response.Body)
		return err == nil && response.StatusCode == http.StatusOK
	})
	if string(page) != "hello\n" {
		t.Errorf("the page is %q", page)
	}
}

func TestPortMappingThatCannotBeFollowedIsRefusedInPlainWords(t *testing.T) {
	n := newNode(t)
	for _, test := range []struct{ annotation, want string }{
		{"80/TCP=31000", "host port 31000/TCP is set twice"},
		{"80/TCP=31001,81/TCP=31001", "host port 31001/TCP is set twice"},
		{"80=31001", "is not of the form CONTAINERPORT/PROTOCOL=HOSTPORT"},
	} {
		config := n.podConfig("refused")
		config.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 8080, HostPort: 31000}}
		config.Annotations[api.AnnotationPortMappings] = test.annotation
		_, err := n.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.annotation, err)
		}
	}
}

func TestHostPortReachesThePod(t *testing.T) {
	n := newNode(t)
	port := heldport.OfTest(t)
	config := n.podConfig("port")
	config.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 8080, HostPort: int32(port)}}
	n.runContainer(t, n.runPod(t, config), config, shell("main", "while true; do echo hello | busybox nc -l -p 8080; done"))
	var got []byte
	eventually(t, "the pod answers", func() bool {
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return false
		}
		defer conn.Close()
		got, _ = io.ReadAll(conn)
		return len(got) > 0
	})
	if string(got) != "hello\n" {
		t.Errorf("read %q", got)
	}
}

func TestPodOnTheHostsNetworkHasNoAddressOfItsOwn(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("host")
	config.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	pod := n.runPod(t, config)
	main := shell("main", "hostname")
	main.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	ended := n.waitExited(t, n.runContainer(t, pod, config, main))
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(logLines(t, ended.LogPath), "|"); got != "stdout F "+name {
		t.Errorf("its hostname is logged as %q; want the host's", got)
	}
	r, err := n.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || r.Status.Network.Ip != "" || r.Status.Linux.Namespaces.Options.Network != runtimeapi.NamespaceMode_NODE {
		t.Errorf("status %v, %v", r, err)
	}
}

func TestChangedLimitsHoldAndAreReported(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("limits")
	id := n.runContainer(t, n.runPod(t, config), config, shell("main", "sleep 1000"))
	if _, err := n.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{
		CpuPeriod: 100_000, CpuQuota: 20_000, MemoryLimitInBytes: 64 << 20}}); err != nil {
		t.Fatal(err)
	}
	got := n.status(t, id).Resources.Linux
	if got.CpuQuota != 20_000 || got.MemoryLimitInBytes != 64<<20 {
		t.Errorf("resources %v", got)
	}
	r, err := n.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/sh", "-c",
		"cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max"}})
	if err != nil || strings.TrimSpace(string(r.GetStdout())) != strconv.Itoa(64<<20) {
		t.Errorf("the container's cgroup has the limit %q, %v", r.GetStdout(), err)
	}
}

func TestContainerThatCannotRunSaysWhy(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("wrong")
	wrong := shell("main", "")
	wrong.Command = []string{"/no/such/program"}
	made, err := n.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: n.runPod(t, config), Config: wrong, SandboxConfig: config})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: made.ContainerId}); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("StartContainer returned %v", err)
	}
	got := n.status(t, made.ContainerId)
	if got.State != runtimeapi.ContainerState_CONTAINER_EXITED || got.Reason != "ContainerCannotRun" || !strings.Contains(got.Message, "/no/such/program") {
		t.Errorf("status %v", got)
	}
}

func TestImageIsRemovedUnderAllNamesByWhichItWasPulled(t *testing.T) {
	n, r := newNode(t), newRegistry(t)
	one, two := r.image(), strings.TrimSuffix(r.image(), ":1")+":2"
	must(t, errors.Join(n.pull(t, one, nil), n.pull(t, two, nil)))
	spec := &runtimeapi.ImageSpec{Image: two}
	found, err := n.images.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: spec})
	if err != nil || len(found.Image.GetRepoTags()) != 2 || found.Image.Pinned {
		t.Fatalf("ImageStatus returned %v, %v", found, err)
	}
	for range 2 {
		if _, err := n.images.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: spec}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{one, found.Image.Id} {
		left, err := n.images.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
		if err != nil || left.Image != nil {
			t.Errorf("%s is still there: %v, %v", name, left, err)
		}
	}
}

func TestSandboxImageIsPinned(t *testing.T) {
	n := newNode(t)
	list, err := n.images.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(list.Images, func(i *runtimeapi.Image) bool {
		return strings.HasPrefix(strings.Join(i.RepoTags, ""), "k8sm.io/pause:") && i.Pinned
	}) {
		t.Errorf("no sandbox image is pinned: %v", list.Images)
	}
	usage, err := n.images.ImageFsInfo(t.Context(), &runtimeapi.ImageFsInfoRequest{})
	if err != nil || usage.ImageFilesystems[0].UsedBytes.Value == 0 {
		t.Errorf("ImageFsInfo returned %v, %v", usage, err)
	}
}

func TestSecondServerAtASocketIsRefused(t *testing.T) {
	n := newNode(t)
	if _, err := listen(filepath.Join(n.root, "s")); err == nil || !strings.Contains(err.Error(), "another process already does") {
		t.Errorf("listen returned %v", err)
	}
}

func TestUnknownIDIsNotFound(t *testing.T) {
	n := newNode(t)
	if _, err := n.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: "0123456789ab"}); status.Code(err) != codes.NotFound {
		t.Errorf("PodSandboxStatus returned %v; want NotFound", err)
	}
	if _, err := n.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: "0123456789ab"}); err != nil {
		t.Errorf("stopping what is gone: %v", err)
	}
}
