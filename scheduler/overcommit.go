package scheduler

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/scheduler/match"
)

// tellOvercommitted tells, once, that the agent has more than its machine.
func (as *agents) tellOvercommitted(a *agent) []Action {
	allocatable, known := as.core.index.Admits(&a.Agent)
	if a.overcommitted || !known || !a.hasExecutor {
		return nil
	}
	var parts []string
	has := a.ForPods(as.minionOf(a))
	for i, admits := range allocatable {
		if unit := int64(1) << (20 * min(i, 1)); has[i]-admits > unit { // less comes from rounding
			parts = append(parts, fmt.Sprintf("%s %s, of which its kubelet admits %s", match.RequestNames[i], match.Amount(i, has[i]), match.Amount(i, admits)))
		}
	}
	if len(parts) == 0 {
		return nil
	}
	a.overcommitted = true
	return as.tellNode(a, v1.EventTypeWarning, "AgentOvercommitted", fmt.Sprintf("the Mesos agent has more than this machine has for pods: %s. "+
		"Pods are placed by what the kubelet admits; give the agent what its machine has (--resources) to let other frameworks know, too", strings.Join(parts, "; ")))
}
