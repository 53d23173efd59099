package metrics

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/contrib/membership"
	"github.com/k8sm/k8sm/minion/supervise"
)

// Beside is the server beside a control plane, a child process. AddFlags sets the defaults.
type Beside struct {
	membership.Process
	Config
}

// AddFlags adds a control plane's flags for its metrics. Dir, ClusterName, DNS, Logs, LogLevel and LogFormat have none.
func (b *Beside) AddFlags(fs *pflag.FlagSet) {
	fs.BoolVar(&b.Enabled, "metrics", true, "run a metrics server beside the API server, unless that listens on loopback only: for kubectl top, autoscaling, PromQL and alerts. Give all API servers of a cluster the same")
	fs.StringVar(&b.Address, "metrics-address", "", "IP address the metrics server listens on, which the cluster's API servers must reach (default: the API server's)")
	fs.IntVar(&b.Port, "metrics-port", DefaultPort, "TCP port of the metrics server")
	b.addFlags(fs, "metrics-")
}

// Validate checks the settings. Errors name the flags.
func (b Beside) Validate() error {
	if !b.Enabled {
		return nil
	}
	return b.validate("metrics-")
}

// Free checks that the server's port is free. The machine need not have the address yet.
func (b Beside) Free() error {
	if !b.Enabled {
		return nil
	}
	return membership.Free(b.listen(), "metrics")
}

// Run runs the server until ctx ends, and restarts it when it exits or does not answer. Its log goes to output.
func (b Beside) Run(ctx context.Context, output io.Writer) error {
	return b.Process.Run(ctx, "the cluster's metrics server", func() (child supervise.Child, err error) {
		text, err := b.file()
		if err != nil {
			return child, fmt.Errorf("cannot encode the settings of the metrics server: %w", err)
		}
		// Not as arguments: everybody on the machine sees those, and the URL of an Alertmanager may have a password.
		if err := b.Dir.WriteMetricsConfig(text); err != nil {
			return child, err
		}
		probe, err := b.prober()
		return supervise.Child{
			Args: b.args(), Output: output, Grace: closeTimeout, Health: &supervise.Health{Probe: probe, Every: supervise.ProbeEvery},
		}, err
	})
}

// args are the child's arguments. What else it needs is in its file of flags.
func (b Beside) args() []string {
	return append([]string{"metrics", "--state-dir=" + string(b.Dir), "--config=" + b.Dir.MetricsConfig()}, b.Flags()...)
}
