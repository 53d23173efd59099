package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// Exec returns a URL for running one command in the container.
func (s *Server) Exec(ctx context.Context, r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if _, err := s.runningContainer(ctx, r.GetContainerId()); err != nil {
		return nil, err
	}
	return s.streaming.GetExec(r)
}

// Attach returns a URL for attaching once to the container's main process.
func (s *Server) Attach(ctx context.Context, r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if _, err := s.runningContainer(ctx, r.GetContainerId()); err != nil {
		return nil, err
	}
	return s.streaming.GetAttach(r)
}

// PortForward returns a URL for connecting to the pod's ports.
func (s *Server) PortForward(ctx context.Context, r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	if _, err := s.view.inspectNow(ctx, kindSandbox, r.GetPodSandboxId()); err != nil {
		return nil, err
	}
	return s.streaming.GetPortForward(r)
}

func (s *Server) runningContainer(ctx context.Context, id string) (container.InspectResponse, error) {
	c, err := s.view.inspectNow(ctx, kindContainer, id)
	if err == nil && !c.State.Running {
		return c, fmt.Errorf("the container is not running: it is %s", c.State.Status)
	}
	return c, err
}

// streamRuntime handles clients that connect to one of the URLs. k8s.io/cri-streaming defines its methods.
type streamRuntime struct{ s *Server }

// Exec runs a command and returns its exit code as an utilexec.ExitError if that is not 0.
func (r streamRuntime) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	exec, conn, err := r.s.startExec(ctx, id, container.ExecOptions{
		Cmd: cmd, Tty: tty, AttachStdin: in != nil, AttachStdout: out != nil, AttachStderr: errOut != nil})
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go forwardSizes(ctx, resize, func(size container.ResizeOptions) error {
		return r.s.docker.ContainerExecResize(ctx, exec, size)
	})
	if err := pump(ctx, conn, pipes{in: in, out: out, err: errOut, tty: tty}); err != nil {
		return errors.Join(err, r.s.endExec(ctx, exec))
	}
	code, err := r.s.exitCode(ctx, exec)
	if err == nil && code != 0 {
		err = utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return err
}

// Attach connects the streams to the container's main process until it exits or the client leaves. It returns an error if the
// Engine's connection breaks before.
func (r streamRuntime) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	c, conn, err := r.s.attach(ctx, id, container.AttachOptions{
		Stream: true, Stdin: in != nil, Stdout: out != nil, Stderr: errOut != nil})
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go forwardSizes(ctx, resize, func(size container.ResizeOptions) error {
		return r.s.docker.ContainerResize(ctx, id, size)
	})
	if err := pump(ctx, conn, pipes{in: in, out: out, err: errOut, tty: c.Config.Tty}); err != nil {
		return err
	}
	// The connection ends the same way when the Engine dies and when the container exits.
	bounded, stop := r.s.bound(ctx, 0)
	defer stop()
	if _, err := r.s.view.inspectNow(bounded, kindContainer, id); err != nil && !isNotFound(err) {
		return fmt.Errorf("lost the connection to Docker Engine: %w", err)
	}
	return nil
}

func (s *Server) attach(ctx context.Context, id string, options container.AttachOptions) (container.InspectResponse, types.HijackedResponse, error) {
	ctx, cancel := s.bound(ctx, 0)
	defer cancel()
	c, err := s.runningContainer(ctx, id)
	if err != nil {
		return c, types.HijackedResponse{}, err
	}
	conn, err := hijack(ctx, func() (types.HijackedResponse, error) { return s.docker.ContainerAttach(ctx, id, options) }, func() {})
	return c, conn, err
}

// forwardSizes forwards the client's terminal sizes until it leaves. The first one arrives before the command runs, so it retries
// for a moment; a size that comes too late is no error.
func forwardSizes(ctx context.Context, sizes <-chan remotecommand.TerminalSize, resize func(container.ResizeOptions) error) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			for range 10 {
				if resize(container.ResizeOptions{Height: uint(size.Height), Width: uint(size.Width)}) == nil || pause(ctx, 20*time.Millisecond) != nil {
					break
				}
			}
		}
	}
}

// pipes are a client's streams; unwanted ones are nil.
type pipes struct {
	in       io.Reader
	out, err io.Writer
	tty      bool
}

// pump copies between the Engine's connection and the client until the output ends. The goroutine that reads the client's input ends
// after pump has returned, when the streaming server closes the input.
func pump(ctx context.Context, conn types.HijackedResponse, p pipes) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if p.in != nil {
		go func() {
			_, _ = io.Copy(conn.Conn, p.in)
			_ = conn.CloseWrite()
		}()
	}
	out, errOut := p.out, p.err
	if out == nil {
		out = io.Discard
	}
	if errOut == nil {
		errOut = io.Discard
	}
	var err error
	if p.tty {
		_, err = io.Copy(out, conn.Reader)
	} else {
		_, err = stdcopy.StdCopy(out, errOut, conn.Reader)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// PortForward connects the stream to a port on the pod's own loopback.
func (r streamRuntime) PortForward(ctx context.Context, sandbox string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	bounded, cancel := r.s.bound(ctx, 0)
	defer cancel()
	c, err := r.s.view.inspectNow(bounded, kindSandbox, sandbox)
	if err != nil {
		return err
	}
	if !c.State.Running {
		return fmt.Errorf("cannot forward port %d: the pod's sandbox is not running", port)
	}
	conn, err := dialInNamespace(ctx, networkNamespace(c.State.Pid), strconv.Itoa(int(port)))
	if err != nil {
		return fmt.Errorf("cannot forward port %d: %w", port, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	go func() {
		_, _ = io.Copy(conn, stream)
		_ = conn.CloseWrite()
	}()
	_, err = io.Copy(stream, conn)
	return err
}

// dialInNamespace connects to the port on loopback in a network namespace. A socket belongs to the namespace in which it was
// created, so only dialing needs a thread there (setns(2)).
func dialInNamespace(ctx context.Context, namespace, port string) (*net.TCPConn, error) {
	type result struct {
		conn *net.TCPConn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		// The thread stays locked, so that it exits with this goroutine and leaves the foreign namespace.
		runtime.LockOSThread()
		conn, err := func() (*net.TCPConn, error) {
			fd, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, fmt.Errorf("cannot open the pod's network namespace: %w", err)
			}
			defer unix.Close(fd)
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return nil, fmt.Errorf("cannot enter the pod's network namespace: %w", err)
			}
			return dialLoopback(ctx, port)
		}()
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// dialLoopback dials one literal address at a time: for several, Go would dial in goroutines on other threads.
func dialLoopback(ctx context.Context, port string) (*net.TCPConn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		var err6 error
		if conn, err6 = dialer.DialContext(ctx, "tcp6", net.JoinHostPort("::1", port)); err6 != nil {
			return nil, err
		}
	}
	return conn.(*net.TCPConn), nil
}
