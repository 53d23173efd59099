// Package executor knows what becomes of the tasks on one Mesos agent: how the life of a pod shows as the states of a
// Mesos task, what a kill does, and when an executor has nothing left to do and goes.
//
// Core is the whole of it as values in, values out; start reading at Core.Step. Executor is the loop that owns a Core and
// performs its actions through two adapters: executor/mesos speaks to the agent, executor/kube to the API server.
// Nothing here starts containers: the stock kubelet does, once the scheduler has bound the pod.
//
// It must never import the scheduler, mesos-go or k8s.io/kubernetes.
package executor
