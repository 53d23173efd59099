// Package minion makes a machine with a Mesos agent a Kubernetes node for as long as a task of ours is there. It is what
// `km minion` runs as the Mesos executor: MinionServer connects the executor to the agent, fetches its configuration,
// serves CRI over Docker Engine, and supervises the stock kubelet and kube-proxy as children of the same binary.
//
// Start reading at MinionServer.Run, then node.run: the order in which a node starts and stops. What becomes of tasks is the
// package executor's; what becomes of containers is the kubelet's. The death of a child harms no task: it is started
// again, and one that answers its health checks no more is killed first. If MinionServer itself is killed and none follows,
// the node's warden (package warden) removes what it left: CleanUpKilled. Only what carries this cluster's and this node's
// labels or names is ever touched.
//
// It must never import k8s.io/kubernetes (its children are other processes) nor the scheduler.
package minion
