// Package status shows operators the state of a scheduler: Server serves it over HTTPS, and Client reads it. Package
// scheduler defines the state; this package never changes it.
//
//	/healthz        "ok", or 503 with what is wrong: the scheduler leads, but handles no event. /livez is the same
//	/readyz         "ok", or 503 with what is wrong: it leads, but handles no event, or no Mesos master has it as a framework. One that
//	                waits for the leadership is ready
//	/metrics        Prometheus metrics: waiting pods, tasks, offers, reachable agents, and how offers ended
//	                (k8sm_scheduler_offers_ended_total, by the label end)
//	/metrics/mesos  Prometheus metrics of the leading Mesos master, which is asked for them. They are apart from the scheduler's own, so
//	                that a slow master delays only them, and that one of several schedulers, the leading one, has them
//	/mesos/state    the Mesos cluster as its leading master tells it, joined with the nodes: a mesosstate.Document. The scheduler observes
//	                the cluster while somebody asks for it
//	/debug/offers   the offers that the scheduler holds: a JSON list of scheduler.LiveOffer
//	/debug/offers/ended   how offers ended: a scheduler.OfferHistory
//	/debug/tasks    the tasks: a JSON list of scheduler.LiveTask
//	/debug/queue    the waiting pods in order of arrival: a JSON list of scheduler.WaitingPod
//	/debug/queue/reasons  why pods wait, by reason: a scheduler.QueueReasons
//	/debug/nodes    the nodes of Mesos agents, with their minions: a JSON list of scheduler.LiveNode
//	/debug/pprof/   Go profiles (package profiling)
//	/pods/NAMESPACE/NAME/trace  the spans of the starts of the pods with that name, the latest first: a JSON list of podtrace.Trace
//
// The answers in JSON are feeds: what took long to make is given to all who ask within ten times that time, 15 s at most. With
// ?watch=true a feed goes on: each line is a whole answer, and comes when it has changed, at most once a second, or less often if it is
// large; an empty line, every 15 s, says that nothing has. The server ends the stream after 10 minutes, and when the scheduler does not
// lead any more: ask again.
//
// Unauthenticated callers get only /healthz, /livez and /readyz. The other paths are for callers with a client certificate from the cluster's CA, of group
// system:masters or, but for the profiles, of the scheduler's own user, or, for the metrics, of the metrics servers'; and for those with
// another certificate, or a token that the API server knows, who may get the path as a non-resource URL. The ClusterRole
// k8sm:mesos-viewer has the paths /mesos and /debug without the profiles. A pod's spans are for administrators, and for who may get the pod. A scheduler that does not lead answers /mesos/state and /debug
// with 503.
//
// The leader election record has the leader's identity and address (SchedulerName, FindLeader).
//
// Start reading at Server.handler. The package must never import k8s.io/kubernetes.
package status
