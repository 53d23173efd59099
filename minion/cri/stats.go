package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// usageTTL is how long a figure that costs the Engine a walk through files is good.
const usageTTL = time.Minute

// usageCache keeps figures that are dear to measure, and the last CPU sample of each container to tell its rate.
type usageCache struct {
	mu     sync.Mutex // guards layers and cpu
	layers map[string]measured
	cpu    map[string]cpuSample

	imagesMu   sync.Mutex // guards imageBytes, also while it is measured
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

// images returns the size of all images. It measures in one goroutine at a time: the Engine refuses to do it twice at once.
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

// rate returns the CPU use since the sample before, in nanoseconds of CPU time per second; ok is false for the first.
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

// ContainerStats tells what one container uses.
func (s *Server) ContainerStats(ctx context.Context, r *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	c, err := s.view.inspect(ctx, kindContainer, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	stats, err := s.containerStats(ctx, c)
	return &runtimeapi.ContainerStatsResponse{Stats: stats}, err
}

// ListContainerStats tells what each running container uses.
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

// statsOf measures several containers, a few at a time. One that ends meanwhile is left out.
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
	sample, err := s.sample(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	layer, err := s.usage.layer(c.ID, func() (int64, error) {
		c, _, err := s.docker.ContainerInspectWithRaw(ctx, c.ID, true)
		if err != nil || c.SizeRw == nil {
			return 0, err
		}
		return *c.SizeRw, nil
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{
			Id: c.ID, Metadata: record.Metadata, Labels: record.Labels, Annotations: record.Annotations},
		Cpu:    s.cpuUsage(c.ID, sample),
		Memory: memoryUsage(sample),
		WritableLayer: &runtimeapi.FilesystemUsage{
			Timestamp: layer.at.UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: s.dockerRoot},
			UsedBytes: &runtimeapi.UInt64Value{Value: uint64(max(layer.bytes, 0))}, InodesUsed: &runtimeapi.UInt64Value{},
		},
	}, nil
}

// sample asks the Engine for one reading of a container's cgroup, without the second that `docker stats` waits.
func (s *Server) sample(ctx context.Context, id string) (container.StatsResponse, error) {
	var sample container.StatsResponse
	reader, err := s.docker.ContainerStatsOneShot(ctx, id)
	if err != nil {
		return sample, err
	}
	defer reader.Body.Close()
	if err := json.NewDecoder(reader.Body).Decode(&sample); err != nil {
		return sample, fmt.Errorf("cannot read the container's statistics: %w", err)
	}
	if sample.Read.IsZero() {
		sample.Read = time.Now() // it does not run
	}
	return sample, nil
}

func (s *Server) cpuUsage(id string, sample container.StatsResponse) *runtimeapi.CpuUsage {
	total := sample.CPUStats.CPUUsage.TotalUsage
	usage := &runtimeapi.CpuUsage{Timestamp: sample.Read.UnixNano(), UsageCoreNanoSeconds: &runtimeapi.UInt64Value{Value: total}}
	if rate, ok := s.usage.rate(id, cpuSample{total, sample.Read}); ok {
		usage.UsageNanoCores = &runtimeapi.UInt64Value{Value: rate}
	}
	return usage
}

// memoryUsage reads the names of cgroup v1's memory.stat (total_…) or else those of v2's. The working set is what cannot
// be had back without paging: usage less the inactive page cache.
func memoryUsage(sample container.StatsResponse) *runtimeapi.MemoryUsage {
	m := sample.MemoryStats
	first := func(names ...string) uint64 {
		for _, name := range names {
			if value, ok := m.Stats[name]; ok {
				return value
			}
		}
		return 0
	}
	workingSet := m.Usage - min(m.Usage, first("total_inactive_file", "inactive_file"))
	usage := &runtimeapi.MemoryUsage{
		Timestamp:       sample.Read.UnixNano(),
		WorkingSetBytes: &runtimeapi.UInt64Value{Value: workingSet},
		UsageBytes:      &runtimeapi.UInt64Value{Value: m.Usage},
		RssBytes:        &runtimeapi.UInt64Value{Value: first("total_rss", "anon")},
		PageFaults:      &runtimeapi.UInt64Value{Value: first("total_pgfault", "pgfault")},
		MajorPageFaults: &runtimeapi.UInt64Value{Value: first("total_pgmajfault", "pgmajfault")},
	}
	if m.Limit > 0 && m.Limit < math.MaxInt64/2 {
		usage.AvailableBytes = &runtimeapi.UInt64Value{Value: m.Limit - min(m.Limit, workingSet)}
	}
	return usage
}

// PodSandboxStats tells what one pod uses.
func (s *Server) PodSandboxStats(ctx context.Context, r *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	c, err := s.view.inspect(ctx, kindSandbox, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	stats, err := s.podStats(ctx, c)
	return &runtimeapi.PodSandboxStatsResponse{Stats: stats}, err
}

// ListPodSandboxStats tells what each running pod uses.
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

// podStats adds up the sandbox and its containers; the network is the sandbox's, which they share.
func (s *Server) podStats(ctx context.Context, c container.InspectResponse) (*runtimeapi.PodSandboxStats, error) {
	record, err := readSandbox(c.Config.Labels)
	if err != nil {
		return nil, err
	}
	sandbox, err := s.sample(ctx, c.ID)
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
	cpu, memory := s.cpuUsage(c.ID, sandbox), memoryUsage(sandbox)
	memory.AvailableBytes = nil // the pod's limit is in its cgroup, which is the kubelet's
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
			Cpu: cpu, Memory: memory, Network: networkUsage(sandbox), Containers: containers,
			Process: &runtimeapi.ProcessUsage{
				Timestamp: sandbox.Read.UnixNano(), ProcessCount: &runtimeapi.UInt64Value{Value: uint64(len(containers) + 1)}},
		},
	}, nil
}

func addTo(sum, value *runtimeapi.UInt64Value) {
	if sum != nil {
		sum.Value += value.GetValue()
	}
}

// networkUsage is the traffic of the sandbox's interfaces; a pod on the host's network has no figures of its own.
func networkUsage(sample container.StatsResponse) *runtimeapi.NetworkUsage {
	usage := &runtimeapi.NetworkUsage{Timestamp: sample.Read.UnixNano()}
	for name, n := range sample.Networks {
		usage.Interfaces = append(usage.Interfaces, &runtimeapi.NetworkInterfaceUsage{
			Name:    name,
			RxBytes: &runtimeapi.UInt64Value{Value: n.RxBytes}, RxErrors: &runtimeapi.UInt64Value{Value: n.RxErrors},
			TxBytes: &runtimeapi.UInt64Value{Value: n.TxBytes}, TxErrors: &runtimeapi.UInt64Value{Value: n.TxErrors},
		})
	}
	slices.SortFunc(usage.Interfaces, func(a, b *runtimeapi.NetworkInterfaceUsage) int { return strings.Compare(a.Name, b.Name) })
	if len(usage.Interfaces) > 0 {
		usage.DefaultInterface = usage.Interfaces[0]
	}
	return usage
}
