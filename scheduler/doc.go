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
// Which agent takes a pod, and why another one does not, is package scheduler/match's: the core tells it what changed, takes what
// it finds, and launches it.
//
// What the core knows is held by subject, and each subject has the events that are about it:
//
//	          Step(now, event) ─► Core ─► actions
//	                               │
//	session · offering · pods · claims · addresses · tasks · agents · health
//	disruptions · rollouts · warm · preemption
//	                               │
//	                     match.Index: Find, Take, WhyNot
//
// A subject is asked by its methods, by the others too; a test holds that none reaches into another's fields.
//
// Start reading at Core.Step, then cycle.go (a cycle finds agents for pods and launches tasks) and tasks.go (what follows from a
// task's state, by the table in state.go). Each other subject has a file of its own: pods.go and queue.go (pods, and what they wait
// for), session.go and offering.go (the connection to Mesos, and what it offers), agents.go and node.go (agents and their nodes), supply.go (what agents have for pods), claims.go and addresses.go (what a
// pod gets before its launch), preempt.go and nomination.go (who makes room for more important pods), reconcile.go and resume.go
// (tasks that Mesos may have lost), disruption.go and drain.go (agents that are about to be away), rollout.go (minions of other
// versions), warm.go (minions without pods), companion.go (minions without cpus), installs.go (how many agents fetch km at a time),
// health.go (agents that run nothing), overcommit.go (agents that have more than their machine) and rejection.go (pods that a
// kubelet did not admit).
package scheduler
