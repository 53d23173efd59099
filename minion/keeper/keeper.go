// Package keeper stands in for a minion inside its Mesos container. If the container has its own PID namespace (Mesos'
// namespaces/pid isolator), the minion must run outside of it, and the process that the agent started and watches becomes a
// keeper. A keeper forwards SIGTERM to the minion and ends with the minion's exit status. If Mesos destroys the container, the
// keeper is killed, and the minion then kills itself: a destroyed executor must not go on.
//
// Both exchange messages over a Unix socket of type SOCK_SEQPACKET. A keeper waits in a small program (minion/keeper/program)
// that is embedded in km, as a warden does; see package embedded.
//
// It must import only a few packages of the standard library, to keep the small program small. Start reading at Keep, and at
// Adopt for the minion's side.
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

// command is the first argument of a keeper. Its argv[0] is that of the program that executed it.
const command = "keeper"

// variable is the environment variable with the file descriptor of the minion's end of the connection.
const variable = "K8SM_KEEPER"

// killed is the exit status if the minion ends without a message, as a shell reports a killed command.
const killed = 128 + int(syscall.SIGKILL)

// The first bytes of messages; text may follow.
const (
	ready     = 'R' // from the minion: it has adopted the connection
	failed    = 'E' // from the process that starts the minion: it cannot, with the reason
	ended     = 'X' // from the minion: it ends, with its exit status
	terminate = 'T' // from the keeper: it got SIGTERM or SIGINT
)

const maxMessage = 4096

// Become makes this process the keeper of the minion at the other end of the connection: it executes the small program. It
// returns only on an error.
func Become(program string, connection *os.File) error {
	fd, err := syscall.Dup(int(connection.Fd())) // without close-on-exec
	if err != nil {
		return fmt.Errorf("cannot become the minion's keeper: %w", err)
	}
	err = syscall.Exec(program, []string{os.Args[0], command, strconv.Itoa(fd)}, []string{})
	return fmt.Errorf("cannot become the minion's keeper: %w", err)
}

// Keep is the main function of the small program: it waits until the minion ends, and returns its exit status.
func Keep(args []string) (status int) {
	fd := 0
	if len(args) == 3 && args[1] == command {
		fd, _ = strconv.Atoi(args[2])
	}
	if fd < 3 {
		os.Stderr.WriteString("only a k8sm minion can start this program\n")
		return 2
	}
	return keep(os.NewFile(uintptr(fd), "minion"))
}

func keep(connection *os.File) (status int) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		for range signals {
			_, _ = connection.Write([]byte{terminate}) // the minion may be gone already
		}
	}()
	for {
		kind, text, err := read(connection)
		switch {
		case err != nil:
			os.Stderr.WriteString("the minion was killed, outside of this container\n")
			return killed
		case kind == ended:
			if status, err := strconv.Atoi(text); err == nil {
				return status
			}
			return killed
		}
	}
}

// Await returns when the minion has adopted the connection, or with the reason why it did not start.
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

// Refuse sends the reason why no minion starts.
func Refuse(connection io.Writer, reason error) {
	text := reason.Error()
	_, _ = connection.Write(append([]byte{failed}, text[:min(len(text), maxMessage-1)]...)) // the log has it too
}

func read(connection io.Reader) (kind byte, text string, err error) {
	var buffer [maxMessage]byte
	n, err := connection.Read(buffer[:])
	if err != nil {
		return 0, "", err
	}
	return buffer[0], string(bytes.TrimSpace(buffer[1:n])), nil
}

// Link is a minion's connection to its keeper; nil without a keeper.
type Link struct{ connection *os.File }

// Environment returns the environment entry that tells a minion the file descriptor of its connection.
func Environment(fd int) string { return variable + "=" + strconv.Itoa(fd) }

// Adopt takes over the connection to the keeper, if there is one, and handles its messages. Call it before starting children,
// which must not inherit the connection.
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
			fmt.Fprintln(os.Stderr, "km: Mesos has destroyed this minion's container: exiting at once")
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		case kind == terminate:
			_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
		}
	}
}

// Ending sends the exit status to the keeper. The minion must exit right after.
func (l *Link) Ending(status int) {
	if l != nil {
		_, _ = l.connection.Write(append([]byte{ended}, strconv.Itoa(status)...)) // the keeper may be gone already
	}
}
