package localmesos

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

const defaultPorts = "[31000-32000]"

// machineResources returns what a Mesos agent without --resources offers: all processors, memory and disk minus a
// reserve, and the default port range. Several agents divide memory and disk, but each offers all processors.
func machineResources(workDir string, agents int64) (string, error) {
	mem, err := machineMemory()
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

// lessReserve subtracts reserve MB for the machine itself, but at most half.
func lessReserve(total, reserve int64) int64 {
	if total > 2*reserve {
		return total - reserve
	}
	return total / 2
}

func machineMemory() (megabytes int64, err error) {
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return 0, err
	}
	memory, err := proc.Meminfo()
	if err != nil {
		return 0, err
	}
	if memory.MemTotal == nil {
		return 0, errors.New("cannot tell how much memory this machine has: /proc/meminfo has no MemTotal")
	}
	return int64(*memory.MemTotal) >> 10, nil
}
