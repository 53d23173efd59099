// Package dns serves the cluster's DNS: CoreDNS (https://coredns.io), used as a library, with the records of services and
// pods (https://github.com/kubernetes/dns/blob/master/docs/specification.md) and, for all other names, the servers that the
// machine itself asks. It needs no image and no pod, so that names resolve as soon as the first node is there: a server
// listens on its machine's address and adds itself to the service kube-dns by an EndpointSlice of its own.
//
// CoreDNS keeps its configuration, plugins and log per process: Run may be called once in a process that does nothing else,
// which is what `km dns` is. Replicas runs several of them as child processes.
//
// The package knows Kubernetes by client-go only and must not import k8s.io/kubernetes. Start reading at Run; membership is
// how the replicas come into the service and are taken out of it when they are dead.
package dns
