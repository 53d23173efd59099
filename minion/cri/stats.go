package cri

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/prometheus/procfs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// usageTTL is how long a figure is cached that makes the Engine walk through files.
const usageTTL = time.Minute

// usageCache caches expensive figures, and the last CPU sample of each container, to compute its rate.
type usageCache struct {
	mu     sync.Mutex // guards layers and cpu
	layers map[string]measured
	cpu    map[string]cpuSample

	imagesMu   sync.Mutex // guards imageBytes, also during measurement
	imageBytes measured
}

type measured struct {
	bytes int64
	at    time.Time
}

type cpuSample struct {
	total uint64 // nanoseconds of CPU time
	at    time.Time
}

func newUsageCache() *usageCache {
	return &usageCache{layers: map[string]measured{}, cpu: map[string]cpuSample{}}
}

func (u *usageCache) forget(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.layers, id)
	delete(u.cpu, id)
}

// images returns the size of all images. Only one goroutine measures at a time: the Engine refuses two.
func (u *usageCache) images(measure func() (int64, error)) (int64, error) {
	u.imagesMu.Lock()
	defer u.imagesMu.Unlock()
	if time.Since(u.imageBytes.at) > usageTTL {
		bytes, err := measure()
		if err != nil {
			return 0, err
		}
		u.imageBytes = measured{bytes, time.Now()}
	}
	return u.imageBytes.bytes, nil
}

// layer returns the size of the container's writable layer.
func (u *usageCache) layer(id string, measure func() (int64, error)) (measured, error) {
	u.mu.Lock()
	m, ok := u.layers[id]
	u.mu.Unlock()
	if ok && time.Since(m.at) <= usageTTL {
		return m, nil
	}
	bytes, err := measure()
	if err != nil {
		return measured{}, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.layers[id] = measured{bytes, time.Now()}
	return u.layers[id], nil
}

// rate returns the CPU usage since the last sample, in nanoseconds of CPU time per second; ok is false for the first sample.
func (u *usageCache) rate(id string, now cpuSample) (nanoCores uint64, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	before, known := u.cpu[id]
	elapsed := now.at.Sub(before.at)
	if known && elapsed <= 0 {
		return 0, false
	}
	u.cpu[id] = now
	if !known || now.total < before.total {
		return 0, false
	}
	return uint64(float64(now.total-before.total) / elapsed.Seconds()), true
}

// ContainerStats returns the resource usage of one container.
func (s *Server) ContainerStats(ctx context.Context, r *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	c, err := s.view.inspect(ctx, kindContainer, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	stats, err := s.containerStats(ctx, c)
	return &runtimeapi.ContainerStatsResponse{Stats: stats}, err
}

// ListContainerStats returns the resource usage of each running container.
func (s *Server) ListContainerStats(ctx context.Context, r *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	filter := r.GetFilter()
	list, err := s.view.list(ctx, kindContainer, filter.GetId(), filter.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	stats, err := s.statsOf(ctx, slices.DeleteFunc(list, func(c container.InspectResponse) bool {
		record, err := readContainer(c.Config.Labels)
		return err != nil || c.State.Status != container.StateRunning || !selects(filter.GetLabelSelector(), record.Labels)
	}))
	return &runtimeapi.ListContainerStatsResponse{Stats: stats}, err
}

// statsOf measures several containers, a few at a time. It leaves out containers that exit meanwhile.
func (s *Server) statsOf(ctx context.Context, list []container.InspectResponse) ([]*runtimeapi.ContainerStats, error) {
	all := make([]*runtimeapi.ContainerStats, len(list))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for i, c := range list {
		group.Go(func() error {
			stats, err := s.containerStats(ctx, c)
			if isNotFound(err) {
				return nil
			}
			all[i] = stats
			return err
		})
	}
	err := group.Wait()
	return slices.DeleteFunc(all, func(stats *runtimeapi.ContainerStats) bool { return stats == nil }), err
}

func (s *Server) containerStats(ctx context.Context, c container.InspectResponse) (*runtimeapi.ContainerStats, error) {
	record, err := readContainer(c.Config.Labels)
	if err != nil {
		return nil, err
	}
	now, err := s.read(c)
	if err != nil {
		return nil, err
	}
	layer, err := s.usage.layer(c.ID, func() (int64, error) { return s.measureLayer(ctx, c.ID) })
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{
			Id: c.ID, Metadata: record.Metadata, Labels: record.Labels, Annotations: record.Annotations},
		Cpu:    s.cpuUsage(c.ID, now),
		Memory: memoryUsage(now),
		WritableLayer: &runtimeapi.FilesystemUsage{
			Timestamp: layer.at.UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: s.dockerRoot},
			UsedBytes: &runtimeapi.UInt64Value{Value: uint64(max(layer.bytes, 0))}, InodesUsed: &runtimeapi.UInt64Value{},
		},
	}, nil
}

// measureLayer returns a container's usage of the Engine's disk: its writable layer and the Engine's own log. The kubelet counts the
// log in CRI's format.
func (s *Server) measureLayer(ctx context.Context, id string) (bytes int64, err error) {
	c, _, err := s.docker.ContainerInspectWithRaw(ctx, id, true)
	if err != nil {
		return 0, err
	}
	if c.SizeRw != nil {
		bytes = *c.SizeRw
	}
	files, err := filepath.Glob(engineLogFiles(s.dockerRoot, c.ID))
	if err != nil {
		return 0, fmt.Errorf("cannot find the Engine's log of the container: %w", err)
	}
	for _, file := range files {
		if info, err := os.Stat(file); err == nil { // it may have been rotated away
			bytes += info.Size()
		}
	}
	return bytes, nil
}

// sample is one reading of a container's cgroup. The Engine has none for containers whose network it does not manage.
type sample struct {
	cgroups.Stats
	at time.Time
}

// read reads the cgroup of a container. The sample is empty if the container is not running.
func (s *Server) read(c container.InspectResponse) (sample, error) {
	now := sample{at: time.Now()}
	if !c.State.Running {
		return now, nil
	}
	memberships, err := cgroupsOf(c.State.Pid)
	if errors.Is(err, os.ErrNotExist) {
		return now, nil // it has just exited
	}
	if err != nil {
		return now, fmt.Errorf("cannot find the container's cgroup: %w", err)
	}
	controllers := []string{"cpuacct", "memory"}
	if s.host.cgroup2 {
		controllers = []string{""}
	}
	paths := map[string]string{}
	for _, controller := range controllers {
		paths[controller] = filepath.Join(cgroupRoot, cgroupPath(memberships, controller))
	}
	m, err := manager.NewWithPaths(&cgroups.Cgroup{Resources: &cgroups.Resources{}}, paths)
	if err != nil {
		return now, fmt.Errorf("cannot read the container's cgroup: %w", err)
	}
	stats, err := m.GetStats()
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return now, nil // it has just exited
	}
	if err != nil {
		return now, fmt.Errorf("cannot read the container's cgroup: %w", err)
	}
	now.Stats = *stats
	return now, nil
}

