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

// maxPassage bounds a passage. The kernel's default limit for an environment is not larger.
const maxPassage = 2 << 20

// Board is the command in the container that Docker Engine starts. In the machine's PID and mount namespaces it takes over from its
// keeper what Mesos knows the executor by, starts the minion and returns; the caller must exit then. The minion leaves all cgroups
// of the container, because the Engine kills what is in them together with the container.
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
		return errors.New("the Mesos agent's processes are not in Docker Engine's PID namespace: agent and Engine run on different machines or in different containers")
	}
	p, files, err := receive(connection)
	if err != nil {
		return err
	}
	end, err := connection.File()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // never unlocked: children of this thread inherit its namespaces
	// The parent of this process belongs to the Engine, and sees the mounts that the Engine sees.
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
		return p, nil, fmt.Errorf("cannot decode what the minion's keeper sent: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rn])
	if err != nil || len(messages) != 1 {
		return p, nil, fmt.Errorf("cannot receive files from the minion's keeper: %w", err)
	}
	numbers, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(numbers) != passedFiles {
		return p, nil, fmt.Errorf("received %d files from the minion's keeper, want %d: %w", len(numbers), passedFiles, err)
	}
	for _, fd := range numbers {
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), "passed"))
	}
	return p, files, nil
}

// start starts the minion with its end of the connection to the keeper.
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
