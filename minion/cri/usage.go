package cri

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/docker/docker/api/types/container"
	"golang.org/x/sys/unix"
)

// PodUsage is what a running pod has used, with figures that CRI has no fields for.
type PodUsage struct {
	Namespace, Name string
	// Network is the traffic of the pod's interfaces except loopback; nil for a pod on the host's network.
	Network *Traffic
	// Containers are those that run.
	Containers []ContainerUsage
}

// Traffic is a pod's traffic since its sandbox was created.
type Traffic struct{ In, Out Flow }

// Flow is one direction of traffic.
type Flow struct{ Bytes, Packets, Errors, Dropped uint64 }

// ContainerUsage is what a container has used.
type ContainerUsage struct {
	ID, Name string
	At       time.Time
	// CPU is the time since its start. User and System are parts of it in the kernel's coarser units: their sum may differ from it.
	CPU, User, System time.Duration
	// Memory and WorkingSet are bytes in use now; MemoryLimit is 0 without a limit.
	Memory, WorkingSet, MemoryLimit uint64
	// Disk is the bytes of its writable layer and the Engine's log; DiskSize is the size of the file system that has them.
	Disk, DiskSize uint64
}

// Usage returns what the running pods have used. It leaves out pods and containers that end meanwhile. With an error it returns all that it
// could read.
func (s *Server) Usage(ctx context.Context) (pods []PodUsage, err error) {
	ctx, cancel := s.bound(ctx, 0)
	defer cancel()
	var disk unix.Statfs_t
	if err := unix.Statfs(s.dockerRoot, &disk); err != nil {
		return nil, fmt.Errorf("cannot read the size of the file system of %s: %w", s.dockerRoot, err)
	}
	sandboxes, err := s.view.list(ctx, kindSandbox, "", "")
	if err != nil {
		return nil, err
	}
	for _, sandbox := range sandboxes {
		if sandbox.State.Status != container.StateRunning {
			continue
		}
		pod, podErr := s.podUsage(ctx, sandbox, disk.Blocks*uint64(disk.Bsize))
		err = errors.Join(err, podErr)
		pods = append(pods, pod)
	}
	return pods, err
}

func (s *Server) podUsage(ctx context.Context, sandbox container.InspectResponse, disk uint64) (PodUsage, error) {
	record, err := readSandbox(sandbox.Config.Labels)
	if err != nil {
		return PodUsage{}, err
	}
	pod := PodUsage{Namespace: record.Metadata.GetNamespace(), Name: record.Metadata.GetName(), Network: trafficOf(sandbox)}
	list, err := s.view.list(ctx, kindContainer, "", sandbox.ID)
	for _, c := range list {
		if c.State.Status != container.StateRunning {
			continue
		}
		used, usedErr := s.containerUsage(ctx, c, disk)
		if usedErr == nil {
			pod.Containers = append(pod.Containers, used)
		} else if !isNotFound(usedErr) {
			err = errors.Join(err, usedErr)
		}
	}
	return pod, err
}

func (s *Server) containerUsage(ctx context.Context, c container.InspectResponse, disk uint64) (ContainerUsage, error) {
	record, err := readContainer(c.Config.Labels)
	if err != nil {
		return ContainerUsage{}, err
	}
	now, err := s.read(c)
	if err != nil {
		return ContainerUsage{}, err
	}
	if now.CpuStats.CpuUsage.TotalUsage == 0 {
		return ContainerUsage{}, notFound(kindContainer, c.ID) // it has just exited
	}
	layer, err := s.usage.layer(c.ID, func() (int64, error) { return s.measureLayer(ctx, c.ID) })
	if err != nil {
		return ContainerUsage{}, err
	}
	cpu, memory := now.CpuStats.CpuUsage, memoryUsage(now)
	return ContainerUsage{
		ID: c.ID, Name: record.Metadata.GetName(), At: now.at,
		CPU: time.Duration(cpu.TotalUsage), User: time.Duration(cpu.UsageInUsermode), System: time.Duration(cpu.UsageInKernelmode),
		Memory: memory.UsageBytes.Value, WorkingSet: memory.WorkingSetBytes.Value, MemoryLimit: memoryLimit(now),
		Disk: uint64(max(layer.bytes, 0)), DiskSize: disk,
	}, nil
}

// memoryLimit returns 0 for no limit: the kernel shows a number that no machine has.
func memoryLimit(now sample) uint64 {
	if limit := now.MemoryStats.Usage.Limit; limit < math.MaxInt64/2 {
		return limit
	}
	return 0
}

// trafficOf returns the traffic of a running sandbox.
func trafficOf(sandbox container.InspectResponse) *Traffic {
	devices := podDevices(sandbox)
	if len(devices) == 0 {
		return nil
	}
	var sum Traffic
	for _, d := range devices {
		sum.In.add(Flow{d.RxBytes, d.RxPackets, d.RxErrors, d.RxDropped})
		sum.Out.add(Flow{d.TxBytes, d.TxPackets, d.TxErrors, d.TxDropped})
	}
	return &sum
}

func (f *Flow) add(more Flow) {
	f.Bytes, f.Packets, f.Errors, f.Dropped = f.Bytes+more.Bytes, f.Packets+more.Packets, f.Errors+more.Errors, f.Dropped+more.Dropped
}
