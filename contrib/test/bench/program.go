package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// program is a process that runs until it is told to end. It does not get the terminal's Ctrl-C.
type program struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has ended
	status error         // of its end; read it after exited is closed
}

// startProgram starts a program that writes to the log.
func startProgram(log io.Writer, path string, args ...string) (*program, error) {
	cmd := exec.Command(path, args...)
	cmd.Stdout = log
	return launch(cmd, log)
}

// startRole starts this program anew in the role that the variable names, and returns the first line that it prints, which says that
// it is ready.
func startRole(log io.Writer, variable, text string) (*program, string, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), variable+"="+text)
	said, says, err := os.Pipe()
	if err != nil {
		return nil, "", err
	}
	defer said.Close()
	cmd.Stdout = says
	p, err := launch(cmd, log)
	err = errors.Join(err, says.Close())
	if p == nil {
		return nil, "", err
	}
	line, readErr := bufio.NewReader(said).ReadString('\n')
	if err = errors.Join(err, readErr); err != nil {
		return nil, "", errors.Join(fmt.Errorf("%s ends: %w", variable, err), p.end(os.Interrupt))
	}
	return p, strings.TrimSpace(line), nil
}

func launch(cmd *exec.Cmd, log io.Writer) (*program, error) {
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", cmd.Path, err)
	}
	p := &program{cmd: cmd, exited: make(chan struct{})}
	go func() {
		defer close(p.exited)
		p.status = cmd.Wait()
	}()
	return p, nil
}

// ended tells whether the process has ended.
func (p *program) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// end sends the signal, and returns when the process has ended. It is an error if the process had ended before, or failed.
func (p *program) end(signal os.Signal) error {
	early := p.ended()
	_ = p.cmd.Process.Signal(signal) // it may have ended
	<-p.exited
	if early {
		return fmt.Errorf("%s ended by itself: %w", p.cmd.Path, errors.Join(p.status, errEarly))
	}
	return p.status
}

// errEarly is the error of a process that ended though nobody told it to.
var errEarly = errors.New("nobody had told it to")

func (p *program) pid() int { return p.cmd.Process.Pid }
