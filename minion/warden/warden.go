// Package warden cleans up a node whose minion was killed and did not come back. A warden is a process, one per node, that
// survives its minion and the destruction of the Mesos container: it is an orphan in its own session, outside the container's
// cgroups and namespaces (see package stepout).
//
// It waits in a small program (minion/warden/program) that is embedded in km; see package embedded. It gets an open file of km
// from the minion, because Mesos removes sandboxes and km with them. When cleaning up is due, the process executes km, keeps
// both locks, and km's command "warden" cleans up.
//
//	minion: Watch.Start ─► Wait (detaches) ─► Wait (waits) ── exec ─► km: Resume ─► Work.Leave, Work.Again
//
// It must import only a few packages of the standard library, to keep the small program small. wait.go runs in the small
// program, warden.go in km, watch.go in both. Start reading at Watch.
package warden

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// self is this program, even if its file was removed.
const self = "/proc/self/exe"

// Launch has the parameters to start a warden, in addition to its Watch.
type Launch struct {
	// Program is the path of the small program.
	Program string
	// Container is the id of the minion's Mesos container. The warden leaves the cgroups of that name.
	Container string
	// Log is the warden's log. The caller closes it.
	Log *os.File
	// Env is the environment of the warden, and of km when it cleans up.
	Env []string
}

// Start starts the node's warden and returns when it runs. It keeps a warden that runs already, and replaces one with another
// Watch, such as another patience or build of km. The caller holds the node's lock.
func (w Watch) Start(l Launch) error {
	if there, ok := w.current(); ok && there != w {
		if err := w.Dismiss(); err != nil {
			return err
		}
	}
	km, err := os.Open(self)
	if err != nil {
		return fmt.Errorf("cannot start the node's warden: %w", err)
	}
	defer km.Close()
	p, err := os.StartProcess(l.Program, append([]string{"km"}, append(w.args(), detach, l.Container)...), &os.ProcAttr{
		Dir: "/", Env: withKM(l.Env, kmNumber), Files: []*os.File{nil, l.Log, l.Log, kmNumber: km}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("cannot start the node's warden: %w", err)
	}
	if _, err := p.Wait(); err != nil {
		return fmt.Errorf("cannot start the node's warden: %w", err)
	}
	for end := time.Now().Add(startLimit); ; time.Sleep(10 * time.Millisecond) {
		// The warden writes its process id to the file once it has the lock.
		if held, err := isHeld(w.Post); held && w.holder() > 0 || err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("cannot start the node's warden: it does not run after %s; see %s", startLimit, l.Log.Name())
		}
	}
}

// Dismiss stops the node's warden, unless it is this process, and waits until it has ended. The caller holds the node's lock.
func (w Watch) Dismiss() error {
	for end := time.Now().Add(startLimit); ; time.Sleep(10 * time.Millisecond) {
		held, err := isHeld(w.Post)
		if err != nil || !held {
			return err
		}
		if pid := w.holder(); pid == os.Getpid() {
			return nil
		} else if pid > 0 {
			_ = syscall.Kill(pid, syscall.SIGTERM) // it may be gone already
		}
		if time.Now().After(end) {
			return fmt.Errorf("cannot end the node's warden: it still runs after %s", startLimit)
		}
	}
}

// current returns the Watch of the node's warden, if one runs.
func (w Watch) current() (there Watch, ok bool) {
	order, ok := parse(commandLine(w.holder()))
	return order.Watch, ok
}

// holder returns the id of the process that the file Post names, if that is a warden, else 0.
func (w Watch) holder() int {
	text, err := os.ReadFile(w.Post)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	line := commandLine(pid)
	if len(line) < 2 || line[1] != Command || !slices.Contains(line, w.Post) {
		return 0 // another process has this id now
	}
	return pid
}

func commandLine(pid int) []string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
}

func isHeld(path string) (bool, error) {
	file, err := tryLock(path)
	if file != nil {
		file.Close()
	}
	return file == nil && err == nil, err
}

// Work has the locks of a warden that executed km to clean up.
type Work struct {
	Watch
	post, node *os.File // this process holds their locks
}

// Resume takes over the locks from the small program. args are the arguments of km's command.
func Resume(args []string) (*Work, error) {
	order, ok := parse(append([]string{"km", Command}, args...))
	if !ok || order.step != work {
		return nil, errors.New("only a waiting warden can execute km warden")
	}
	w := &Work{Watch: order.Watch, post: os.NewFile(uintptr(order.post), order.Post), node: os.NewFile(uintptr(order.node), order.Node)}
	for _, lock := range []*os.File{w.post, w.node} {
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { // a no-op if inherited
			return nil, fmt.Errorf("cannot take over from the node's warden: it does not hold the lock %s: %w", lock.Name(), err)
		}
		syscall.CloseOnExec(int(lock.Fd()))
	}
	return w, nil
}

// Leave releases the locks after the work. It releases the post first: the next owner of the node's lock must find no warden.
func (w *Work) Leave() {
	w.post.Close()
	w.node.Close()
}

// Again makes the process a waiting warden again, with this patience: it executes the small program. The exec releases all locks.
// It returns only on an error.
func (w *Work) Again(program string, patience time.Duration) error {
	km, err := syscall.Open(self, syscall.O_RDONLY, 0) // without close-on-exec
	if err != nil {
		return fmt.Errorf("cannot become a warden again: %w", err)
	}
	watch := w.Watch
	watch.Patience = patience
	err = syscall.Exec(program, append([]string{"km"}, watch.args()...), withKM(os.Environ(), km))
	return fmt.Errorf("cannot become a warden again: %w", err)
}
