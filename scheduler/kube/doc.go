// Package kube connects package scheduler to Kubernetes, through client-go: informers turn pods, nodes, namespaces, volumes,
// claims, storage classes and disruption budgets into events, and a bounded number of workers turn actions into API calls, in
// order for each object. It decides nothing: it reports the API server's answers as events. It must never import
// k8s.io/kubernetes.
//
// Start reading at Cluster. watch.go has the events, the other files have the actions by their subject.
package kube
