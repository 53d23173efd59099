package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// process is one of the Engine's two programs. Its pid file and command line identify it, so that another program with a reused pid
// is never mistaken for it.
type process struct {
	name    string
	dir     string // holds <name>.pid and <name>.log
	command []string
	ready   func(context.Context) error // nil once the program serves
	// ownPIDFile is a pid file that the program itself writes, if it does. The program refuses to start if the file names an
	// existing process, which may be any process after a crash or a reboot.
	ownPIDFile string

	enter func(do func() error) error // calls do in its network namespace; nil for this process's

	adopted bool          // it was already running
	child   int           // the pid that we started, or 0
	exited  chan struct{} // closed when the child has exited
}

func (p *process) pidFile() string { return filepath.Join(p.dir, p.name+".pid") }
func (p *process) logFile() string { return filepath.Join(p.dir, p.name+".log") }

// ensure starts the program unless it is running, and waits until it serves.
func (p *process) ensure(ctx context.Context) error {
	p.adopted = p.pid() != 0
	if !p.adopted {
		if err := p.start(); err != nil {
			return fmt.Errorf("cannot start %s: %w", p.name, err)
		}
	}
	return poll(ctx, func() (bool, error) {
		err := p.ready(ctx)
		if err == nil {
			return true, nil
		}
		if p.pid() == 0 {
			return false, fmt.Errorf("%s ended at once; the end of %s says: %s", p.name, p.logFile(), tail(p.logFile()))
		}
		if ctx.Err() != nil {
			return false, fmt.Errorf("%s does not answer: %w; see %s", p.name, err, p.logFile())
		}
		return false, nil
	})
}

// start runs the program in a new session with output to a file, so that signals to our process group do not reach it and it
// survives us.
func (p *process) start() error {
	if p.ownPIDFile != "" {
		if err := os.Remove(p.ownPIDFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.command[0], p.command[1:]...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "PATH="+strings.Join(searchPath(), ":"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	begin := cmd.Start
	if p.enter != nil {
		begin = func() error { return p.enter(cmd.Start) }
	}
	if err := begin(); err != nil {
		return err
	}
	// Reap it if it exits before this process does.
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	p.child, p.exited = cmd.Process.Pid, exited
	return os.WriteFile(p.pidFile(), []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o600)
}

// pid is the running program's process id, or 0.
func (p *process) pid() int {
	data, err := os.ReadFile(p.pidFile())
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return 0
	}
	if pid == p.child {
		// We are its parent and need not guess. Its command line would mislead: it is empty for a moment after Start.
		select {
		case <-p.exited:
			return 0
		default:
			return pid
		}
	}
	there, err := procfs.NewProc(pid)
	if err != nil {
		return 0
	}
	if command, err := there.CmdLine(); err != nil || !slices.Equal(command, p.command) {
		return 0
	}
	return pid
}

// stop terminates the program and waits; it kills the program when ctx ends or after 15 s.
func (p *process) stop(ctx context.Context) error {
	pid := p.pid()
	if pid == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if err := unix.Kill(pid, unix.SIGTERM); err != nil && err != unix.ESRCH {
		return fmt.Errorf("cannot end %s (pid %d): %w", p.name, pid, err)
	}
	gone := func() (bool, error) { return p.pid() == 0, nil }
	if poll(ctx, gone) != nil {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			return fmt.Errorf("cannot kill %s (pid %d): %w", p.name, pid, err)
		}
		last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := poll(last, gone); err != nil {
			return fmt.Errorf("%s (pid %d) survives SIGKILL: %w", p.name, pid, err)
		}
	}
	return os.Remove(p.pidFile())
}

// poll calls done every 50 ms until it returns true or an error, or ctx ends. Neither program notifies a process other than its
// parent.
func poll(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if ok, err := done(); ok || err != nil {
				return err
			}
			return ctx.Err()
		}
	}
}

// tail returns the last two lines of a log.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-2):], []byte("; ")))
}
