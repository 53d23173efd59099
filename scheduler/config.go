package scheduler

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler/match"
)

// Config holds an operator's settings for scheduling.
type Config struct {
	// OfferTTL is how long an offer is held before it is declined.
	OfferTTL time.Duration
	// RefuseIdle is the filter for declined offers when no pod waits. A new pod ends it early by REVIVE.
	RefuseIdle time.Duration
	// Gather is how long to wait for the next new pod before the pods so far are launched together; zero launches each at once.
	Gather time.Duration
	// Algorithm chooses among the agents that fit a pod.
	Algorithm match.Algorithm
	// LaunchGrace is how long a launched task may send no update before it is killed and its pod is tried again.
	LaunchGrace time.Duration
	// AgentForget is how long an agent may be absent before its node is deleted.
	AgentForget time.Duration
	// CordonLead is how long before planned maintenance an agent's node is cordoned, and DrainLead how long before its
	// pods are evicted.
	CordonLead, DrainLead time.Duration
	// NodePorts is the NodePort range of services, whose ports no pod gets; zero for none. SettingsSeen sets it.
	NodePorts offers.Range
	Charges
	Minions
	Subscription
}

// Charges are resources charged in Mesos besides what pods request.
type Charges struct {
	// DefaultPodCPUs and DefaultPodMem (MiB) are charged for pods that request none.
	DefaultPodCPUs, DefaultPodMem float64
	// ExecutorCPUs, ExecutorMem and ExecutorDisk (MiB) are charged once per agent for the minion.
	ExecutorCPUs, ExecutorMem, ExecutorDisk float64
}

// Minions holds the settings for minions: which run, which version, and how they are installed.
type Minions struct {
	// Version is this scheduler's api.KMVersion, which minions are replaced with as Rollout says; "" replaces none. main sets it.
	Version string
	// Kubelet is the version of the kubelet in minions that start. None starts while an API server is older; "" checks nothing. main
	// sets it.
	Kubelet string
	// Rollout says which minions are replaced.
	Rollout RolloutDirection
	// MaxUnavailable is how many nodes may have their minion replaced at a time; 0 replaces none.
	MaxUnavailable int
	// RolloutDelay is how long a scheduler leads before it replaces minions; RolloutTimeout is how long a new minion may take to
	// become ready.
	RolloutDelay, RolloutTimeout time.Duration
	// WarmNodes is on how many agents the executor also runs without pods.
	WarmNodes WarmNodes
	// MaxInstalls is how many agents may fetch km at a time; 0 for any number.
	MaxInstalls int
	// KMPath is the absolute path of the km program on every agent; if it is empty, agents fetch it.
	KMPath string
	// IdleTimeout is how long minions run without a task; zero for ever. SettingsSeen sets it.
	IdleTimeout time.Duration
}

// Subscription is what the scheduler subscribes to at the Mesos master. main sets it.
type Subscription struct {
	// Roles are the framework's roles, the preferred one first.
	Roles []string
	// RoleNamespaces limits roles to pods of namespaces.
	RoleNamespaces RoleNamespaces
	// Revocable says that offers include revocable cpus, which Mesos may take back.
	Revocable bool
}

// AddFlags registers the flags; the defaults overwrite the values in c.
func (c *Config) AddFlags(fs *pflag.FlagSet) {
	c.Algorithm = match.FCFS
	fs.Var(&c.Algorithm, "algorithm",
		"how to choose among the agents that a pod fits on: the first (fcfs), the emptiest agent (spread) or the fullest (binpack)")
	fs.DurationVar(&c.OfferTTL, "offer-ttl", 5*time.Second,
		"how long to hold an offer before it is declined")
	fs.DurationVar(&c.RefuseIdle, "decline-offer-duration", 2*time.Minute,
		"how long Mesos keeps declined resources from this framework while no pod waits (refuse_seconds); a new pod revives offers at once")
	fs.DurationVar(&c.Gather, "batch-idle-duration", 30*time.Millisecond,
		"how long to wait for another new pod, so that a burst is launched in one batch; a batch waits at most four times as long. 0 launches each pod at once")
	fs.DurationVar(&c.LaunchGrace, "task-launch-timeout", 5*time.Minute,
		"how long to wait for the first status of a launched task; then the task is killed and its pod is launched again")
	fs.DurationVar(&c.AgentForget, "agent-removal-timeout", 10*time.Minute,
		"how long a Mesos agent may be gone before its node is deleted")
	fs.DurationVar(&c.CordonLead, "cordon-lead-time", time.Hour,
		"how long before planned maintenance of a Mesos agent its node is cordoned")
	fs.DurationVar(&c.DrainLead, "drain-lead-time", 10*time.Minute,
		"how long before planned maintenance of a Mesos agent its pods are evicted")
	fs.Var(&c.RoleNamespaces, "role-namespaces",
		"`ROLE=NAMESPACE[,NAMESPACE]` lets only pods of these namespaces use a Mesos role; repeat it for more roles. All pods may use roles that are not named")
	fs.Float64Var(&c.DefaultPodCPUs, "default-pod-cpus", 0.1, "cpus charged for a pod that requests none")
	fs.Float64Var(&c.DefaultPodMem, "default-pod-mem", 64, "MiB of memory charged for a pod that requests none")
	fs.Float64Var(&c.ExecutorCPUs, "executor-cpus", 0.25, "cpus charged on each agent for the minion (kubelet, proxy, executor)")
	fs.Float64Var(&c.ExecutorMem, "executor-mem", 256, "MiB of memory charged on each agent for the minion (kubelet, proxy, executor)")
	fs.Float64Var(&c.ExecutorDisk, "executor-disk", 320, "MiB of disk charged for the minion's Mesos sandbox (km and its rotated logs) on each agent that offers disk")
	fs.IntVar(&c.MaxUnavailable, "max-unavailable-nodes", 1,
		"how many nodes a rollout may drain at a time to replace their minions; 0 starts no further replacement")
	c.Rollout = RolloutForward
	fs.Var(&c.Rollout, "rollout",
		"which minions to replace: forward (those older than the scheduler), any (newer ones too, to roll back) or off (none)")
	fs.DurationVar(&c.RolloutDelay, "rollout-delay", 5*time.Minute,
		"how long a new leading scheduler waits before it replaces minions of other versions or with other settings")
	fs.DurationVar(&c.RolloutTimeout, "rollout-timeout", 10*time.Minute,
		"how long to wait for a new minion to be ready; then the rollout stops")
	fs.Var(&c.WarmNodes, "warm-nodes",
		"how many nodes keep a minion running without pods, so that the next pod starts faster: all or a number")
	fs.IntVar(&c.MaxInstalls, "max-concurrent-installs", 10,
		"how many Mesos agents may fetch km (about 70 MB) at a time; 0 means no limit")
	fs.StringVar(&c.KMPath, "km-path", "",
		"absolute path of km on Mesos agents that have it installed (default: agents fetch it, see --artifact-address)")
}

