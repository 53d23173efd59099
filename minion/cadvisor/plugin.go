package cadvisor

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"time"

	"github.com/google/cadvisor/container"
	"github.com/google/cadvisor/container/common"
	"github.com/google/cadvisor/container/libcontainer"
	"github.com/google/cadvisor/fs"
	info "github.com/google/cadvisor/info/v1"
	"github.com/google/cadvisor/watcher"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// name is the plugin's, and the namespace of its containers in cAdvisor.
const name = "k8sm"

// Register makes cAdvisor ask the runtime interface at the endpoint, such as "unix:///run/cri.sock". Call it once in a process, before
// the kubelet starts.
func Register(endpoint string) error {
	connection, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return fmt.Errorf("cannot ask for containers at %s: %w", endpoint, err)
	}
	return container.RegisterPlugin(name, plugin{runtimeapi.NewRuntimeServiceClient(connection)})
}

// maxMessage is the kubelet's limit for a CRI message.
const maxMessage = 16 << 20

// plugin implements container.Plugin.
type plugin struct {
	runtime runtimeapi.RuntimeServiceClient
}

func (p plugin) InitializeFSContext(*fs.Context) error { return nil }

// Register is called by a starting cAdvisor.
func (p plugin) Register(machine info.MachineInfoFactory, disks fs.FsInfo, metrics container.MetricSet) (watcher.ContainerWatcher, error) {
	subsystems, err := libcontainer.GetCgroupSubsystems(metrics)
	if err != nil {
		return nil, fmt.Errorf("cannot find the mounts of cgroups: %w", err)
	}
	f := &factory{runtime: p.runtime, machine: machine, metrics: metrics, subsystems: subsystems, layers: newLayers(p.runtime, disks)}
	container.RegisterContainerHandlerFactory(f, []watcher.ContainerWatchSource{watcher.Raw})
	return nil, nil
}

// factory implements container.ContainerHandlerFactory: cAdvisor calls it for each cgroup that it finds.
type factory struct {
	runtime    runtimeapi.RuntimeServiceClient
	machine    info.MachineInfoFactory
	metrics    container.MetricSet
	subsystems map[string]string // mounts of cgroup v1's controllers by name; v2's single one has the name ""
	layers     *layers
}

func (f *factory) String() string { return name }

func (f *factory) DebugInfo() map[string][]string { return nil }

// CanHandleAndAccept reports whether the cgroup is of a container of the node. All others are left to cAdvisor.
func (f *factory) CanHandleAndAccept(cgroup string) (handle, accept bool, err error) {
	id := containerID(cgroup)
	if id == "" {
		return false, false, nil
	}
	_, err = f.find(id)
	if status.Code(err) == codes.NotFound {
		return false, false, nil
	}
	return err == nil, err == nil, err
}

// NewContainerHandler is called for cgroups that CanHandleAndAccept has accepted.
func (f *factory) NewContainerHandler(cgroup string, _ []string, _ bool) (container.ContainerHandler, error) {
	id := containerID(cgroup)
	found, err := f.find(id)
	if err != nil {
		return nil, err
	}
	paths := common.MakeCgroupPaths(f.subsystems, cgroup)
	manager, err := libcontainer.NewCgroupManager(cgroup, paths)
	if err != nil {
		return nil, fmt.Errorf("cannot read the cgroup of container %s: %w", id, err)
	}
	return &handler{
		factory: f, found: found, cgroup: cgroup, paths: paths, manager: manager,
		metrics: common.RemoveNetMetrics(f.metrics, !found.network),
	}, nil
}

// idPattern finds Docker's id in the last part of a cgroup's path: the whole part, or a part of "docker-ID.scope" with systemd.
var idPattern = regexp.MustCompile(`^(?:docker-)?([0-9a-f]{64})(?:\.scope)?$`)

// containerID returns the id of a cgroup's container; "" if it is none's.
func containerID(cgroup string) string {
	match := idPattern.FindStringSubmatch(path.Base(cgroup))
	if match == nil {
		return ""
	}
	return match[1]
}

// askTimeout bounds a question to the runtime interface, its restart included. cAdvisor waits that long with other cgroups.
const askTimeout = 10 * time.Second

// find asks for a container or sandbox. The error is a gRPC NotFound for those that are not the node's.
func (f *factory) find(id string) (found, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	c, err := f.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err == nil {
		return foundContainer(c)
	}
	if status.Code(err) != codes.NotFound {
		return found{}, err
	}
	sandbox, err := f.runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		return found{}, err
	}
	return foundSandbox(sandbox)
}
