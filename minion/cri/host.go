package cri

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// host describes what this machine can grant to containers.
type host struct {
	// missing are the capabilities that the kernel knows but the host withholds, by name without CAP_.
	missing []string
	// allIsGranted says that Docker's ALL is without these.
	allIsGranted bool
	// negativeOOMScore says whether a process may be protected from the OOM killer, which takes CAP_SYS_RESOURCE.
	negativeOOMScore bool
	appArmor         bool
	appArmorProfiles string // the kernel's list of loaded profiles; empty if unknown
	selinux          bool   // the Engine labels the files of containers
	systemdCgroups   bool   // the Engine uses the systemd cgroup driver
	cgroup2          bool   // cgroup v2 only
	cgroup           string // parent of all containers; empty for none
	// devices are the host's, for a privileged container on a host where Docker's own --privileged fails.
	devices []container.DeviceMapping
}

// capabilityNames are ordered by capability number (linux/capability.h).
var capabilityNames = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// readHost reads this process's bounding set. The Engine has the same, unless it runs elsewhere or confined.
func readHost() (host, error) {
	self, err := procfs.Self()
	if err != nil {
		return host{}, err
	}
	status, err := self.NewStatus()
	if err != nil {
		return host{}, fmt.Errorf("cannot read the bounding set of capabilities: %w", err)
	}
	last, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return host{}, err
	}
	h, err := hostOf(status.CapBnd, string(last))
	if err != nil {
		return host{}, err
	}
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if h.appArmor = err == nil && strings.HasPrefix(string(enabled), "Y"); h.appArmor {
		list, _ := os.ReadFile("/sys/kernel/security/apparmor/profiles") // unknown if securityfs is not mounted
		h.appArmorProfiles = string(list)
	}
	if len(h.missing) > 0 {
		h.devices, err = listDevices("/dev")
	} else {
		err = nil
	}
	return h, err
}

// hostOf returns the host for this bounding set of capabilities. lastCap is the number of the kernel's last capability.
func hostOf(bounding uint64, lastCap string) (host, error) {
	last, err := strconv.Atoi(strings.TrimSpace(lastCap))
	if err != nil {
		return host{}, fmt.Errorf("cannot read the kernel's last capability: %w", err)
	}
	var h host
	for number, name := range capabilityNames[:min(last+1, len(capabilityNames))] {
		if bounding&(1<<number) == 0 {
			h.missing = append(h.missing, name)
		}
	}
	h.negativeOOMScore = !slices.Contains(h.missing, "SYS_RESOURCE")
	return h, nil
}

// lacksProfile reports whether an AppArmor profile is not loaded. The kernel lists a profile and its mode per line.
func (h host) lacksProfile(name string) bool {
	return h.appArmorProfiles != "" && !strings.Contains("\n"+h.appArmorProfiles, "\n"+name+" (")
}

// listDevices returns all device nodes below dir that containers may share. Each container has its own terminals and shared memory.
func listDevices(dir string) ([]container.DeviceMapping, error) {
	var devices []container.DeviceMapping
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil // removed by now
		}
		if entry.IsDir() {
			switch entry.Name() {
			case "pts", "shm", "fd", "mqueue":
				return fs.SkipDir
			}
			return nil
		}
		if entry.Type()&fs.ModeDevice != 0 && entry.Name() != "console" && entry.Name() != "ptmx" {
			devices = append(devices, container.DeviceMapping{PathOnHost: path, PathInContainer: path, CgroupPermissions: "rwm"})
		}
		return nil
	})
	return devices, err
}

// limits says what this host cannot grant, for the log; empty if it can grant everything.
func (h host) limits() string {
	if len(h.missing) == 0 {
		return ""
	}
	text := "containers cannot have the capabilities " + strings.Join(h.missing, ", ") + ", privileged ones included"
	if !h.negativeOOMScore {
		text += "; no container can be protected from the OOM killer (negative oom_score_adj)"
	}
	return text
}

// oomScore returns the wanted oom_score_adj, or the nearest that this host permits.
func (h host) oomScore(wanted int64) int {
	if wanted < 0 && !h.negativeOOMScore {
		return 0
	}
	return int(wanted)
}

// exists reports whether the path exists. It does not follow a symlink at its end.
func exists(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil
}
