// Package warden waits, beside a minion and longer than it, for the day on which the minion is killed and none follows. It
// is a process of the same binary, one a node, that neither the end of the minion nor what Mesos does to end an
// executor takes along: it has no parent of the executor's, a session of its own, and none of the Mesos container's
// cgroups. Nor has it, like its minion, any namespace of the container's; see package stepout.
//
// It waits in this package's init, which the Go specification puts before that of packages which come later in the
// order of import paths, unless they are imported here: a waiting warden has none of the heap that Kubernetes' packages
// fill as they are initialised, 5 MB in place of 17. When there is something to do init returns, main goes on, and the
// command of the same name does it. Start reading at Start and Watch.await.
//
// It must never import anything but a few packages of the standard library.
package warden

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Command is the km command whose process a warden is.
const Command = "warden"

const (
	// look is the time between two looks at the node's lock.
	look = time.Second
	// startLimit bounds the start of a warden.
	startLimit = 5 * time.Second
	// detach is the argument of the process whose child the warden is and which ends at once.
	detach = "--detach"
)

// Watch says what a warden watches over.
type Watch struct {
	// Node is the file whose lock (flock(2)) the node's minion holds for as long as it lives.
	Node string
	// Post is the file whose lock the node's warden holds: a second one ends at once.
	Post string
	// Marker is a file that is there while there may be something to remove. A minion that has stopped in order has
	// removed it.
	Marker string
	// Container is the id of the minion's Mesos container; the warden leaves the cgroups that are named after it.
	Container string
	// Patience is how long the node may be without a minion.
	Patience time.Duration
}

// taken are the locks of a warden that went to work, in the order in which they are given back.
var taken []*os.File

// Leave gives back the locks of a warden that has done its work. The post goes first: who gets the node's lock next looks
// for a warden, and has to find none.
func Leave() {
	for _, lock := range taken {
		lock.Close()
	}
}

func init() {
	w, detaching, ok := parse(os.Args)
	switch {
	case !ok:
		return
	case detaching:
		if err := w.detach(); err != nil {
			say("cannot start the warden: %v", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	before := debug.SetGCPercent(-1) // there is nothing to collect, and to look for it touches all of the binary's data
	if goOn := w.await(); !goOn {
		os.Exit(0)
	}
	debug.SetGCPercent(before)
}

// Again makes the process a warden that waits, as it was before it went to work, but for so long. It gives all locks back. It
// returns only with an error.
func Again(patience time.Duration) error {
	w, _, _ := parse(os.Args)
	w.Patience = patience
	if err := syscall.Exec(self, append([]string{"km"}, w.args()...), os.Environ()); err != nil {
		return fmt.Errorf("cannot become a warden again: %w", err)
	}
	return nil
}

// args is the command line of a warden, but for the program's name.
func (w Watch) args() []string {
	return []string{Command, w.Marker, w.Node, w.Post, w.Container, w.Patience.String()}
}

func parse(args []string) (w Watch, detaching, ok bool) {
	if len(args) == 8 && args[7] == detach {
		args, detaching = args[:7], true
	}
	if len(args) != 7 || args[1] != Command {
		return Watch{}, false, false
	}
	patience, err := time.ParseDuration(args[6])
	return Watch{Marker: args[2], Node: args[3], Post: args[4], Container: args[5], Patience: patience}, detaching, err == nil
}

// Start sees to it that the node has a warden, and returns when it has. One that is there already stays, unless it has another
// patience. The caller holds the node's lock. What a new warden says goes to log, its environment is env.
func (w Watch) Start(log *os.File, env []string) error {
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", w.holder())); err == nil {
		if there, _, ok := parse(strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")); ok && there.Patience != w.Patience {
			if err := w.Dismiss(); err != nil {
				return err
			}
		}
	}
	p, err := os.StartProcess(self, append([]string{"km"}, append(w.args(), detach)...), &os.ProcAttr{
		Dir: "/", Env: env, Files: []*os.File{nil, log, log}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("cannot start the node's warden: %w", err)
	}
	if _, err := p.Wait(); err != nil {
		return fmt.Errorf("cannot start the node's warden: %w", err)
	}
	for end := time.Now().Add(startLimit); ; time.Sleep(10 * time.Millisecond) {
		if held, err := isHeld(w.Post); held || err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("cannot start the node's warden: it does not run after %s; it may have said why in %s", startLimit, log.Name())
		}
	}
}

// self is this program, whatever has become of the file that it was started from.
const self = "/proc/self/exe"

// detach starts the warden proper, which has no parent as soon as this process ends.
func (w Watch) detach() error {
	_, err := os.StartProcess(self, append([]string{"km"}, w.args()...), &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []*os.File{nil, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	return err
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

// holder is the process that says in the file that it is the warden; 0 for none.
func (w Watch) holder() int {
	text, err := os.ReadFile(w.Post)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}

// await waits until there is something to do, and returns true then, with both locks taken; or until there will never be,
// and returns false.
func (w Watch) await() bool {
	for _, problem := range leaveCgroups(w.Container) {
		say("%v", problem)
	}
	post, err := takePost(w.Post)
	if err != nil {
		say("%v", err)
	}
	if post == nil {
		return false
	}
	var since time.Time // since when there is no minion; zero while there is one
	var said string
	for ; ; time.Sleep(look) {
		node, err := TryLock(w.Node)
		if node != nil && since.IsZero() {
			since = time.Now()
		}
		switch {
		case err != nil && err.Error() == said: // once is enough
		case err != nil:
			said = err.Error()
			say("%v", err)
		case node == nil:
			since = time.Time{}
		case !exists(w.Marker):
			taken = []*os.File{post, node}
			Leave()
			return false
		case time.Since(since) >= w.Patience:
			taken = []*os.File{post, node}
			return true
		default:
			node.Close()
		}
	}
}

// takePost makes this process the node's warden. It returns nil if there is one already; a moment's lock is only
// somebody's look whether there is.
func takePost(path string) (*os.File, error) {
	for range 20 {
		post, err := TryLock(path)
		if err != nil {
			return nil, err
		}
		if post != nil {
			if err := post.Truncate(0); err != nil {
				return nil, err
			}
			_, err = fmt.Fprintln(post, os.Getpid())
			return post, err
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil, nil
}

// TryLock returns the file, which it makes if need be, if its lock (flock(2)) could be taken, and nil if another process has
// it. Closing the file, or the end of the process, gives the lock back.
func TryLock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open a lock: %w", err)
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return file, nil
	}
	file.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("cannot lock %s: %w", path, err)
}

func isHeld(path string) (bool, error) {
	file, err := TryLock(path)
	if file != nil {
		file.Close()
	}
	return file == nil && err == nil, err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}

// say writes a line to the warden's log: no other is initialised yet.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s warden of %s: %s\n", time.Now().Format(time.RFC3339), nodeName(), fmt.Sprintf(format, args...))
}

func nodeName() string {
	w, _, _ := parse(os.Args)
	return filepath.Base(filepath.Dir(w.Node))
}
