// Package scheduler decides which pod runs on which Mesos agent and follows each pod's task from its launch to its end.
//
// Core holds the whole policy and is pure: Step(now, event) returns actions, without a clock, a goroutine, a log or I/O.
// Package scheduler/run is the loop around it: it passes events in and performs the actions through packages
// scheduler/mesos and scheduler/kube. None of these makes decisions.
//
// The package uses Kubernetes' types for pods and nodes, and its own value types for what Mesos says. A resource's
// bookkeeping (role, reservation, allocation) passes through as opaque bytes, so that a launch uses exactly what was
// offered. It must never import package executor, nor anything below k8s.io/kubernetes.
//
// Package scheduler/match finds an agent for a pod, and explains why other agents do not fit. The core tells it what
// changed and launches what it finds.
//
// The core's state is divided into subjects. Each subject handles its own events:
//
//	          Step(now, event) ─► Core ─► actions
//	                               │
//	session · offering · pods · claims · addresses · tasks · agents · health
//	disruptions · rollouts · warm · preemption
//	                               │
//	                     match.Index: Find, Take, WhyNot
//
// Subjects call each other's methods and never touch each other's fields; layout_test.go checks that.
//
// Start reading at Core.Step, then cycle.go (one scheduling cycle: find agents for pods, launch tasks) and tasks.go (reactions to
// task states, by the table in state.go). Every other subject has its own file: pods.go and queue.go (pods, and what they wait
// for), session.go and offering.go (the Mesos connection and its offers), agents.go and node.go (agents and their nodes),
// supply.go (what agents have for pods), claims.go and addresses.go (volumes and IP addresses that a pod needs before its
// launch), preempt.go and nomination.go (preemption of less important pods), reconcile.go and resume.go (tasks that Mesos may
// have lost), disruption.go and drain.go (maintenance and draining of agents), rollout.go (replacement of minions of other
// versions), warm.go (minions without pods), companion.go (minions without cpus), installs.go (how many agents fetch km at a
// time), health.go (agents where tasks fail), overcommit.go (agents that offer more than their machine has) and rejection.go
// (pods that a kubelet did not admit).
package scheduler
