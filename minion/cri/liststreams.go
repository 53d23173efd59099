package cri

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Each list is also available as a stream, for nodes whose lists exceed a gRPC message. The kubelet uses it behind its feature gate
// CRIListStreaming (https://kep.k8s.io/5825).

// partLength is the number of items in a part of a stream. Even with the largest items, containers with 256 KB of labels and
// annotations, a part stays within maxMessage.
const partLength = 16

// sendParts streams the result of a plain list call in parts.
func sendParts[Item, Part any](s *Server, stream grpc.ServerStreamingServer[Part], list func(context.Context) ([]Item, error), part func([]Item) *Part) error {
	ctx, cancel := s.bound(stream.Context(), 0)
	defer cancel()
	items, err := list(ctx)
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(items, partLength) {
		if err := stream.Send(part(chunk)); err != nil {
			return err
		}
	}
	return nil
}

// StreamPodSandboxes is ListPodSandbox as a stream.
func (s *Server) StreamPodSandboxes(r *runtimeapi.StreamPodSandboxesRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	return sendParts(s, stream, func(ctx context.Context) ([]*runtimeapi.PodSandbox, error) {
		list, err := s.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: r.GetFilter()})
		return list.GetItems(), err
	}, func(part []*runtimeapi.PodSandbox) *runtimeapi.StreamPodSandboxesResponse {
		return &runtimeapi.StreamPodSandboxesResponse{PodSandboxes: part}
	})
}

// StreamContainers is ListContainers as a stream.
func (s *Server) StreamContainers(r *runtimeapi.StreamContainersRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	return sendParts(s, stream, func(ctx context.Context) ([]*runtimeapi.Container, error) {
		list, err := s.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: r.GetFilter()})
		return list.GetContainers(), err
	}, func(part []*runtimeapi.Container) *runtimeapi.StreamContainersResponse {
		return &runtimeapi.StreamContainersResponse{Containers: part}
	})
}

// StreamContainerStats is ListContainerStats as a stream.
func (s *Server) StreamContainerStats(r *runtimeapi.StreamContainerStatsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]) error {
	return sendParts(s, stream, func(ctx context.Context) ([]*runtimeapi.ContainerStats, error) {
		list, err := s.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{Filter: r.GetFilter()})
		return list.GetStats(), err
	}, func(part []*runtimeapi.ContainerStats) *runtimeapi.StreamContainerStatsResponse {
		return &runtimeapi.StreamContainerStatsResponse{ContainerStats: part}
	})
}

// StreamPodSandboxStats is ListPodSandboxStats as a stream.
func (s *Server) StreamPodSandboxStats(r *runtimeapi.StreamPodSandboxStatsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse]) error {
	return sendParts(s, stream, func(ctx context.Context) ([]*runtimeapi.PodSandboxStats, error) {
		list, err := s.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{Filter: r.GetFilter()})
		return list.GetStats(), err
	}, func(part []*runtimeapi.PodSandboxStats) *runtimeapi.StreamPodSandboxStatsResponse {
		return &runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: part}
	})
}

// StreamPodSandboxMetrics is ListPodSandboxMetrics as a stream.
func (s *Server) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse]) error {
	return sendParts(s, stream, func(ctx context.Context) ([]*runtimeapi.PodSandboxMetrics, error) {
		list, err := s.ListPodSandboxMetrics(ctx, &runtimeapi.ListPodSandboxMetricsRequest{})
		return list.GetPodMetrics(), err
	}, func(part []*runtimeapi.PodSandboxMetrics) *runtimeapi.StreamPodSandboxMetricsResponse {
		return &runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: part}
	})
}

// StreamImages is ListImages as a stream.
func (s *Server) StreamImages(r *runtimeapi.StreamImagesRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	return sendParts(s, stream, func(ctx context.Context) ([]*runtimeapi.Image, error) {
		list, err := s.ListImages(ctx, &runtimeapi.ListImagesRequest{Filter: r.GetFilter()})
		return list.GetImages(), err
	}, func(part []*runtimeapi.Image) *runtimeapi.StreamImagesResponse {
		return &runtimeapi.StreamImagesResponse{Images: part}
	})
}
