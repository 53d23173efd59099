package stepout

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"

	"github.com/k8sm/k8sm/contrib/up/engine"
)

// lab is a Docker Engine and a program that steps out, in a directory.
type lab struct {
	dir, program string
	engine       *engine.Engine
	docker       *client.Client
}

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("namespaces, cgroups and a Docker Engine need root")
	}
	dir, err := os.MkdirTemp("/tmp", "s") // short, for the Engine's sockets
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{dir: dir, program: filepath.Join(dir, "minion")}
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", l.program, "./testdata/minion")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // there is no library in the container that it starts in
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the program: %v: %s", err, out)
	}
	if l.engine, err = engine.Start(t.Context(), engine.Config{Dir: filepath.Join(dir, "e")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(l.engine.Stop(t.Context()), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	if l.docker, err = client.NewClientWithOpts(client.WithHost(l.engine.Host()), client.WithAPIVersionNegotiation()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.docker.Close() })
	return l
}

// mesosContainer is a container as Mesos builds it for an executor: cgroups that are named after it, and namespaces.
type mesosContainer struct {
	t       *testing.T
	id      string
	sandbox string
	cmd     *exec.Cmd
	ended   chan error
}

// made counts containers: each has an id of its own.
var made atomic.Int32

// hierarchies are those in which the container has a cgroup.
var hierarchies = []string{"freezer", "devices", "memory"}

func (c *mesosContainer) cgroup(hierarchy string) string {
	return filepath.Join("/sys/fs/cgroup", hierarchy, "stepout-test", c.id)
}

// contain runs the program in a container with namespaces, as unshare(1) names them.
func (l *lab) contain(t *testing.T, namespaces ...string) *mesosContainer {
	t.Helper()
	c := &mesosContainer{t: t, id: fmt.Sprintf("c0ffee-%d-%d", os.Getpid(), made.Add(1)), ended: make(chan error, 1)}
	c.sandbox = filepath.Join(l.dir, "a-work-dir-whose-name-is-longer-than-the-path-of-a-socket-may-be-as-those-of-agents-are-with-all-their-ids", c.id)
	if err := os.MkdirAll(c.sandbox, 0o750); err != nil {
		t.Fatal(err)
	}
	script := ""
	for _, name := range hierarchies {
		if err := os.MkdirAll(c.cgroup(name), 0o755); err != nil {
			t.Fatal(err)
		}
		script += "echo $$ >" + c.cgroup(name) + "/cgroup.procs && "
	}
	for _, rule := range [][2]string{{"devices.deny", "a *:* rwm"}, {"devices.allow", "c 1:3 rwm"}, {"devices.allow", "c *:* m"}} {
		if err := os.WriteFile(filepath.Join(c.cgroup("devices"), rule[0]), []byte(rule[1]), 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(c.destroy)
	script += "exec unshare --net --mount --propagation slave " + strings.Join(namespaces, " ") + " " + l.program + " an argument"
	c.cmd = exec.Command("/bin/sh", "-c", script)
	c.cmd.Dir, c.cmd.Env = c.sandbox, []string{"ENGINE=" + l.engine.Host(), "SECRET=known to nobody"}
	out, err := os.Create(filepath.Join(c.sandbox, "stdout"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c.cmd.Stdout, c.cmd.Stderr = out, out
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { c.ended <- c.cmd.Wait() }()
	return c
}

// destroy does what Mesos does: it kills all that is in the container's cgroup, and removes its cgroups.
func (c *mesosContainer) destroy() {
	eventually(c.t, "the container's cgroups are gone", func() bool {
		gone := true
		for _, name := range hierarchies {
			text, _ := os.ReadFile(filepath.Join(c.cgroup(name), "cgroup.procs"))
			for _, pid := range strings.Fields(string(text)) {
				number, _ := strconv.Atoi(pid)
				_ = syscall.Kill(number, syscall.SIGKILL)
			}
			err := os.Remove(c.cgroup(name))
			gone = gone && (err == nil || errors.Is(err, os.ErrNotExist))
			_ = os.Remove(filepath.Dir(c.cgroup(name)))
		}
		return gone
	})
}

// report is what the program says of where it is.
func (c *mesosContainer) report() map[string]string {
	c.t.Helper()
	facts := map[string]string{}
	eventually(c.t, "the minion reports: "+c.output(), func() bool {
		text, err := os.ReadFile(filepath.Join(c.sandbox, "report.json"))
		return err == nil && json.Unmarshal(text, &facts) == nil
	})
	return facts
}

func (c *mesosContainer) output() string {
	text, _ := os.ReadFile(filepath.Join(c.sandbox, "stdout"))
	return string(text)
}

func (c *mesosContainer) status() int {
	c.t.Helper()
	select {
	case <-c.ended:
		return c.cmd.ProcessState.ExitCode()
	case <-time.After(30 * time.Second):
		c.t.Fatal("the process that Mesos started goes on")
		return 0
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(60 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// inMachine checks that the program runs where this test does, but for what Mesos accounts and ends it by.
func (c *mesosContainer) inMachine(facts map[string]string) {
	c.t.Helper()
	if facts["error"] != "" {
		c.t.Errorf("it says: %s", facts["error"])
	}
	for _, name := range []string{"mnt", "pid"} {
		if machine, _ := os.Readlink("/proc/self/ns/" + name); facts[name] != machine {
			c.t.Errorf("it is in %s, and the machine is %s", facts[name], machine)
		}
	}
	if machine, _ := os.Readlink("/proc/self/ns/net"); facts["net"] == machine || facts["net"] == "" {
		c.t.Errorf("it has left the network namespace of its agent for %s", machine)
	}
	for _, m := range parseCgroups(c.t, facts["cgroups"]) {
		want := "/stepout-test/" + c.id
		switch hierarchy(m) {
		case "devices":
			want = "/"
		case "freezer", "memory":
		default:
			continue
		}
		if m.Path != want {
			c.t.Errorf("it is in cgroup %s of %s, not in %s", m.Path, hierarchy(m), want)
		}
	}
	for key, want := range map[string]string{"kmsg": "<nil>", "dir": c.sandbox, "args": "[an argument]", "secret": "known to nobody"} {
		if facts[key] != want {
			c.t.Errorf("its %s is %q, not %q", key, facts[key], want)
		}
	}
}

func TestMinionLeavesAMountNamespaceAndTheDevicesCgroup(t *testing.T) {
	l := newLab(t)
	c := l.contain(t)
	facts := c.report()
	c.inMachine(facts)
	if facts["process"] != fmt.Sprint(c.cmd.Process.Pid) {
		t.Errorf("it is process %s, and Mesos started %d: it need not be another", facts["process"], c.cmd.Process.Pid)
	}
}

func TestMinionLeavesAPIDNamespaceByDockerEngine(t *testing.T) {
	l := newLab(t)
	inPIDs := []string{"--pid", "--fork", "--kill-child=SIGTERM", "--mount-proc"}

	t.Run("it ends as it is asked to, and its keeper with its status", func(t *testing.T) {
		c := l.contain(t, inPIDs...)
		c.inMachine(c.report())
		eventually(t, "what it writes is in the sandbox", func() bool { return strings.Contains(c.output(), "the minion is here") })
		l.noContainerIsLeft(t)
		if err := syscall.Kill(childOf(t, c.cmd.Process.Pid), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if status := c.status(); status != 7 {
			t.Errorf("the keeper ended with %d, and the minion with 7: %s", status, c.output())
		}
	})
	t.Run("its keeper ends when it is killed", func(t *testing.T) {
		c := l.contain(t, inPIDs...)
		minion, err := strconv.Atoi(c.report()["process"])
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(minion, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if status := c.status(); status != 137 {
			t.Errorf("the keeper of a minion that was killed ended with %d", status)
		}
	})
	t.Run("it does not outlive its keeper", func(t *testing.T) {
		c := l.contain(t, inPIDs...)
		minion := c.report()["process"]
		if err := syscall.Kill(childOf(t, c.cmd.Process.Pid), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		c.status()
		eventually(t, "the minion has ended", func() bool {
			stat, err := os.ReadFile("/proc/" + minion + "/stat")
			return err != nil || bytes.Contains(stat, []byte(") Z "))
		})
	})
	t.Run("without the Engine it says what to do", func(t *testing.T) {
		c := l.contain(t, append(inPIDs, "env", "ENGINE=unix:///nowhere")...)
		if got := c.report()["error"]; !strings.Contains(got, "namespaces/pid") || !strings.Contains(got, "/nowhere") {
			t.Errorf("it says %q", got)
		}
	})
}

// noContainerIsLeft waits until the container from which the minion started is gone.
func (l *lab) noContainerIsLeft(t *testing.T) {
	t.Helper()
	eventually(t, "the Engine's container is gone", func() bool {
		list, err := l.docker.ContainerList(t.Context(), container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", Label))})
		return err == nil && len(list) == 0
	})
}

// childOf is the only child of a process.
func childOf(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	child, convErr := strconv.Atoi(strings.TrimSpace(string(text)))
	if err := errors.Join(err, convErr); err != nil {
		t.Fatal(err)
	}
	return child
}
