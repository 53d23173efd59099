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

const defaultRootDir = "/var/lib/k8sm"

// Config holds the flags of `km minion`, for operators who wrap it in a program of their own. Everything else comes from the agent's
// environment and the cluster, so that a change does not need a new ExecutorInfo.
type Config struct {
	// Given overrides the cluster's configuration. Only fields that have a flag in AddFlags take effect.
	Given api.MinionConfig
	// dockerHost is DOCKER_HOST of the agent's environment: agents that share a machine may each use an Engine of their own. Given
	// overrides it; it overrides the cluster's configuration.
	dockerHost string
	// dockerCertPath is DOCKER_CERT_PATH of the agent's environment, likewise.
	dockerCertPath string
	// engine is the cluster's Docker Engine as the scheduler knew it at launch. The minion uses it to leave the Mesos container
	// before it can read the cluster's configuration; see package stepout.
	engine string
	// engineCertPath is the directory of the certificates for that Engine, likewise.
	engineCertPath string
}

// AddFlags registers the flags. The cluster's configuration applies where a flag is not given.
func (c *Config) AddFlags(flags *pflag.FlagSet) {
	const otherwise = " (default: the cluster's configuration, else %s)"
	flags.Func("minion-idle-timeout", fmt.Sprintf("leave the machine after this `time` without a task; the next task brings the node back. 0 means never"+
		otherwise, api.DefaultIdleTimeout), func(text string) error {
		timeout, err := time.ParseDuration(text)
		c.Given.IdleTimeout = &metav1.Duration{Duration: timeout}
		return err
	})
	flags.Func("minion-cleanup-delay", fmt.Sprintf("remove the node's containers, mounts and rules after this `time` without a minion"+otherwise, api.DefaultCleanupDelay),
		func(text string) error {
			delay, err := time.ParseDuration(text)
			c.Given.CleanupDelay = &metav1.Duration{Duration: delay}
			return err
		})
	flags.StringVar(&c.Given.RootDir, "root-dir", "",
		fmt.Sprintf("`directory` for files that outlive the Mesos sandbox: pod volumes and logs, the node's certificate"+otherwise, defaultRootDir))
	flags.StringVar(&c.Given.DockerHost, "docker-host", "", fmt.Sprintf("address of the Docker Engine (default: %s in the environment, else the cluster's configuration, else %s)", client.EnvOverrideHost, api.DefaultDockerHost))
	flags.StringVar(&c.engine, api.MinionEngineFlag, "", "Docker Engine through which the minion leaves its Mesos container; set by the scheduler")
	_ = flags.MarkHidden(api.MinionEngineFlag)
	flags.StringVar(&c.Given.DockerCertPath, "docker-cert-path", "", fmt.Sprintf("`directory` with ca.pem, cert.pem and key.pem for a Docker Engine at a tcp:// address "+
		"(default: %s in the environment, else the cluster's configuration)", client.EnvOverrideCertPath))
	flags.StringVar(&c.engineCertPath, api.MinionEngineCertPathFlag, "", "certificates for the Docker Engine through which the minion leaves its Mesos container; set by the scheduler")
	_ = flags.MarkHidden(api.MinionEngineCertPathFlag)
	flags.BoolVar(&c.Given.AllowPlainDocker, "allow-plain-docker-host", false, "allow an unencrypted tcp:// --docker-host that others can reach: whoever does is root on the machine (default: the cluster's configuration)")
	flags.StringVar(&c.Given.StaticPods, "static-pod-path", "",
		fmt.Sprintf("`directory` of static pod manifests for the kubelet"+otherwise, "none"))
	flags.BoolFunc("contain-pods", fmt.Sprintf("run pods inside the cgroup of this Mesos container"+otherwise, "false"), func(text string) error {
		contain, err := strconv.ParseBool(text)
		c.Given.ContainPods = &contain
		return err
	})
	flags.StringVar((*string)(&c.Given.ProxyMode), "proxy-mode", "",
		fmt.Sprintf("mode of kube-proxy: iptables or nftables"+otherwise, api.DefaultProxyMode))
	flags.BoolFunc("network-policy", fmt.Sprintf("enforce network policies; true requires that the cluster enables them"+otherwise, "true"), func(text string) error {
		enforce, err := strconv.ParseBool(text)
		c.Given.NetworkPolicy = &enforce
		return err
	})
	flags.Func("eviction-hard", fmt.Sprintf("hard eviction thresholds of the kubelet, as `SIGNAL<VALUE,...`"+otherwise, api.DefaultEvictionHard),
		func(text string) (err error) {
			c.Given.EvictionHard, err = api.ParseEviction(text)
			return err
		})
}

// settle resolves the configuration: flags first, then the cluster's configuration, then the defaults. For the Docker Engine alone,
// the environment comes after the flags.
func (c Config) settle(cluster api.MinionConfig) (api.MinionConfig, error) {
	cluster.RootDir = firstGiven(c.Given.RootDir, cluster.RootDir, defaultRootDir)
	cluster.DockerHost = firstGiven(c.Given.DockerHost, c.dockerHost, cluster.DockerHost, api.DefaultDockerHost)
	cluster.DockerCertPath = firstGiven(c.Given.DockerCertPath, c.dockerCertPath, cluster.DockerCertPath)
	cluster.AllowPlainDocker = c.Given.AllowPlainDocker || cluster.AllowPlainDocker
	cluster.LogFormat = firstGiven(c.Given.LogFormat, cluster.LogFormat)
	cluster.StaticPods = firstGiven(c.Given.StaticPods, cluster.StaticPods)
	cluster.ProxyMode = cmp.Or(c.Given.ProxyMode, cluster.ProxyMode, api.DefaultProxyMode)
	cluster.IdleTimeout = firstDuration(c.Given.IdleTimeout, cluster.IdleTimeout, api.DefaultIdleTimeout)
	cluster.CleanupDelay = firstDuration(c.Given.CleanupDelay, cluster.CleanupDelay, api.DefaultCleanupDelay)
	cluster.StatusPort = cmp.Or(cluster.StatusPort, ptr(api.DefaultStatusPort))
	if c.Given.ContainPods != nil {
		cluster.ContainPods = c.Given.ContainPods
	}
	if c.Given.NetworkPolicy != nil {
		if *c.Given.NetworkPolicy && !cluster.EnforcesNetworkPolicies() {
			return cluster, errors.New("cannot use --network-policy=true: the control plane runs without it, so nodes may not read network policies; start it with --network-policy")
		}
		cluster.NetworkPolicy = c.Given.NetworkPolicy
	}
	if len(c.Given.EvictionHard) > 0 {
		cluster.EvictionHard = c.Given.EvictionHard
	}
	if len(cluster.EvictionHard) == 0 {
		cluster.EvictionHard, _ = api.ParseEviction(api.DefaultEvictionHard) // which a test reads
	}
	cluster.Network = cluster.Network.Settled()
	return cluster, cluster.Validate()
}

func firstDuration(given, cluster *metav1.Duration, fallback time.Duration) *metav1.Duration {
	return cmp.Or(given, cluster, &metav1.Duration{Duration: fallback})
}

func firstGiven(values ...string) string {
	for _, value := range values {
		if value != "" {
			return value
		}
	}
	return ""
}
