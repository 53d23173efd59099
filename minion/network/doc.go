// Package network gives a node's pods their network. Each sandbox has a network namespace that is empty when it comes; Attach
// joins it to the machine by a pair of virtual Ethernet devices (veth(4)) and gives it an address of the node's pod CIDR. The
// machine routes: there is no bridge, so all that pods send and get, also among themselves, passes its forward hook, where
// rules can judge it whatever the kernel's modules are. Docker knows nothing of it all, which spares its Engine most
// of the work of starting a pod.
//
// Around that stand iptables chains of this node's own, which let pods out and in and lead host ports to them, and a route
// that keeps packets to addresses without a pod on this machine. It works beside an Engine that manages iptables itself
// and with one that is told not to (--iptables=false).
//
// Pods of other nodes are reached by routes to their machines, or by VXLAN to machines behind a router, as api.NetworkMode says.
// What these are follows from the Node objects: Reach takes them, Plan.mesh decides, and weave puts it in place. Run mends what
// other programs break.
//
// Networks of CNI plugins take its place by package cni, below.
//
// What it makes carries this cluster's and this node's names or marks, and nothing else is ever changed or removed. What
// sandboxes have is remembered in files, so that a process after this one knows it. Start reading at Network.Setup and
// Network.Attach; the rules are rendered by Rules, without touching the kernel, and put in place by apply.
//
// It must never import k8s.io/kubernetes: services are the stock kube-proxy's.
package network
