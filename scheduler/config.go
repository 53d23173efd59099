package scheduler

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler/match"
)

// Config is what an operator may choose about scheduling.
type Config struct {
	// OfferTTL is how long an offer is held before it is given back.
	OfferTTL time.Duration
	// RefuseIdle is for how long Mesos shall not offer an agent's resources again when no pod waits for them. A pod that
	// comes in the meantime ends this by REVIVE.
	RefuseIdle time.Duration
	// Gather is how long pods that come one after the other are waited for before they are launched together; zero is not at
	// all.
	Gather time.Duration
	// Algorithm chooses among the agents that a pod fits on.
	Algorithm match.Algorithm
	// LaunchGrace is how long a launched task may stay silent before it is killed and its pod tried again.
	LaunchGrace time.Duration
	// AgentForget is how long an agent may be gone before its node is deleted.
	AgentForget time.Duration
	// CordonLead is how long before planned maintenance an agent's node is cordoned, and DrainLead how long before its
	// pods are evicted.
	CordonLead, DrainLead time.Duration
	// NodePorts is the range of nodes' ports that are for services, and so given to no pod; main sets it. Zero is none.
	NodePorts offers.Range
	Charges
	Minions
	Subscription
}

// Charges are what is charged in Mesos beside what pods request.
type Charges struct {
	// DefaultPodCPUs and DefaultPodMem (MiB) are charged for pods that request none.
	DefaultPodCPUs, DefaultPodMem float64
	// ExecutorCPUs, ExecutorMem and ExecutorDisk (MiB) are charged once per agent for the minion.
	ExecutorCPUs, ExecutorMem, ExecutorDisk float64
}

// Minions is which minions run, and where they come from.
type Minions struct {
	// Version is that of this scheduler's km, an api.KMVersion, by which minions are replaced as Rollout says; "" replaces none. main sets it.
	Version string
	// Rollout says which minions are replaced by the order of versions.
	Rollout RolloutDirection
	// MaxUnavailable is how many nodes may be without their minion for that at a time; 0 begins no replacement.
	MaxUnavailable int
	// RolloutDelay is how long a scheduler leads before it begins with that, and RolloutTimeout how long a new minion may take
	// to be ready.
	RolloutDelay, RolloutTimeout time.Duration
	// WarmNodes is on how many agents the executor runs also without pods.
	WarmNodes WarmNodes
	// MaxInstalls is how many agents may fetch km at a time; 0 bounds nothing.
	MaxInstalls int
	// KMPath is the absolute path of the km program on every agent; if it is empty, agents fetch it.
	KMPath string
	// IdleTimeout is how long minions are told to stay without a task; zero is for ever. main sets it.
	IdleTimeout time.Duration
}

// Subscription is what the scheduler subscribes to at the Mesos master. main sets it.
type Subscription struct {
	// Roles are those that offers come for, the preferred one first.
	Roles []string
	// Revocable says that offers have cpus that Mesos may take back.
	Revocable bool
}

// AddFlags registers the flags of the operator's part; the values that c holds are overwritten by the defaults.
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
		"how long a new leading scheduler waits before it replaces minions of other versions")
	fs.DurationVar(&c.RolloutTimeout, "rollout-timeout", 10*time.Minute,
		"how long to wait for a new minion to be ready; then the rollout stops")
	fs.Var(&c.WarmNodes, "warm-nodes",
		"how many nodes keep a minion running without pods, so that the next pod starts faster: all or a number")
	fs.IntVar(&c.MaxInstalls, "max-concurrent-installs", 10,
		"how many Mesos agents may fetch km (about 50 MB) at a time; 0 means no limit")
	fs.StringVar(&c.KMPath, "km-path", "",
		"absolute path of km on Mesos agents that have it installed (default: agents fetch it, see --artifact-address)")
}

// Validate returns an error that names the first value that cannot work.
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
	if c.KMPath != "" && c.KMPath[0] != '/' {
		return fmt.Errorf("--km-path %q is not an absolute path", c.KMPath)
	}
	return nil
}

// matching is what the matching needs to know.
func (c *Config) matching() match.Config {
	return match.Config{
		Algorithm: c.Algorithm, Roles: c.Roles, Revocable: c.Revocable, MaxInstalls: c.maxInstalls(),
		DefaultCPUs: offers.MilliOf(c.DefaultPodCPUs), DefaultMem: offers.MilliOf(c.DefaultPodMem),
	}
}

// executor is what minions are charged as executors: no cpus where tasks may have revocable ones, because Mesos lets no task
// have these whose executor has others (https://mesos.apache.org/documentation/latest/oversubscription/). Nor are they charged
// disk where a role has none: disk/du and disk/xfs leave a container alone that was given no disk.
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

// maxInstalls is MaxInstalls if agents fetch anything.
func (c *Config) maxInstalls() int {
	if c.KMPath != "" {
		return 0
	}
	return c.MaxInstalls
}
