package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/k8sm/k8sm/api/falcon"
	"github.com/k8sm/k8sm/api/falcon/falcontest"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// falconFlags make a cluster send metrics to the receiver, as often as may be.
func falconFlags(t *testing.T, receiver *falcontest.Receiver) []string {
	agent, _ := receiver.Listen(t)
	return []string{"--falcon=" + agent, "--falcon-step=1", "--falcon-node"} // a step of 30 s
}

// loaded is a pod that uses a fifth of a processor, 3 MB of disk, and its network for 160 kB each way.
func loaded() *corev1.Pod {
	p := always("loaded")
	c := &p.Spec.Containers[0]
	c.Env = []corev1.EnvVar{{Name: "HOST", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.hostIP"}}}}
	c.Command[3] = "dd if=/dev/zero of=/file bs=1048576 count=3; ping -q -c 20 -i 0.1 -s 8000 $HOST; trap 'exit 0' TERM; while :; do :; done"
	c.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("200m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
	return p
}

// falconPush is what came of one series last, and how often it has come.
type falconPush struct {
	falcon.Element
	times int
}

// falconSeries returns all that came, by endpoint, metric and tags.
func falconSeries(receiver *falcontest.Receiver) map[string]falconPush {
	series := map[string]falconPush{}
	elements, _, _ := receiver.Elements()
	for _, e := range elements {
		key := strings.TrimSpace(e.Endpoint + " " + e.Metric + " " + e.Tags)
		series[key] = falconPush{e, series[key].times + 1}
	}
	return series
}

// awaitFalcon waits until a series has come a number of times.
func awaitFalcon(t *testing.T, receiver *falcontest.Receiver, key string, times int) falconPush {
	t.Helper()
	deadline := time.After(90 * time.Second)
	for {
		_, _, news := receiver.Elements()
		if push := falconSeries(receiver)[key]; push.times >= times {
			return push
		}
		select {
		case <-news:
		case <-deadline:
			t.Fatalf("%q came %d times, want %d; there are %d series", key, falconSeries(receiver)[key].times, times, len(falconSeries(receiver)))
		}
	}
}

// summaryOf returns the kubelet's own figures of a pod.
func summaryOf(t *testing.T, c *scratch.Cluster, p *corev1.Pod) stats.PodStats {
	t.Helper()
	var found stats.PodStats
	err := scratch.Until(t.Context(), time.Minute, func(ctx context.Context) error {
		text, err := c.Kube.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes", p.Spec.NodeName, "proxy/stats/summary").DoRaw(ctx)
		if err != nil {
			return err
		}
		var summary stats.Summary
		if err := json.Unmarshal(text, &summary); err != nil {
			return err
		}
		for _, pod := range summary.Pods {
			if found = pod; pod.PodRef.UID == string(p.UID) && len(pod.Containers) == 1 && pod.Containers[0].Rootfs.UsedBytes != nil {
				return nil
			}
		}
		return fmt.Errorf("the kubelet has no figures of pod %s yet", p.Name)
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// falconFigures compares what minion and scheduler send with the kubelet's figures of the pod made by loaded.
func falconFigures(t *testing.T, c *scratch.Cluster, receiver *falcontest.Receiver) {
	p := awaitPhase(t, c, "loaded", corev1.PodRunning)
	pod := p.Spec.NodeName + " %s namespace=default,pod=loaded"
	main := pod + ",container=main"
	// A measurement before this one, and one after it.
	first := awaitFalcon(t, receiver, fmt.Sprintf(main, "container.mem.usage"), 1)
	before := summaryOf(t, c, p)
	busy := awaitFalcon(t, receiver, fmt.Sprintf(main, "container.cpu.usage.busy"), falconSeries(receiver)[fmt.Sprintf(main, "container.cpu.usage.busy")].times+1)
	after := summaryOf(t, c, p)
	if busy.Timestamp <= first.Timestamp || busy.Step != 30 || busy.CounterType != falcon.TypeGauge {
		t.Errorf("CPU usage is %+v after %+v", busy.Element, first.Element)
	}
	series := falconSeries(receiver)
	value := func(format, metric string) float64 {
		push, ok := series[fmt.Sprintf(format, metric)]
		if !ok {
			t.Errorf("%s is missing", fmt.Sprintf(format, metric))
		}
		return push.Value
	}
	near := func(metric string, got, want, slack float64) {
		t.Helper()
		if math.Abs(got-want) > slack {
			t.Errorf("%s is %v, want %v as the kubelet or the kernel says", metric, got, want)
		}
	}
	node, err := c.Kube.CoreV1().Nodes().Get(t.Context(), p.Spec.NodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	was, is := before.Containers[0], after.Containers[0]
	cores := float64(*is.CPU.UsageCoreNanoSeconds-*was.CPU.UsageCoreNanoSeconds) / float64(is.CPU.Time.Sub(was.CPU.Time.Time))
	percent := cores / node.Status.Capacity.Cpu().AsApproximateFloat64() * 100
	near("container.cpu.usage.busy", busy.Value, percent, max(percent/4, 2))
	near("user and system", value(main, "container.cpu.usage.user")+value(main, "container.cpu.usage.system"), percent, max(percent/4, 2))
	near("container.mem.usage", value(main, "container.mem.usage"), float64(*is.Memory.UsageBytes), 4<<20)
	near("container.mem.working_set", value(main, "container.mem.working_set"), float64(*is.Memory.WorkingSetBytes), 4<<20)
	near("container.mem.limit", value(main, "container.mem.limit"), 64<<20, 0)
	near("container.mem.usage.percent", value(main, "container.mem.usage.percent"), value(main, "container.mem.usage")/(64<<20)*100, 0.1)
	near("container.filesystem.usage", value(main, "container.filesystem.usage"), float64(*is.Rootfs.UsedBytes), 1<<20)
	near("container.filesystem.usage", value(main, "container.filesystem.usage"), 3<<20, 1<<20)
	near("container.filesystem.limit", value(main, "container.filesystem.limit"), float64(*is.Rootfs.CapacityBytes), 0)
	for metric, file := range map[string]string{"in.bytes": "rx_bytes", "in.packets": "rx_packets", "out.bytes": "tx_bytes", "out.dropped": "tx_dropped"} {
		seen, err := strconv.ParseFloat(strings.TrimSpace(kubectl(t, c, "exec", p.Name, "--", "/bin/busybox", "cat", "/sys/class/net/eth0/statistics/"+file)), 64)
		if err != nil || file == "rx_bytes" && seen < 160_000 {
			t.Errorf("the pod's device has %s %v, %v", file, seen, err)
		}
		near("container.net.if."+metric, value(pod, "container.net.if."+metric), seen, seen/20)
	}
	near("pod.phase.running", value(pod, "pod.phase.running"), 1, 0)
	near("pod.ready", value(pod, "pod.ready"), 1, 0)
	near("pod.restarts", value(pod, "pod.restarts"), 0, 0)
	near("mem.memtotal", series[node.Name+" mem.memtotal"].Value, node.Status.Capacity.Memory().AsApproximateFloat64(), 0)
	near("agent.alive", series[node.Name+" agent.alive"].Value, 1, 0)
	if load := series[node.Name+" cpu.busy"].Value; load <= 0 || load > 100 {
		t.Errorf("cpu.busy is %v", load)
	}
	near("k8sm.agents.alive", awaitFalcon(t, receiver, "k8sm k8sm.agents.alive", 1).Value, 1, 0)
	if running := falconSeries(receiver)["k8sm mesos.tasks state=TASK_RUNNING"].Value; running < 1 {
		t.Errorf("%v tasks run", running)
	}
	falconNames(t, c, receiver)
	remove(t, c, p)
}

// falconNames checks that only this cluster's pods and endpoints appear, and no ids of containers.
func falconNames(t *testing.T, c *scratch.Cluster, receiver *falcontest.Receiver) {
	t.Helper()
	pods, err := c.Kube.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, p := range pods.Items {
		for _, s := range p.Status.ContainerStatuses {
			_, id, _ := strings.Cut(s.ContainerID, "://")
			ids = append(ids, string(p.UID), id[:min(12, len(id))])
		}
	}
	if len(ids) == 0 {
		t.Error("no containers")
	}
	if _, invalid, _ := receiver.Elements(); invalid > 0 {
		t.Errorf("%d elements are invalid", invalid)
	}
	for key, push := range falconSeries(receiver) {
		for _, id := range ids {
			if id != "" && strings.Contains(key, id) {
				t.Errorf("%s has an id: a restart would begin a new series", key)
			}
		}
		if push.Endpoint != pods.Items[0].Spec.NodeName && push.Endpoint != "k8sm" || strings.Contains(push.Tags, "pod=web,") {
			t.Errorf("%s is not of this cluster", key)
		}
	}
}
