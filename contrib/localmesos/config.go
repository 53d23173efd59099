package localmesos

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/spf13/pflag"
)

// Config configures a cluster. The zero value is not usable: AddFlags sets the defaults. Fields are named after Mesos' own flags
// (https://mesos.apache.org/documentation/latest/configuration/) where there is one.
type Config struct {
	// Agents is the number of agents.
	Agents int
	// IP is the address that master and agents listen on.
	IP string
	// Port is the master's port; 0 takes a free one. Agents use the ports after it, or free ones.
	Port int
	// Hostname of the master and the agents; empty means the machine's.
	Hostname string
	// WorkDir has ids, checkpoints and sandboxes. A start with the same directory continues the same cluster.
	WorkDir string
	// FetcherCacheDir is the parent of the agents' fetcher caches, which are emptied when the agent starts; empty means a
	// directory in WorkDir.
	FetcherCacheDir string
	// Resources of each agent, in Mesos's syntax; empty means those of the machine.
	Resources string
	// Oversubscribed are revocable resources that each agent offers in addition, as with Mesos' fixed resource estimator
	// (https://mesos.apache.org/documentation/latest/oversubscription/).
	Oversubscribed string
	// Attributes of each agent, in Mesos's syntax.
	Attributes string
	// Isolation names the isolators of each agent, in Mesos's syntax.
	Isolation string
	// CgroupsEnableCFS makes cgroups/cpu limit containers to their cpus by CFS quota, even when others are idle.
	CgroupsEnableCFS bool
	// EnforceContainerDiskQuota makes disk/du kill containers whose sandbox is larger than their disk resources. It measures one
	// sandbox per ContainerDiskWatchInterval.
	EnforceContainerDiskQuota  bool
	ContainerDiskWatchInterval time.Duration
	// EnforceContainerPorts makes network/ports kill containers that listen on ports outside their resources. It checks every
	// ContainerPortsWatchInterval.
	EnforceContainerPorts       bool
	ContainerPortsWatchInterval time.Duration
	// ExecutorEnvironmentVariables is a JSON object of variables for executors, in addition to Mesos' own and PATH. Executors do
	// not get the agent's environment.
	ExecutorEnvironmentVariables string
	// Authentication says which callers must authenticate. With the zero value, nobody.
	Authentication Authentication
	// SSL configures TLS of the master and the agents.
	SSL SSL

	// AllocationInterval is how long returned resources wait before they are offered again.
	AllocationInterval time.Duration
	// AgentTimeout is how long an agent may be disconnected before its tasks are unreachable.
	AgentTimeout time.Duration
	// RecoveryTimeout is how long an executor tries to reconnect to its agent before it exits.
	RecoveryTimeout time.Duration
	// ExecutorShutdownGracePeriod is how long an executor may take to end before it is killed.
	ExecutorShutdownGracePeriod time.Duration
	// ExecutorRegistrationTimeout is how long a started executor may take to subscribe.
	ExecutorRegistrationTimeout time.Duration
	// ExecutorReregistrationTimeout is how long an executor may take to subscribe to its restarted agent.
	ExecutorReregistrationTimeout time.Duration

	// Executors, if set, creates executors that run inside this program instead of as processes, so that a thousand agents cost
	// little. Such an executor ends with its agent, and is not checkpointed. It has no flag.
	Executors func(mesos.ExecutorInfo) Executor `json:"-"`

	// Own configures each agent separately, and replaces Agents. If Resources is empty, the agents share the memory and the disk
	// of the machine. It has no flag.
	Own []Agent `json:"-"`
}

// Agent is the configuration of a single agent.
type Agent struct {
	// Hostname is also the name of its directory.
	Hostname string
	// IP is the address to listen on, at the port after the master's.
	IP string
	// ExecutorEnvironmentVariables is as in Config.
	ExecutorEnvironmentVariables string
	// Enter runs do in the network namespace in which the agent listens and starts executors; nil means this program's.
	Enter func(do func() error) error
}

