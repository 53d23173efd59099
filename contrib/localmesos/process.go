package localmesos

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// processes starts, watches and ends the processes of one cluster. It outlives the agents, so that a restarted agent in this
// cluster still gets the exit status of its processes.
type processes struct {
	mu       sync.Mutex // guards children and inside
	children map[process]*child
	inside   uint64 // number of executors started in this program
	watchers sync.WaitGroup
}

// child is a process that this program started, or an executor in this program.
type child struct {
	done   chan struct{} // closed after status is set
	status int32
	quit   func() // ends an executor in this program; nil for a process
}

func newProcesses() *processes { return &processes{children: map[process]*child{}} }

// command to start in a sandbox that has all files from its URIs.
type command struct {
	info      *mesos.CommandInfo
	sandbox   string
	env       []string
	isolation isolators
	join      []string                    // files to write to join its cgroups
	enter     func(do func() error) error // runs do in its network namespace
}

// start starts a process in a session of its own, with its output in the sandbox's files stdout and stderr.
func (ps *processes) start(c command) (process, error) {
	cmd, err := c.prepare()
	if err != nil {
		return process{}, err
	}
	stdout, err := os.OpenFile(filepath.Join(c.sandbox, "stdout"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return process{}, err
	}
	defer stdout.Close()
	stderr, err := os.OpenFile(filepath.Join(c.sandbox, "stderr"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return process{}, err
	}
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := c.enter(cmd.Start); err != nil {
		return process{}, err
	}
	return ps.adopt(cmd, c.isolation), nil
}

// adopt waits for a new child.
func (ps *processes) adopt(cmd *exec.Cmd, isolation isolators) process {
	p := process{PID: cmd.Process.Pid}
	if stat, err := readStat(p.PID); err == nil {
		p.Start = stat.Starttime
	}
	c := &child{done: make(chan struct{})}
	ps.mu.Lock()
	ps.children[p] = c
	ps.mu.Unlock()
	ps.watchers.Go(func() {
		_ = cmd.Wait() // the wait status below has the result
		if w, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok {
			c.status = isolation.status(w)
		}
		close(c.done)
	})
	return p
}

// startInside runs an executor in this program. run must return a wait status soon after quit is closed. The returned process has
// no PID.
func (ps *processes) startInside(run func(quit <-chan struct{}) int32) process {
	quit := make(chan struct{})
	c := &child{done: make(chan struct{}), quit: sync.OnceFunc(func() { close(quit) })}
	ps.mu.Lock()
	ps.inside++
	p := process{Start: ps.inside}
	ps.children[p] = c
	ps.mu.Unlock()
	ps.watchers.Go(func() {
		c.status = run(quit)
		close(c.done)
	})
	return p
}

// destroy ends a process and everything it started, or an executor in this program.
func (ps *processes) destroy(p process) {
	ps.mu.Lock()
	c := ps.children[p]
	ps.mu.Unlock()
	if c != nil && c.quit != nil {
		c.quit()
		return
	}
	p.destroy()
}

func (c command) prepare() (*exec.Cmd, error) {
	var cmd *exec.Cmd
	switch {
	case c.info.GetShell():
		cmd = exec.Command("/bin/sh", "-c", c.info.GetValue())
	case c.info.GetValue() == "":
		return nil, errors.New("the command has no value")
	default:
		cmd = exec.Command(c.info.GetValue())
		cmd.Args = c.info.Arguments
		if len(cmd.Args) == 0 {
			cmd.Args = []string{c.info.GetValue()}
		}
	}
	if script := c.isolation.script(len(c.join) > 0); script != "" {
		cmd = exec.Command("/bin/sh", slices.Concat([]string{"-c", script, "sh"}, c.join, []string{"--", cmd.Path}, cmd.Args[1:])...)
	}
	cmd.Dir, cmd.Env = c.sandbox, c.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: c.isolation.namespaces()}
	return cmd, nil
}

// watch calls ended with the wait status when the process has exited; -1 if it is not our child or exited before. It stops watching
// when stop is closed.
func (ps *processes) watch(p process, stop <-chan struct{}, ended func(status int32)) {
	ps.mu.Lock()
	c := ps.children[p]
	ps.mu.Unlock()
	ps.watchers.Go(func() {
		if c == nil {
			if waitForeign(p, stop) {
				ended(-1)
			}
			return
		}
		select {
		case <-c.done:
			ps.mu.Lock()
			delete(ps.children, p)
			ps.mu.Unlock()
			ended(c.status)
		case <-stop:
		}
	})
}

// waitForeign waits for the end of a process that is not our child. It returns false if stop is closed first.
func waitForeign(p process, stop <-chan struct{}) bool {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil || !p.alive() {
		if err == nil {
			_ = unix.Close(fd)
		}
		return true
	}
	defer unix.Close(fd)
	const look = 200 // ms between checks of stop; poll returns at once when the process ends
	for {
		select {
		case <-stop:
			return false
		default:
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, look)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return true
		}
	}
}

// alive reports whether this process runs, and not another one with its PID.
func (p process) alive() bool {
	stat, err := readStat(p.PID)
	return err == nil && stat.Starttime == p.Start && stat.State != zombie
}

// terminate sends SIGTERM to the process group of a command.
func (p process) terminate() {
	if p.PID > 0 && p.alive() {
		_ = syscall.Kill(-p.PID, syscall.SIGTERM) // it may be gone already
	}
}

// destroy kills the process, its descendants and its session, whose id cannot be reused while a member lives. It repeats the search,
// to find processes started meanwhile.
func (p process) destroy() {
	if p.PID <= 0 {
		return
	}
	for range 5 {
		victims := family(p)
		if len(victims) == 0 {
			return
		}
		for _, pid := range victims {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// family returns p and the processes it started, if they live.
func family(p process) []int {
	processes, err := procfs.AllProcs()
	if err != nil {
		return nil
	}
	stats := map[int]procfs.ProcStat{}
	for _, process := range processes {
		if s, err := process.Stat(); err == nil && s.State != zombie {
			stats[s.PID] = s
		}
	}
	if s, ok := stats[p.PID]; ok && s.Starttime != p.Start {
		return nil // another process has the id, so the session has ended
	}
	members := map[int]bool{p.PID: true}
	for grew := true; grew; {
		grew = false
		for pid, s := range stats {
			if !members[pid] && (members[s.PPID] || s.Session == p.PID) {
				members[pid], grew = true, true
			}
		}
	}
	var out []int
	for pid := range members {
		if _, live := stats[pid]; live {
			out = append(out, pid)
		}
	}
	return out
}

// zombie is the state of an exited process that has not been waited for.
const zombie = "Z"

func readStat(pid int) (procfs.ProcStat, error) {
	process, err := procfs.NewProc(pid)
	if err != nil {
		return procfs.ProcStat{}, err
	}
	return process.Stat()
}
