// Package logs is the cluster's log store: it takes what minions ship, and answers who reads logs. It needs no image and no pod: one store
// runs beside each control plane, minions ship to each, and API servers forward requests of readers to any of them. It leaves to API servers
// who a caller is and what he may do.
//
// The store itself is below this package: contrib/logs/store keeps entries, contrib/logs/receive takes them from minions,
// contrib/logs/places knows which pods were on which node, and contrib/logs/read answers readers. The store may end itself: call Run in a
// process that does nothing else and is started again. `km logstore` is such a process. Beside runs it as a child process.
//
// The package uses Kubernetes through client-go and k8s.io/apiserver only and must not import k8s.io/kubernetes. Start reading at Run.
package logs
