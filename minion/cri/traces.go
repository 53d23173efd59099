package cri

import (
	"context"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubetypes "k8s.io/kubelet/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/podtrace"
)

// trace begins the span of a call that helps a pod to start; end ends it. Other calls have none.
func (s *Server) trace(ctx context.Context, request any) (end func(error)) {
	if s.cfg.Traces == nil {
		return func(error) {}
	}
	var pod types.UID
	what := ""
	switch r := request.(type) {
	case *runtimeapi.RunPodSandboxRequest:
		of := tracedPod(r.GetConfig())
		pod, what = of.UID, "run the sandbox"
		s.cfg.Traces.Open(of)
	case *runtimeapi.PullImageRequest:
		pod, what = types.UID(r.GetSandboxConfig().GetMetadata().GetUid()), "pull image "+imageName(r.GetImage())
	case *runtimeapi.CreateContainerRequest:
		pod, what = types.UID(r.GetSandboxConfig().GetMetadata().GetUid()), "create container "+r.GetConfig().GetMetadata().GetName()
	case *runtimeapi.StartContainerRequest:
		c, err := s.view.inspect(ctx, kindContainer, r.GetContainerId())
		if err != nil {
			break // the call itself reports it
		}
		pod, what = podOf(c.Config.Labels), "start container "+c.Config.Labels[kubetypes.KubernetesContainerNameLabel]
	}
	return s.cfg.Traces.Begin(pod, podtrace.Runtime, what)
}

// tracedPod says whose sandbox this is.
func tracedPod(config *runtimeapi.PodSandboxConfig) podtrace.Pod {
	of := config.GetMetadata()
	return podtrace.Pod{PodKey: api.PodKey{Namespace: of.GetNamespace(), Name: of.GetName()}, UID: types.UID(of.GetUid())}
}

// traceStep begins the span of a step of such a call, by the labels of the container.
func (s *Server) traceStep(labels map[string]string, who, what string) (end func(error)) {
	return s.cfg.Traces.Begin(podOf(labels), who, what)
}

// podOf returns the UID of a container's pod, as the kubelet labels it.
func podOf(labels map[string]string) types.UID {
	return types.UID(labels[kubetypes.KubernetesPodUIDLabel])
}
