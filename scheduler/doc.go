// Package scheduler decides which pod runs on which Mesos agent and follows each pod's task from its launch to its end.
//
// Core is the whole policy, and it is pure: Step(now, event) returns the actions that follow, without a clock, a
// goroutine, a log or I/O. Package scheduler/run is the owner loop around it: it feeds events in and does the actions, by
// packages scheduler/mesos and scheduler/kube. None of these decides anything.
//
// The package speaks in the words of Kubernetes for pods and nodes, and in value types of its own for what Mesos says;
// a resource's bookkeeping (role, reservation, allocation) passes through as opaque bytes, so that what is launched is
// exactly what was offered. It must never import package executor, nor anything below k8s.io/kubernetes.
//
// What a pod may ask of Mesos by its annotations (roles, published ports, revocable cpus) is in wish.go; all others pay
// one comparison for it.
//
// Start reading at Core.Step, then cycle.go (matching; fleet.go and queue.go spare it from looking at
// everything each time), then tasks.go (what becomes of a task), preempt.go (who makes room for more important pods),
// upkeep.go (agents that are about to be away), rollout.go (minions of other versions), warm.go (minions without
// pods), companion.go (minions without cpus) and installs.go (how many agents fetch km at a time). health.go keeps pods off agents that run nothing, admission.go bounds them by what kubelets admit, rejection.go
// keeps away whose like was rejected. What pods want of each other is in files of its own, and costs those nothing that want nothing: standing.go
// indexes which pods stand where, affinity.go and spread.go read what a pod wants, near.go says where it may run for
// that, preference.go where it would rather, and volumes.go sees to its claims.
package scheduler
