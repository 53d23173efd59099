package localmesos

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// containerOf returns the container of the only executor that is checkpointed in a work directory.
func containerOf(t *testing.T, workDir string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(workDir, "agents", "*", "meta", "runs", "*", "run.json"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("runs: %v %v", paths, err)
	}
	return filepath.Base(filepath.Dir(paths[0]))
}

// cgroupFile reads a file of a container's cgroup.
func cgroupFile(t *testing.T, controller, container, file string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(hierarchy(controller), cgroupsRoot, container, file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func TestCgroupsHaveLimitsAndContainDescendants(t *testing.T) {
	c := testConfig(t)
	c.Isolation = "cgroups/cpu,cgroups/mem"
	f := subscribeWith(t, startCluster(t, c), nil)
	line, env := asProgram(t, "executor", object{"name": "LOCALMESOS_TEST_NOTES", "value": filepath.Join(t.TempDir(), "notes")})
	launch := func(task string) {
		o := f.mustOffer()
		f.accept(o, executorTask(task, o, executorOf(f, "contained", line, env...)))
		f.ack(f.mustUpdate(task, "TASK_RUNNING"))
	}
	launch("one")
	container := containerOf(t, c.WorkDir)
	for _, controller := range []string{"cpu", "cpuacct", "memory", "freezer"} {
		if procs := cgroupFile(t, controller, container, "cgroup.procs"); procs == "" {
			t.Errorf("the executor is not in its cgroup of %s", controller)
		}
	}
	shares, memory := cgroupFile(t, "cpu", container, "cpu.shares"), cgroupFile(t, "memory", container, "memory.limit_in_bytes")
	launch("two")
	eventually(t, "more for the second task", func() bool {
		return number(t, cgroupFile(t, "cpu", container, "cpu.shares")) > number(t, shares) &&
			number(t, cgroupFile(t, "memory", container, "memory.limit_in_bytes")) > number(t, memory)
	})
	f.call("KILL", object{"kill": object{"task_id": named("two")}})
	f.ack(f.mustUpdate("two", "TASK_KILLED"))
	eventually(t, "as before it", func() bool {
		return cgroupFile(t, "cpu", container, "cpu.shares") == shares &&
			cgroupFile(t, "memory", container, "memory.soft_limit_in_bytes") == memory
	})
	if now := cgroupFile(t, "memory", container, "memory.limit_in_bytes"); now == memory {
		t.Error("the hard limit went down, which may kill what still gives memory back")
	}

	// A process in foreign cgroups below the container's, such as a Docker container, and one outside the freezer cgroup.
	foreign, escaped := inCgroups(t, container, "foreign", "memory", "freezer"), inCgroups(t, container, "", "cpuacct")
	pids := pidsIn(t, c.WorkDir)
	pids[0].destroy()
	if err := foreign.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("what ran below the executor's cgroup ended with %v", err)
	}
	f.mustUpdate("one", "TASK_FAILED")
	for _, controller := range []string{"cpu", "memory", "freezer"} {
		if _, err := os.Stat(filepath.Join(hierarchy(controller), cgroupsRoot, container)); !os.IsNotExist(err) {
			t.Errorf("the cgroup of %s is left: %v", controller, err)
		}
	}
	if procs := cgroupFile(t, "cpuacct", container, "cgroup.procs"); procs != strconv.Itoa(escaped.Process.Pid) {
		t.Errorf("what was not in the freezer's cgroup is to live on; now %q lives", procs)
	}
}

// inCgroups starts a process in cgroups below a container's, or in the container's own.
func inCgroups(t *testing.T, container, name string, controllers ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have been killed already
		_ = cmd.Wait()
		for _, controller := range controllers {
			_ = removeBelow(filepath.Join(hierarchy(controller), cgroupsRoot, container))
			_ = os.Remove(filepath.Join(hierarchy(controller), cgroupsRoot))
		}
	})
	for _, controller := range controllers {
		dir := filepath.Join(hierarchy(controller), cgroupsRoot, container, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	return cmd
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
