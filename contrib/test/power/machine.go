package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/k8sm/k8sm/contrib/test/power/notes"
)

// machine is a machine with a disk, and a folder that it shares with this one.
type machine struct {
	settings
	dir   string // is removed at the end
	share string // stays: notes and logs
	seen  int    // problems that are known

	running *exec.Cmd // nil while there is no power
	ended   chan error
}

// newMachine makes a machine with a new disk and an empty folder.
func (s settings) newMachine() (m *machine, err error) {
	share, err := filepath.Abs(s.path("host"))
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(share); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(share, 0o755); err != nil {
		return nil, err
	}
	m = &machine{settings: s, share: share}
	if m.dir, err = os.MkdirTemp("", "k8sm-power-"); err != nil {
		return nil, err
	}
	for from, to := range map[string]string{s.path("base.ext4"): m.disk(), s.km: filepath.Join(share, "km"), s.guest: filepath.Join(share, "guest")} {
		if out, err := exec.Command("cp", "--sparse=always", from, to).CombinedOutput(); err != nil { // io.Copy would write the disk's holes
			return nil, errors.Join(fmt.Errorf("cannot copy %s: %w: %s", from, err, out), m.remove())
		}
	}
	return m, nil
}

func (m *machine) disk() string { return filepath.Join(m.dir, "disk.ext4") }

// boot gives the machine power. It is a session of its own: all that a cut ends.
func (m *machine) boot() error {
	console, err := os.OpenFile(m.path("console.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer console.Close()
	memory := strconv.Itoa(m.memory) + "G"
	cmd := exec.Command(m.kernel, "mem="+memory, "ubd0="+m.disk(), "root=/dev/ubda", "rw", "hostfs="+m.share, "con=null", "con0=null,fd:1", "quiet")
	cmd.Env = append(os.Environ(), "TMPDIR=/dev/shm") // the file that is its memory
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	m.running, m.ended = cmd, make(chan error, 1)
	go func() { m.ended <- cmd.Wait() }()
	return nil
}

// cut takes the power away.
func (m *machine) cut() error {
	if m.running == nil {
		return nil
	}
	if err := syscall.Kill(-m.running.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	<-m.ended
	m.running = nil
	return nil
}

// remove takes the power away for good. What is in the shared folder stays, but for the programs.
func (m *machine) remove() error {
	err := errors.Join(m.cut(), os.RemoveAll(m.dir))
	for _, name := range []string{"km", "guest"} {
		if e := os.Remove(filepath.Join(m.share, name)); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// await waits until the notes are as wanted.
func (m *machine) await(ctx context.Context, limit time.Duration, wanted func(notes.Notes) bool) (n notes.Notes, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if n, err = notes.Read(filepath.Join(m.share, "notes")); err != nil || wanted(n) {
			return n, err
		}
		select {
		case <-tick.C:
		case err := <-m.ended:
			m.ended <- err // cut waits for it, too
			return n, fmt.Errorf("the machine ended by itself: %v; see %s", err, m.path("console.log"))
		case <-ctx.Done():
			return n, fmt.Errorf("not within %v: it has come back %d times, and noted %s", limit, n.Back, n)
		}
	}
}