// AddFlags adds a flag for each field, with the field's default as the flag's.
func (c *Config) AddFlags(flags *pflag.FlagSet) {
	flags.IntVar(&c.Agents, "agents", 1, "number of agents, which differ only in their ports")
	flags.StringVar(&c.IP, "ip", "127.0.0.1", "address to listen on")
	flags.IntVar(&c.Port, "port", 5050, "port of the master; the agents use the ports after it. 0 takes free ports")
	flags.StringVar(&c.Hostname, "hostname", "", "hostname of the master and the agents (default: the machine's)")
	flags.StringVar(&c.WorkDir, "work-dir", "local-mesos", "directory for ids, checkpoints and sandboxes; a start with the same directory continues the same cluster")
	flags.StringVar(&c.FetcherCacheDir, "fetcher-cache-dir", "", "directory of the agents' fetcher caches, one subdirectory per agent, "+
		"emptied when the agent starts (default: fetch in --work-dir)")
	flags.StringVar(&c.Resources, "resources", "", "resources of each agent, such as 'cpus:4;mem:4096;disk:10000;ports:[31000-32000]'; "+
		"'cpus(role):2' reserves for a role. Or JSON, as in Mesos's operator API. mem and disk are in MB (default: the machine's, as a Mesos agent finds them)")
	flags.StringVar(&c.Oversubscribed, "oversubscribed-resources", "", "revocable resources that each agent offers in addition, such as 'cpus:2'")
	flags.StringVar(&c.Attributes, "attributes", "", "attributes of each agent, such as 'rack:r1;weight:3;ids:[1-5];tags:{a,b}'")
	c.addIsolationFlags(flags)
	flags.StringVar(&c.ExecutorEnvironmentVariables, "executor-environment-variables", "",
		`environment of executors, as a JSON object such as '{"PATH": "/bin:/usr/bin"}'; executors never get the agent's own environment`)
	c.Authentication.addFlags(flags)
	c.SSL.addFlags(flags)
	flags.DurationVar(&c.AllocationInterval, "allocation-interval", time.Second, "time after which resources that came back are offered again")
	flags.DurationVar(&c.AgentTimeout, "agent-timeout", 75*time.Second, "how long an agent may be disconnected before its tasks become unreachable")
	flags.DurationVar(&c.RecoveryTimeout, "recovery-timeout", 15*time.Minute, "how long an executor of a checkpointing framework waits for its agent to come back")
	flags.DurationVar(&c.ExecutorShutdownGracePeriod, "executor-shutdown-grace-period", 5*time.Second, "how long an executor has to end after SHUTDOWN; then all its processes are killed")
	flags.DurationVar(&c.ExecutorRegistrationTimeout, "executor-registration-timeout", time.Minute, "how long a started executor has to subscribe")
	flags.DurationVar(&c.ExecutorReregistrationTimeout, "executor-reregistration-timeout", 15*time.Second, "how long an executor has to subscribe again after its agent has restarted")
}

// addIsolationFlags adds the flags of the containerizer.
func (c *Config) addIsolationFlags(flags *pflag.FlagSet) {
	flags.StringVar(&c.Isolation, "isolation", "posix/cpu,posix/mem", "isolators of each agent. cgroups/all (or some of it: cgroups/cpu, cgroups/mem, cgroups/devices and others) "+
		"runs each executor in cgroups mesos/CONTAINER (v1) with the limits of its tasks; filesystem/linux gives it a mount namespace; "+
		"namespaces/pid, which needs that, a PID namespace; disk/du measures its sandbox; network/ports checks the ports it listens on; posix/cpu and posix/mem isolate nothing")
	flags.BoolVar(&c.CgroupsEnableCFS, "cgroups-enable-cfs", false, "with cgroups/cpu: limit a container to its cpus by CFS quota, even when others are idle")
	flags.BoolVar(&c.EnforceContainerDiskQuota, "enforce-container-disk-quota", false, "with disk/du: kill a container whose sandbox is larger than its disk resources, if it has any")
	flags.DurationVar(&c.ContainerDiskWatchInterval, "container-disk-watch-interval", 15*time.Second, "with disk/du: time between two measurements; each measures the next sandbox")
	flags.BoolVar(&c.EnforceContainerPorts, "enforce-container-ports", false, "with network/ports: kill a container that listens on IPv4 ports which are not in its resources")
	flags.DurationVar(&c.ContainerPortsWatchInterval, "container-ports-watch-interval", 30*time.Second, "with network/ports: time between two checks")
}

// plan is a validated Config with its strings parsed.
type plan struct {
	Config
	own            *Agent // the agent of this plan; nil for the master and for identical agents
	environment    []string
	resources      pool
	oversubscribed pool
	attributes     []mesos.Attribute
	isolation      isolators
	auth           authenticator
	secure         *tls.Config // nil is plain HTTP
}

// Validate returns the error that Start would return for this configuration, without starting anything.
func (c Config) Validate() error {
	_, err := c.check()
	return err
}

