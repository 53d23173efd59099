package figures

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	"github.com/prometheus/procfs/blockdevice"
	"golang.org/x/sys/unix"

	"github.com/k8sm/k8sm/api/falcon"
)

// Machine makes the metrics of this machine. One goroutine uses it.
type Machine struct {
	proc, sys string
	statfs    func(path string, stat *unix.Statfs_t) error

	// Of the last reading; nil before it.
	cpu   *procfs.CPUStat
	disks map[string]blockdevice.Diskstats
	at    time.Time
}

// NewMachine returns a Machine that reads /proc and /sys.
func NewMachine() *Machine { return &Machine{proc: "/proc", sys: "/sys", statfs: unix.Statfs} }

// CPUs returns the number of processors.
func (m *Machine) CPUs() (int, error) {
	fs, err := procfs.NewFS(m.proc)
	if err != nil {
		return 0, err
	}
	stat, err := fs.Stat()
	if err == nil && len(stat.CPU) == 0 {
		err = errors.New("it names no processor")
	}
	if err != nil {
		return 0, fmt.Errorf("cannot count the processors in %s/stat: %w", m.proc, err)
	}
	return len(stat.CPU), nil
}

// Elements returns the metrics of the machine. Those that are rates begin with the second call. With an error it returns all that it could
// read. Only counters may be missing on kernels that do not have them.
func (m *Machine) Elements(now time.Time) (elements []falcon.Element, err error) {
	fs, err := procfs.NewFS(m.proc)
	if err != nil {
		return nil, err
	}
	elements = []falcon.Element{falcon.Gauge("agent.alive", 1, "")}
	for what, read := range map[string]func(procfs.FS) ([]falcon.Element, error){
		"processors": m.processors, "load": load, "memory": memory, "file systems": m.fileSystems, "network devices": m.devices, "sockets": m.sockets,
		"kernel": m.kernel,
		"disks":  func(procfs.FS) ([]falcon.Element, error) { return m.readDisks(now.Sub(m.at)) },
	} {
		more, readErr := read(fs)
		if readErr != nil {
			err = errors.Join(err, fmt.Errorf("cannot read the machine's %s: %w", what, readErr))
		}
		elements = append(elements, more...)
	}
	m.at = now
	return elements, err
}

// processors returns in percent what the processors did since the last reading, and the counter of context switches.
func (m *Machine) processors(fs procfs.FS) ([]falcon.Element, error) {
	stat, err := fs.Stat()
	if err != nil {
		return nil, err
	}
	before, now := m.cpu, stat.CPUTotal
	m.cpu = &now
	elements := []falcon.Element{falcon.Counter("cpu.switches", float64(stat.ContextSwitches), "")}
	if before == nil {
		return elements, nil
	}
	total := sum(now) - sum(*before)
	for _, part := range []struct {
		name string
		of   func(procfs.CPUStat) float64
	}{
		{"idle", func(c procfs.CPUStat) float64 { return c.Idle }},
		{"busy", func(c procfs.CPUStat) float64 { return sum(c) - c.Idle }},
		{"user", func(c procfs.CPUStat) float64 { return c.User }},
		{"nice", func(c procfs.CPUStat) float64 { return c.Nice }},
		{"system", func(c procfs.CPUStat) float64 { return c.System }},
		{"iowait", func(c procfs.CPUStat) float64 { return c.Iowait }},
		{"irq", func(c procfs.CPUStat) float64 { return c.IRQ }},
		{"softirq", func(c procfs.CPUStat) float64 { return c.SoftIRQ }},
		{"steal", func(c procfs.CPUStat) float64 { return c.Steal }},
		{"guest", func(c procfs.CPUStat) float64 { return c.Guest }},
	} {
		// The kernel may take back a little of idle and iowait.
		used := max(part.of(now)-part.of(*before), 0)
		elements = append(elements, falcon.Gauge("cpu."+part.name, min(percent(used, total), 100), ""))
	}
	return elements, nil
}

