package mesos

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// HideToken removes the executor's token from the environment of this process, from that of the processes which it will start, and
// from /proc/PID/environ. Call it after ConfigFromEnv, before other goroutines use the environment. Mesos' own library does so too
// (src/executor/executor.cpp).
func HideToken() error {
	if err := os.Unsetenv(tokenVariable); err != nil {
		return fmt.Errorf("cannot remove the executor's token from the environment: %w", err)
	}
	if err := eraseFromProc(tokenVariable); err != nil {
		return fmt.Errorf("cannot remove the executor's token from /proc/self/environ: %w", err)
	}
	return nil
}

// eraseFromProc overwrites a variable in the memory that /proc/self/environ shows. That is where the kernel put the environment when
// it started this program; os.Unsetenv changes a copy.
func eraseFromProc(name string) error {
	environment, err := os.ReadFile("/proc/self/environ")
	if err != nil {
		return err
	}
	start, err := environmentStart()
	if err != nil {
		return err
	}
	memory, err := os.OpenFile("/proc/self/mem", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer memory.Close()
	for variable := range bytes.SplitAfterSeq(environment, []byte{0}) {
		if bytes.HasPrefix(variable, []byte(name+"=")) {
			if _, err := memory.WriteAt(make([]byte, len(variable)), start); err != nil {
				return err
			}
		}
		start += int64(len(variable))
	}
	return nil
}

// environmentStart returns the address of this process's environment: the 50th field, env_start, of /proc/self/stat, see proc(5).
func environmentStart() (int64, error) {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " ") // from the third field on
	fields := strings.Fields(rest)
	if len(fields) < 48 {
		return 0, fmt.Errorf("/proc/self/stat has %d fields, too few", len(fields)+2)
	}
	return strconv.ParseInt(fields[47], 10, 64)
}