func (s *Server) cpuUsage(id string, now sample) *runtimeapi.CpuUsage {
	total := now.CpuStats.CpuUsage.TotalUsage
	usage := &runtimeapi.CpuUsage{Timestamp: now.at.UnixNano(), UsageCoreNanoSeconds: &runtimeapi.UInt64Value{Value: total}}
	if rate, ok := s.usage.rate(id, cpuSample{total, now.at}); ok {
		usage.UsageNanoCores = &runtimeapi.UInt64Value{Value: rate}
	}
	return usage
}

// memoryUsage reads the names of cgroup v1's memory.stat (total_…), or else those of v2. The working set is usage less the inactive
// page cache.
func memoryUsage(now sample) *runtimeapi.MemoryUsage {
	m := now.MemoryStats
	first := func(names ...string) uint64 {
		for _, name := range names {
			if value, ok := m.Stats[name]; ok {
				return value
			}
		}
		return 0
	}
	workingSet := m.Usage.Usage - min(m.Usage.Usage, first("total_inactive_file", "inactive_file"))
	usage := &runtimeapi.MemoryUsage{
		Timestamp:       now.at.UnixNano(),
		WorkingSetBytes: &runtimeapi.UInt64Value{Value: workingSet},
		UsageBytes:      &runtimeapi.UInt64Value{Value: m.Usage.Usage},
		RssBytes:        &runtimeapi.UInt64Value{Value: first("total_rss", "anon")},
		PageFaults:      &runtimeapi.UInt64Value{Value: first("total_pgfault", "pgfault")},
		MajorPageFaults: &runtimeapi.UInt64Value{Value: first("total_pgmajfault", "pgmajfault")},
	}
	if limit := memoryLimit(now); limit > 0 {
		usage.AvailableBytes = &runtimeapi.UInt64Value{Value: limit - min(limit, workingSet)}
	}
	return usage
}

