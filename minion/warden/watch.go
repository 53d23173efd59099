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

// Command is the name of the warden's command in km.
const Command = "warden"

const (
	// look is how often a warden tries the node's lock.
	look = time.Second
	// startLimit is how long a warden may take to start or to end.
	startLimit = 5 * time.Second
)

// Watch is the configuration of a warden.
type Watch struct {
	// Node is the lock file (flock(2)) of the node's minion, which holds the lock as long as it lives.
	Node string
	// Post is the lock file of the node's warden. A second warden ends at once.
	Post string
	// Marker is a file that exists while there may be something to clean up. A minion removes it when it stops in order.
	Marker string
	// Build identifies the minion's build of km, because another build may not know what the minion left.
	Build string
	// Patience is how long the node may be without a minion.
	Patience time.Duration
}

// args returns the command line of a waiting warden, without the program's name. Minions of other builds read it. Wardens of old
// builds, which waited in km itself, have the id of a Mesos container in place of the build.
func (w Watch) args() []string {
	return []string{Command, w.Marker, w.Node, w.Post, w.Build, w.Patience.String()}
}

// step is what the process of a warden does.
type step int

const (
	wait step = iota
	// detaching starts the process that waits, and ends, so that the other is an orphan.
	detaching
	// work is cleaning up, in km.
	work
)

// Arguments for the steps, after those of the Watch.
const (
	detach = "--detach" // followed by the id of the Mesos container
	locked = "--locked" // followed by the file descriptors of the locked files Post and Node
)

// order is a parsed command line.
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

// variable is the environment variable with the file descriptor of km; kmNumber is its value when Start sets it.
const (
	variable = "K8SM_WARDEN_KM"
	kmNumber = 3
)

func withKM(env []string, number int) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, variable+"=") })
	return append(env, variable+"="+strconv.Itoa(number))
}

// tryLock opens or creates the file and locks it (flock(2)). It returns nil if another process holds the lock. Closing the file
// releases the lock.
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
