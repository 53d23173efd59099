// Package executor decides about the tasks on one Mesos agent: how the life of a pod maps to the states of a Mesos task, what a kill
// does, and when an executor has nothing left to do and exits.
//
// Core does all of it as values in, values out; start reading at Core.Step. Executor is the loop that owns a Core and performs its
// actions through two adapters: executor/mesos talks to the agent, executor/kube to the API server. Nothing here starts containers:
// the stock kubelet does, once the scheduler has bound the pod.
//
// It must never import the scheduler, mesos-go or k8s.io/kubernetes.
package executor
