package localmesos

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
)

// diskWatch measures sandboxes as src/slave/containerizer/mesos/isolators/posix/disk.cpp does: one per interval, so that many
// sandboxes are each measured seldom. File systems mounted in a sandbox count, unlinked files do not. Containers without disk
// resources are not measured.
type diskWatch struct {
	interval time.Duration
	exceeded func(container string, l limitation)

	mu      sync.Mutex // guards the fields below
	quotas  map[string]diskQuota
	waiting []string // containers, the next one first
}

// diskQuota is the disk limit of a sandbox.
type diskQuota struct {
	sandbox string
	bytes   int64
}

// limitWatch checks containers for resources that the kernel does not limit.
type limitWatch interface {
	set(container, sandbox string, resources pool)
	forget(container string)
	run(stop <-chan struct{})
}

// limitation is the reason to destroy a container that exceeded its resources.
type limitation struct {
	reason mesos.TaskStatus_Reason
	text   string
}

func newDiskWatch(interval time.Duration, exceeded func(string, limitation)) *diskWatch {
	return &diskWatch{interval: interval, exceeded: exceeded, quotas: map[string]diskQuota{}}
}

// set stores the current limit of a container.
func (w *diskWatch) set(container, sandbox string, resources pool) {
	quota := diskQuota{sandbox: sandbox, bytes: resources.scalar("disk") << 20 / 1000}
	if quota.bytes == 0 {
		w.forget(container)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known := w.quotas[container]; !known {
		w.waiting = append(w.waiting, container)
	}
	w.quotas[container] = quota
}

func (w *diskWatch) forget(container string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.quotas, container)
	w.waiting = without(w.waiting, []string{container})
}

// next returns the next container to measure and moves it to the end of the queue.
func (w *diskWatch) next() (container, sandbox string, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) == 0 {
		return "", "", false
	}
	container = w.waiting[0]
	w.waiting = append(w.waiting[1:], container)
	return container, w.quotas[container].sandbox, true
}

// run measures sandboxes until stop is closed.
func (w *diskWatch) run(stop <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		select {
		case <-stop:
		case <-ctx.Done():
		}
	}()
	for {
		select {
		case <-stop:
			return
		case <-time.After(w.interval):
		}
		container, sandbox, ok := w.next()
		if !ok {
			continue
		}
		used, err := diskUsage(ctx, sandbox)
		if err != nil {
			if ctx.Err() == nil {
				log.WithError(err).WithField("container", container).Error("cannot measure a sandbox")
			}
			continue
		}
		w.judge(container, used)
	}
}

func (w *diskWatch) judge(container string, used int64) {
	w.mu.Lock()
	quota, known := w.quotas[container]
	w.mu.Unlock()
	if known && used > quota.bytes {
		w.exceeded(container, limitation{mesos.REASON_CONTAINER_LIMITATION_DISK,
			fmt.Sprintf("Disk usage (%s) exceeds quota (%s)", mesosBytes(used), mesosBytes(quota.bytes))})
	}
}

// diskUsage returns the result of du, in bytes.
func diskUsage(ctx context.Context, dir string) (int64, error) {
	out, err := exec.CommandContext(ctx, "du", "-k", "-s", dir).Output()
	if err != nil {
		return 0, fmt.Errorf("cannot run du: %w", err)
	}
	number, _, _ := strings.Cut(string(out), "\t")
	kilobytes, err := strconv.ParseInt(number, 10, 64)
	return kilobytes << 10, err
}

// mesosBytes writes a size as Mesos does: in the largest unit that divides it, such as "160MB".
func mesosBytes(n int64) string {
	units := []string{"B", "KB", "MB", "GB", "TB"}
	for n != 0 && n%1024 == 0 && len(units) > 1 {
		n, units = n/1024, units[1:]
	}
	return fmt.Sprintf("%d%s", n, units[0])
}
