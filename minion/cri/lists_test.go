package cri

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"
)

// kubeletClients are the kubelet's own clients of our server.
func (n *node) kubeletClients(t *testing.T, streaming bool) (internalapi.RuntimeService, internalapi.ImageManagerService) {
	t.Helper()
	runtime, err := criclient.NewRemoteRuntimeService(t.Context(), "unix://"+n.socket(), 20*time.Second, nil, streaming)
	must(t, err)
	images, err := criclient.NewRemoteImageService(t.Context(), "unix://"+n.socket(), 20*time.Second, nil, streaming)
	must(t, err)
	t.Cleanup(func() {
		for _, c := range []interface{ Close(context.Context) error }{runtime, images} {
			if err := c.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	return runtime, images
}

func TestListsAreTheSameAsStreams(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("lists")
	pod := n.runPod(t, config)
	for i := range partLength + 1 { // more than one part holds
		if _, err := n.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{
			PodSandboxId: pod, Config: shell(fmt.Sprint("c", i), "true"), SandboxConfig: config}); err != nil {
			t.Fatal(err)
		}
	}
	n.runContainer(t, pod, config, shell("runs", "sleep 1000"))
	var asLists, asStreams map[string][]string
	for streaming, ids := range map[bool]*map[string][]string{false: &asLists, true: &asStreams} {
		*ids = n.listedIDs(t, streaming)
	}
	for what, want := range asLists {
		got := asStreams[what]
		slices.Sort(want)
		slices.Sort(got)
		if len(want) == 0 || !slices.Equal(want, got) {
			t.Errorf("%s: %d in the stream, %d in the list", what, len(got), len(want))
		}
	}
}

// listedIDs asks for each list that there is.
func (n *node) listedIDs(t *testing.T, streaming bool) map[string][]string {
	t.Helper()
	ctx, ids := t.Context(), map[string][]string{}
	runtime, images := n.kubeletClients(t, streaming)
	add := func(what, id string) { ids[what] = append(ids[what], id) }
	sandboxes, err := runtime.ListPodSandbox(ctx, nil)
	must(t, err)
	for _, s := range sandboxes {
		add("sandboxes", s.Id)
	}
	containers, err := runtime.ListContainers(ctx, nil)
	must(t, err)
	for _, c := range containers {
		add("containers", c.Id)
	}
	stats, err := runtime.ListContainerStats(ctx, nil)
	must(t, err)
	for _, s := range stats {
		add("container stats", s.Attributes.Id)
	}
	podStats, err := runtime.ListPodSandboxStats(ctx, nil)
	must(t, err)
	for _, s := range podStats {
		add("pod stats", s.Attributes.Id)
	}
	metrics, err := runtime.ListPodSandboxMetrics(ctx)
	must(t, err)
	for _, m := range metrics {
		add("metrics", m.PodSandboxId)
	}
	list, err := images.ListImages(ctx, nil)
	must(t, err)
	for _, i := range list {
		add("images", i.Id)
	}
	return ids
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestMetricsStandUnderTheNamesAndLabelsThatWereDescribed(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("metrics")
	pod := n.runPod(t, config)
	n.runContainer(t, pod, config, shell("main", "sleep 1000"))
	runtime, _ := n.kubeletClients(t, false)
	described, err := runtime.ListMetricDescriptors(t.Context())
	must(t, err)
	pods, err := runtime.ListPodSandboxMetrics(t.Context())
	must(t, err)
	if len(pods) != 1 || len(pods[0].ContainerMetrics) != 1 {
		t.Fatalf("metrics %v", pods)
	}
	got := map[string]string{}
	for _, m := range append(pods[0].Metrics, pods[0].ContainerMetrics[0].Metrics...) {
		i := slices.IndexFunc(described, func(d *runtimeapi.MetricDescriptor) bool { return d.Name == m.Name })
		if i < 0 || len(described[i].LabelKeys) != len(m.LabelValues) {
			t.Fatalf("%v is not as described", m)
		}
		var labels []string
		for k, key := range described[i].LabelKeys {
			if m.LabelValues[k] != "" && key != "id" {
				labels = append(labels, key+"="+m.LabelValues[k])
			}
		}
		got[m.Name] = strings.Join(labels, ",")
		if m.Name == "container_memory_working_set_bytes" && m.Value.GetValue() == 0 {
			t.Errorf("%v has no value", m)
		}
	}
	if want := "container=main,image=" + testImage + ",name=k8s_main_metrics_default_" + config.Metadata.Uid + "_0,namespace=default,pod=metrics"; got["container_memory_working_set_bytes"] != want {
		t.Errorf("labels of a container %q; want %q", got["container_memory_working_set_bytes"], want)
	}
	if want := "namespace=default,pod=metrics,interface=eth0"; got["container_network_receive_bytes_total"] != want {
		t.Errorf("labels of an interface %q; want %q", got["container_network_receive_bytes_total"], want)
	}
}
