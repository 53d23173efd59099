// Package warden waits, beside a minion and longer than it, in case the minion is killed and none follows. It
// is a process of its own, one a node, that neither the end of the minion nor what Mesos does to end an
// executor takes along: it has no parent of the executor's, a session of its own, and none of the Mesos container's
// cgroups. Nor has it, like its minion, any namespace of the container's; see package stepout.
//
// It waits in a small program (minion/warden/program) that km carries along: see package embedded. The minion gives it an
// open file of km, which is there to be executed whatever has become of its path: sandboxes are removed. When there is
// something to clean up the process executes km, with both locks still taken, and km's command of the same name does it.
//
//	minion: Watch.Start ─► Wait (detaches) ─► Wait (waits) ── exec ─► km: Resume ─► Work.Leave, Work.Again
//
// It must never import anything but a few packages of the standard library: the small program is made of it. wait.go is
// what runs there, warden.go what km does, and watch.go what both know. Start reading at Watch.
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

// self is this program, whatever has become of the file that it was started from.
const self = "/proc/self/exe"

// Launch is what the start of a warden takes beside its Watch.
type Launch struct {
	// Program is the path of the small program.
	Program string
	// Container is the id of the minion's Mesos container; the warden leaves the cgroups that are named after it.
	Container string
	// Log gets what the warden says. The caller closes it.
	Log *os.File
	// Env is the environment of the warden, and of km when it cleans up.
	Env []string
}

// Start sees to it that the node has a warden, and returns when it has. One that is there already stays, unless it has
// another patience or would execute another build of km. The caller holds the node's lock.
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
		// It notes who it is when it has the lock.
		if held, err := isHeld(w.Post); held && w.holder() > 0 || err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("cannot start the node's warden: it does not run after %s; it may have said why in %s", startLimit, l.Log.Name())
		}
	}
}

// Dismiss ends the node's warden, if there is one and it is not this process, and waits until it has ended. The caller
// holds the node's lock.
func (w Watch) Dismiss() error {
	for end := time.Now().Add(startLimit); ; time.Sleep(10 * time.Millisecond) {
		held, err := isHeld(w.Post)
		if err != nil || !held {
			return err
		}
		if pid := w.holder(); pid == os.Getpid() {
			return nil
		} else if pid > 0 {
			_ = syscall.Kill(pid, syscall.SIGTERM) // gone already is as good
		}
		if time.Now().After(end) {
			return fmt.Errorf("cannot end the node's warden: it still runs after %s", startLimit)
		}
	}
}

// current is the Watch of the node's warden, if there is one.
func (w Watch) current() (there Watch, ok bool) {
	order, ok := parse(commandLine(w.holder()))
	return order.Watch, ok
}

// holder is the process that says in the file that it is the warden, and is one; 0 for none.
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
		return 0 // the number is another process's by now
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

// Work is what a process of km has that a warden became: there is something to clean up.
type Work struct {
	Watch
	post, node *os.File // their locks are this process's
}

// Resume takes over from the small program, with the arguments that km's command was given.
func Resume(args []string) (*Work, error) {
	order, ok := parse(append([]string{"km", Command}, args...))
	if !ok || order.step != work {
		return nil, errors.New("km warden is executed by a warden that has waited, and by nobody else")
	}
	w := &Work{Watch: order.Watch, post: os.NewFile(uintptr(order.post), order.Post), node: os.NewFile(uintptr(order.node), order.Node)}
	for _, lock := range []*os.File{w.post, w.node} {
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { // which the file has already
			return nil, fmt.Errorf("cannot take over from the node's warden: it does not have the lock %s: %w", lock.Name(), err)
		}
		syscall.CloseOnExec(int(lock.Fd()))
	}
	return w, nil
}

// Leave gives back the locks of a warden that has done its work. The post goes first: who gets the node's lock next looks
// for a warden, and has to find none.
func (w *Work) Leave() {
	w.post.Close()
	w.node.Close()
}

// Again makes the process a warden that waits, as it was before it went to work, but for so long, in the small program at
// the path. It gives all locks back. It returns only with an error.
func (w *Work) Again(program string, patience time.Duration) error {
	km, err := syscall.Open(self, syscall.O_RDONLY, 0) // which survives the exec
	if err != nil {
		return fmt.Errorf("cannot become a warden again: %w", err)
	}
	watch := w.Watch
	watch.Patience = patience
	err = syscall.Exec(program, append([]string{"km"}, watch.args()...), withKM(os.Environ(), km))
	return fmt.Errorf("cannot become a warden again: %w", err)
}