// Validate returns an error for the first invalid value.
func (c *Config) Validate() error {
	for _, positive := range []struct {
		flag string
		ok   bool
	}{
		{"--offer-ttl", c.OfferTTL > 0}, {"--decline-offer-duration", c.RefuseIdle > 0},
		{"--task-launch-timeout", c.LaunchGrace > 0}, {"--agent-removal-timeout", c.AgentForget > 0},
		{"--cordon-lead-time", c.CordonLead > 0}, {"--drain-lead-time", c.DrainLead > 0},
		{"--default-pod-cpus", c.DefaultPodCPUs > 0}, {"--default-pod-mem", c.DefaultPodMem > 0},
		{"--rollout-timeout", c.RolloutTimeout > 0}, {"--executor-cpus", c.ExecutorCPUs > 0}, {"--executor-mem", c.ExecutorMem > 0},
	} {
		if !positive.ok {
			return fmt.Errorf("%s must be positive", positive.flag)
		}
	}
	if c.Gather < 0 || c.Gather > maxGather {
		return fmt.Errorf("--batch-idle-duration=%s is not between 0 and %s: every new pod waits at least that long", c.Gather, maxGather)
	}
	if c.MaxUnavailable < 0 || c.RolloutDelay < 0 || c.MaxInstalls < 0 || c.ExecutorDisk < 0 {
		return errors.New("--max-unavailable-nodes, --rollout-delay, --max-concurrent-installs and --executor-disk must not be negative")
	}
	if c.DrainLead > c.CordonLead {
		return fmt.Errorf("--drain-lead-time must not be longer than --cordon-lead-time: pods are evicted from cordoned nodes only")
	}
	if err := c.RoleNamespaces.check(c.Roles); err != nil {
		return err
	}
	if c.KMPath != "" && c.KMPath[0] != '/' {
		return fmt.Errorf("--km-path %q is not an absolute path", c.KMPath)
	}
	return nil
}

// matching returns the settings for package match.
func (c *Config) matching() match.Config {
	return match.Config{
		Algorithm: c.Algorithm, Roles: c.Roles, RoleNamespaces: c.RoleNamespaces, Revocable: c.Revocable, MaxInstalls: c.maxInstalls(),
		DefaultCPUs: offers.MilliOf(c.DefaultPodCPUs), DefaultMem: offers.MilliOf(c.DefaultPodMem),
	}
}

// executor returns what an executor is charged. If tasks may have revocable cpus it gets none, because Mesos rejects a mix
// of revocable and other cpus (https://mesos.apache.org/documentation/latest/oversubscription/). Where a role has no disk it
// gets none: disk/du and disk/xfs do not limit containers without disk.
func (c *Config) executor(diskThere offers.Milli) match.Demand {
	d := match.Demand{Scalars: [match.NumScalars]offers.Milli{offers.MilliOf(c.ExecutorCPUs), offers.MilliOf(c.ExecutorMem), offers.MilliOf(c.ExecutorDisk)}}
	if c.Revocable {
		d.Scalars[0] = 0
	}
	if diskThere == 0 {
		d.Scalars[match.Disk] = 0
	}
	return d
}

// maxInstalls returns MaxInstalls, or 0 if agents do not fetch km.
func (c *Config) maxInstalls() int {
	if c.KMPath != "" {
		return 0
	}
	return c.MaxInstalls
}
