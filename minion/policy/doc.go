// Package policy enforces Kubernetes' network policies (https://kubernetes.io/docs/concepts/services-networking/network-policies/)
// for the pods of one node, by an nftables table of the node's own in the machine's network namespace.
//
// Start reading at Compile: from the cluster's policies, namespaces and pods it makes a Ruleset, which is a value. Table
// puts rulesets into the kernel, each in one transaction that carries the differences only; Enforcer watches the API server
// and what is done to the table, and keeps the two equal. A new pod's rules are in force before its address is of use:
// Enforcer.Attach.
//
// How a packet is judged. The table's two chains stand before those of others at the forward hook, which sees the packet
// with the addresses of pods: after the translation of a service's address, before masquerade. What belongs to a connection
// that was let through passes. Else chain "egress" looks the source up among the node's pods that are isolated for egress,
// and chain "ingress" the destination among those that are isolated for ingress: one lookup however many pods there are,
// which leads to the chain of all pods that the same policies select, and from there to a chain a policy. There, a rule of
// a policy is a rule for each kind of peers and ports it has, with a set of the peers' addresses. What no policy accepts is
// dropped, and a drop is final; what is accepted goes on to the chains of others. Packets from and to the machine itself
// pass no forward hook: they are the kubelet's probes, and what pods have with their own node is always allowed.
//
// It must never import k8s.io/kubernetes, nor the rest of the minion.
package policy
