package scheduler

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/scheduler/match"
)

// warnOvercommitted warns, once, that the agent offers more than its machine has.
func (as *agents) warnOvercommitted(a *agent) []Action {
	allocatable, known := as.core.index.Admits(&a.Agent)
	if a.overcommitted || !known || !a.hasExecutor {
		return nil
	}
	var parts []string
	has := a.ForPods(as.minionOf(a))
	for i, admits := range allocatable {
		if unit := int64(1) << (20 * min(i, 1)); has[i]-admits > unit { // less comes from rounding
			parts = append(parts, fmt.Sprintf("%s %s, kubelet admits %s", match.RequestNames[i], match.Amount(i, has[i]), match.Amount(i, admits)))
		}
	}
	if len(parts) == 0 {
		return nil
	}
	a.overcommitted = true
	return as.nodeEvent(a, v1.EventTypeWarning, "AgentOvercommitted", fmt.Sprintf("the Mesos agent offers more than this machine has for pods: %s. "+
		"Pods are limited to what the kubelet admits; correct the agent's --resources to limit other frameworks, too", strings.Join(parts, "; ")))
}
