package localmesos

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const defaultPorts = "[31000-32000]"

// machineResources returns what a Mesos agent without --resources offers: all processors, memory and disk less a
// reserve, and the default port range. Of several agents each has its part of the memory and the disk; the processors are
// for whoever needs them.
func machineResources(workDir string, agents int64) (string, error) {
	mem, err := machineMemory("/proc/meminfo")
	if err != nil {
		return "", err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(workDir, &fs); err != nil {
		return "", fmt.Errorf("cannot measure the disk of %s: %w", workDir, err)
	}
	disk := int64(fs.Blocks) * fs.Bsize >> 20
	return fmt.Sprintf("cpus:%d;mem:%d;disk:%d;ports:%s", runtime.NumCPU(), lessReserve(mem, 1024)/agents, lessReserve(disk, 5*1024)/agents, defaultPorts), nil
}

// lessReserve keeps reserve MB for the machine itself, or half where that would take more than half.
func lessReserve(total, reserve int64) int64 {
	if total > 2*reserve {
		return total - reserve
	}
	return total / 2
}

func machineMemory(meminfo string) (megabytes int64, err error) {
	f, err := os.Open(meminfo)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) >= 2 && words[0] == "MemTotal:" {
			kb, err := strconv.ParseInt(words[1], 10, 64)
			return kb >> 10, err
		}
	}
	return 0, fmt.Errorf("%s has no MemTotal", meminfo)
}
