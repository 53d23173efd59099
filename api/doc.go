// Package api defines what all parts of k8sm share: the ids of Mesos and Kubernetes objects, annotation and label keys, and the
// documents that the scheduler passes to a minion. It does no I/O, starts no goroutine and imports nothing of k8sm, so that
// everything may import it.
//
// Start reading at TaskID (how a pod and a Mesos task name each other) and Bootstrap (what a minion gets from the scheduler).
package api
