package cri

import (
	"errors"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubetypes "k8s.io/kubelet/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/podtrace"
)

func TestCallsThatStartAPodAreTraced(t *testing.T) {
	book := podtrace.NewBook(10)
	who := owner{"cluster", "n1"}
	s := &Server{cfg: Config{Traces: book}, owner: who, view: newView(nil, who)}
	labels, err := who.labels(kindContainer, map[string]string{kubetypes.KubernetesPodUIDLabel: "1", kubetypes.KubernetesContainerNameLabel: "main"}, containerRecord{})
	if err != nil {
		t.Fatal(err)
	}
	s.view.heard = true
	s.view.members["c1"] = &member{kind: kindContainer, known: true, answer: container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{ID: "c1"}, Config: &container.Config{Labels: labels}}}
	sandbox := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Namespace: "default", Name: "web", Uid: "1"}}
	image := &runtimeapi.ImageSpec{Image: "sha256:1", UserSpecifiedImage: "web:1"}
	for _, request := range []any{
		&runtimeapi.RunPodSandboxRequest{Config: sandbox},
		&runtimeapi.PullImageRequest{Image: image, SandboxConfig: sandbox},
		&runtimeapi.PullImageRequest{Image: image}, // for no pod
		&runtimeapi.CreateContainerRequest{SandboxConfig: sandbox, Config: &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "main"}}},
		&runtimeapi.PodSandboxStatusRequest{PodSandboxId: "s1"}, // helps no pod to start
		&runtimeapi.StartContainerRequest{ContainerId: "c1"},
	} {
		s.trace(t.Context(), request)(nil)
	}
	s.traceStep(labels, podtrace.Engine, "start")(errors.New("no"))
	s.traceStep(nil, podtrace.Engine, "start")(nil)
	var got []string
	for _, span := range book.Of(api.PodKey{Namespace: "default", Name: "web"})[0].Spans {
		text := span.Who + ": " + span.What
		if span.Failed {
			text += ", in vain"
		}
		got = append(got, text)
	}
	want := []string{"runtime: run the sandbox", "runtime: pull image web:1", "runtime: create container main", "runtime: start container main", "Docker Engine: start, in vain"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestServerWithoutABookTracesNothing(t *testing.T) {
	s := &Server{view: newView(nil, owner{})}
	s.trace(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: "c1"})(nil) // and asks the Engine nothing
	s.traceStep(nil, podtrace.Engine, "start")(nil)
}
