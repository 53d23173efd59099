// Package match knows which agent takes a pod, and why another one does not.
//
// An Index holds what the answer depends on: agents as views of what they offer to one role, nodes with the pods that occupy
// them, volumes and claims, and the waiting pods by classes of equal pods. Its owner tells it what changes; Find returns the
// view that the next pod of a class gets, View.Take takes the pod's resources out of it, and WhyNot tells the reasons for
// which every agent refuses the pod. The views are kept from one question to the next, and so is how far the search of a
// class has come: an agent that refused a pod is asked again only when it has something else to offer.
//
// Each method that changes something notes which agents have to be viewed anew, and which classes may fit now
// where they did not. Changes hands both out, as plugins of kube-scheduler declare which events may help a pod that they
// rejected (https://kubernetes.io/docs/concepts/scheduling-eviction/scheduling-framework/).
//
// One file a check, in the order in which View.check makes them: node.go (selector, affinity, cordon, taints), topology.go with
// affinity.go, spread.go and volumes.go (the pods and volumes around it), extended.go and admission.go (what the kubelet counts),
// resource.go, port.go, nomination.go (what is kept for more important pods) and executor.go. fcfs.go finds the
// first agent that fits, preference.go the one that a pod likes best, algorithm.go ranks those that are alike. asks.go reads what pods
// ask of Mesos by annotations. occupants.go indexes the pods on nodes, class.go the waiting pods.
//
// The package never imports context, a log, metrics, client-go or package scheduler, and it knows no task, token or clock.
// One goroutine owns an Index and all that it hands out.
package match
