// Package balancer connects to whichever of a cluster's API servers answers, so that no load balancer is needed in front of them.
//
// A Balancer starts from addresses that were given to it, learns all others from the EndpointSlice of the service "kubernetes", and
// remembers them in a file: a process that starts while one server is away finds the others. It asks each server for /readyz, with TLS
// and the cluster's CA, so that an address that somebody else has is of no use. It cuts the connections of a server that does not
// answer: clients of the Kubernetes API notice a server that is silent only after half a minute or more.
//
// It passes on bytes and knows nothing of requests: TLS is between the client and the server. It decides nothing about the cluster.
// It must import nothing of k8sm but package api.
//
// Start reading at Balancer. client.go has what clients of client-go need, and port.go what libraries need that read a kubeconfig.
package balancer
