// Package match decides which agent gets a pod, and says why the other agents do not.
//
// An Index holds agents, nodes with the pods on them, volumes, claims, and the waiting pods. The waiting pods are grouped into
// classes of equal pods. An agent has a View for each role that it makes offers to. The owner of the Index reports each change.
// Find returns the view for the next pod of a class, View.Take takes the pod's resources out of the view, and WhyNot
// returns the reasons why all agents refuse a pod. Views and searches are kept across calls: an agent that refused a pod is
// asked again only after it has changed.
//
// Each method that changes something marks the agents whose views are out of date and the classes that may fit now. The owner
// gets them from Changed and Next. This is like the QueueingHints of kube-scheduler
// (https://kubernetes.io/docs/concepts/scheduling-eviction/scheduling-framework/).
//
// Start reading at View.check in view.go. It runs the checks in this order, each in its own file: node.go (selector, affinity,
// cordon, taints), topology.go with affinity.go, spread.go and volumes.go, extended.go, admission.go (what the kubelet admits),
// resource.go, port.go, nomination.go (places kept for more important pods) and executor.go.
//
// The other files: fcfs.go finds the first agent that fits, preference.go the one with the best score; algorithm.go ranks equal
// ones. index.go holds the Index, agent.go the agents, occupants.go the pods on nodes, pod.go, class.go and queue.go the waiting
// pods, installs.go the agents that fetch km. asks.go reads the annotations of pods, usage.go adds up resources. whynot.go and
// reason.go say why a pod waits. verify.go is for tests.
//
// The package never imports context, a log, metrics, client-go or package scheduler, and it has no clock. One goroutine owns
// an Index and everything that it returns.
package match
