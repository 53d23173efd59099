package warden

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// after is how long after km could not be executed the next attempt follows.
const after = 30 * time.Second

// Wait is all that the small program does, with its arguments. It returns the status to end with, or never: the process
// becomes km.
func Wait(args []string) (status int) {
	order, ok := parse(args)
	if !ok || order.step == work {
		os.Stderr.WriteString("this program is started by a minion of k8sm, and by nobody else\n")
		return 2
	}
	s := sentry{Watch: order.Watch}
	km, err := strconv.Atoi(os.Getenv(variable))
	if err != nil {
		s.say("cannot wait: it was not given km: " + err.Error())
		return 1
	}
	syscall.CloseOnExec(km)
	s.km = km
	if order.step == detaching {
		err = s.detach(order.container)
	} else {
		err = s.wait()
	}
	if err != nil {
		s.say(err.Error())
		return 1
	}
	return 0
}

// sentry is a warden that waits.
type sentry struct {
	Watch
	km   int      // the number of an open file
	node *os.File // the file Node, which stays open: see tryNode
	said string   // the last problem
}

// detach leaves the container's cgroups and starts the warden proper, which has no parent as soon as this process ends.
func (s *sentry) detach(container string) error {
	for _, problem := range leaveCgroups(container) {
		s.say(problem.Error())
	}
	_, err := os.StartProcess(self, append([]string{"km"}, s.args()...), &os.ProcAttr{
		Dir: "/", Env: withKM(os.Environ(), kmNumber),
		Files: []*os.File{nil, os.Stdout, os.Stderr, kmNumber: os.NewFile(uintptr(s.km), "km")},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	return err
}

// wait returns when there will never be anything to clean up, if the node has a warden already, or if it cannot wait.
func (s *sentry) wait() error {
	post, err := takePost(s.Post)
	if post == nil || err != nil {
		return err
	}
	for {
		if due := s.await(); !due {
			// The post first: who gets the node's lock next looks for a warden, and has to find none.
			return errors.Join(post.Close(), s.node.Close())
		}
		s.complain("cannot clean up, trying again in "+after.String()+" if there is no minion then", s.becomeKM(post))
		s.leaveNode()
		s.Patience = after
	}
}

// await waits until the node has been without a minion for too long, and cleaning up is due, or until there will never be
// anything to clean up. Either way the node's lock is taken.
func (s *sentry) await() (due bool) {
	var since time.Time // since when there is no minion; zero while there is one
	for ; ; time.Sleep(look) {
		taken, err := s.tryNode()
		if taken && since.IsZero() {
			since = time.Now()
		}
		switch {
		case err != nil:
			s.complain("cannot tell whether there is a minion", err)
		case !taken:
			since = time.Time{}
		case !exists(s.Marker):
			return false
		case time.Since(since) >= s.Patience:
			return true
		default:
			s.leaveNode()
		}
	}
}

// tryNode takes the node's lock if nobody has it. As long as somebody has, it leaves no garbage, which would grow to
// megabytes in a day: so it opens the file only if what it has is no longer the one at the path.
func (s *sentry) tryNode() (taken bool, err error) {
	if s.node == nil {
		if s.node, err = os.OpenFile(s.Node, os.O_CREATE|os.O_RDWR, 0o600); err != nil {
			return false, err
		}
	}
	fd := int(s.node.Fd())
	if err := syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
		taken = true
	} else if err != syscall.EWOULDBLOCK {
		return false, &os.PathError{Op: "lock", Path: s.Node, Err: err}
	}
	var file syscall.Stat_t
	if err := syscall.Fstat(fd, &file); err != nil {
		return false, &os.PathError{Op: "stat", Path: s.Node, Err: err}
	}
	if file.Nlink == 0 { // it was removed: who locks the path locks another, which the next look opens
		s.node.Close()
		s.node = nil
		return false, nil
	}
	return taken, nil
}

// leaveNode gives the node's lock back.
func (s *sentry) leaveNode() { _ = syscall.Flock(int(s.node.Fd()), syscall.LOCK_UN) }

// becomeKM executes km with both locks. It returns only with an error, and then still has them.
func (s *sentry) becomeKM(post *os.File) error {
	var numbers [2]int
	for i, file := range []*os.File{post, s.node} {
		number, err := syscall.Dup(int(file.Fd())) // which survives the exec, and has the same lock
		if err != nil {
			return err
		}
		defer func() { _ = syscall.Close(number) }() // of no use if this returns
		numbers[i] = number
	}
	args := append(s.args(), locked, strconv.Itoa(numbers[0]), strconv.Itoa(numbers[1]))
	err := syscall.Exec("/proc/self/fd/"+strconv.Itoa(s.km), append([]string{"km"}, args...), os.Environ())
	return &os.PathError{Op: "execute", Path: "km", Err: err}
}

// takePost makes this process the node's warden. It returns nil if there is one already; a moment's lock is only
// somebody's look whether there is.
func takePost(path string) (*os.File, error) {
	for range 20 {
		post, err := tryLock(path)
		if err != nil {
			return nil, err
		}
		if post != nil {
			if err := post.Truncate(0); err != nil {
				return nil, err
			}
			_, err = post.WriteString(strconv.Itoa(os.Getpid()) + "\n")
			return post, err
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil, nil
}

// complain says what is wrong, once.
func (s *sentry) complain(what string, err error) {
	if problem := what + ": " + err.Error(); problem != s.said {
		s.said = problem
		s.say(problem)
	}
}

// say writes a line to the warden's log.
func (s *sentry) say(text string) {
	os.Stderr.WriteString(time.Now().Format(time.RFC3339) + " warden of " + filepath.Base(filepath.Dir(s.Node)) + ": " + text + "\n")
}
