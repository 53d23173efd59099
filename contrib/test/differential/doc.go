// Package differential asks our scheduler and the stock kube-scheduler the same questions and holds the answers against
// each other. It has tests only.
//
// A question is a random cluster and a pod that waits. Our side is a scheduler.Core, seen from outside: events in, actions
// out. The other side is kube-scheduler as it is built into Kubernetes, with its default plugins and weights, whose
// plugins are called one by one, so that it tells all nodes that it would take and not just one. cluster_test.go makes the
// clusters, core_test.go and stock_test.go are the two sides.
//
// Where the two differ on purpose, the clusters leave it out, and the test's comment says why. Everywhere:
//   - every pod requests cpus and memory, because ours are charged something if they do not;
//   - host ports are TCP and of no address, because Mesos knows port numbers only;
//   - no pod is on its way out, because ours waits for its place, and kube-scheduler looks for another one.
//
// Each test compares random clusters for a while. What fails names the seed, with which that cluster comes first:
//
//	CGO_ENABLED=0 go test -trimpath ./contrib/test/differential -run NAME -seed=N -span=1ns
package differential
