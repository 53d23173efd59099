package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// sharedMemorySize is the size of the segments that the suite makes on the host, by ipcmk, and leaves there.
const sharedMemorySize = 1 << 20

// removeSharedMemory returns a function that removes shared memory that the suite leaves after this call.
func removeSharedMemory() func(context.Context) error {
	before, failed := sharedMemory()
	return func(context.Context) error {
		after, err := sharedMemory()
		if err = errors.Join(failed, err); err != nil {
			return err
		}
		for _, id := range after {
			if slices.Contains(before, id) {
				continue
			}
			if _, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil); err != nil {
				return fmt.Errorf("cannot remove shared memory segment %d: %w", id, err)
			}
		}
		return nil
	}
}

func sharedMemory() ([]int, error) {
	table, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		return nil, fmt.Errorf("cannot list the host's shared memory: %w", err)
	}
	return abandonedSegments(string(table)), nil
}

// abandonedSegments are the ids of the segments of the suite's size that no process uses (proc_sysvipc(5)).
func abandonedSegments(table string) []int {
	var ids []int
	for line := range strings.Lines(table) {
		fields := strings.Fields(line) // key shmid perms size cpid lpid nattch …
		if len(fields) < 7 || fields[3] != strconv.Itoa(sharedMemorySize) || fields[6] != "0" {
			continue
		}
		if id, err := strconv.Atoi(fields[1]); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}
