package minion

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/k8sm/k8sm/executor/mesos"
)

// noteFlags adds problems that the agent's flags cause. It does nothing if the agent does not disclose its flags.
func (n *node) noteFlags(ctx context.Context) {
	flags, err := mesos.AgentFlags(ctx, n.env)
	if err != nil {
		n.log.WithError(err).Debug("cannot read the agent's flags: not checking them for port isolation")
		return
	}
	if problem := portsProblem(flags, kubeletPort, *n.cluster.StatusPort); problem != "" {
		n.problems = append(n.problems, problem)
		n.log.Warn(problem)
	}
}

// portsProblem describes the problem if an agent with these flags would kill the executor because of the ports on which minion and
// kubelet listen. The isolator network/ports looks for listening sockets of processes in the container's cgroups. It destroys the
// container if a port is not among the executor's resources (src/slave/containerizer/mesos/isolators/network/ports.cpp in Mesos).
func portsProblem(flags map[string]string, taken ...int) string {
	ports := slices.Contains(strings.Split(flags["isolation"], ","), "network/ports")
	if !ports || flags["enforce_container_ports"] != "true" || flags["check_agent_port_range_only"] == "true" {
		return ""
	}
	if isolated := flags["container_ports_isolated_range"]; isolated != "" && !slices.ContainsFunc(taken, func(port int) bool { return containsPort(isolated, port) }) {
		return ""
	}
	return "the agent kills this executor every --container_ports_watch_interval because minion and kubelet listen on ports: its --isolation has network/ports, " +
		"with --enforce_container_ports; add --check_agent_port_range_only to it, or a --container_ports_isolated_range without ports " + strings.Trim(fmt.Sprint(taken), "[]")
}

var portRange = regexp.MustCompile(`(\d+)\s*-\s*(\d+)`)

// containsPort reports whether ranges such as "[0-1000, 31000-32000]" contain the port.
func containsPort(ranges string, port int) bool {
	return slices.ContainsFunc(portRange.FindAllStringSubmatch(ranges, -1), func(r []string) bool {
		first, _ := strconv.Atoi(r[1])
		last, err := strconv.Atoi(r[2])
		return err == nil && first <= port && port <= last
	})
}
