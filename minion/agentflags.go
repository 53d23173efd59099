package minion

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/k8sm/k8sm/executor/mesos"
)

// noteFlags adds to the problems what the agent's flags bring about, as far as it tells them.
func (n *node) noteFlags(ctx context.Context) {
	flags, err := mesos.AgentFlags(ctx, n.env)
	if err != nil {
		n.log.WithError(err).Debug("whether the agent ends who listens on ports is not known")
		return
	}
	if problem := portsProblem(flags); problem != "" {
		n.problems = append(n.problems, problem)
		n.log.Warn(problem)
	}
}

// portsProblem tells whether an agent with these flags ends the executor because of the ports that kubelet and proxy listen on: the
// isolator network/ports looks for listening sockets of what is in the container's cgroups, and destroys the container if it finds
// one on a port that is no resource of the executor's (src/slave/containerizer/mesos/isolators/network/ports.cpp of Mesos).
func portsProblem(flags map[string]string) string {
	ports := slices.Contains(strings.Split(flags["isolation"], ","), "network/ports")
	if !ports || flags["enforce_container_ports"] != "true" || flags["check_agent_port_range_only"] == "true" {
		return ""
	}
	if isolated := flags["container_ports_isolated_range"]; isolated != "" && !holdsPort(isolated, kubeletPort) {
		return ""
	}
	return "the agent ends this executor every --container_ports_watch_interval because the kubelet listens on a port: its --isolation has network/ports, " +
		"with --enforce_container_ports; add --check_agent_port_range_only to it, or a --container_ports_isolated_range without port " + strconv.Itoa(kubeletPort)
}

var portRange = regexp.MustCompile(`(\d+)\s*-\s*(\d+)`)

// holdsPort tells whether ranges such as "[0-1000, 31000-32000]" hold the port.
func holdsPort(ranges string, port int) bool {
	return slices.ContainsFunc(portRange.FindAllStringSubmatch(ranges, -1), func(r []string) bool {
		first, _ := strconv.Atoi(r[1])
		last, err := strconv.Atoi(r[2])
		return err == nil && first <= port && port <= last
	})
}
