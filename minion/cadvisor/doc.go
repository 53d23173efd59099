// Package cadvisor makes the cAdvisor in a stock kubelet know the node's containers. Without it, cAdvisor sees cgroups only: it knows
// containerd and CRI-O, and asks no other runtime. With it, the kubelet's /metrics/cadvisor and /stats/summary have containers by
// name, pod and image, what they use of disks, and the pods' networks, as on nodes with these runtimes.
//
// cAdvisor reads a container's cgroup and network itself. A plugin tells it whose these are (github.com/google/cadvisor/container):
// this one asks the node's runtime interface, once for each container. The labels of metrics are those of containerd's plugin: a pod's
// network is its sandbox's, with an empty label container; only the label name is the container's name in Docker.
//
// The kubelet's feature gate PodAndContainerStatsFromCRI would have the metrics from CRI instead. It is not used: it is alpha, CRI
// carries whole numbers only, so that CPU time were in whole seconds, and the series of pods' cgroups and of the machine would be
// missing.
//
// Plugins are per process: link the package into a process that runs a kubelet. Start reading at Register, then factory. The package
// must never import k8s.io/kubernetes.
package cadvisor
