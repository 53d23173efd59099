// Package status serves what a minion knows of itself and of its node, by HTTPS:
//
//	/metrics        Prometheus metrics of the minion: containers, CRI calls, syncs of the pod network and of network policies,
//	                starts of its children, build and process
//	/metrics/proxy  the metrics of the node's kube-proxy, which itself listens on loopback only
//	/debug/pprof/   Go profiles of the minion (package api/profiling)
//	/pods/NAMESPACE/NAME/trace  the spans of the starts of the pods with that name (package api/podtrace)
//
// It listens on the node's first InternalIP, on port api.DefaultStatusPort (`km apiserver --minion-status-port`), or on another free
// one if a second minion on the machine has that. The node's annotation api.AnnotationStatusPort names the port. The certificate is
// the kubelet's, of the CA for kubelets' serving certificates: pki/kubelet-serving-ca.crt of the control plane.
//
// Callers need a client certificate of the cluster's CA, or a token that the API server knows; callers that are programs should use
// certificates, which a node cannot use elsewhere. The API server decides what they may read:
//
//	/metrics, /metrics/proxy  who may get nodes/metrics, as for the kubelet's metrics
//	/debug/pprof/…            who may get this path, a non-resource URL
//	/pods/NAMESPACE/NAME/…    who may get that pod
//
// Start reading at Server.handler. The package must never import k8s.io/kubernetes.
package status
