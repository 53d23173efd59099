// Package keeper holds the place of a minion in the Mesos container that was built for it. Where that container has a PID
// namespace of its own (Mesos' namespaces/pid isolator), the minion has to live outside of it; the process that the agent
// started and watches is then a keeper. It ends when the minion does, with the same status, and passes on the request to end.
// If it is killed, because Mesos ends the container, the minion kills itself: an executor that Mesos has ended must not go on.
//
// Both speak by messages of one connection, a Unix socket of type SOCK_SEQPACKET. A keeper waits in a small program
// (minion/keeper/program) that km carries along, as a warden does: see package embedded.
//
// It must never import anything but a few packages of the standard library: the small program is made of it. Start reading at
// Keep, and at Adopt for the other side.
package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// command is the first argument of a keeper, which goes by the name of the program that became it.
const command = "keeper"

// variable names the minion's end of the connection in its environment.
const variable = "K8SM_KEEPER"

// killed is the status of a keeper whose minion has ended without a word: that of a shell whose command was killed.
const killed = 128 + int(syscall.SIGKILL)

// The first bytes of messages; text may follow.
const (
	ready     = 'R' // from the minion: it has the connection
	failed    = 'E' // from what starts the minion: it cannot, with the reason
	ended     = 'X' // from the minion: it ends, with its status
	terminate = 'T' // from the keeper: somebody wants the minion to end
)

const maxMessage = 4096

// Become makes this process the keeper of the minion at the other end of the connection, in the small program at the path. It
// returns only with an error.
func Become(program string, connection *os.File) error {
	fd, err := syscall.Dup(int(connection.Fd())) // which survives the exec
	if err != nil {
		return fmt.Errorf("cannot become the minion's keeper: %w", err)
	}
	err = syscall.Exec(program, []string{os.Args[0], command, strconv.Itoa(fd)}, []string{})
	return fmt.Errorf("cannot become the minion's keeper: %w", err)
}

// Keep is all that the small program does, with its arguments: it waits until the minion ends, and returns its status.
func Keep(args []string) (status int) {
	fd := 0
	if len(args) == 3 && args[1] == command {
		fd, _ = strconv.Atoi(args[2])
	}
	if fd < 3 {
		os.Stderr.WriteString("this program is started by a minion of k8sm, and by nobody else\n")
		return 2
	}
	return keep(os.NewFile(uintptr(fd), "minion"))
}

func keep(connection *os.File) (status int) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		for range signals {
			_, _ = connection.Write([]byte{terminate}) // to one that is gone already there is nothing to say
		}
	}()
	for {
		kind, text, err := read(connection)
		switch {
		case err != nil:
			os.Stderr.WriteString("the minion was killed: it ended without a word, outside of this container\n")
			return killed
		case kind == ended:
			if status, err := strconv.Atoi(text); err == nil {
				return status
			}
			return killed
		}
	}
}

// Await returns when the minion at the other end has the connection, or tells why there will be none.
func Await(connection interface {
	io.Reader
	SetReadDeadline(time.Time) error
}, limit time.Duration) error {
	if err := connection.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	kind, text, err := read(connection)
	switch {
	case err != nil:
		return fmt.Errorf("the minion did not start: %w", err)
	case kind == failed:
		return errors.New(text)
	case kind != ready:
		return fmt.Errorf("the minion did not start: it said %q", string(kind)+text)
	}
	return connection.SetReadDeadline(time.Time{})
}

// Refuse says instead of a minion why there will be none.
func Refuse(connection io.Writer, reason error) {
	text := reason.Error()
	_, _ = connection.Write(append([]byte{failed}, text[:min(len(text), maxMessage-1)]...)) // it is in the log, too
}

func read(connection io.Reader) (kind byte, text string, err error) {
	var buffer [maxMessage]byte
	n, err := connection.Read(buffer[:])
	if err != nil {
		return 0, "", err
	}
	return buffer[0], string(bytes.TrimSpace(buffer[1:n])), nil
}

// Link is a minion's connection to its keeper; nil is one of a minion that has none.
type Link struct{ connection *os.File }

// Environment is what a minion needs in its environment to find its keeper by the file with this number.
func Environment(fd int) string { return variable + "=" + strconv.Itoa(fd) }

// Adopt takes over the connection to the keeper, if this process was given one, and heeds what comes by it. It has to be
// called before children are started, who must not have it.
func Adopt() (*Link, error) {
	fd, err := strconv.Atoi(os.Getenv(variable))
	if err != nil {
		return nil, nil
	}
	if err := os.Unsetenv(variable); err != nil {
		return nil, err
	}
	syscall.CloseOnExec(fd)
	l := &Link{os.NewFile(uintptr(fd), "keeper")}
	if _, err := l.connection.Write([]byte{ready}); err != nil {
		return nil, fmt.Errorf("cannot reach the minion's keeper: %w", err)
	}
	go l.heed()
	return l, nil
}

func (l *Link) heed() {
	for {
		kind, _, err := read(l.connection)
		switch {
		case err != nil:
			fmt.Fprintln(os.Stderr, "km: Mesos has ended this minion's container: ending at once")
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		case kind == terminate:
			_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
		}
	}
}

// Ending tells the keeper, as the last thing that the minion does, with which status it ends.
func (l *Link) Ending(status int) {
	if l != nil {
		_, _ = l.connection.Write(append([]byte{ended}, strconv.Itoa(status)...)) // a keeper that is gone needs no status
	}
}
