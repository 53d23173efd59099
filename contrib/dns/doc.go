// Package dns serves the cluster's DNS: CoreDNS (https://coredns.io), used as a library, with the records of services and pods
// (https://github.com/kubernetes/dns/blob/master/docs/specification.md). It forwards all other names to the machine's own DNS
// servers. It needs no image and no pod, so names resolve as soon as the first node exists: a server listens on its machine's
// address and adds itself to the service kube-dns with an EndpointSlice of its own.
//
// CoreDNS keeps its configuration, plugins and log per process: call Run once, in a process that does nothing else. `km dns` is such
// a process. Replicas runs several of them as child processes.
//
// The package uses Kubernetes through client-go only and must not import k8s.io/kubernetes. Start reading at Run;
// contrib/membership adds replicas to the service and removes dead ones.
package dns
