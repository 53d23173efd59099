// Package cri serves the Kubernetes Container Runtime Interface, v1, over Docker Engine (API 1.41 and up): what a stock
// kubelet needs to run pods as Docker containers (https://kubernetes.io/docs/concepts/architecture/cri/).
//
// It keeps no state of containers: each carries a record of its CRI side in its Docker labels (record.go), so the server can be
// killed and started at any time and finds all pods again. Images can have no labels: a file tells of each that the node has
// pulled (pulled.go), and no other is ever removed. What the Engine told is remembered until the Engine's
// events, or something that the server itself did, say that it may have changed (view.go). It sees and touches only
// containers that carry the labels of its cluster and node. It knows nothing of Mesos and must never import the scheduler
// or the executor; pod addresses come from the Network interface.
//
// What CRI asks for and Docker cannot do is refused with the reason; what only this host cannot give (host.go) is
// lowered to what it can, and logged once.
//
// Start reading at Server, then sandbox_config.go and container_config.go: the translation between the two worlds, pure
// and held by golden files.
package cri
