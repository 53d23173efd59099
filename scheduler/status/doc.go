// Package status shows operators the state of a scheduler: Server serves it over HTTPS, and Client reads it. Package
// scheduler defines the state; this package never changes it.
//
//	/healthz        "ok": the process answers, whether it leads or not
//	/metrics        Prometheus metrics: how many pods wait, tasks and offers there are and agents are alive, and how
//	                each offer has ended (k8sm_scheduler_offers_ended_total, by the label end)
//	/debug/offers   the offers that are held: a JSON list of scheduler.LiveOffer
//	/debug/tasks    the tasks: a JSON list of scheduler.LiveTask
//	/debug/queue    the pods that wait, first come first: a JSON list of scheduler.WaitingPod
//	/debug/nodes    the nodes that stand for Mesos agents, with what their minions are: a JSON list of scheduler.LiveNode
//
// Unauthenticated callers get only /healthz. All else needs a client certificate of the cluster's authority, of group system:masters
// or of the scheduler's own user. A scheduler that does not lead answers /debug with 503.
//
// The leader's record names the leading scheduler and its address (SchedulerName, FindLeader).
//
// Start reading at Server.handler. The package must never import k8s.io/kubernetes.
package status
