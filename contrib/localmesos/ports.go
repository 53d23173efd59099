package localmesos

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/prometheus/procfs"
)

// portWatch finds containers that listen on ports outside their resources, as
// src/slave/containerizer/mesos/isolators/network/ports.cpp does: TCP over IPv4, on any address including loopback. It misses
// dual-stack IPv6 sockets, such as Go's listeners on all addresses, and listeners in other network namespaces than the agent's or in
// cgroups below the container's.
type portWatch struct {
	interval time.Duration
	enter    func(do func() error) error
	exceeded func(container string, l limitation)

	mu    sync.Mutex // guards ports
	ports map[string]spans
}

func newPortWatch(interval time.Duration, enter func(func() error) error, exceeded func(string, limitation)) *portWatch {
	return &portWatch{interval: interval, enter: enter, exceeded: exceeded, ports: map[string]spans{}}
}

// set stores the current ports of a container.
func (w *portWatch) set(container, _ string, resources pool) {
	var ports spans
	for _, a := range resources {
		if a.name == "ports" {
			ports = ports.plus(a.ranges)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ports[container] = ports
}

func (w *portWatch) forget(container string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.ports, container)
}

// run checks all containers every interval, until stop is closed.
func (w *portWatch) run(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(w.interval):
		}
		if err := w.look(); err != nil {
			log.WithError(err).Error("cannot tell on which ports containers listen")
		}
	}
}

func (w *portWatch) look() error {
	var listening map[string]uint64
	err := w.enter(func() (err error) {
		listening, err = listeningSockets()
		return err
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for container, has := range w.ports {
		if beyond := listenedOn(container, listening).minus(has); len(beyond) > 0 {
			w.exceeded(container, limitation{mesos.REASON_CONTAINER_LIMITATION,
				fmt.Sprintf("Container %s is listening on unallocated port(s): %s", container, beyond)})
		}
	}
	return nil
}

// listenedOn returns the ports on which a container's processes listen.
func listenedOn(container string, listening map[string]uint64) (ports spans) {
	pids, err := os.ReadFile(filepath.Join(hierarchy("freezer"), cgroupsRoot, container, "cgroup.procs"))
	if err != nil {
		return nil // it is being destroyed
	}
	for _, number := range strings.Fields(string(pids)) {
		pid, err := strconv.Atoi(number)
		if err != nil {
			continue
		}
		process, err := procfs.NewProc(pid)
		if err != nil {
			continue // it has ended meanwhile
		}
		files, _ := process.FileDescriptorTargets() // empty if it has ended meanwhile
		for _, file := range files {
			if port, ok := listening[file]; ok {
				ports = ports.plus(spans{{port, port}})
			}
		}
	}
	return ports
}

// listeningSockets returns the listening sockets of this thread's network namespace, by the target of a file descriptor's link,
// and their ports (https://docs.kernel.org/networking/proc_net_tcp.html).
func listeningSockets() (map[string]uint64, error) {
	thread, err := procfs.NewFS("/proc/thread-self")
	if err != nil {
		return nil, err
	}
	all, err := thread.NetTCP() //nolint:staticcheck // the text is enough here, and needs no netlink
	if err != nil {
		return nil, err
	}
	const listen = 10 // TCP_LISTEN
	sockets := map[string]uint64{}
	for _, s := range all {
		if s.St == listen {
			sockets[fmt.Sprintf("socket:[%d]", s.Inode)] = s.LocalPort
		}
	}
	return sockets, nil
}
