package warden

import (
	"errors"
	"os"
	"slices"
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
	// Build tells builds of km apart: the one that cleans up has to know what the minion left.
	Build string
	// Patience is how long the node may be without a minion.
	Patience time.Duration
}

// args is the command line of a warden that waits, but for the program's name. Minions of other builds read it: where this
// has the build, wardens that waited in km itself have the id of a Mesos container.
func (w Watch) args() []string {
	return []string{Command, w.Marker, w.Node, w.Post, w.Build, w.Patience.String()}
}

// step is what a process of a warden does.
type step int

const (
	wait step = iota
	// detaching starts the process that waits, which then has no parent, and ends.
	detaching
	// work is km's.
	work
)

// The arguments that say so, after those of the Watch.
const (
	detach = "--detach" // and the Mesos container
	locked = "--locked" // and the numbers of the open files whose locks are taken, the post's and the node's
)

// order is what a command line says.
type order struct {
	Watch
	step
	container  string // detaching
	post, node int    // work
}

func parse(args []string) (o order, ok bool) {
	if len(args) < 7 || args[1] != Command {
		return order{}, false
	}
	patience, err := time.ParseDuration(args[6])
	if err != nil {
		return order{}, false
	}
	o.Watch = Watch{Marker: args[2], Node: args[3], Post: args[4], Build: args[5], Patience: patience}
	switch rest := args[7:]; {
	case len(rest) == 0:
		return o, true
	case len(rest) == 2 && rest[0] == detach:
		o.step, o.container = detaching, rest[1]
		return o, true
	case len(rest) == 3 && rest[0] == locked:
		var postErr, nodeErr error
		o.step = work
		o.post, postErr = strconv.Atoi(rest[1])
		o.node, nodeErr = strconv.Atoi(rest[2])
		return o, postErr == nil && nodeErr == nil && min(o.post, o.node) > 2
	}
	return order{}, false
}

// variable has the number of the open file of km in a warden's environment; kmNumber is that number as Start gives it.
const (
	variable = "K8SM_WARDEN_KM"
	kmNumber = 3
)

func withKM(env []string, number int) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, variable+"=") })
	return append(env, variable+"="+strconv.Itoa(number))
}

// tryLock returns the file, which it makes if need be, if its lock (flock(2)) could be taken, and nil if another process has
// it. Closing the file, or the end of the process, gives the lock back.
func tryLock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return file, nil
	}
	file.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, &os.PathError{Op: "lock", Path: path, Err: err}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}
