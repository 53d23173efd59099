package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxOutput bounds what ExecSync returns of each stream. CRI defines it, to protect our memory.
const maxOutput = 16 << 20

// ExecSync runs a command in the container and returns its output and exit code. After the timeout (in seconds) it kills all
// processes of the command.
func (s *Server) ExecSync(ctx context.Context, r *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	if r.GetTimeout() > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(r.GetTimeout())*time.Second)
		defer cancel()
	}
	exec, conn, err := s.startExec(ctx, r.GetContainerId(), container.ExecOptions{
		Cmd: r.GetCmd(), AttachStdout: true, AttachStderr: true})
	if err != nil {
		return nil, fmt.Errorf("cannot run a command in the container: %w", err)
	}
	defer conn.Close()
	var stdout, stderr capped
	if err := pump(ctx, conn, pipes{out: &stdout, err: &stderr}); err != nil {
		ended := s.endExec(ctx, exec)
		if errors.Is(err, context.DeadlineExceeded) && ended == nil {
			return nil, status.Errorf(codes.DeadlineExceeded, "command %q timed out after %d s", r.GetCmd(), r.GetTimeout())
		}
		return nil, errors.Join(err, ended)
	}
	code, err := s.exitCode(ctx, exec)
	if err != nil {
		return nil, fmt.Errorf("cannot get the command's exit code: %w", err)
	}
	return &runtimeapi.ExecSyncResponse{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), ExitCode: int32(code)}, nil
}

// startExec starts a command in a running container, and returns its id and its streams.
func (s *Server) startExec(ctx context.Context, id string, options container.ExecOptions) (string, types.HijackedResponse, error) {
	ctx, cancel := s.bound(ctx, 0)
	defer cancel()
	if _, err := s.runningContainer(ctx, id); err != nil {
		return "", types.HijackedResponse{}, err
	}
	exec, err := s.docker.ContainerExecCreate(ctx, id, options)
	if err != nil {
		return "", types.HijackedResponse{}, err
	}
	conn, err := hijack(ctx, func() (types.HijackedResponse, error) {
		return s.docker.ContainerExecAttach(ctx, exec.ID, container.ExecAttachOptions{Tty: options.Tty})
	}, func() {
		if err := s.endExec(ctx, exec.ID); err != nil {
			s.log.WithError(err).WithField("container", id).Warn("cannot kill a cancelled command")
		}
	})
	if err != nil {
		return "", types.HijackedResponse{}, err
	}
	return exec.ID, conn, nil
}

// hijack makes a call that upgrades to a raw connection. The Engine's client heeds ctx only until it has sent such a call. So when
// ctx ends first, the call goes on in the background until the Engine answers or dies; then undo reverts what it started.
func hijack(ctx context.Context, call func() (types.HijackedResponse, error), undo func()) (types.HijackedResponse, error) {
	type result struct {
		conn types.HijackedResponse
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := call()
		done <- result{conn, err}
	}()
	select {
	case r := <-done:
		return r.conn, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				r.conn.Close()
				undo()
			}
		}()
		return types.HijackedResponse{}, ctx.Err()
	}
}

// capped keeps the first maxOutput bytes and drops the rest.
type capped struct{ bytes.Buffer }

// Write never fails, so that excess output does not stop the command.
func (c *capped) Write(p []byte) (int, error) {
	if room := maxOutput - c.Len(); room > 0 {
		c.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

var _ io.Writer = (*capped)(nil)

// exitCode waits for the exit code of a command. It is available a moment after the output has ended.
func (s *Server) exitCode(ctx context.Context, exec string) (int, error) {
	for {
		state, err := s.inspectExec(ctx, exec)
		if err != nil || !state.Running {
			return state.ExitCode, err
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return 0, errors.Join(err, s.endExec(ctx, exec))
		}
	}
}

func (s *Server) inspectExec(ctx context.Context, exec string) (container.ExecInspect, error) {
	ctx, cancel := s.bound(ctx, 0)
	defer cancel()
	return s.docker.ContainerExecInspect(ctx, exec)
}

// endExec kills all processes of the command, for which the Engine has no call. It returns when none is left.
func (s *Server) endExec(ctx context.Context, exec string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	for {
		state, err := s.docker.ContainerExecInspect(ctx, exec)
		if isNotFound(err) || err == nil && !state.Running {
			return nil
		}
		if err == nil && state.Pid > 0 {
			err = killFamily(state.Pid)
		}
		if err != nil {
			return fmt.Errorf("cannot kill the command: %w", err)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("cannot kill the command: %w", err)
		}
	}
}

// killFamily kills the process, its descendants and all of its session. runc starts each command in a new session, so this also
// finds orphaned children.
func killFamily(root int) error {
	processes, err := procfs.AllProcs()
	if err != nil {
		return err
	}
	var all []procfs.ProcStat
	for _, p := range processes {
		if stat, err := p.Stat(); err == nil { // otherwise it has exited by now
			all = append(all, stat)
		}
	}
	for _, pid := range family(root, all) {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			return err
		}
	}
	return nil
}

// family returns root, its descendants and its session, parents before children.
func family(root int, all []procfs.ProcStat) []int {
	members := []int{root}
	seen := map[int]bool{root: true}
	for grown := true; grown; {
		grown = false
		for _, p := range all {
			if !seen[p.PID] && (seen[p.PPID] || p.Session == root) {
				members, seen[p.PID], grown = append(members, p.PID), true, true
			}
		}
	}
	return members
}