// sum returns all time of the processors. That of guests is part of user and nice.
func sum(c procfs.CPUStat) float64 {
	return c.User + c.Nice + c.System + c.Idle + c.Iowait + c.IRQ + c.SoftIRQ + c.Steal
}

func load(fs procfs.FS) ([]falcon.Element, error) {
	load, err := fs.LoadAvg()
	if err != nil {
		return nil, err
	}
	return []falcon.Element{
		falcon.Gauge("load.1min", load.Load1, ""), falcon.Gauge("load.5min", load.Load5, ""), falcon.Gauge("load.15min", load.Load15, ""),
	}, nil
}

// memory counts as free what the kernel can give to programs, the most of the page cache included.
func memory(fs procfs.FS) ([]falcon.Element, error) {
	info, err := fs.Meminfo()
	if err != nil {
		return nil, err
	}
	if info.MemTotalBytes == nil || info.MemAvailableBytes == nil || info.SwapTotalBytes == nil || info.SwapFreeBytes == nil {
		return nil, errors.New("meminfo lacks a line")
	}
	total, free := float64(*info.MemTotalBytes), float64(*info.MemAvailableBytes)
	swap, swapFree := float64(*info.SwapTotalBytes), float64(*info.SwapFreeBytes)
	return []falcon.Element{
		falcon.Gauge("mem.memtotal", total, ""),
		falcon.Gauge("mem.memfree", free, ""),
		falcon.Gauge("mem.memfree.percent", percent(free, total), ""),
		falcon.Gauge("mem.memused", total-free, ""),
		falcon.Gauge("mem.memused.percent", percent(total-free, total), ""),
		falcon.Gauge("mem.swaptotal", swap, ""),
		falcon.Gauge("mem.swapfree", swapFree, ""),
		falcon.Gauge("mem.swapfree.percent", percent(swapFree, swap), ""),
		falcon.Gauge("mem.swapused", swap-swapFree, ""),
		falcon.Gauge("mem.swapused.percent", percent(swap-swapFree, swap), ""),
	}, nil
}

// fileSystems returns the sizes of the file systems on block devices, each once.
func (m *Machine) fileSystems(fs procfs.FS) (elements []falcon.Element, err error) {
	mounts, err := fs.GetMounts()
	if err != nil {
		return nil, err
	}
	var all unix.Statfs_t // its blocks have one byte
	seen := map[string]bool{}
	for _, mount := range mounts {
		if !strings.HasPrefix(mount.Source, "/dev/") || seen[mount.MajorMinorVer] {
			continue
		}
		seen[mount.MajorMinorVer] = true
		var stat unix.Statfs_t
		path := mountPoint(mount.MountPoint)
		if statErr := m.statfs(path, &stat); statErr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", path, statErr))
			continue
		}
		size := uint64(stat.Bsize)
		all.Blocks += stat.Blocks * size
		all.Bfree += stat.Bfree * size
		elements = append(elements, spaceElements(stat, falcon.Tags("mount", path, "fstype", mount.FSType))...)
	}
	used := float64(all.Blocks - all.Bfree)
	return append(elements,
		falcon.Gauge("df.statistics.total", float64(all.Blocks), ""),
		falcon.Gauge("df.statistics.used", used, ""),
		falcon.Gauge("df.statistics.used.percent", percent(used, float64(all.Blocks)), "")), err
}

// mountPoint replaces the octal escapes of proc_pid_mountinfo(5).
func mountPoint(text string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(text)
}

