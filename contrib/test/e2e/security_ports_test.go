package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/procfs"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// listener is a socket that a process of the cluster listens on.
type listener struct {
	role, protocol string // protocol is TCP or UDP
	address        netip.Addr
	port           int
}

func (l listener) String() string {
	return fmt.Sprintf("km %s listens on %s %s", l.role, l.protocol, netip.AddrPortFrom(l.address, uint16(l.port)))
}

const tcpListens, udpIsBound = 10, 7 // states in /proc/net (include/net/tcp_states.h)

// listeners are those of all processes of the cluster, in whatever network namespace they listen.
func listeners(t *testing.T, c *scratch.Cluster) (list []listener) {
	t.Helper()
	processes, err := c.Processes()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]listener{} // by what a file descriptor of theirs says
	for _, p := range processes {
		net, err := procfs.NewFS(fmt.Sprintf("/proc/%d", p.PID)) // its net/ is that of its namespace
		if err != nil {
			continue // it has ended
		}
		for _, s := range sockets(t, net) {
			all[fmt.Sprintf("socket:[%d]", s.inode)] = s.listener
		}
	}
	for _, p := range processes {
		var targets []string
		if proc, err := procfs.NewProc(p.PID); err == nil {
			targets, _ = proc.FileDescriptorTargets() // none if it has ended
		}
		for _, target := range targets {
			if l, ok := all[target]; ok {
				l.role = p.Role
				list = append(list, l)
			}
		}
	}
	return list
}

type socket struct {
	listener
	inode uint64
}

// sockets are those that listen in a network namespace.
func sockets(t *testing.T, net procfs.FS) (list []socket) {
	t.Helper()
	add := func(protocol string, ip []byte, port, inode uint64) {
		address, _ := netip.AddrFromSlice(ip)
		list = append(list, socket{listener{protocol: protocol, address: address.Unmap(), port: int(port)}, inode})
	}
	for _, read := range []func() (procfs.NetTCP, error){net.NetTCP, net.NetTCP6} { //nolint:staticcheck // the text is enough here, and needs no netlink
		lines, err := read()
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			if line.St == tcpListens {
				add("TCP", line.LocalAddr, line.LocalPort, line.Inode)
			}
		}
	}
	for _, read := range []func() (procfs.NetUDP, error){net.NetUDP, net.NetUDP6} {
		lines, err := read()
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			if line.St == udpIsBound && line.RemPort == 0 {
				add("UDP", line.LocalAddr, line.LocalPort, line.Inode)
			}
		}
	}
	return list
}

// portRow is a row of the table of open ports.
type portRow struct {
	text, ports, process, protocol, address, when string
}

func portRows(t *testing.T) (rows []portRow) {
	t.Helper()
	table := securityTable(t, "Open ports")
	column := func(row []string, name string) string {
		i := slices.Index(table.Header, name)
		if i < 0 || i >= len(row) {
			t.Fatalf("%s: the table of open ports has no column %q in %v", securityPage, name, row)
		}
		return row[i]
	}
	for _, row := range table.Rows {
		rows = append(rows, portRow{
			text: strings.Join(row, " | "), ports: column(row, "port"), process: column(row, "process"), protocol: column(row, "protocol"),
			address: column(row, "address"), when: column(row, "when"),
		})
	}
	return rows
}

// lists reports whether the row is about the listener. given are the ports that the test chose in place of the defaults.
func (r portRow) lists(l listener, given map[string]int) bool {
	process := l.role
	if process == "up" { // it is these in one
		process = "apiserver` `km scheduler` `km local-mesos"
	}
	if !slices.ContainsFunc(strings.Fields(strings.NewReplacer("`", "", "km ", "", ",", "").Replace(r.process)), func(name string) bool {
		return slices.Contains(strings.Fields(strings.NewReplacer("`", "", "km ", "").Replace(process)), name)
	}) {
		return false
	}
	return strings.Contains(r.protocol, l.protocol) && r.isAt(l.address) && r.hasPort(l.port, given)
}

func (r portRow) isAt(address netip.Addr) bool {
	switch {
	case address.IsLoopback():
		return strings.Contains(r.address, "loopback")
	case address.IsUnspecified():
		return strings.Contains(r.address, "all")
	default:
		return strings.Contains(r.address, "the machine's")
	}
}

func (r portRow) hasPort(port int, given map[string]int) bool {
	for _, text := range strings.Split(r.ports, ", ") {
		number, err := strconv.Atoi(text)
		if other, ok := given[text]; ok {
			number = other
		}
		if err != nil && text == "free" || err == nil && number == port {
			return true
		}
	}
	return false
}

// listenersAreListed compares what the processes of the cluster listen on with the table of open ports.
func listenersAreListed(t *testing.T, c *scratch.Cluster, dir string) {
	rows, found, given := portRows(t), listeners(t, c), c.Ports()
	_, old, err := net.SplitHostPort(v1beta1At(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	if given["8080"], err = strconv.Atoi(old); err != nil {
		t.Fatal(err)
	}
	if len(found) < 10 {
		t.Errorf("found only %v", found)
	}
	used := map[string]bool{}
	for _, l := range found {
		t.Log(l)
		listed := false
		for _, row := range rows {
			if row.lists(l, given) {
				listed, used[row.text] = true, true
			}
		}
		if !listed {
			t.Errorf("%s, which the open ports in %s do not have", l, securityPage)
		}
	}
	for _, row := range rows {
		if (row.when == "always" || row.ports == "8080") && !used[row.text] {
			t.Errorf("%s: nobody listens as it says: %s", securityPage, row.text)
		}
	}
}
