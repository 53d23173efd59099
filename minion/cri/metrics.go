package cri

import (
	"context"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// metric is one metric that the kubelet shows at /metrics/cadvisor when it takes statistics from CRI, behind its feature gate
// PodAndContainerStatsFromCRI, which is off: package minion/cadvisor has them more exactly (https://kubernetes.io/docs/reference/instrumentation/cri-pod-container-metrics/).
type metric[Stats any] struct {
	name, help string
	kind       runtimeapi.MetricType
	value      func(Stats) *runtimeapi.UInt64Value
}

// containerMetrics have the names and units of cAdvisor, for existing dashboards. CRI carries whole numbers only, so CPU time is in
// seconds, rounded down.
var containerMetrics = []metric[*runtimeapi.ContainerStats]{
	{"container_cpu_usage_seconds_total", "Cumulative CPU time consumed, in seconds.", runtimeapi.MetricType_COUNTER,
		func(s *runtimeapi.ContainerStats) *runtimeapi.UInt64Value {
			return seconds(s.GetCpu().GetUsageCoreNanoSeconds())
		}},
	{"container_memory_usage_bytes", "Memory in use, the page cache included, in bytes.", runtimeapi.MetricType_GAUGE,
		func(s *runtimeapi.ContainerStats) *runtimeapi.UInt64Value { return s.GetMemory().GetUsageBytes() }},
	{"container_memory_working_set_bytes", "Memory that cannot be had back without paging, in bytes.", runtimeapi.MetricType_GAUGE,
		func(s *runtimeapi.ContainerStats) *runtimeapi.UInt64Value { return s.GetMemory().GetWorkingSetBytes() }},
	{"container_memory_rss", "Anonymous memory in use, in bytes.", runtimeapi.MetricType_GAUGE,
		func(s *runtimeapi.ContainerStats) *runtimeapi.UInt64Value { return s.GetMemory().GetRssBytes() }},
	{"container_fs_usage_bytes", "Size of the writable layer, in bytes.", runtimeapi.MetricType_GAUGE,
		func(s *runtimeapi.ContainerStats) *runtimeapi.UInt64Value {
			return s.GetWritableLayer().GetUsedBytes()
		}},
}

// interfaceMetrics exist once per network interface of a pod.
var interfaceMetrics = []metric[*runtimeapi.NetworkInterfaceUsage]{
	{"container_network_receive_bytes_total", "Cumulative bytes received.", runtimeapi.MetricType_COUNTER, (*runtimeapi.NetworkInterfaceUsage).GetRxBytes},
	{"container_network_receive_errors_total", "Cumulative errors while receiving.", runtimeapi.MetricType_COUNTER, (*runtimeapi.NetworkInterfaceUsage).GetRxErrors},
	{"container_network_transmit_bytes_total", "Cumulative bytes sent.", runtimeapi.MetricType_COUNTER, (*runtimeapi.NetworkInterfaceUsage).GetTxBytes},
	{"container_network_transmit_errors_total", "Cumulative errors while sending.", runtimeapi.MetricType_COUNTER, (*runtimeapi.NetworkInterfaceUsage).GetTxErrors},
}

// Labels in the order of a metric's values. An interface's name comes after these.
var (
	metricLabels    = []string{"container", "id", "image", "name", "namespace", "pod"}
	interfaceLabels = append(slices.Clone(metricLabels), "interface")
)

func seconds(nanoseconds *runtimeapi.UInt64Value) *runtimeapi.UInt64Value {
	return &runtimeapi.UInt64Value{Value: nanoseconds.GetValue() / 1e9}
}

// descriptors describes metrics of one kind.
func descriptors[Stats any](metrics []metric[Stats], labels []string) []*runtimeapi.MetricDescriptor {
	var all []*runtimeapi.MetricDescriptor
	for _, m := range metrics {
		all = append(all, &runtimeapi.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: labels})
	}
	return all
}

// readings reads all metrics of one kind.
func readings[Stats any](metrics []metric[Stats], stats Stats, labels []string) []*runtimeapi.Metric {
	var all []*runtimeapi.Metric
	for _, m := range metrics {
		if value := m.value(stats); value != nil {
			all = append(all, &runtimeapi.Metric{Name: m.name, MetricType: m.kind, LabelValues: labels, Value: value})
		}
	}
	return all
}

// ListMetricDescriptors describes the metrics of ListPodSandboxMetrics. The kubelet calls it once, at its start.
func (s *Server) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	return &runtimeapi.ListMetricDescriptorsResponse{
		Descriptors: append(descriptors(containerMetrics, metricLabels), descriptors(interfaceMetrics, interfaceLabels)...),
	}, nil
}

// ListPodSandboxMetrics returns the metrics of each running pod.
func (s *Server) ListPodSandboxMetrics(ctx context.Context, _ *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	stats, err := s.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})
	if err != nil {
		return nil, err
	}
	containers, err := s.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	images := map[string]string{}
	for _, c := range containers.GetContainers() {
		images[c.GetId()] = imageName(c.GetImage())
	}
	response := new(runtimeapi.ListPodSandboxMetricsResponse)
	for _, pod := range stats.GetStats() {
		response.PodMetrics = append(response.PodMetrics, podMetrics(pod, images))
	}
	return response, nil
}

// podMetrics turns one pod's statistics into metrics. images has the containers' image names.
func podMetrics(pod *runtimeapi.PodSandboxStats, images map[string]string) *runtimeapi.PodSandboxMetrics {
	meta := pod.GetAttributes().GetMetadata()
	metrics := &runtimeapi.PodSandboxMetrics{PodSandboxId: pod.GetAttributes().GetId()}
	for _, i := range pod.GetLinux().GetNetwork().GetInterfaces() {
		labels := []string{"", pod.GetAttributes().GetId(), "", "", meta.GetNamespace(), meta.GetName(), i.GetName()}
		metrics.Metrics = append(metrics.Metrics, readings(interfaceMetrics, i, labels)...)
	}
	for _, c := range pod.GetLinux().GetContainers() {
		attributes := c.GetAttributes()
		id, name := attributes.GetId(), containerName(attributes.GetMetadata(), meta)
		labels := []string{attributes.GetMetadata().GetName(), id, images[id], name, meta.GetNamespace(), meta.GetName()}
		metrics.ContainerMetrics = append(metrics.ContainerMetrics, &runtimeapi.ContainerMetrics{
			ContainerId: id, Metrics: readings(containerMetrics, c, labels)})
	}
	return metrics
}
