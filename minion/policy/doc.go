// Package policy enforces Kubernetes network policies (https://kubernetes.io/docs/concepts/services-networking/network-policies/)
// for the pods of one node. It uses an nftables table of the node's own in the machine's network namespace.
//
// Start reading at Compile: it turns the cluster's policies, namespaces and pods into a Ruleset, a value. Table writes rulesets to
// the kernel, each in one transaction that has only the differences. Enforcer watches the API server and the table, and keeps the
// two equal. Enforcer.Attach returns once a new pod's rules are in force, before the pod uses its address.
//
// How a packet is filtered. The table's two base chains come before those of others at the forward hook, which sees the packet with
// the addresses of pods: after a service's address was translated, before masquerade. Packets of established connections pass. For
// others, chain "egress" looks up the source among the node's pods that are isolated for egress, and chain "ingress" looks up the
// destination among those isolated for ingress. That is one map lookup, however many pods there are. It jumps to a chain for all
// pods that the same policies select, and from there to one chain per policy. Each rule of a policy becomes one rule per kind of
// peers and ports, with a set of the peers' addresses. What no policy accepts is dropped, finally; accepted packets continue to the
// chains of others. Packets from and to the machine itself do not pass the forward hook. They are the kubelet's probes, and pods'
// traffic with their own node, which is always allowed.
//
// The package must never import k8s.io/kubernetes, nor the rest of the minion.
package policy
