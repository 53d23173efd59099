package figures

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/k8sm/k8sm/api/falcon"
)

// files are those of /proc and /sys that a real agent must have seen on the machine where it was recorded, and more that it leaves out.
var files = map[string]string{
	"proc/stat":           "cpu 1002 1127 1062 1004 1001 1000 1000 1005 0 0\ncpu0 1002 1127 1062 1004 1001 1000 1000 1005 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\nctxt 7405409\n",
	"proc/loadavg":        "6.76 8.33 6.80 9/300 4711\n",
	"proc/meminfo":        "MemTotal: 24684092 kB\nMemFree: 1000000 kB\nMemAvailable: 23790912 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n",
	"proc/sys/fs/file-nr": "1131\t0\t2466186\n", "proc/sys/kernel/pid_max": "32768\n",
	"proc/self/mountinfo": `22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /proc rw - proc proc rw
24 22 254:0 /var/lib/docker /var/lib/docker rw - ext4 /dev/vda rw
25 22 0:22 / /run rw - tmpfs tmpfs rw
`,
	"proc/diskstats": ` 254 0 vda 385548 44507 19200882 870898 110544 299001 41548800 326691 0 121008 1213499
 254 1 vda1 385548 44507 19200882 870898 110544 299001 41548800 326691 0 121008 1213499
   7 0 loop0 1 0 2 0 0 0 0 0 0 0 0
`,
	"sys/block/vda/device": "", "sys/block/loop0/size": "",
	"proc/net/dev": `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 63741153   88585    0    0    0     0          0         0 63741153   88585    0    0    0     0       0          0
  eth0: 1096937678   57389    0    0    0     0          0         0  4538788   39502    0    0    0     0       0          0
km1234: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0
docker0: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0
`,
	"sys/class/net/eth0/speed": "-1\n",
	"proc/net/snmp": `Tcp: RtoAlgorithm RtoMin MaxConn CurrEstab
Tcp: 1 200 -1 2
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
Udp: 1305 0 0 1306 0 0 0 0 0
UdpLite: InDatagrams NoPorts
UdpLite: 77 77
`,
	"proc/net/netstat": `TcpExt: PruneCalled LockDroppedIcmps ArpFilter TW DelayedACKLocked ListenOverflows ListenDrops TCPTSReorder TCPDSACKUndo TCPLostRetransmit TCPLossFailures TCPFastRetrans TCPTimeouts TCPAbortOnMemory TCPAbortOnTimeout TCPAbortFailed TCPMemoryPressures TCPSpuriousRTOs TCPBacklogDrop TCPMinTTLDrop TCPHPHits
TcpExt: 0 0 0 1011 0 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0 88
`,
	"proc/net/sockstat":  "sockets: used 50\nTCP: inuse 9 orphan 0 tw 10 alloc 14 mem 1\n",
	"proc/net/sockstat6": "TCP6: inuse 5\n",
}

// before has the counters a second earlier.
var before = map[string]string{
	"proc/stat":      "cpu 1000 1000 1000 1000 1000 1000 1000 1000 0 0\ncpu0 1000 1000 1000 1000 1000 1000 1000 1000 0 0\nctxt 7400000\n",
	"proc/diskstats": " 254 0 vda 385448 44507 19198770 870659 110464 299001 41547488 326591 0 120956 1213160\n",
}

