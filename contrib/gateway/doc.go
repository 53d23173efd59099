// Package gateway serves the API of the first Kubernetes, v1beta1 and v1beta2, in front of a cluster's API server. It knows HTTP as
// clients of 2014 speak it; package api/v1beta1 knows their objects. Every request goes on to the API server in the name of the
// caller, so the cluster's own rules say who may do what: this package decides about no rights, and keeps no objects but those that
// operations answered with, each for the caller who made it.
//
// It must never import k8s.io/kubernetes.
//
// Start reading at gateway.ServeHTTP; callers.of says in whose name a request goes on.
package gateway
