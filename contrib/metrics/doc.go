// Package metrics serves what a cluster uses: metrics.k8s.io for `kubectl top` and HorizontalPodAutoscalers, by metrics-server
// (https://github.com/kubernetes-sigs/metrics-server) as a library, and the history of all parts' metrics, by package history. It needs no
// image and no pod: one server runs beside each control plane, and API servers forward requests to it. It leaves to them who the caller is
// and what he may do.
//
// Package targets knows where metrics are, and package rules has the alerts. metrics-server and Prometheus keep state per process: call Run
// once, in a process that does nothing else. `km metrics` is such a process. Beside runs it as a child process.
//
// The package uses Kubernetes through client-go only and must not import k8s.io/kubernetes. Start reading at Run.
package metrics
