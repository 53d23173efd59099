package cadvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/cadvisor/container"
	"github.com/google/cadvisor/container/libcontainer"
	"github.com/google/cadvisor/fs"
	info "github.com/google/cadvisor/info/v1"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/cgroups"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fakeRuntime is a runtime interface with containers and sandboxes by id.
type fakeRuntime struct {
	runtimeapi.RuntimeServiceClient
	containers map[string]*runtimeapi.ContainerStatusResponse
	sandboxes  map[string]*runtimeapi.PodSandboxStatusResponse
	layers     map[string]uint64 // by container
	lists      int               // calls of ListContainerStats
	down       error
}

func (r *fakeRuntime) ContainerStatus(_ context.Context, asked *runtimeapi.ContainerStatusRequest, _ ...grpc.CallOption) (*runtimeapi.ContainerStatusResponse, error) {
	return look(r, r.containers, asked.GetContainerId())
}

func (r *fakeRuntime) PodSandboxStatus(_ context.Context, asked *runtimeapi.PodSandboxStatusRequest, _ ...grpc.CallOption) (*runtimeapi.PodSandboxStatusResponse, error) {
	return look(r, r.sandboxes, asked.GetPodSandboxId())
}

func look[V any](r *fakeRuntime, all map[string]*V, id string) (*V, error) {
	if r.down != nil {
		return nil, r.down
	}
	if found := all[id]; found != nil {
		return found, nil
	}
	return nil, status.Errorf(codes.NotFound, "%s not found", id)
}

func (r *fakeRuntime) ListContainerStats(context.Context, *runtimeapi.ListContainerStatsRequest, ...grpc.CallOption) (*runtimeapi.ListContainerStatsResponse, error) {
	if r.lists++; r.down != nil {
		return nil, r.down
	}
	answer := new(runtimeapi.ListContainerStatsResponse)
	for id, bytes := range r.layers {
		answer.Stats = append(answer.Stats, &runtimeapi.ContainerStats{Attributes: &runtimeapi.ContainerAttributes{Id: id}, WritableLayer: &runtimeapi.FilesystemUsage{
			FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/engine"}, UsedBytes: &runtimeapi.UInt64Value{Value: bytes},
		}})
	}
	return answer, nil
}

// machine is a machine with one disk, which is that of the Engine.
type machine struct {
	info.MachineInfoFactory
	fs.FsInfo
}

func (machine) GetMachineInfo() (*info.MachineInfo, error) {
	return &info.MachineInfo{NumCores: 2, Filesystems: []info.FsInfo{{Device: "/dev/other"}, {Device: "/dev/disk", Type: "ext4", Capacity: 1000}}}, nil
}

func (machine) GetDirFsDevice(dir string) (*fs.DeviceInfo, error) {
	if dir != "/engine" {
		return nil, fs.ErrNoSuchDevice
	}
	return &fs.DeviceInfo{Device: "/dev/disk"}, nil
}

// Ids are as long as Docker's.
var (
	theContainer = strings.Repeat("c0", 32)
	theSandbox   = strings.Repeat("5b", 32)
	theHosts     = strings.Repeat("4f", 32) // a sandbox in the host's network
	theStranger  = strings.Repeat("57", 32)
)

func details(pid int, name, image string) map[string]string {
	return map[string]string{"info": fmt.Sprintf(`{"pid": %d, "name": %q, "image": %q, "state": {}}`, pid, name, image)}
}

// started makes pid that of the first processes.
func (r *fakeRuntime) started(pid int) {
	for id, s := range r.sandboxes {
		r.sandboxes[id] = &runtimeapi.PodSandboxStatusResponse{Status: s.Status, Info: details(pid, "k8s_POD_web-0_shop_u_0", "pause")}
	}
	for id, c := range r.containers {
		r.containers[id] = &runtimeapi.ContainerStatusResponse{Status: c.Status, Info: details(pid, "k8s_main_web-0_shop_u_0", "sha256:12")}
	}
}