// spaceElements returns percentages of what users without privileges may use, as df(1).
func spaceElements(stat unix.Statfs_t, tags string) []falcon.Element {
	size := float64(stat.Bsize)
	used, free := float64(stat.Blocks-stat.Bfree)*size, float64(stat.Bavail)*size
	elements := []falcon.Element{
		falcon.Gauge("df.bytes.total", float64(stat.Blocks)*size, tags),
		falcon.Gauge("df.bytes.used", used, tags),
		falcon.Gauge("df.bytes.free", free, tags),
		falcon.Gauge("df.bytes.used.percent", percent(used, used+free), tags),
		falcon.Gauge("df.bytes.free.percent", percent(free, used+free), tags),
	}
	if stat.Files == 0 {
		return elements // this kind of file system has no table of inodes
	}
	inodes, inodesFree := float64(stat.Files), float64(stat.Ffree)
	return append(elements,
		falcon.Gauge("df.inodes.total", inodes, tags),
		falcon.Gauge("df.inodes.used", inodes-inodesFree, tags),
		falcon.Gauge("df.inodes.free", inodesFree, tags),
		falcon.Gauge("df.inodes.used.percent", percent(inodes-inodesFree, inodes), tags),
		falcon.Gauge("df.inodes.free.percent", percent(inodesFree, inodes), tags))
}

// readDisks returns what the disks did, and the rates since the last reading.
func (m *Machine) readDisks(since time.Duration) (elements []falcon.Element, err error) {
	fs, err := blockdevice.NewFS(m.proc, m.sys)
	if err != nil {
		return nil, err
	}
	stats, err := fs.ProcDiskstats()
	if err != nil {
		return nil, err
	}
	disks := map[string]blockdevice.Diskstats{}
	for _, disk := range stats {
		// Partitions, loop devices and the like have no hardware.
		if _, err := os.Stat(filepath.Join(m.sys, "block", disk.DeviceName, "device")); err != nil {
			continue
		}
		tags := falcon.Tags("device", disk.DeviceName)
		elements = append(elements, diskCounters(disk.IOStats, tags)...)
		if before, known := m.disks[disk.DeviceName]; known && since > 0 && before.IOsTotalTicks <= disk.IOsTotalTicks {
			elements = append(elements, diskRates(before.IOStats, disk.IOStats, since, tags)...)
		}
		disks[disk.DeviceName] = disk
	}
	m.disks = disks
	return elements, nil
}

func diskCounters(s blockdevice.IOStats, tags string) (elements []falcon.Element) {
	for _, c := range []struct {
		name  string
		value uint64
	}{
		{"ios_in_progress", s.IOsInProgress},
		{"read_requests", s.ReadIOs}, {"read_merged", s.ReadMerges}, {"read_sectors", s.ReadSectors}, {"msec_read", s.ReadTicks},
		{"write_requests", s.WriteIOs}, {"write_merged", s.WriteMerges}, {"write_sectors", s.WriteSectors}, {"msec_write", s.WriteTicks},
		{"msec_total", s.IOsTotalTicks}, {"msec_weighted_total", s.WeightedIOTicks},
	} {
		elements = append(elements, falcon.Counter("disk.io."+c.name, float64(c.value), tags))
	}
	return elements
}

// diskRates returns the figures of iostat(1).
func diskRates(before, now blockdevice.IOStats, since time.Duration, tags string) []falcon.Element {
	const sectorSize = 512 // of the kernel's figures, whatever the disk's is
	read, written := float64(now.ReadSectors-before.ReadSectors), float64(now.WriteSectors-before.WriteSectors)
	requests := float64(now.ReadIOs - before.ReadIOs + now.WriteIOs - before.WriteIOs)
	waited := float64(now.ReadTicks - before.ReadTicks + now.WriteTicks - before.WriteTicks)
	busy, elapsed := float64(now.IOsTotalTicks-before.IOsTotalTicks), float64(since.Milliseconds())
	perRequest := func(value float64) float64 { return percent(value, requests) / 100 }
	return []falcon.Element{
		falcon.Gauge("disk.io.read_bytes", read*sectorSize/since.Seconds(), tags),
		falcon.Gauge("disk.io.write_bytes", written*sectorSize/since.Seconds(), tags),
		falcon.Gauge("disk.io.avgrq_sz", perRequest(read+written), tags),
		falcon.Gauge("disk.io.avgqu-sz", float64(now.WeightedIOTicks-before.WeightedIOTicks)/elapsed, tags),
		falcon.Gauge("disk.io.await", perRequest(waited), tags),
		falcon.Gauge("disk.io.svctm", perRequest(busy), tags),
		falcon.Gauge("disk.io.util", min(percent(busy, elapsed), 100), tags),
	}
}

