package figures

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"

	"github.com/k8sm/k8sm/api/falcon"
)

// protocolCounters are the counters of /proc/net/snmp and /proc/net/netstat that are reported.
var protocolCounters = []struct {
	file, section, prefix string
	names                 []string
}{
	{"snmp", "Udp", "snmp.Udp.", []string{
		"InDatagrams", "NoPorts", "InErrors", "OutDatagrams", "RcvbufErrors", "SndbufErrors", "InCsumErrors", "IgnoredMulti", "MemErrors",
	}},
	{"netstat", "TcpExt", "TcpExt.", []string{
		"PruneCalled", "LockDroppedIcmps", "ArpFilter", "TW", "DelayedACKLocked", "ListenOverflows", "ListenDrops", "TCPTSReorder", "TCPDSACKUndo",
		"TCPLostRetransmit", "TCPLossFailures", "TCPFastRetrans", "TCPTimeouts", "TCPAbortOnMemory", "TCPAbortOnTimeout", "TCPAbortFailed",
		"TCPMemoryPressures", "TCPSpuriousRTOs", "TCPBacklogDrop", "TCPMinTTLDrop",
	}},
}

// sockets returns the counters of protocols that this kernel has, and the states of TCP sockets.
func (m *Machine) sockets(proc procfs.FS) (elements []falcon.Element, err error) {
	for _, c := range protocolCounters {
		counters, err := m.section(c.file, c.section)
		if err != nil {
			return elements, err
		}
		for _, name := range c.names {
			if value, ok := counters[name]; ok {
				elements = append(elements, falcon.Counter(c.prefix+name, value, ""))
			}
		}
	}
	states, err := m.states(proc)
	return append(elements, states...), err
}

// section reads a section of a file in which one line has names, and the next one their values.
func (m *Machine) section(file, section string) (map[string]float64, error) {
	text, err := os.ReadFile(filepath.Join(m.proc, "net", file))
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		rest, found := strings.CutPrefix(line, section+": ")
		if !found {
			continue
		}
		if names == nil {
			names = strings.Fields(rest)
			continue
		}
		values := map[string]float64{}
		for i, field := range strings.Fields(rest) {
			value, err := strconv.ParseFloat(field, 64)
			if err != nil || i >= len(names) {
				return nil, fmt.Errorf("net/%s: section %s has a value %q without a name or sense", file, section, field)
			}
			values[names[i]] = value
		}
		return values, nil
	}
	return nil, fmt.Errorf("net/%s has no section %s", file, section)
}

// states counts TCP sockets as ss(8) does in its summary.
func (m *Machine) states(proc procfs.FS) ([]falcon.Element, error) {
	tcp, err := m.section("snmp", "Tcp")
	if err != nil {
		return nil, err
	}
	sockets, err := proc.NetSockstat()
	if err != nil {
		return nil, err
	}
	v4 := protocol(sockets, "TCP")
	if v4.Orphan == nil || v4.TW == nil || v4.Alloc == nil {
		return nil, errors.New("net/sockstat has no line of TCP")
	}
	v6, err := proc.NetSockstat6()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	open := v4.InUse + protocol(v6, "TCP6").InUse - *v4.TW
	return []falcon.Element{
		falcon.Gauge("ss.estab", tcp["CurrEstab"], ""),
		falcon.Gauge("ss.closed", float64(max(*v4.Alloc-open, 0)), ""),
		falcon.Gauge("ss.orphaned", float64(*v4.Orphan), ""),
		falcon.Gauge("ss.timewait", float64(*v4.TW), ""),
	}, nil
}

// protocol returns the line of a protocol; an empty one if there is none. sockets may be nil.
func protocol(sockets *procfs.NetSockstat, name string) procfs.NetSockstatProtocol {
	if sockets != nil {
		for _, p := range sockets.Protocols {
			if p.Protocol == name {
				return p
			}
		}
	}
	return procfs.NetSockstatProtocol{}
}
