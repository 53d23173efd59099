package figures

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/minion/cri"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// web is a pod whose container main, with this id, has run a multiple of 30 s.
func web(id string, halves int) cri.PodUsage {
	used := time.Duration(halves)
	return cri.PodUsage{
		Namespace: "shop", Name: "web-0", Network: &cri.Traffic{
			In:  cri.Flow{Bytes: 1000, Packets: 10, Errors: 1, Dropped: 2},
			Out: cri.Flow{Bytes: 2000, Packets: 20, Errors: 3, Dropped: 4},
		},
		Containers: []cri.ContainerUsage{{
			ID: id, Name: "main", At: noon.Add(used * 30 * time.Second),
			CPU: used * 12 * time.Second, User: used * 9 * time.Second, System: used * 3 * time.Second,
			Memory: 50 << 20, WorkingSet: 40 << 20, MemoryLimit: 200 << 20, Disk: 1 << 20, DiskSize: 1 << 30,
		}},
	}
}

func TestContainerHasTheMetricsOfTheTable(t *testing.T) {
	var p Pods
	const container, pod = "namespace=shop,pod=web-0,container=main", "namespace=shop,pod=web-0"
	want := map[series]float64{
		{"container.mem.limit", "GAUGE", container}:         200 << 20,
		{"container.mem.usage", "GAUGE", container}:         50 << 20,
		{"container.mem.usage.percent", "GAUGE", container}: 25,
		{"container.mem.working_set", "GAUGE", container}:   40 << 20,
		{"container.filesystem.limit", "GAUGE", container}:  1 << 30,
		{"container.filesystem.usage", "GAUGE", container}:  1 << 20,
		{"container.net.if.in.bytes", "COUNTER", pod}:       1000,
		{"container.net.if.in.packets", "COUNTER", pod}:     10,
		{"container.net.if.in.errors", "COUNTER", pod}:      1,
		{"container.net.if.in.dropped", "COUNTER", pod}:     2,
		{"container.net.if.out.bytes", "COUNTER", pod}:      2000,
		{"container.net.if.out.packets", "COUNTER", pod}:    20,
		{"container.net.if.out.errors", "COUNTER", pod}:     3,
		{"container.net.if.out.dropped", "COUNTER", pod}:    4,
	}
	if diff := cmp.Diff(want, valuesOf(p.Elements([]cri.PodUsage{web("c1", 1)}, nil, 4)), almost); diff != "" {
		t.Errorf("the first reading:\n%s", diff)
	}
	want[series{"container.cpu.usage.busy", "GAUGE", container}] = 10 // 12 s of 30 s of 4 processors
	want[series{"container.cpu.usage.user", "GAUGE", container}] = 7.5
	want[series{"container.cpu.usage.system", "GAUGE", container}] = 2.5
	if diff := cmp.Diff(want, valuesOf(p.Elements([]cri.PodUsage{web("c1", 2)}, nil, 4)), almost); diff != "" {
		t.Errorf("the second reading:\n%s", diff)
	}
}

func TestContainerThatWasReplacedIsTheSameSeriesAndTakesNoRateFromTheOldOne(t *testing.T) {
	var p Pods
	p.Elements([]cri.PodUsage{web("0123456789abcdef", 5)}, nil, 1)
	replaced := p.Elements([]cri.PodUsage{web("fedcba9876543210", 6)}, nil, 1)
	for _, e := range replaced {
		if strings.HasPrefix(e.Metric, "container.cpu") {
			t.Errorf("%+v: the container has been read once", e)
		}
		if strings.Contains(e.Tags, "fedcba") {
			t.Errorf("%+v: no ids in tags", e)
		}
	}
	again := valuesOf(p.Elements([]cri.PodUsage{web("fedcba9876543210", 7)}, nil, 1))
	if got := again[series{"container.cpu.usage.busy", "GAUGE", "namespace=shop,pod=web-0,container=main"}]; got != 40 {
		t.Errorf("busy %v%%, want 40%%", got)
	}
	backwards := web("fedcba9876543210", 8)
	backwards.Containers[0].CPU = 0
	for _, e := range p.Elements([]cri.PodUsage{backwards}, nil, 1) {
		if strings.HasPrefix(e.Metric, "container.cpu") {
			t.Errorf("%+v: the counters went back", e)
		}
	}
}

func TestPodWithoutLimitAndNetwork(t *testing.T) {
	onHost := web("c", 1)
	onHost.Network, onHost.Containers[0].MemoryLimit = nil, 0
	var p Pods
	elements := p.Elements([]cri.PodUsage{onHost, {Namespace: "shop", Name: "empty"}}, nil, 1)
	for _, e := range elements {
		if strings.HasPrefix(e.Metric, "container.net") || e.Metric == "container.mem.usage.percent" && e.Value != 0 || strings.Contains(e.Tags, "empty") {
			t.Errorf("%+v", e)
		}
	}
	if len(elements) != 6 {
		t.Errorf("%d elements", len(elements))
	}
}

func TestStatesOfPods(t *testing.T) {
	named := func(name string, status corev1.PodStatus) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Status: status}
	}
	ready := []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, {Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	notReady := []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}
	got := valuesOf(new(Pods).Elements(nil, []*corev1.Pod{
		named("up", corev1.PodStatus{Phase: corev1.PodRunning, Conditions: ready}),
		named("crashing", corev1.PodStatus{
			Phase: corev1.PodRunning, Conditions: notReady, InitContainerStatuses: []corev1.ContainerStatus{{RestartCount: 1}},
			ContainerStatuses: []corev1.ContainerStatus{{RestartCount: 2}, {RestartCount: 4}},
		}),
		named("new", corev1.PodStatus{Phase: corev1.PodPending}),
	}, 1))
	want := map[series]float64{}
	for pod, values := range map[string][3]float64{"up": {1, 1, 0}, "crashing": {1, 0, 7}, "new": {0, 0, 0}} {
		tags := "namespace=shop,pod=" + pod
		want[series{"pod.phase.running", "GAUGE", tags}] = values[0]
		want[series{"pod.ready", "GAUGE", tags}] = values[1]
		want[series{"pod.restarts", "GAUGE", tags}] = values[2]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
