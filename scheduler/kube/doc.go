// Package kube connects package scheduler to Kubernetes, through client-go: informers turn pods, nodes, namespaces, volumes,
// claims, storage classes and disruption budgets into events, and a bounded number of workers turn actions into API calls, in
// order for each object. It decides nothing: it reports the API server's answers as events. It must never import
// k8s.io/kubernetes.
//
// Beside that it keeps the slices of nodes, which minions read (slices.go): what is in them follows from the nodes alone.
//
// Start reading at Cluster. watch.go has the events, the other files have the actions by their subject.
package kube
