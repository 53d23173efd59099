package minion

import (
	"strings"
	"testing"
)

func TestAgentThatEndsWhoListensIsComplainedOf(t *testing.T) {
	for name, test := range map[string]struct {
		flags map[string]string
		bad   bool
	}{
		"it does":                {map[string]string{"isolation": "cgroups/cpu,network/ports", "enforce_container_ports": "true"}, true},
		"it only looks":          {map[string]string{"isolation": "cgroups/cpu,network/ports", "enforce_container_ports": "false"}, false},
		"it has no such thing":   {map[string]string{"isolation": "cgroups/cpu", "enforce_container_ports": "true"}, false},
		"of its own ports":       {map[string]string{"isolation": "network/ports", "enforce_container_ports": "true", "check_agent_port_range_only": "true"}, false},
		"of others":              {map[string]string{"isolation": "network/ports", "enforce_container_ports": "true", "container_ports_isolated_range": "[31000-32000]"}, false},
		"of others and this one": {map[string]string{"isolation": "network/ports", "enforce_container_ports": "true", "container_ports_isolated_range": "[0-1, 10000 - 35000]"}, true},
		"it tells nothing":       {nil, false},
	} {
		problem := portsProblem(test.flags)
		if (problem != "") != test.bad || test.bad && !strings.Contains(problem, "--check_agent_port_range_only") {
			t.Errorf("%s: %q", name, problem)
		}
	}
}