// machine returns a Machine for the files in a directory, with the disk of the recording.
func machine(t *testing.T, dir string) *Machine {
	t.Helper()
	return &Machine{
		proc: filepath.Join(dir, "proc"), sys: filepath.Join(dir, "sys"),
		statfs: func(_ string, s *unix.Statfs_t) error {
			*s = unix.Statfs_t{Bsize: 4096, Blocks: 270553174016 / 4096, Bfree: (270553174016 - 27170750464) / 4096, Bavail: 70622543872 / 4096,
				Files: 16777216, Ffree: 16122062}
			return nil
		},
	}
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// read reads twice, a second apart.
func read(t *testing.T, dir string) []falcon.Element {
	t.Helper()
	m, now := machine(t, dir), time.Unix(1795938280, 0)
	write(t, dir, files)
	write(t, dir, before)
	if _, err := m.Elements(now); err != nil {
		t.Fatal(err)
	}
	write(t, dir, files)
	elements, err := m.Elements(now.Add(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return elements
}

// series is a metric with its type and tags.
type series struct{ metric, counterType, tags string }

func valuesOf(elements []falcon.Element) map[series]float64 {
	values := map[series]float64{}
	for _, e := range elements {
		values[series{e.Metric, string(e.CounterType), e.Tags}] = e.Value
	}
	return values
}

// recorded returns the first round of a real agent.
func recorded(t *testing.T) map[series]float64 {
	t.Helper()
	text, err := os.ReadFile("../../api/falcon/testdata/agent-to-transfer.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var elements []falcon.Element
	for line := range strings.Lines(string(text)) {
		var call struct{ Params [][]falcon.Element }
		if err := json.Unmarshal([]byte(line), &call); err != nil {
			t.Fatal(err)
		}
		elements = append(elements, call.Params[0]...)
	}
	return valuesOf(elements)
}

var almost = cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) <= 1e-9*max(math.Abs(a), math.Abs(b)) })

func TestMachineHasTheValuesOfARealAgent(t *testing.T) {
	want := recorded(t)
	for _, omitted := range []string{
		"ss.slabinfo.timewait",                    // ss has none on today's kernels
		"net.if.speed.bits",                       // neither device has a speed
		"net.if.in.percent", "net.if.out.percent", // of a speed of -1 Mbit/s
	} {
		for s := range want {
			if s.metric == omitted {
				delete(want, s)
			}
		}
	}
	if len(want) < 130 {
		t.Fatalf("the recording has %d series", len(want))
	}
	if diff := cmp.Diff(want, valuesOf(read(t, t.TempDir())), almost); diff != "" {
		t.Error(diff)
	}
}

func TestDeviceWithASpeedHasAUtilization(t *testing.T) {
	dir := t.TempDir()
	read(t, dir)
	write(t, dir, map[string]string{"sys/class/net/eth0/speed": "1000\n"})
	elements, err := machine(t, dir).Elements(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	got := valuesOf(elements)
	for s, want := range map[series]float64{
		{"net.if.speed.bits", "GAUGE", "iface=eth0"}:    1e9,
		{"net.if.in.percent", "COUNTER", "iface=eth0"}:  877.5501424,
		{"net.if.out.percent", "COUNTER", "iface=eth0"}: 3.6310304,
	} {
		if !cmp.Equal(got[s], want, almost) {
			t.Errorf("%v is %v, want %v", s, got[s], want)
		}
	}
}

func TestRatesBeginWithTheSecondReading(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, files)
	elements, err := machine(t, dir).Elements(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	got := valuesOf(elements)
	for _, rate := range []series{{"cpu.busy", "GAUGE", ""}, {"disk.io.util", "GAUGE", "device=vda"}} {
		if value, ok := got[rate]; ok {
			t.Errorf("%v is %v after one reading", rate, value)
		}
	}
	if _, ok := got[series{"disk.io.read_requests", "COUNTER", "device=vda"}]; !ok {
		t.Error("the counters wait, too")
	}
}

func TestWhatCannotBeReadDoesNotKeepTheRestBack(t *testing.T) {
	for file, broken := range map[string]struct{ text, want, lost string }{
		"proc/stat":           {"", "", "cpu.switches"}, // procfs takes an empty one
		"proc/loadavg":        {"x", "load", "load.1min"},
		"proc/meminfo":        {"MemTotal: 1 kB\n", "lacks a line", "mem.memtotal"},
		"proc/diskstats":      {"", "", "disk.io.util"},
		"proc/net/dev":        {"x\ny\nz\n", "network devices", "net.if.in.bytes"},
		"proc/net/snmp":       {"Udp: A\n", "no section Udp", "snmp.Udp.InDatagrams"},
		"proc/net/netstat":    {"TcpExt: A\nTcpExt: 1 2\n", "without a name", "TcpExt.TW"},
		"proc/net/sockstat":   {"sockets: used 1\n", "no line of TCP", "ss.estab"},
		"proc/sys/fs/file-nr": {"1 2\n", "has 2 numbers, want 3", "kernel.maxfiles"},
	} {
		dir := t.TempDir()
		write(t, dir, files)
		write(t, dir, map[string]string{file: broken.text})
		elements, err := machine(t, dir).Elements(time.Now())
		if broken.want != "" && (err == nil || !strings.Contains(err.Error(), broken.want)) {
			t.Errorf("%s: %v, want %q", file, err, broken.want)
		}
		got := map[string]bool{}
		for _, e := range elements {
			got[e.Metric] = true
			if e.Endpoint = "e"; math.IsNaN(e.Value) {
				t.Errorf("%s: %+v", file, e)
			}
		}
		if !got["agent.alive"] || !got["df.bytes.total"] || got[broken.lost] && broken.want != "" {
			t.Errorf("%s: %d elements; %s: %v", file, len(elements), broken.lost, got[broken.lost])
		}
	}
}

func TestEachFileSystemCountsOnce(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, files)
	write(t, dir, map[string]string{"proc/self/mountinfo": files["proc/self/mountinfo"] +
		"30 22 8:1 / /mnt/my\\040disk rw - btrfs /dev/sda1 rw\n31 22 8:2 / /gone rw - ext4 /dev/sdb1 rw\n"})
	m := machine(t, dir)
	size := m.statfs
	m.statfs = func(path string, s *unix.Statfs_t) error {
		if path == "/gone" {
			return unix.EIO
		}
		_ = size(path, s)
		if path != "/" {
			s.Files, s.Ffree = 0, 0
		}
		return nil
	}
	elements, err := m.Elements(time.Now())
	if err == nil || !strings.Contains(err.Error(), "/gone: input/output error") {
		t.Error(err)
	}
	got := valuesOf(elements)
	if sum := got[series{"df.statistics.total", "GAUGE", ""}]; sum != 2*270553174016 {
		t.Errorf("all file systems have %v bytes", sum)
	}
	if _, ok := got[series{"df.bytes.total", "GAUGE", "mount=/mnt/my_disk,fstype=btrfs"}]; !ok {
		t.Errorf("no file system with a blank: %v", got)
	}
	if inodes, ok := got[series{"df.inodes.total", "GAUGE", "mount=/mnt/my_disk,fstype=btrfs"}]; ok {
		t.Errorf("a file system without inodes has %v", inodes)
	}
}

// The values are those of this machine; the names and kinds of all are known.
func TestThisMachineHasFigures(t *testing.T) {
	m := NewMachine()
	elements, err := m.Elements(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for s := range recorded(t) {
		known[s.metric] = true
	}
	got := map[string]float64{}
	for _, e := range elements {
		got[e.Metric] = e.Value
		if e.Endpoint, e.Step = "e", 60; e.Validate() != nil || !known[e.Metric] {
			t.Errorf("%+v: known %v, %v", e, known[e.Metric], e.Validate())
		}
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	if want := float64(info.Totalram) * float64(info.Unit); got["mem.memtotal"] != want || got["load.5min"] <= 0 || got["df.bytes.total"] <= 0 {
		t.Errorf("memory %v, want %v; %v", got["mem.memtotal"], want, got)
	}
	if cpus, err := m.CPUs(); err != nil || cpus < 1 {
		t.Errorf("%d processors, %v", cpus, err)
	}
}
