package warden

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// retryDelay is the time between attempts to execute km.
const retryDelay = 30 * time.Second

// Wait is the main function of the small program. It returns the exit status, unless the process executes km.
func Wait(args []string) (status int) {
	order, ok := parse(args)
	if !ok || order.step == work {
		os.Stderr.WriteString("only a k8sm minion can start this program\n")
		return 2
	}
	s := sentry{Watch: order.Watch}
	km, err := strconv.Atoi(os.Getenv(variable))
	if err != nil {
		s.say("cannot wait: no open file of km in " + variable + ": " + err.Error())
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

// sentry is the state of a waiting warden.
type sentry struct {
	Watch
	km   int      // file descriptor of km
	node *os.File // the open file Watch.Node; see tryNode
	said string   // last problem in the log
}

// detach leaves the container's cgroups and starts the process that waits. That becomes an orphan when this process ends.
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

// wait executes km when cleaning up is due. It returns if nothing is left to clean up, if the node has a warden already, or on
// an error.
func (s *sentry) wait() error {
	post, err := takePost(s.Post)
	if post == nil || err != nil {
		return err
	}
	for {
		if due := s.await(); !due {
			// Release the post first: the next owner of the node's lock must find no warden.
			return errors.Join(post.Close(), s.node.Close())
		}
		s.complain("cannot clean up, trying again in "+retryDelay.String()+" unless a minion has started", s.becomeKM(post))
		s.leaveNode()
		s.Patience = retryDelay
	}
}

// await returns true when the node has been without a minion for longer than Patience, and false when there is nothing to clean
// up. It returns with the node's lock taken.
func (s *sentry) await() (due bool) {
	var since time.Time // when the minion was gone; zero while one runs
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

// tryNode tries to take the node's lock. It keeps the file open between calls, because opening it every second would leave
// megabytes of garbage a day. It opens the file again only after someone has removed it.
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
	if file.Nlink == 0 { // removed: the path is now another file, which the next call opens
		s.node.Close()
		s.node = nil
		return false, nil
	}
	return taken, nil
}

// leaveNode releases the node's lock.
func (s *sentry) leaveNode() { _ = syscall.Flock(int(s.node.Fd()), syscall.LOCK_UN) }

// becomeKM executes km, which inherits both locks. It returns only on an error, with both locks still taken.
func (s *sentry) becomeKM(post *os.File) error {
	var numbers [2]int
	for i, file := range []*os.File{post, s.node} {
		number, err := syscall.Dup(int(file.Fd())) // has no close-on-exec, and shares the lock
		if err != nil {
			return err
		}
		defer func() { _ = syscall.Close(number) }() // only after a failed exec
		numbers[i] = number
	}
	args := append(s.args(), locked, strconv.Itoa(numbers[0]), strconv.Itoa(numbers[1]))
	err := syscall.Exec("/proc/self/fd/"+strconv.Itoa(s.km), append([]string{"km"}, args...), os.Environ())
	return &os.PathError{Op: "execute", Path: "km", Err: err}
}

// takePost makes this process the node's warden. It returns nil if there is one already. It retries for a second, because
// isHeld takes the lock for a moment.
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

// complain logs a problem unless it was the last one logged.
func (s *sentry) complain(what string, err error) {
	if problem := what + ": " + err.Error(); problem != s.said {
		s.said = problem
		s.say(problem)
	}
}

// say logs a line.
func (s *sentry) say(text string) {
	os.Stderr.WriteString(time.Now().Format(time.RFC3339) + " warden of " + filepath.Base(filepath.Dir(s.Node)) + ": " + text + "\n")
}
