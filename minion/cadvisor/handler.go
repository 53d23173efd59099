package cadvisor

import (
	"errors"
	"fmt"

	"github.com/google/cadvisor/container"
	"github.com/google/cadvisor/container/common"
	"github.com/google/cadvisor/container/libcontainer"
	info "github.com/google/cadvisor/info/v1"
	"github.com/opencontainers/cgroups"
)

// handler implements container.ContainerHandler for one container or sandbox. cAdvisor calls GetStats from one goroutine, and the rest
// from any.
type handler struct {
	factory *factory
	found   found
	cgroup  string
	paths   map[string]string // of the cgroup, as factory.subsystems
	manager cgroups.Manager
	metrics container.MetricSet
	reader  *libcontainer.Handler // owned by GetStats; nil while the first process is not known
}

func (h *handler) ContainerReference() (info.ContainerReference, error) {
	return info.ContainerReference{Id: h.found.id, Name: h.cgroup, Aliases: []string{h.found.name, h.found.id}, Namespace: name}, nil
}

func (h *handler) GetSpec() (info.ContainerSpec, error) {
	spec, err := common.GetSpec(h.paths, h.factory.machine, h.found.network, h.hasLayer())
	spec.Labels, spec.Image = h.found.labels, h.found.image
	return spec, err
}

// GetStats reads the cgroup and the network. The size of the writable layer is up to a minute old.
func (h *handler) GetStats() (*info.ContainerStats, error) {
	stats, err := h.read()
	if err != nil {
		return stats, err
	}
	machine, err := h.factory.machine.GetMachineInfo()
	if err != nil {
		return stats, fmt.Errorf("cannot tell devices by their names: %w", err)
	}
	common.AssignDeviceNamesToDiskStats((*common.MachineInfoNamer)(machine), &stats.DiskIo)
	if h.hasLayer() {
		stats.Filesystem = h.factory.layers.of(h.found.id, machine)
	}
	return stats, nil
}

// read reads by a reader that knows the first process, as soon as there is one: that is in the pod's network.
func (h *handler) read() (*info.ContainerStats, error) {
	if h.reader != nil {
		return h.reader.GetStats()
	}
	pid := h.found.pid
	if pid == 0 {
		if now, err := h.factory.find(h.found.id); err == nil {
			pid = now.pid
		}
	}
	reader := libcontainer.NewHandler(h.manager, "/", pid, h.metrics)
	if pid != 0 {
		h.reader = reader
	}
	return reader.GetStats()
}

// hasLayer reports whether the container's layer is measured. Sandboxes write nothing.
func (h *handler) hasLayer() bool {
	return !h.found.sandbox && h.metrics.Has(container.DiskUsageMetrics)
}

func (h *handler) GetCgroupPath(resource string) (string, error) {
	if cgroups.IsCgroup2UnifiedMode() {
		resource = ""
	}
	path, ok := h.paths[resource]
	if !ok {
		return "", fmt.Errorf("container %s has no cgroup of controller %s", h.found.id, resource)
	}
	return path, nil
}

func (h *handler) ListContainers(container.ListType) ([]info.ContainerReference, error) {
	return nil, nil
}

func (h *handler) ListProcesses(container.ListType) ([]int, error) { return h.manager.GetPids() }

func (h *handler) GetContainerLabels() map[string]string { return h.found.labels }

func (h *handler) GetContainerIPAddress() string { return "" }

func (h *handler) GetExitCode() (int, error) {
	return 0, errors.New("the exit code is in the pod's status")
}

func (h *handler) Exists() bool { return common.CgroupExists(h.paths) }

func (h *handler) Start() {}

func (h *handler) Cleanup() {}

func (h *handler) Type() container.ContainerType { return container.ContainerTypeDocker }