// newFactory returns a factory of a node with a pod of one container, and one on the host's network, which have not started yet.
func newFactory(t *testing.T) (*factory, *fakeRuntime) {
	t.Helper()
	labels := map[string]string{
		"io.kubernetes.pod.name": "web-0", "io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.uid": "u",
		"io.cadvisor.metric.prometheus": "/etc/shadow", "app": "web",
	}
	ofContainer := map[string]string{"io.kubernetes.container.name": "main", "io.kubernetes.pod.name": "web-0", "io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.uid": "u"}
	sandbox := func(id string, network runtimeapi.NamespaceMode) *runtimeapi.PodSandboxStatusResponse {
		return &runtimeapi.PodSandboxStatusResponse{
			Status: &runtimeapi.PodSandboxStatus{Id: id, Labels: labels, Linux: &runtimeapi.LinuxPodSandboxStatus{
				Namespaces: &runtimeapi.Namespace{Options: &runtimeapi.NamespaceOption{Network: network}}}},
		}
	}
	runtime := &fakeRuntime{
		containers: map[string]*runtimeapi.ContainerStatusResponse{theContainer: {
			Status: &runtimeapi.ContainerStatus{Id: theContainer, Labels: ofContainer, Image: &runtimeapi.ImageSpec{Image: "web:v1"}},
		}},
		sandboxes: map[string]*runtimeapi.PodSandboxStatusResponse{
			theSandbox: sandbox(theSandbox, runtimeapi.NamespaceMode_POD), theHosts: sandbox(theHosts, runtimeapi.NamespaceMode_NODE),
		},
		layers: map[string]uint64{theContainer: 42},
	}
	runtime.started(0)
	metrics := container.MetricSet{
		container.CpuUsageMetrics: {}, container.MemoryUsageMetrics: {}, container.DiskUsageMetrics: {}, container.NetworkUsageMetrics: {}, container.ProcessMetrics: {},
	}
	subsystems, err := libcontainer.GetCgroupSubsystems(metrics)
	if err != nil {
		t.Fatal(err)
	}
	return &factory{runtime: runtime, machine: machine{}, metrics: metrics, subsystems: subsystems, layers: newLayers(runtime, machine{})}, runtime
}

func TestOnlyCgroupsOfTheNodesContainersAreHandled(t *testing.T) {
	f, runtime := newFactory(t)
	for cgroup, want := range map[string]bool{
		"/": false, "/kubepods/burstable/pod1": false, "/docker/" + theContainer[1:]: false, "/docker/" + theContainer + "0": false,
		"/docker/" + theContainer + "/init": false, "/docker/" + theStranger: false, "/x/" + theContainer + ".mount": false,
		"/docker/" + theContainer: true, "/kubepods/burstable/podu/" + theSandbox: true, "/kubepods.slice/docker-" + theHosts + ".scope": true,
	} {
		handle, accept, err := f.CanHandleAndAccept(cgroup)
		if handle != want || accept != want || err != nil {
			t.Errorf("%s: handle %v, accept %v, %v", cgroup, handle, accept, err)
		}
	}
	runtime.down = status.Error(codes.Unavailable, "it starts")
	if handle, accept, err := f.CanHandleAndAccept("/docker/" + theContainer); handle || accept || err == nil {
		t.Errorf("without the runtime interface: %v %v %v", handle, accept, err)
	}
}

// makeCgroup makes a cgroup with the id's name in the hierarchies of the factory. It is gone at the end of the test, if its processes
// have ended.
func makeCgroup(t *testing.T, f *factory, id string) (cgroup string) {
	t.Helper()
	cgroup = "/k8sm-test-" + strconv.Itoa(os.Getpid()) + "/" + id
	for _, mount := range f.subsystems {
		if err := os.MkdirAll(filepath.Join(mount, cgroup), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, mount := range f.subsystems {
			if err := cgroups.RemovePath(filepath.Join(mount, filepath.Dir(cgroup))); err != nil {
				t.Error(err)
			}
		}
	})
	return cgroup
}

