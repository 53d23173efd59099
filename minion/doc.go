// Package minion turns a machine with a Mesos agent into a Kubernetes node, as long as one of our tasks runs there. `km minion` runs
// it as the Mesos executor: MinionServer connects the executor to the agent, fetches the cluster's configuration, serves CRI over
// Docker Engine, supervises the stock kubelet and kube-proxy as children of the same binary, and serves metrics (package status).
//
// Start reading at MinionServer.Run, then node.run: the order in which a node starts and stops. Package executor decides about
// tasks, the kubelet about containers. The death of a child harms no task: it is restarted, and a child that fails its health checks
// is killed and restarted. If MinionServer is killed and not replaced, the node's warden (package warden) cleans up: see
// CleanUpKilled. The minion touches only what carries the labels or names of this cluster and node.
//
// It must never import k8s.io/kubernetes (its children are other processes) nor the scheduler.
package minion
