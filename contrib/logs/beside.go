package logs

import (
	"context"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/contrib/flagvalue"
	"github.com/k8sm/k8sm/contrib/membership"
	"github.com/k8sm/k8sm/minion/supervise"
)

// Beside is the store beside a control plane, a child process. AddFlags sets the defaults.
type Beside struct {
	membership.Process
	Config
}

// AddFlags adds a control plane's flags for its logs. Dir, Files, LogLevel and LogFormat have none.
func (b *Beside) AddFlags(fs *pflag.FlagSet) {
	fs.BoolVar(&b.Enabled, "logs", true, "run a store of logs beside the API server, unless that listens on loopback only: for km logs. Give all API servers of a cluster the same")
	fs.StringVar(&b.Address, "logs-address", "", "IP address the log store listens on, which the cluster's API servers and nodes must reach (default: the API server's)")
	fs.IntVar(&b.Port, "logs-port", DefaultPort, "TCP port of the log store")
	b.addFlags(fs, "logs-")
}

// Serves is the store's "host:port"; "" if there is none.
func (b Beside) Serves() string {
	if !b.Enabled {
		return ""
	}
	return b.listen().String()
}

// Validate checks the settings. Errors name the flags.
func (b Beside) Validate() error {
	if !b.Enabled {
		return nil
	}
	return b.validate("logs-")
}

// Free checks that the store's port is free. The machine need not have the address yet.
func (b Beside) Free() error {
	if !b.Enabled {
		return nil
	}
	return membership.Free(b.listen(), "logs")
}

// Run runs the store until ctx ends, and restarts it when it exits or does not answer. Its log goes to output.
func (b Beside) Run(ctx context.Context, output io.Writer) error {
	return b.Process.Run(ctx, "the cluster's log store", func() (supervise.Child, error) {
		probe, err := b.prober()
		return supervise.Child{
			Args: b.args(), Output: output, Grace: closeTimeout, Health: &supervise.Health{Probe: probe, Every: supervise.ProbeEvery},
		}, err
	})
}

// args are the child's arguments.
func (b Beside) args() []string {
	args := []string{
		"logstore", "--state-dir=" + string(b.Dir), "--address=" + b.Address, "--port=" + strconv.Itoa(b.Port), "--retention=" + (*flagvalue.Retention)(&b.Retention).String(),
		"--max-size=" + strconv.FormatInt(b.MaxSize, 10) + "B", "--namespace-rate=" + strconv.Itoa(b.NamespaceRate),
		"--ingest-address=" + b.IngestAddress, "--syslog-address=" + b.SyslogAddress,
	}
	for _, name := range slices.Sorted(maps.Keys(b.Files)) {
		args = append(args, "--file="+name+"="+b.Files[name])
	}
	return append(args, b.Flags()...)
}
