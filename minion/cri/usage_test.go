package cri

import (
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestUsageHasTheFiguresOfCRIAndMore(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("usage")
	pod := n.runPod(t, config)
	busy := shell("busy", "nc -w 1 10.213.77.250 9 </dev/null & dd if=/dev/zero of=/file bs=1024 count=2048; while true; do :; done")
	busy.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}
	id := n.runContainer(t, pod, config, busy)
	n.waitExited(t, n.runContainer(t, pod, config, shell("ended", "true")))
	hosts := n.podConfig("hosts")
	hosts.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	onHost := n.runPod(t, hosts)
	n.runContainer(t, onHost, hosts, shell("idle", "sleep 3600"))

	var usage map[string]PodUsage
	var c ContainerUsage
	eventually(t, "CPU time and packets are counted", func() bool {
		list, err := n.server.Usage(t.Context())
		if err != nil || len(list) != 2 {
			t.Fatalf("%+v, %v", list, err)
		}
		usage = map[string]PodUsage{list[0].Name: list[0], list[1].Name: list[1]}
		c = usage["usage"].Containers[0]
		return c.User > 300*time.Millisecond && c.System > 0 && usage["usage"].Network.Out.Packets > 0
	})
	if p := usage["usage"]; p.Namespace != "default" || len(p.Containers) != 1 || c.ID != id || c.Name != "busy" {
		t.Errorf("%+v: want the container that runs", p)
	}
	if sum := c.User + c.System; c.CPU < sum/2 || c.CPU > 2*sum || time.Since(c.At) > time.Minute {
		t.Errorf("%s of CPU time are %s for the user and %s for the system", c.CPU, c.User, c.System)
	}
	if c.MemoryLimit != 64<<20 || c.WorkingSet == 0 || c.WorkingSet > c.Memory || c.Memory > c.MemoryLimit {
		t.Errorf("memory: %+v", c)
	}
	if c.Disk < 2<<20 || c.DiskSize < c.Disk {
		t.Errorf("disk: %+v", c)
	}
	sent := usage["usage"].Network
	if sent.Out.Bytes < sent.Out.Packets {
		t.Errorf("network: %+v", sent)
	}
	idle := usage["hosts"]
	if idle.Network != nil || len(idle.Containers) != 1 || idle.Containers[0].MemoryLimit != 0 {
		t.Errorf("the pod on the host's network has %+v", idle)
	}

	r, err := n.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	if s := r.Stats; time.Duration(s.Cpu.UsageCoreNanoSeconds.Value) < c.CPU || s.WritableLayer.UsedBytes.Value != c.Disk ||
		s.Memory.AvailableBytes.GetValue() > c.MemoryLimit {
		t.Errorf("CRI has %v, and before that, usage was %+v", s, c)
	}
	if _, err := n.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	if list, err := n.server.Usage(t.Context()); err != nil || len(list) != 1 || list[0].Name != "hosts" {
		t.Errorf("after the end of a pod: %+v, %v", list, err)
	}
}
