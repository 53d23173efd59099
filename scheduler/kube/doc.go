// Package kube is package scheduler's connection to Kubernetes, through client-go: informers turn pods, nodes, namespaces,
// volumes, claims, storage classes and disruption budgets into events, and a bounded number of workers turn actions into
// API calls, in order for each object. It decides nothing: what an answer of the API means to a pod is said in an event.
//
// Start reading at Cluster.
package kube
