package machines

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Cut unplugs the machine's cable: no packet passes.
func (m *Machine) Cut() error { return m.setCable(netlink.LinkSetDown) }

// Heal undoes Cut and Slow.
func (m *Machine) Heal() error {
	return errors.Join(m.setCable(netlink.LinkSetUp), m.atBothEnds(func(link netlink.Link) error {
		if err := netlink.QdiscDel(bucket(link, 1)); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) { // there is none
			return err
		}
		return nil
	}))
}

// Slow limits the bandwidth of the machine's cable, in bits per second each way, with a token bucket
// (https://man7.org/linux/man-pages/man8/tc-tbf.8.html).
func (m *Machine) Slow(rate uint64) error {
	if rate < minRate {
		return fmt.Errorf("cannot slow a node down to %d bits a second: give %d or more", rate, minRate)
	}
	return m.atBothEnds(func(link netlink.Link) error { return netlink.QdiscReplace(bucket(link, rate)) })
}

// minRate lets a packet through every few seconds.
const minRate = 8000

// bucket has room for what a link's own queue would hold of a burst, and for one more second.
func bucket(link netlink.Link, rate uint64) *netlink.Tbf {
	const burst = 16 << 10 // bytes; more than a packet that the kernel has joined of several would be too long for
	bytes := rate / 8
	return &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       bytes, Limit: burst + uint32(min(bytes, 1<<30)), Buffer: netlink.Xmittime(bytes, burst),
	}
}

func (m *Machine) setCable(set func(netlink.Link) error) error {
	link, err := netlink.LinkByName(m.link)
	if err != nil {
		return fmt.Errorf("node %s has no link to this machine: %w", m.Name, err)
	}
	return set(link)
}

// atBothEnds calls do for each end of the machine's cable.
func (m *Machine) atBothEnds(do func(netlink.Link) error) error {
	if err := m.setCable(do); err != nil {
		return err
	}
	return m.Enter(func() error {
		link, err := netlink.LinkByName(uplink)
		if err != nil {
			return err
		}
		return do(link)
	})
}

// Stop unplugs the machine's cable and stops all its processes, containers included, like a machine that hangs.
func (m *Machine) Stop() error {
	if err := m.Cut(); err != nil {
		return err
	}
	return m.signal(unix.SIGSTOP, func(state string) bool { return state == stopped || state == zombie })
}

// Start undoes Stop.
func (m *Machine) Start() error {
	err := m.signal(unix.SIGCONT, func(state string) bool { return state != stopped })
	return errors.Join(err, m.Heal())
}

// States of a process (https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html).
const (
	stopped = "T"
	zombie  = "Z" // exited, not yet waited for
)

// signal sends a signal to the machine's processes until all of them, including new ones, have reached the state.
func (m *Machine) signal(signal unix.Signal, settled func(state string) bool) error {
	for range 100 {
		processes, err := m.processes()
		if err != nil {
			return err
		}
		left := 0
		for pid, state := range processes {
			if !settled(state) {
				left++
				if err := unix.Kill(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
					return fmt.Errorf("cannot send %s to process %d of node %s: %w", unix.SignalName(signal), pid, m.Name, err)
				}
			}
		}
		if left == 0 {
			return nil
		}
	}
	return fmt.Errorf("node %s goes on starting processes", m.Name)
}

// endLimit is how long a process may take to exit.
const endLimit = 5 * time.Second

// awaitNoProcess waits until no process runs on the machine.
func (m *Machine) awaitNoProcess() error {
	for end := time.Now().Add(endLimit); isNamespace(m.namespace); <-time.After(20 * time.Millisecond) {
		processes, err := m.processes()
		if err != nil {
			return err
		}
		maps.DeleteFunc(processes, func(_ int, state string) bool { return state == zombie })
		if len(processes) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("cannot remove node %s: processes %v still run on it; the next km up takes it over", m.Name, slices.Sorted(maps.Keys(processes)))
		}
	}
	return nil
}

// processes returns the processes in the machine's network namespace and their descendants, with their states.
func (m *Machine) processes() (map[int]string, error) {
	var namespace unix.Stat_t
	if err := unix.Stat(m.namespace, &namespace); err != nil {
		return nil, fmt.Errorf("node %s has no network namespace: %w", m.Name, err)
	}
	all, err := procfs.AllProcs()
	if err != nil {
		return nil, err
	}
	parents, states, members := map[int]int{}, map[int]string{}, map[int]string{}
	for _, process := range all {
		stat, err := process.Stat()
		if err != nil {
			continue // it has ended meanwhile
		}
		states[stat.PID], parents[stat.PID] = stat.State, stat.PPID
		var own unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/ns/net", stat.PID), &own) == nil && own.Ino == namespace.Ino && own.Dev == namespace.Dev {
			members[stat.PID] = stat.State
		}
	}
	for grew := true; grew; {
		grew = false
		for pid, parent := range parents {
			_, is := members[pid]
			if _, child := members[parent]; child && !is {
				members[pid], grew = states[pid], true
			}
		}
	}
	return members, nil
}

// Watch calls tell when a machine's cable is unplugged or plugged in, by anyone, until ctx ends. At first, all cables are plugged
// in.
func (m *Machines) Watch(ctx context.Context, tell func(i int, connected bool)) error {
	connected := make([]bool, len(m.List))
	for i := range connected {
		connected[i] = true
	}
	look := func(link netlink.Link) {
		for i, machine := range m.List {
			if up := link.Attrs().RawFlags&syscall.IFF_UP != 0; machine.link == link.Attrs().Name && up != connected[i] {
				connected[i] = up
				tell(i, up)
			}
		}
	}
	for {
		updates, done := make(chan netlink.LinkUpdate), make(chan struct{})
		if err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{ListExisting: true}); err != nil {
			return fmt.Errorf("cannot watch the nodes' links: %w", err)
		}
		for open := true; open; {
			var update netlink.LinkUpdate
			select {
			case <-ctx.Done():
				close(done)
				for range updates { // until the subscription has ended
				}
				return nil
			case update, open = <-updates:
				if open {
					look(update.Link)
				}
			}
		}
		close(done) // the kernel dropped notifications: check all links again
	}
}
