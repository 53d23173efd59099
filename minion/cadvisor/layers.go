package cadvisor

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/cadvisor/fs"
	info "github.com/google/cadvisor/info/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// layersEvery is how often the sizes of the containers' layers are asked for; the runtime interface measures them as often. For a
// container that is not among them, they are asked for after newLayerAfter.
const (
	layersEvery   = time.Minute
	newLayerAfter = 15 * time.Second
)

// layers has the sizes of the containers' writable layers, and the disk that they are on. The kubelet asks for them every few seconds,
// too, so one question for all costs no measurement.
type layers struct {
	runtime runtimeapi.RuntimeServiceClient
	disks   fs.FsInfo

	mu     sync.Mutex // guards the rest
	asked  time.Time
	bytes  map[string]uint64 // by container
	device string            // "" if unknown
}

func newLayers(runtime runtimeapi.RuntimeServiceClient, disks fs.FsInfo) *layers {
	return &layers{runtime: runtime, disks: disks}
}

// of returns the container's usage of the disk; none if it is not known.
func (l *layers) of(id string, machine *info.MachineInfo) []info.FsStats {
	if l.due(id, time.Now()) {
		if err := l.ask(); err != nil {
			klog.ErrorS(err, "Cannot learn the sizes of containers' layers")
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	used, known := l.bytes[id]
	disk := slices.IndexFunc(machine.Filesystems, func(f info.FsInfo) bool { return f.Device == l.device })
	if !known || disk < 0 {
		return nil
	}
	found := machine.Filesystems[disk]
	return []info.FsStats{{Device: found.Device, Type: found.Type, Limit: found.Capacity, Usage: used, BaseUsage: used}}
}

// due reports whether the caller is to ask. Others use the last answer until there is another.
func (l *layers) due(id string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := layersEvery
	if _, known := l.bytes[id]; !known {
		limit = newLayerAfter
	}
	if now.Sub(l.asked) < limit {
		return false
	}
	l.asked = now
	return true
}

func (l *layers) ask() error {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	answer, err := l.runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
	if err != nil {
		return err
	}
	bytes, mountpoint := map[string]uint64{}, ""
	for _, stats := range answer.GetStats() {
		layer := stats.GetWritableLayer()
		bytes[stats.GetAttributes().GetId()], mountpoint = layer.GetUsedBytes().GetValue(), layer.GetFsId().GetMountpoint()
	}
	if len(bytes) == 0 {
		return nil
	}
	disk, err := l.disks.GetDirFsDevice(mountpoint)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bytes, l.device = bytes, disk.Device
	return nil
}
