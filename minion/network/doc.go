// Package network connects a node's pods. Each sandbox comes with an empty network namespace. Attach connects it to the machine by a
// veth(4) pair and assigns an address from the node's pod CIDR. The machine routes between pods. There is no bridge, so all pod
// traffic passes the forward hook, where rules apply whatever modules the kernel has. Docker does not know this network, which saves
// its Engine most of the work of starting a pod.
//
// iptables chains of the node's own let pods send and receive, and map host ports to pods. An unreachable route drops packets to
// addresses without a pod. This works beside a Docker Engine that manages iptables, and beside one that does not (--iptables=false).
//
// Pods on other nodes are reached by routes to their machines, or by VXLAN if the machine is behind a router; see api.NetworkMode.
// The Node objects say which nodes there are: Reach receives them, Plan.mesh decides, and applyMesh applies the result. Run repairs what
// other programs break.
//
// Package cni, below, replaces this network by CNI plugins.
//
// All devices, rules and routes carry this cluster's and node's names or marks; others are never touched. Files record what
// sandboxes were given, so that a later process knows it. Start reading at Network.Setup and Network.Attach. Rules renders the rules
// without touching the kernel, and apply writes them.
//
// The package must never import k8s.io/kubernetes: services belong to the stock kube-proxy.
package network
