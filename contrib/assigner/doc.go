// Package assigner gives pods addresses out of pools that an operator has loaded, so that who knows a pod by its address
// (a firewall, a license server) goes on knowing it. Pools and who has which address are kept in etcd, below the cluster's
// own state: an address is taken by a transaction that succeeds only if nobody has it, so that any number of assigners may
// work at once, and a crash at any point neither loses an address nor gives it twice.
//
// The leading scheduler asks for addresses before it launches a pod and gives them back when the pod is over; it knows of
// this package only the interface that it declares. Operators use `km assigner`, which is NewCommand. What a pod's node
// does with the address is package minion/network's matter.
//
// Start reading at ParsePools (what a pool is), then Assigner.
package assigner
