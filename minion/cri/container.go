package cri

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CreateContainer creates a container in a running sandbox, and does not start it.
func (s *Server) CreateContainer(ctx context.Context, r *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	config := r.GetConfig()
	if config.GetMetadata() == nil || config.GetImage() == nil {
		return nil, refuse("the request must have metadata and an image")
	}
	sandbox, err := s.view.inspect(ctx, kindSandbox, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if !sandbox.State.Running {
		return nil, fmt.Errorf("cannot create container %s: its sandbox is not running", config.GetMetadata().GetName())
	}
	record, err := readSandbox(sandbox.Config.Labels)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(config.GetMounts(), func(m *runtimeapi.Mount) bool { return m.GetImage() != nil }) {
		s.volumes.using.RLock()
		defer s.volumes.using.RUnlock()
	}
	volumes, err := s.imageVolumes(ctx, config.GetMounts())
	if err != nil {
		return nil, err
	}
	c, hc, err := containerPlan{
		owner: s.owner, host: s.host, sandboxID: sandbox.ID, sandbox: record, config: config,
		logDir: r.GetSandboxConfig().GetLogDirectory(), parent: r.GetSandboxConfig().GetLinux().GetCgroupParent(),
		logSize: s.cfg.LogSize, volumes: volumes,
	}.translate()
	if err != nil {
		return nil, err
	}
	for _, m := range config.GetMounts() {
		if m.GetHostPath() != "" && !exists(m.GetHostPath()) {
			if err := os.MkdirAll(m.GetHostPath(), 0o755); err != nil {
				return nil, fmt.Errorf("cannot create the directory for volume %s: %w", m.GetHostPath(), err)
			}
		}
	}
	c.Image = s.engineName(ctx, c.Image)
	id, err := s.create(ctx, containerName(config.GetMetadata(), record.Metadata), c, hc)
	if err != nil {
		return nil, fmt.Errorf("cannot create container %s: %w", config.GetMetadata().GetName(), err)
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

// StartContainer starts a container and starts copying its log.
func (s *Server) StartContainer(ctx context.Context, r *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	c, err := s.view.inspect(ctx, kindContainer, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	record, err := readContainer(c.Config.Labels)
	if err != nil {
		return nil, err
	}
	if c.State.Status != container.StateCreated {
		return nil, fmt.Errorf("cannot start container %s: it is already %s", record.Metadata.GetName(), c.State.Status)
	}
	if err := s.start(ctx, c.ID, c.Config.Labels); err != nil {
		return nil, fmt.Errorf("cannot start container %s: %w", record.Metadata.GetName(), err)
	}
	s.logs.keep(logTask{id: c.ID, path: record.LogPath, tty: c.Config.Tty})
	if err := s.applyCgroup(ctx, c.ID, record.Cgroup); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot limit container %s: %w", record.Metadata.GetName(), err), s.stop(ctx, c.ID, 0))
	}
	return &runtimeapi.StartContainerResponse{}, nil
}

// applyCgroup writes settings that Docker has no field for to the cgroup of a running container. A container that has already exited
// needs no limit.
func (s *Server) applyCgroup(ctx context.Context, id string, settings []cgroupSetting) error {
	if len(settings) == 0 {
		return nil
	}
	c, err := s.view.inspect(ctx, kindContainer, id)
	if err != nil || !c.State.Running {
		return err
	}
	err = applyCgroup(c.State.Pid, settings)
	if err != nil && !exists(fmt.Sprintf("/proc/%d", c.State.Pid)) {
		return nil
	}
	return err
}

// StopContainer sends the container its stop signal, and kills it after the timeout (in seconds). It succeeds for a container that
// has exited or is gone.
func (s *Server) StopContainer(ctx context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	c, err := s.view.inspect(ctx, kindContainer, r.GetContainerId())
	if isNotFound(err) {
		return &runtimeapi.StopContainerResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := s.stop(ctx, c.ID, int(max(r.GetTimeout(), 0))); err != nil {
		return nil, fmt.Errorf("cannot stop the container: %w", err)
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

// RemoveContainer removes a container, and kills it first if it is running. The kubelet removes its log in CRI's format.
func (s *Server) RemoveContainer(ctx context.Context, r *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	c, err := s.view.inspect(ctx, kindContainer, r.GetContainerId())
	if isNotFound(err) {
		return &runtimeapi.RemoveContainerResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	s.logs.forget(c.ID)
	if err := s.remove(ctx, c.ID); err != nil {
		return nil, fmt.Errorf("cannot remove the container: %w", err)
	}
	s.tidyVolumes(ctx)
	return &runtimeapi.RemoveContainerResponse{}, nil
}

// ListContainers lists our containers, newest first.
func (s *Server) ListContainers(ctx context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	filter := r.GetFilter()
	list, err := s.view.list(ctx, kindContainer, filter.GetId(), filter.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	response := new(runtimeapi.ListContainersResponse)
	for _, c := range list {
		record, err := readContainer(c.Config.Labels)
		if err != nil {
			return nil, err
		}
		state := containerState(c.State.Status)
		if filter.GetState() != nil && filter.GetState().GetState() != state || !selects(filter.GetLabelSelector(), record.Labels) {
			continue
		}
		response.Containers = append(response.Containers, &runtimeapi.Container{
			Id: c.ID, PodSandboxId: c.Config.Labels[labelSandbox], Metadata: record.Metadata, Image: record.Image,
			ImageRef: c.Image, ImageId: c.Image, State: state, CreatedAt: nanoseconds(c.Created),
			Labels: record.Labels, Annotations: record.Annotations,
		})
	}
	return response, nil
}

func containerState(state container.ContainerState) runtimeapi.ContainerState {
	switch state {
	case container.StateCreated:
		return runtimeapi.ContainerState_CONTAINER_CREATED
	case container.StateRunning, container.StatePaused, container.StateRestarting:
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	case container.StateExited, container.StateDead, container.StateRemoving:
		return runtimeapi.ContainerState_CONTAINER_EXITED
	default:
		return runtimeapi.ContainerState_CONTAINER_UNKNOWN
	}
}

// ContainerStatus returns the status of one container. When it reports that the container exited, its log is complete.
func (s *Server) ContainerStatus(ctx context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := s.view.inspect(ctx, kindContainer, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	status, err := s.containerStatus(ctx, c)
	if err != nil {
		return nil, err
	}
	response := &runtimeapi.ContainerStatusResponse{Status: status}
	if r.GetVerbose() {
		response.Info, err = verbose(c)
	}
	return response, err
}

// containerStatuses returns the status of each container of the sandbox.
func (s *Server) containerStatuses(ctx context.Context, sandbox string) ([]*runtimeapi.ContainerStatus, error) {
	list, err := s.view.list(ctx, kindContainer, "", sandbox)
	if err != nil {
		return nil, err
	}
	var statuses []*runtimeapi.ContainerStatus
	for _, c := range list {
		status, err := s.containerStatus(ctx, c)
		if err != nil {
			return nil, err
		}
		statuses = append(statuses, status)
	}
	return statuses, nil
}

func (s *Server) containerStatus(ctx context.Context, c container.InspectResponse) (*runtimeapi.ContainerStatus, error) {
	status, err := translateStatus(c)
	if err == nil && status.State == runtimeapi.ContainerState_CONTAINER_EXITED {
		s.logs.drained(ctx, c.ID)
	}
	return status, err
}

// translateStatus translates Docker's view of a container to CRI's.
func translateStatus(c container.InspectResponse) (*runtimeapi.ContainerStatus, error) {
	record, err := readContainer(c.Config.Labels)
	if err != nil {
		return nil, err
	}
	image := &runtimeapi.ImageSpec{Image: imageName(record.Image), UserSpecifiedImage: record.Image.GetUserSpecifiedImage()}
	status := &runtimeapi.ContainerStatus{
		Id: c.ID, Metadata: record.Metadata, State: containerState(c.State.Status), CreatedAt: nanoseconds(c.Created),
		Image: image, ImageRef: c.Image, ImageId: c.Image, Labels: record.Labels, Annotations: record.Annotations,
		Mounts: record.Mounts, LogPath: record.LogPath, StopSignal: signalOf(c.Config.StopSignal),
		Resources: &runtimeapi.ContainerResources{Linux: reportedResources(c.HostConfig)},
	}
	if status.State == runtimeapi.ContainerState_CONTAINER_CREATED && c.State.Error != "" {
		// Docker could not start it, and left it in state created.
		status.State = runtimeapi.ContainerState_CONTAINER_EXITED
		status.StartedAt, status.FinishedAt = status.CreatedAt, status.CreatedAt
		status.Reason, status.Message, status.ExitCode = "ContainerCannotRun", c.State.Error, int32(c.State.ExitCode)
		return status, nil
	}
	if status.State == runtimeapi.ContainerState_CONTAINER_CREATED {
		return status, nil
	}
	status.StartedAt = nanoseconds(c.State.StartedAt)
	if status.State == runtimeapi.ContainerState_CONTAINER_EXITED {
		// For a short-lived container, the Engine may record the end before the start.
		status.FinishedAt, status.ExitCode = max(nanoseconds(c.State.FinishedAt), status.StartedAt), int32(c.State.ExitCode)
		status.Message = c.State.Error
		switch {
		case c.State.OOMKilled:
			status.Reason = "OOMKilled"
		case c.State.ExitCode == 0:
			status.Reason = "Completed"
		default:
			status.Reason = "Error"
		}
	}
	return status, nil
}

// imageName returns the image's name in the pod. The kubelet passes it next to the id that it resolved to.
func imageName(spec *runtimeapi.ImageSpec) string {
	return cmp.Or(spec.GetUserSpecifiedImage(), spec.GetImage())
}

// reportedResources returns the container's current limits.
func reportedResources(hc *container.HostConfig) *runtimeapi.LinuxContainerResources {
	return &runtimeapi.LinuxContainerResources{
		CpuPeriod: hc.CPUPeriod, CpuQuota: hc.CPUQuota, CpuShares: hc.CPUShares, MemoryLimitInBytes: hc.Memory,
		MemorySwapLimitInBytes: hc.MemorySwap, CpusetCpus: hc.CpusetCpus, CpusetMems: hc.CpusetMems, OomScoreAdj: int64(hc.OomScoreAdj),
	}
}

// UpdateContainerResources changes the limits of a container, running or not.
func (s *Server) UpdateContainerResources(ctx context.Context, r *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	c, err := s.view.inspect(ctx, kindContainer, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	settings, err := cgroupSettings(r.GetLinux(), s.host.cgroup2)
	if err != nil {
		return nil, err
	}
	var update container.UpdateConfig
	applyResources(&update.Resources, r.GetLinux())
	_, err = s.docker.ContainerUpdate(ctx, c.ID, update)
	s.view.touched(c.ID)
	if err != nil {
		return nil, fmt.Errorf("cannot change the container's resources: %w", err)
	}
	if err := s.applyCgroup(ctx, c.ID, settings); err != nil {
		return nil, fmt.Errorf("cannot change the container's resources: %w", err)
	}
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

// ReopenContainerLog continues in a new file at the log's path: the kubelet has renamed the old one.
func (s *Server) ReopenContainerLog(ctx context.Context, r *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	c, err := s.view.inspect(ctx, kindContainer, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if !c.State.Running {
		return nil, fmt.Errorf("cannot reopen the container's log: the container is not running")
	}
	if err := s.logs.reopen(ctx, c.ID); err != nil {
		return nil, fmt.Errorf("cannot reopen the container's log: %w", err)
	}
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}

// verbose returns Docker's own view, for `crictl inspect`.
func verbose(c container.InspectResponse) (map[string]string, error) {
	info, err := json.Marshal(map[string]any{
		"pid": c.State.Pid, "name": strings.TrimPrefix(c.Name, "/"), "image": c.Config.Image, "state": c.State, "hostConfig": c.HostConfig,
	})
	if err != nil {
		return nil, err
	}
	return map[string]string{"info": string(info)}, nil
}

// nanoseconds parses one of Docker's timestamps; 0 if it is not set yet.
func nanoseconds(t string) int64 {
	parsed, err := time.Parse(time.RFC3339Nano, t)
	if err != nil || parsed.Year() <= 1 {
		return 0
	}
	return parsed.UnixNano()
}

// splitList splits a list at commas and drops empty parts.
func splitList(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}
