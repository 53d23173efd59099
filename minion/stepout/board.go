package stepout

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/k8sm/k8sm/minion/keeper"
)

// maxPassage bounds a passage: the kernel lets an environment be no larger by default.
const maxPassage = 2 << 20

// Board is what the process does that the Engine has started: it takes the place of its keeper, as far as Mesos can see, in the
// machine's PID and mount namespaces, starts the minion there and returns. The caller has to end then. The minion is in none
// of the cgroups of the Engine's container, which is how an Engine finds what it has to end with a container.
func Board(socket string) error {
	connection, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		return fmt.Errorf("cannot reach the minion's keeper: %w", err)
	}
	defer connection.Close()
	if err := board(connection); err != nil {
		keeper.Refuse(connection, err)
		return err
	}
	return nil
}

func board(connection *net.UnixConn) error {
	from, err := peer(connection)
	if err != nil {
		return err
	}
	if from == 0 {
		return errors.New("the Docker Engine's PID namespace does not have the Mesos agent's processes: they run on different machines, or in different containers")
	}
	p, files, err := receive(connection)
	if err != nil {
		return err
	}
	end, err := connection.File()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // for ever: what this thread starts has its namespaces
	// The process that started this one is of the Engine, and sees what the Engine binds.
	if err := enterMountNamespace(parentMounts(), inside, p.Dir); err != nil {
		return err
	}
	if err := takeCgroups(from, p.Container); err != nil {
		return err
	}
	if err := unix.Setns(int(files[fileNetwork].Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("cannot enter the agent's network namespace: %w", err)
	}
	return p.start(files, end)
}

// receive receives a passage and its files.
func receive(connection *net.UnixConn) (p passage, files []*os.File, err error) {
	text, rights := make([]byte, maxPassage), make([]byte, unix.CmsgSpace(4*passedFiles))
	n, rn, _, _, err := connection.ReadMsgUnix(text, rights)
	if err != nil {
		return p, nil, fmt.Errorf("cannot take over from the minion's keeper: %w", err)
	}
	if err := json.Unmarshal(text[:n], &p); err != nil {
		return p, nil, fmt.Errorf("cannot understand the minion's keeper: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rn])
	if err != nil || len(messages) != 1 {
		return p, nil, fmt.Errorf("cannot take files over from the minion's keeper: %w", err)
	}
	numbers, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(numbers) != passedFiles {
		return p, nil, fmt.Errorf("got %d files of the minion's keeper, not %d: %w", len(numbers), passedFiles, err)
	}
	for _, fd := range numbers {
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), "passed"))
	}
	return p, files, nil
}

// start starts the minion with its end of the connection.
func (p passage) start(files []*os.File, end *os.File) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	program := "/proc/self/exe" // unless it has a path on the machine
	if same, err := sameFile(p.Exe, program); err == nil && same {
		program = p.Exe
	}
	const endNumber = 3
	_, err = os.StartProcess(program, p.Args, &os.ProcAttr{
		Dir: p.Dir, Env: append(p.Env, keeper.Environment(endNumber)),
		Files: []*os.File{null, files[fileStdout], files[fileStderr], endNumber: end},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("cannot start the minion: %w", err)
	}
	return nil
}
