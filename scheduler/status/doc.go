// Package status shows operators the state of a scheduler: Server serves it over HTTPS, and Client reads it. Package
// scheduler defines the state; this package never changes it.
//
//	/healthz        "ok": the process answers, whether it leads or not
//	/metrics        Prometheus metrics: waiting pods, tasks, offers, reachable agents, and how offers ended
//	                (k8sm_scheduler_offers_ended_total, by the label end)
//	/metrics/mesos  Prometheus metrics of the leading Mesos master, which is asked for them. They are apart from the scheduler's own, so
//	                that a slow master delays only them, and that one of several schedulers, the leading one, has them
//	/debug/offers   the offers that the scheduler holds: a JSON list of scheduler.LiveOffer
//	/debug/tasks    the tasks: a JSON list of scheduler.LiveTask
//	/debug/queue    the waiting pods in order of arrival: a JSON list of scheduler.WaitingPod
//	/debug/nodes    the nodes of Mesos agents, with their minions: a JSON list of scheduler.LiveNode
//	/debug/pprof/   Go profiles (package profiling)
//
// Unauthenticated callers get only /healthz. The other paths need a client certificate from the cluster's CA, of group
// system:masters or, but for the profiles, of the scheduler's own user. A scheduler that does not lead answers /debug with 503.
//
// The leader election record has the leader's identity and address (SchedulerName, FindLeader).
//
// Start reading at Server.handler. The package must never import k8s.io/kubernetes.
package status
