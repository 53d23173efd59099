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
)

// portWatch finds containers that listen on ports which they do not have, as
// src/slave/containerizer/mesos/isolators/network/ports.cpp does: on any address of the machine, loopback's too, by TCP, and by
// sockets of IPv4 only. One of IPv6 that takes IPv4 too, as Go's listeners on all addresses are, is not seen; nor is what listens in
// another network namespace than the agent's, or in a cgroup below the container's.
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

// set says which ports a container has now.
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

// run looks at all containers after each interval, until stop is closed.
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
		listening, err = listeningSockets("/proc/thread-self/net/tcp")
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

// listenedOn are the ports on which a container's processes listen.
func listenedOn(container string, listening map[string]uint64) (ports spans) {
	pids, err := os.ReadFile(filepath.Join(hierarchy("freezer"), cgroupsRoot, container, "cgroup.procs"))
	if err != nil {
		return nil // it is being destroyed
	}
	for _, pid := range strings.Fields(string(pids)) {
		links, _ := filepath.Glob(filepath.Join("/proc", pid, "fd", "*"))
		for _, link := range links {
			to, _ := os.Readlink(link) // what is closed meanwhile is no socket
			if port, ok := listening[to]; ok {
				ports = ports.plus(spans{{port, port}})
			}
		}
	}
	return ports
}

// listeningSockets reads which sockets listen, by the name that a file descriptor shows, and on which ports
// (https://docs.kernel.org/networking/proc_net_tcp.html).
func listeningSockets(path string) (map[string]uint64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	const listen = "0A"
	sockets := map[string]uint64{}
	for _, line := range strings.Split(string(data), "\n") {
		words := strings.Fields(line)
		if len(words) < 10 || words[3] != listen {
			continue
		}
		_, hex, _ := strings.Cut(words[1], ":")
		port, err := strconv.ParseUint(hex, 16, 16)
		if err != nil {
			return nil, fmt.Errorf("cannot understand %q in %s", line, path)
		}
		sockets["socket:["+words[9]+"]"] = port
	}
	return sockets, nil
}