func (c Config) check() (plan, error) {
	if len(c.Own) > 0 {
		c.Agents = len(c.Own)
	}
	p := plan{Config: c}
	if c.Agents < 0 {
		return plan{}, fmt.Errorf("--agents=%d: a cluster cannot have a negative number of agents", c.Agents)
	}
	if net.ParseIP(c.IP) == nil {
		return plan{}, fmt.Errorf("--ip=%q is not an IP address; use one such as 127.0.0.1", c.IP)
	}
	if c.Port < 0 || c.Port+c.Agents > 65535 {
		return plan{}, fmt.Errorf("--port=%d: the master and %d agents need ports from there up to 65535", c.Port, c.Agents)
	}
	if c.WorkDir == "" {
		return plan{}, errors.New("--work-dir is empty: give a directory for ids, checkpoints and sandboxes")
	}
	for name, d := range map[string]time.Duration{
		"allocation-interval": c.AllocationInterval, "agent-timeout": c.AgentTimeout, "recovery-timeout": c.RecoveryTimeout,
		"executor-shutdown-grace-period": c.ExecutorShutdownGracePeriod, "executor-registration-timeout": c.ExecutorRegistrationTimeout,
		"executor-reregistration-timeout": c.ExecutorReregistrationTimeout, "container-disk-watch-interval": c.ContainerDiskWatchInterval,
		"container-ports-watch-interval": c.ContainerPortsWatchInterval,
	} {
		if d <= 0 {
			return plan{}, fmt.Errorf("--%s=%s: give a time above 0, such as 5s", name, d)
		}
	}
	return p.parse()
}

func (p plan) parse() (plan, error) {
	var err error
	if p.Hostname == "" {
		if p.Hostname, err = os.Hostname(); err != nil {
			return plan{}, fmt.Errorf("cannot find the machine's hostname, give --hostname: %w", err)
		}
	}
	if p.FetcherCacheDir == "" {
		p.FetcherCacheDir = filepath.Join(p.WorkDir, "fetch")
	}
	if p.auth, err = p.Authentication.read(); err != nil {
		return plan{}, err
	}
	if p.secure, err = p.SSL.config(); err != nil {
		return plan{}, err
	}
	if p.attributes, err = parseAttributes(p.Attributes); err != nil {
		return plan{}, fmt.Errorf("--attributes: %w", err)
	}
	if p.isolation, err = parseIsolation(p.Isolation); err != nil {
		return plan{}, fmt.Errorf("--isolation: %w", err)
	}
	p.isolation.cfs = p.CgroupsEnableCFS
	if p.environment, err = executorEnvironment(p.ExecutorEnvironmentVariables); err != nil {
		return plan{}, err
	}
	for i := range p.Own {
		if _, err := p.agent(i); err != nil {
			return plan{}, err
		}
	}
	if p.oversubscribed, err = parseOversubscribed(p.Oversubscribed); err != nil {
		return plan{}, fmt.Errorf("--oversubscribed-resources: %w", err)
	}
	if p.Resources != "" {
		if p.resources, err = parseResources(p.Resources); err != nil {
			return plan{}, fmt.Errorf("--resources: %w", err)
		}
	}
	if err := os.MkdirAll(p.WorkDir, 0o755); err != nil { // last, so that an invalid configuration leaves no directory
		return plan{}, fmt.Errorf("cannot make --work-dir: %w", err)
	}
	if p.Resources == "" {
		if p.resources, err = ownResources(p.WorkDir, max(1, len(p.Own))); err != nil {
			return plan{}, fmt.Errorf("cannot find the machine's resources, give --resources: %w", err)
		}
	}
	return p, nil
}

// agent returns the plan of agent i.
func (p plan) agent(i int) (plan, error) {
	if len(p.Own) == 0 {
		return p, nil
	}
	own := p.Own[i]
	if own.Hostname == "" || net.ParseIP(own.IP) == nil {
		return plan{}, fmt.Errorf("agent %d needs its own hostname and IP address, not %q and %q", i, own.Hostname, own.IP)
	}
	p.own, p.Hostname, p.IP = &own, own.Hostname, own.IP
	if own.ExecutorEnvironmentVariables == "" {
		return p, nil
	}
	var err error
	p.environment, err = executorEnvironment(own.ExecutorEnvironmentVariables)
	return p, err
}

// enter runs do in the network namespace of the plan's agent.
func (p plan) enter(do func() error) error {
	if p.own == nil || p.own.Enter == nil {
		return do()
	}
	return p.own.Enter(do)
}

// executorEnvironment parses the JSON object. Executors do not get the agent's environment
// (https://mesos.apache.org/documentation/latest/configuration/agent/#executor_environment_variables).
func executorEnvironment(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	var variables map[string]string
	if err := json.Unmarshal([]byte(text), &variables); err != nil {
		return nil, fmt.Errorf(`--executor-environment-variables is not a JSON object of strings, such as {"PATH": "/bin"}: %w`, err)
	}
	var env []string
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		env = append(env, name+"="+variables[name])
	}
	return env, nil
}

// ownResources returns the share of one agent in this machine's resources. Its disk is the file system of the directory.
func ownResources(dir string, agents int) (pool, error) {
	text, err := machineResources(dir, int64(agents))
	if err != nil {
		return nil, err
	}
	return parseResources(text)
}
