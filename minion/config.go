package minion

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/docker/docker/client"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
)

const (
	defaultRootDir    = "/var/lib/k8sm"
	defaultDockerHost = "unix:///var/run/docker.sock"
)

// Config is what `km minion` can be told by flags, which is for those who put a program of theirs before it. All else comes
// from the agent's environment and from the cluster, so that a change needs no other ExecutorInfo.
type Config struct {
	// Given wins over what the cluster says. Of its fields those have an effect that AddFlags makes a flag for.
	Given api.MinionConfig
	// dockerHost is what the agent's environment says by Docker's own variable: agents that share a machine may each have an
	// Engine of their own. Given wins over it, and it wins over what the cluster says.
	dockerHost string
	// engine is the cluster's Docker Engine as the scheduler knew it when it launched this executor. It is asked for a way into
	// the machine, which has to be found before the cluster can be; see package stepout.
	engine string
}

// AddFlags makes the configuration's flags. Without one, the cluster's setting is in force.
func (c *Config) AddFlags(flags *pflag.FlagSet) {
	const otherwise = " (default: as the cluster is configured, else %s)"
	flags.Func("executor-suicide-timeout", fmt.Sprintf("leave the machine after this `time` without a task; the next task brings the node back. 0 stays for ever"+
		otherwise, api.DefaultSuicideTimeout), func(text string) error {
		timeout, err := time.ParseDuration(text)
		c.Given.SuicideTimeout = &metav1.Duration{Duration: timeout}
		return err
	})
	flags.Func("minion-cleanup-delay", fmt.Sprintf("remove what is left on the machine after this `time` without a minion"+otherwise, api.DefaultCleanupDelay),
		func(text string) error {
			delay, err := time.ParseDuration(text)
			c.Given.CleanupDelay = &metav1.Duration{Duration: delay}
			return err
		})
	flags.StringVar(&c.Given.RootDir, "root-dir", "",
		fmt.Sprintf("`directory` for what outlives the Mesos sandbox: pods' volumes and logs, the node's certificate"+otherwise, defaultRootDir))
	flags.StringVar(&c.Given.DockerHost, "docker-host", "", fmt.Sprintf("address of the Docker Engine (default: the environment's %s, else as the cluster is configured, else %s)", client.EnvOverrideHost, defaultDockerHost))
	flags.StringVar(&c.engine, api.MinionEngineFlag, "", "Docker Engine of the machine's, to be used only to leave the container that Mesos builds; the scheduler gives it")
	_ = flags.MarkHidden(api.MinionEngineFlag)
	flags.StringVar(&c.Given.StaticPods, "static-pods", "",
		fmt.Sprintf("`directory` of pod manifests that the kubelet runs besides the cluster's pods"+otherwise, "none"))
	flags.BoolFunc("contain-pods", fmt.Sprintf("have pods' containers below the cgroup of this Mesos container"+otherwise, "not"), func(text string) error {
		contain, err := strconv.ParseBool(text)
		c.Given.ContainPods = &contain
		return err
	})
	flags.StringVar((*string)(&c.Given.ProxyMode), "proxy-mode", "",
		fmt.Sprintf("by what kube-proxy leads packets to services: iptables or nftables"+otherwise, api.DefaultProxyMode))
	flags.BoolFunc("network-policy", fmt.Sprintf("enforce network policies; true needs that the cluster is configured so"+otherwise, "yes"), func(text string) error {
		enforce, err := strconv.ParseBool(text)
		c.Given.NetworkPolicy = &enforce
		return err
	})
	flags.Func("eviction-hard", fmt.Sprintf("what the kubelet keeps free by evicting pods, as `SIGNAL<VALUE,...`"+otherwise, api.DefaultEvictionHard),
		func(text string) (err error) {
			c.Given.EvictionHard, err = api.ParseEviction(text)
			return err
		})
}

// settle returns what is in force: what was given here, else what the cluster says, else the defaults. Only the Docker Engine
// may also be the environment's choice.
func (c Config) settle(told api.MinionConfig) (api.MinionConfig, error) {
	told.RootDir = firstGiven(c.Given.RootDir, told.RootDir, defaultRootDir)
	told.DockerHost = firstGiven(c.Given.DockerHost, c.dockerHost, told.DockerHost, defaultDockerHost)
	told.StaticPods = firstGiven(c.Given.StaticPods, told.StaticPods)
	told.ProxyMode = cmp.Or(c.Given.ProxyMode, told.ProxyMode, api.DefaultProxyMode)
	told.SuicideTimeout = firstDuration(c.Given.SuicideTimeout, told.SuicideTimeout, api.DefaultSuicideTimeout)
	told.CleanupDelay = firstDuration(c.Given.CleanupDelay, told.CleanupDelay, api.DefaultCleanupDelay)
	if c.Given.ContainPods != nil {
		told.ContainPods = c.Given.ContainPods
	}
	if c.Given.NetworkPolicy != nil {
		if *c.Given.NetworkPolicy && !told.EnforcesNetworkPolicies() {
			return told, errors.New("cannot use --network-policy=true: the control plane is without, so that nodes may not read what network policies go by")
		}
		told.NetworkPolicy = c.Given.NetworkPolicy
	}
	if len(c.Given.EvictionHard) > 0 {
		told.EvictionHard = c.Given.EvictionHard
	}
	if len(told.EvictionHard) == 0 {
		told.EvictionHard, _ = api.ParseEviction(api.DefaultEvictionHard) // which a test reads
	}
	told.Network = told.Network.Settled()
	return told, told.Validate()
}

func firstDuration(given, told *metav1.Duration, otherwise time.Duration) *metav1.Duration {
	return cmp.Or(given, told, &metav1.Duration{Duration: otherwise})
}

func firstGiven(values ...string) string {
	for _, value := range values {
		if value != "" {
			return value
		}
	}
	return ""
}
