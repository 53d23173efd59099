// Package differential compares decisions of our scheduler with those of the stock kube-scheduler. It has only tests.
//
// The input is a random cluster and a pending pod. Our side is a scheduler.Core: events in, actions out. The other side is
// kube-scheduler from Kubernetes, with its default plugins and weights. The tests call its plugins one by one, to get all feasible
// nodes and not just the chosen one. cluster_test.go generates clusters; core_test.go and stock_test.go are the two sides.
//
// The clusters avoid cases in which the two differ on purpose; the test's comment says why. In all tests:
//   - every pod requests cpus and memory, because our scheduler charges defaults otherwise;
//   - host ports are TCP without a host IP, because Mesos knows only port numbers;
//   - no pod is terminating, because ours waits for its resources, and kube-scheduler tries another node.
//
// Each test compares random clusters for a while. A failure names the seed, which repeats that cluster first:
//
//	CGO_ENABLED=0 go test -trimpath ./contrib/test/differential -run NAME -seed=N -span=1ns
package differential
