package minion

import (
	"strings"
	"testing"
)

func TestAgentThatKillsListenersIsAProblem(t *testing.T) {
	for name, test := range map[string]struct {
		flags map[string]string
		bad   bool
	}{
		"enforced":            {map[string]string{"isolation": "cgroups/cpu,network/ports", "enforce_container_ports": "true"}, true},
		"not enforced":        {map[string]string{"isolation": "cgroups/cpu,network/ports", "enforce_container_ports": "false"}, false},
		"no isolator":         {map[string]string{"isolation": "cgroups/cpu", "enforce_container_ports": "true"}, false},
		"agent's ports only":  {map[string]string{"isolation": "network/ports", "enforce_container_ports": "true", "check_agent_port_range_only": "true"}, false},
		"other ports":         {map[string]string{"isolation": "network/ports", "enforce_container_ports": "true", "container_ports_isolated_range": "[31000-32000]"}, false},
		"range with ours":     {map[string]string{"isolation": "network/ports", "enforce_container_ports": "true", "container_ports_isolated_range": "[0-1, 10000 - 35000]"}, true},
		"range with the last": {map[string]string{"isolation": "network/ports", "enforce_container_ports": "true", "container_ports_isolated_range": "[10268-10268]"}, true},
		"flags unknown":       {nil, false},
	} {
		problem := portsProblem(test.flags, 20000, 10268)
		if (problem != "") != test.bad || test.bad && !strings.Contains(problem, "--check_agent_port_range_only") {
			t.Errorf("%s: %q", name, problem)
		}
	}
}