// PodSandboxStats returns the resource usage of one pod.
func (s *Server) PodSandboxStats(ctx context.Context, r *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	c, err := s.view.inspect(ctx, kindSandbox, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	stats, err := s.podStats(ctx, c)
	return &runtimeapi.PodSandboxStatsResponse{Stats: stats}, err
}

// ListPodSandboxStats returns the resource usage of each running pod.
func (s *Server) ListPodSandboxStats(ctx context.Context, r *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	filter := r.GetFilter()
	list, err := s.view.list(ctx, kindSandbox, filter.GetId(), "")
	if err != nil {
		return nil, err
	}
	response := new(runtimeapi.ListPodSandboxStatsResponse)
	for _, c := range list {
		record, err := readSandbox(c.Config.Labels)
		if err != nil {
			return nil, err
		}
		if c.State.Status != container.StateRunning || !selects(filter.GetLabelSelector(), record.Labels) {
			continue
		}
		stats, err := s.podStats(ctx, c)
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		response.Stats = append(response.Stats, stats)
	}
	return response, nil
}

// podStats adds up the sandbox and its containers. They share the sandbox's network.
func (s *Server) podStats(ctx context.Context, c container.InspectResponse) (*runtimeapi.PodSandboxStats, error) {
	record, err := readSandbox(c.Config.Labels)
	if err != nil {
		return nil, err
	}
	now, err := s.read(c)
	if err != nil {
		return nil, err
	}
	list, err := s.view.list(ctx, kindContainer, "", c.ID)
	if err != nil {
		return nil, err
	}
	containers, err := s.statsOf(ctx, slices.DeleteFunc(list, func(c container.InspectResponse) bool { return c.State.Status != container.StateRunning }))
	if err != nil {
		return nil, err
	}
	cpu, memory := s.cpuUsage(c.ID, now), memoryUsage(now)
	memory.AvailableBytes = nil // the pod's limit is in its cgroup, which the kubelet manages
	for _, stats := range containers {
		addTo(cpu.UsageCoreNanoSeconds, stats.Cpu.UsageCoreNanoSeconds)
		addTo(cpu.UsageNanoCores, stats.Cpu.UsageNanoCores)
		addTo(memory.WorkingSetBytes, stats.Memory.WorkingSetBytes)
		addTo(memory.UsageBytes, stats.Memory.UsageBytes)
		addTo(memory.RssBytes, stats.Memory.RssBytes)
		addTo(memory.PageFaults, stats.Memory.PageFaults)
		addTo(memory.MajorPageFaults, stats.Memory.MajorPageFaults)
	}
	return &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{
			Id: c.ID, Metadata: record.Metadata, Labels: record.Labels, Annotations: record.Annotations},
		Linux: &runtimeapi.LinuxPodSandboxStats{
			Cpu: cpu, Memory: memory, Network: networkUsage(c, now.at), Containers: containers,
			Process: &runtimeapi.ProcessUsage{
				Timestamp: now.at.UnixNano(), ProcessCount: &runtimeapi.UInt64Value{Value: uint64(len(containers) + 1)}},
		},
	}, nil
}

func addTo(sum, value *runtimeapi.UInt64Value) {
	if sum != nil {
		sum.Value += value.GetValue()
	}
}

// podDevices returns the network devices of a sandbox except loopback. A pod on the host network has none of its own.
func podDevices(sandbox container.InspectResponse) procfs.NetDev {
	if !sandbox.Config.NetworkDisabled {
		return nil
	}
	process, err := procfs.NewFS(fmt.Sprintf("/proc/%d", sandbox.State.Pid))
	if err != nil {
		return nil // it has just exited
	}
	devices, err := process.NetDev()
	if err != nil {
		return nil
	}
	delete(devices, "lo")
	return devices
}

// networkUsage returns the traffic of the pod's own devices.
func networkUsage(sandbox container.InspectResponse, now time.Time) *runtimeapi.NetworkUsage {
	usage, devices := &runtimeapi.NetworkUsage{Timestamp: now.UnixNano()}, podDevices(sandbox)
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		d := devices[name]
		usage.Interfaces = append(usage.Interfaces, &runtimeapi.NetworkInterfaceUsage{
			Name:    name,
			RxBytes: &runtimeapi.UInt64Value{Value: d.RxBytes}, RxErrors: &runtimeapi.UInt64Value{Value: d.RxErrors},
			TxBytes: &runtimeapi.UInt64Value{Value: d.TxBytes}, TxErrors: &runtimeapi.UInt64Value{Value: d.TxErrors},
		})
	}
	if len(usage.Interfaces) > 0 {
		usage.DefaultInterface = usage.Interfaces[0]
	}
	return usage
}
