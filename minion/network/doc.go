// Package network gives a node's pods their network: one bridge that the Docker Engine manages, with the node's pod CIDR
// as its subnet; the iptables rules that let pods out and each other's packets through; and a route that keeps packets
// to addresses without a pod on this machine. It works beside an Engine that manages iptables itself and with one that is
// told not to (--iptables=false).
//
// What it makes carries this cluster's and this node's names or marks, and nothing else is ever changed or removed.
// Start reading at Network.Setup; the rules are rendered by Rules, without touching the kernel, and put in place by apply.
//
// It must never import k8s.io/kubernetes: services are the stock kube-proxy's.
package network
