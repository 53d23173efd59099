// Package api holds the words that every part of k8sm shares: the ids of Mesos and Kubernetes things, the annotation
// and label keys, and the two documents that the scheduler hands to a minion. It does no I/O, starts no goroutine and
// imports nothing of k8sm, so that everything may import it.
//
// Start reading at TaskID (how a pod and a Mesos task name each other) and Bootstrap (what a minion is told).
package api
