package localmesos

import (
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
)

// pingTimeouts is how many pings an agent may leave unanswered (DEFAULT_MAX_AGENT_PING_TIMEOUTS in src/master/constants.hpp).
const pingTimeouts = 5

// flags returns Mesos' flags of the master, by name, that the local Mesos has a value for
// (https://mesos.apache.org/documentation/latest/configuration/master/). Like Mesos, it leaves out those that are not set.
func (n *masterNode) flags() map[string]string {
	c := n.plan.Config
	return set(map[string]string{
		"agent_ping_timeout": mesosDuration(c.AgentTimeout / pingTimeouts), "max_agent_ping_timeouts": strconv.Itoa(pingTimeouts),
		"agent_reregister_timeout": mesosDuration(reregisterTimeout), "allocation_interval": mesosDuration(c.AllocationInterval),
		"authenticate_http_frameworks": strconv.FormatBool(c.Authentication.HTTPFrameworks),
		"authenticate_http_readonly":   strconv.FormatBool(c.Authentication.HTTPReadonly),
		"authenticate_http_readwrite":  strconv.FormatBool(c.Authentication.HTTPReadwrite),
		"credentials":                  c.Authentication.Credentials, "hostname": c.Hostname, "ip": c.IP,
		"max_completed_tasks_per_framework": strconv.Itoa(completedKept), "max_operator_event_stream_subscribers": strconv.Itoa(maxSubscribers),
		"port":     strconv.Itoa(int(n.master.info.GetPort())),
		"work_dir": filepath.Dir(n.path()),
	})
}

// flags returns Mesos' flags of the agent, as masterNode.flags does
// (https://mesos.apache.org/documentation/latest/configuration/agent/).
func (n *agentNode) flags() map[string]string {
	c := n.plan.Config
	variables := c.ExecutorEnvironmentVariables
	if own := n.plan.own; own != nil && own.ExecutorEnvironmentVariables != "" {
		variables = own.ExecutorEnvironmentVariables
	}
	ip, port, _ := net.SplitHostPort(n.address) // n.address is a listener's
	return set(map[string]string{
		"attributes": c.Attributes, "resources": c.Resources, "hostname": c.Hostname, "ip": ip, "port": port, "work_dir": n.dir,
		"authenticate_http_executors": strconv.FormatBool(c.Authentication.HTTPExecutors),
		"authenticate_http_readonly":  strconv.FormatBool(c.Authentication.HTTPReadonly),
		"authenticate_http_readwrite": strconv.FormatBool(c.Authentication.HTTPReadwrite),
		"http_credentials":            c.Authentication.Credentials, "jwt_secret_key": c.Authentication.JWTSecretKey,
		"isolation": c.Isolation, "cgroups_enable_cfs": strconv.FormatBool(c.CgroupsEnableCFS),
		"enforce_container_disk_quota":  strconv.FormatBool(c.EnforceContainerDiskQuota),
		"enforce_container_ports":       strconv.FormatBool(c.EnforceContainerPorts),
		"container_disk_watch_interval": mesosDuration(c.ContainerDiskWatchInterval), "container_ports_watch_interval": mesosDuration(c.ContainerPortsWatchInterval),
		"executor_environment_variables": variables, "executor_registration_timeout": mesosDuration(c.ExecutorRegistrationTimeout),
		"executor_reregistration_timeout": mesosDuration(c.ExecutorReregistrationTimeout),
		"executor_shutdown_grace_period":  mesosDuration(c.ExecutorShutdownGracePeriod), "recovery_timeout": mesosDuration(c.RecoveryTimeout),
		"fetcher_cache_dir": filepath.Join(c.FetcherCacheDir, filepath.Base(n.dir)),
	})
}

// set drops the flags without a value.
func set(flags map[string]string) map[string]string {
	maps.DeleteFunc(flags, func(_, value string) bool { return value == "" })
	return flags
}

// flagMessages returns flags as the operator API has them.
func flagMessages(flags map[string]string) []mesos.Flag {
	var out []mesos.Flag
	for _, name := range slices.Sorted(maps.Keys(flags)) {
		value := flags[name]
		out = append(out, mesos.Flag{Name: name, Value: &value})
	}
	return out
}
