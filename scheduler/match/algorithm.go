package match

import (
	"fmt"
	"slices"
	"strings"
)

// Algorithm chooses among the agents that a pod fits on.
type Algorithm string

// The algorithms.
const (
	// FCFS takes the first agent that fits, in the order in which the agents came.
	FCFS Algorithm = "fcfs"
	// Spread takes the agent of which most is free afterwards, as LeastRequested in early Kubernetes
	// (https://kubernetes.io/docs/reference/config-api/kube-scheduler-config.v1/#kubescheduler-config-k8s-io-v1-ScoringStrategyType).
	Spread Algorithm = "spread"
	// Binpack takes the agent of which least is free afterwards, as MostRequested.
	Binpack Algorithm = "binpack"
)

// Algorithms are all that there are.
var Algorithms = []Algorithm{FCFS, Spread, Binpack}

// String, Set and Type make it a flag (https://pkg.go.dev/github.com/spf13/pflag#Value).
func (a *Algorithm) String() string { return string(*a) }

// Set refuses what is no algorithm.
func (a *Algorithm) Set(text string) error {
	if !slices.Contains(Algorithms, Algorithm(text)) {
		return fmt.Errorf("%q is none of %s", text, a.Type())
	}
	*a = Algorithm(text)
	return nil
}

// Type names the choice in help texts.
func (a *Algorithm) Type() string {
	names := make([]string, len(Algorithms))
	for i, known := range Algorithms {
		names[i] = string(known)
	}
	return strings.Join(names, "|")
}

// rank tells how much the algorithm likes a view for a pod of this demand: the lowest rank is taken. It is the free part
// of cpus and memory afterwards, in millionths of what the agent has, or the same for all.
func (a Algorithm) rank(v *View, demand *Demand) int64 {
	if a == FCFS {
		return 0
	}
	free := int64(0)
	for i := range 2 { // cpus and mem, as in Kubernetes
		if total := v.Agent.Total.Scalars[i]; total > 0 {
			free += int64(v.have[i]-demand.Scalars[i]) * 500_000 / int64(total)
		}
	}
	if a == Spread {
		return -free
	}
	return free
}
