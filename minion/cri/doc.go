// Package cri serves the Kubernetes Container Runtime Interface, v1, over Docker Engine (API 1.41 and up), so that a stock kubelet
// runs pods as Docker containers (https://kubernetes.io/docs/concepts/architecture/cri/).
//
// The server keeps no state of containers: each container carries a record of its CRI side in Docker labels (record.go). So the
// server can be killed and restarted at any time, and finds all pods again. Images can have no labels: a file records each image
// that the node has pulled (pulled.go), and no other image is ever removed. Answers of the Engine are cached until its events, or
// calls of the server itself, say that they may have changed (view.go). The server sees and touches only containers with the labels
// of its cluster and node. It knows nothing of Mesos and must never import the scheduler or the executor; pod addresses come from
// the Network interface.
//
// Requests that Docker cannot fulfil are refused with the reason. Requests that only this host cannot fulfil (host.go) are lowered
// to what it can, and logged once.
//
// Start reading at Server, then sandbox_config.go and container_config.go: the translation from CRI to Docker, pure and held by
// golden files.
package cri