// deviceNames begin the names of the machine's own network devices; others are the pods', Docker's and tunnels.
var deviceNames = []string{"lo", "eth", "em", "en", "bond"}

func (m *Machine) devices(fs procfs.FS) (elements []falcon.Element, err error) {
	devices, err := fs.NetDev()
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		for _, prefix := range deviceNames {
			if strings.HasPrefix(d.Name, prefix) {
				elements = append(elements, deviceElements(d, m.speed(d.Name), falcon.Tags("iface", d.Name))...)
				break
			}
		}
	}
	return elements, nil
}

// speed returns a device's speed in bits per second; 0 if it has none.
func (m *Machine) speed(device string) float64 {
	text, err := os.ReadFile(filepath.Join(m.sys, "class/net", device, "speed"))
	if err != nil {
		return 0
	}
	megabits, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
	if err != nil || megabits < 0 { // -1 is unknown
		return 0
	}
	return megabits * 1e6
}

func deviceElements(d procfs.NetDevLine, speed float64, tags string) (elements []falcon.Element) {
	for name, value := range map[string]uint64{
		"in.bits": d.RxBytes * 8, "in.bytes": d.RxBytes, "in.packets": d.RxPackets, "in.errors": d.RxErrors, "in.dropped": d.RxDropped,
		"in.fifo.errs": d.RxFIFO, "in.frame.errs": d.RxFrame, "in.compressed": d.RxCompressed, "in.multicast": d.RxMulticast,
		"out.bits": d.TxBytes * 8, "out.bytes": d.TxBytes, "out.packets": d.TxPackets, "out.errors": d.TxErrors, "out.dropped": d.TxDropped,
		"out.fifo.errs": d.TxFIFO, "out.collisions": d.TxCollisions, "out.carrier.errs": d.TxCarrier, "out.compressed": d.TxCompressed,
		"total.bits": (d.RxBytes + d.TxBytes) * 8, "total.bytes": d.RxBytes + d.TxBytes, "total.packets": d.RxPackets + d.TxPackets,
		"total.errors": d.RxErrors + d.TxErrors, "total.dropped": d.RxDropped + d.TxDropped,
	} {
		elements = append(elements, falcon.Counter("net.if."+name, float64(value), tags))
	}
	if speed == 0 {
		return elements
	}
	// The increase per second of these, which open-falcon stores, is the utilization.
	return append(elements,
		falcon.Gauge("net.if.speed.bits", speed, tags),
		falcon.Counter("net.if.in.percent", percent(float64(d.RxBytes*8), speed), tags),
		falcon.Counter("net.if.out.percent", percent(float64(d.TxBytes*8), speed), tags))
}

// kernel returns the kernel's tables of files and processes.
func (m *Machine) kernel(procfs.FS) ([]falcon.Element, error) {
	files, err := m.numbers("sys/fs/file-nr", 3)
	if err != nil {
		return nil, err
	}
	processes, err := m.numbers("sys/kernel/pid_max", 1)
	if err != nil {
		return nil, err
	}
	allocated, most := files[0], files[2]
	return []falcon.Element{
		falcon.Gauge("kernel.files.allocated", allocated, ""),
		falcon.Gauge("kernel.files.left", most-allocated, ""),
		falcon.Gauge("kernel.maxfiles", most, ""),
		falcon.Gauge("kernel.maxproc", processes[0], ""),
	}, nil
}

// numbers reads a file of numbers.
func (m *Machine) numbers(file string, count int) ([]float64, error) {
	text, err := os.ReadFile(filepath.Join(m.proc, file))
	if err != nil {
		return nil, err
	}
	var numbers []float64
	for _, field := range strings.Fields(string(text)) {
		number, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		numbers = append(numbers, number)
	}
	if len(numbers) != count {
		return nil, fmt.Errorf("%s has %d numbers, want %d", file, len(numbers), count)
	}
	return numbers, nil
}
