// Package assigner assigns addresses to pods from pools that an operator has loaded, so that systems which know a pod by its address
// (a firewall, a license server) keep recognizing it. Pools and holders are kept in etcd, below the cluster's own state. A
// transaction that succeeds only if the address is free assigns it. So any number of assigners may work at the same time, and a
// crash neither loses an address nor assigns it twice.
//
// The leading scheduler claims addresses before it launches a pod, and releases them when the pod has ended; it knows this package
// only through an interface that it declares. Operators use `km assigner`, which is NewCommand. Package minion/network configures
// the address on the pod's node.
//
// Start reading at ParsePools (what a pool is), then Assigner.
package assigner
