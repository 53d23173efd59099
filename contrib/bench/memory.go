package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/k8sm/k8sm/contrib/scratch"
)

// settle is how long a cluster is left alone before its memory is read.
const settle = 20 * time.Second

// memory prints the resident memory of each process of the idle cluster: those that have its directory in their command
// line, or descend from such a process.
func memory(ctx context.Context, c *scratch.Cluster, out io.Writer) error {
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return ctx.Err()
	}
	processes, err := c.Processes()
	if err != nil {
		return err
	}
	total := figure{name: "idle_memory_total", unit: "MB", rounds: []float64{0}}
	for _, p := range processes {
		f := figure{name: "idle_memory_" + p.Role, unit: "MB"}
		kilobytes, err := resident(p.PID)
		if err != nil {
			continue // it ended since it was listed
		}
		f.rounds = append(f.rounds, float64(kilobytes)/1024)
		total.rounds[0] += f.rounds[0]
		f.print(out)
	}
	total.print(out)
	return nil
}

// resident is a process's proportional set size in kB: pages that several processes share count in part
// (https://docs.kernel.org/filesystems/proc.html).
func resident(pid int) (int, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(data) {
		if value, ok := strings.CutPrefix(string(line), "Pss:"); ok {
			return strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
		}
	}
	return 0, fmt.Errorf("no Pss line for process %d", pid)
}
