package minion

import (
	"time"

	"github.com/spf13/pflag"
)

const (
	defaultRootDir    = "/var/lib/k8sm"
	defaultDockerHost = "unix:///var/run/docker.sock"
)

// Config is what `km minion` can be told. All else comes from the agent's environment and from the cluster
// (api.MinionConfig), so that a change needs no other ExecutorInfo.
type Config struct {
	// SuicideTimeout is how long a minion without tasks stays; zero is for ever.
	SuicideTimeout time.Duration
	// RootDir is where nodes keep what outlives a sandbox; empty means what the cluster says, or /var/lib/k8sm.
	RootDir string
	// DockerHost is the Docker Engine's address; empty means what the cluster says, or /var/run/docker.sock.
	DockerHost string
	// StaticPods is a directory of pod manifests that the kubelet runs besides the cluster's pods; empty for none.
	StaticPods string
}

// AddFlags makes the configuration's flags; the defaults are theirs.
func (c *Config) AddFlags(flags *pflag.FlagSet) {
	flags.DurationVar(&c.SuicideTimeout, "executor-suicide-timeout", 20*time.Minute,
		"leave the machine after this time without a task; the next task brings the node back. 0 stays for ever")
	flags.StringVar(&c.RootDir, "root-dir", "",
		"directory for what outlives the Mesos sandbox: pods' volumes and logs, the node's certificate. Default: what the cluster is configured with, else "+defaultRootDir)
	flags.StringVar(&c.DockerHost, "docker-host", "",
		"address of the Docker Engine. Default: what the cluster is configured with, else "+defaultDockerHost)
	flags.StringVar(&c.StaticPods, "static-pods", "",
		"directory of pod manifests that the kubelet runs besides the cluster's pods")
}

func firstGiven(values ...string) string {
	for _, value := range values {
		if value != "" {
			return value
		}
	}
	return ""
}
