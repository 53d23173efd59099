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
	// FCFS takes the first agent that fits, in order of arrival.
	FCFS Algorithm = "fcfs"
	// Spread takes the agent that then has the largest free share, as LeastAllocated in Kubernetes
	// (https://kubernetes.io/docs/reference/config-api/kube-scheduler-config.v1/#kubescheduler-config-k8s-io-v1-ScoringStrategyType).
	Spread Algorithm = "spread"
	// Binpack takes the agent that then has the smallest free share, as MostAllocated.
	Binpack Algorithm = "binpack"
)

// Algorithms lists all algorithms.
var Algorithms = []Algorithm{FCFS, Spread, Binpack}

// String implements pflag.Value (https://pkg.go.dev/github.com/spf13/pflag#Value).
func (a *Algorithm) String() string { return string(*a) }

// Set implements pflag.Value. It returns an error for an unknown algorithm.
func (a *Algorithm) Set(text string) error {
	if !slices.Contains(Algorithms, Algorithm(text)) {
		return fmt.Errorf("%q is none of %s", text, a.Type())
	}
	*a = Algorithm(text)
	return nil
}

// Type implements pflag.Value. It lists the algorithms for help texts.
func (a *Algorithm) Type() string {
	names := make([]string, len(Algorithms))
	for i, known := range Algorithms {
		names[i] = string(known)
	}
	return strings.Join(names, "|")
}

// rank ranks a view for a pod of this demand; the lowest rank wins. It is based on the shares of cpus and memory that stay free,
// in millionths of the agent's total.
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
