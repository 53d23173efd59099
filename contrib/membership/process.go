package membership

import (
	"context"

	"github.com/k8sm/k8sm/minion/supervise"
)

// Log is what the log of a server beside a control plane is like: the control plane's --log-level and --log-format. Empty means the default.
type Log struct{ LogLevel, LogFormat string }

// Flags are those of a km command with such a log.
func (l Log) Flags() (flags []string) {
	if l.LogLevel != "" {
		flags = append(flags, "--log-level="+l.LogLevel)
	}
	if l.LogFormat != "" {
		flags = append(flags, "--log-format="+l.LogFormat)
	}
	return flags
}

// Process is a server beside a control plane, a child process.
type Process struct {
	// Enabled is false for a cluster without such a server.
	Enabled bool
	Log
}

// Run runs the server, which log messages call name, until ctx ends, and restarts it when it exits or does not answer. newChild returns it;
// it is not called if there is none.
func (p Process) Run(ctx context.Context, name string, newChild func() (supervise.Child, error)) error {
	if !p.Enabled {
		<-ctx.Done()
		return nil
	}
	child, err := newChild()
	if err != nil {
		return err
	}
	part := supervise.Start(context.WithoutCancel(ctx), name, child.Run)
	<-ctx.Done()
	part.Stop()
	return nil
}