// enter moves a process to a cgroup.
func enter(t *testing.T, f *factory, cgroup string, pid int) {
	t.Helper()
	for _, mount := range f.subsystems {
		if err := os.WriteFile(filepath.Join(mount, cgroup, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// podProcess starts a process in a network namespace of its own with an interface eth0.
func podProcess(t *testing.T) (pid int) {
	t.Helper()
	return process(t, "unshare", "--net", "sh", "-c", "ip link add eth0 type veth peer name eth1 && echo ready && exec sleep 60")
}

// process starts a process that says when it is ready. It has ended when the test has.
func process(t *testing.T, command ...string) (pid int) {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := fmt.Fscanln(out, new(string)); err != nil {
		t.Fatalf("the process does not start: %v", err)
	}
	return cmd.Process.Pid
}

func newHandler(t *testing.T, f *factory, cgroup string) container.ContainerHandler {
	t.Helper()
	h, err := f.NewContainerHandler(cgroup, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestContainerHasItsNameAndThatOfItsPod(t *testing.T) {
	f, _ := newFactory(t)
	for id, want := range map[string]struct {
		alias, image string
		labels       map[string]string
	}{
		theContainer: {"k8s_main_web-0_shop_u_0", "web:v1", map[string]string{
			"io.kubernetes.container.name": "main", "io.kubernetes.pod.name": "web-0", "io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.uid": "u"}},
		theSandbox: {"k8s_POD_web-0_shop_u_0", "pause", map[string]string{
			"io.kubernetes.pod.name": "web-0", "io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.uid": "u"}},
	} {
		cgroup := makeCgroup(t, f, id)
		h := newHandler(t, f, cgroup)
		reference, err := h.ContainerReference()
		if err != nil || reference.Name != cgroup || reference.Id != id || reference.Aliases[0] != want.alias {
			t.Errorf("%+v, %v", reference, err)
		}
		spec, err := h.GetSpec()
		if err != nil || spec.Image != want.image || !spec.HasCpu || !spec.HasMemory || spec.HasNetwork != (id == theSandbox) || spec.HasFilesystem != (id == theContainer) {
			t.Errorf("%+v, %v", spec, err)
		}
		if diff := cmp.Diff(want.labels, spec.Labels) + cmp.Diff(want.labels, h.GetContainerLabels()); diff != "" {
			t.Errorf("labels (-want +got):\n%s", diff)
		}
	}
}

func TestSandboxHasThePodsNetworkAndContainerTheDisk(t *testing.T) {
	f, runtime := newFactory(t)
	cgroups := map[string]string{}
	for _, id := range []string{theSandbox, theHosts, theContainer} {
		cgroups[id] = makeCgroup(t, f, id)
	}
	pid := podProcess(t)
	runtime.started(pid)
	for id, want := range map[string]struct {
		interfaces []string
		disks      []info.FsStats
	}{
		theSandbox:   {[]string{"eth0", "eth1"}, nil},
		theHosts:     {nil, nil},
		theContainer: {nil, []info.FsStats{{Device: "/dev/disk", Type: "ext4", Limit: 1000, Usage: 42, BaseUsage: 42}}},
	} {
		enter(t, f, cgroups[id], pid)
		h := newHandler(t, f, cgroups[id])
		stats, err := h.GetStats()
		if err != nil {
			t.Fatal(err)
		}
		var interfaces []string
		for _, i := range stats.Network.Interfaces {
			interfaces = append(interfaces, i.Name)
		}
		slices.Sort(interfaces)
		if diff := cmp.Diff(want.interfaces, interfaces) + cmp.Diff(want.disks, stats.Filesystem); diff != "" {
			t.Errorf("%s (-want +got):\n%s", id, diff)
		}
		if stats.Processes.ProcessCount != 1 {
			t.Errorf("processes %+v", stats.Processes)
		}
		if pids, err := h.ListProcesses(container.ListSelf); err != nil || !slices.Equal(pids, []int{pid}) {
			t.Errorf("processes %v, %v", pids, err)
		}
	}
}

// A cgroup is there before its container has started. Whatever process it has then may still be in the host's network.
func TestNetworkIsReadOnceTheSandboxHasStarted(t *testing.T) {
	f, runtime := newFactory(t)
	cgroup := makeCgroup(t, f, theSandbox)
	enter(t, f, cgroup, process(t, "sh", "-c", "echo ready && exec sleep 60"))
	h := newHandler(t, f, cgroup)
	for _, started := range []bool{false, true} {
		if started {
			runtime.started(podProcess(t))
		}
		stats, err := h.GetStats()
		if err != nil {
			t.Fatal(err)
		}
		if (len(stats.Network.Interfaces) > 0) != started {
			t.Errorf("started %v: interfaces %+v", started, stats.Network.Interfaces)
		}
	}
}

func TestSizesOfLayersAreAskedForOnceForAll(t *testing.T) {
	_, runtime := newFactory(t)
	l := newLayers(runtime, machine{})
	now := time.Now()
	for i, step := range []struct {
		id    string
		after time.Duration
		due   bool
	}{
		{theContainer, 0, true}, {theContainer, time.Second, false}, {theContainer, layersEvery - time.Second, false}, {theContainer, layersEvery, true},
		{theStranger, layersEvery + time.Second, false}, {theStranger, layersEvery + newLayerAfter, true}, {theContainer, layersEvery + newLayerAfter + time.Second, false},
	} {
		due := l.due(step.id, now.Add(step.after))
		if due != step.due {
			t.Errorf("step %d: due %v", i, due)
		}
		if due {
			if err := l.ask(); err != nil {
				t.Fatal(err)
			}
		}
	}
	there, _ := machine{}.GetMachineInfo()
	runtime.down = errors.New("it starts")
	l.asked = time.Time{}
	if got := l.of(theContainer, there); len(got) != 1 || got[0].Usage != 42 {
		t.Errorf("while the runtime interface is down: %+v", got)
	}
	if got := l.of(theStranger, there); got != nil {
		t.Errorf("a container without a layer: %+v", got)
	}
	if got := l.of(theContainer, &info.MachineInfo{}); got != nil {
		t.Errorf("on a disk that cAdvisor does not know: %+v", got)
	}
}
