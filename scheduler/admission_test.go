package scheduler

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestRequestsOnANodeAreCountedAsLongAsPodsStandThere also of pods that are resized in place, at the larger of what they have
// and want (https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/).
func TestRequestsOnANodeAreCountedAsLongAsPodsStandThere(t *testing.T) {
	p := playOn(t, "synced", "subscribed", "node n1 a1 admits-cpus=4 admits-mem=4Gi", "pod static node=n1 mirror=yes cpus=300m")
	counts := func(what string, want int64) {
		t.Helper()
		if got := p.core.standing.at("n1").requested[0]; got != want {
			t.Errorf("%s: %dm are counted, want %dm", what, got, want)
		}
	}
	counts("a static pod", 300)
	web := p.pod("web", map[string]string{"cpus": "1", "node": "n1"})
	web.Generation = 1
	p.core.Step(p.now, PodSeen{Pod: web})
	counts("and another", 1300)
	grown := web.DeepCopy()
	grown.Generation = 2
	grown.Spec.Containers[0].Resources.Requests[v1.ResourceCPU] = resource.MustParse("1500m")
	p.core.Step(p.now, PodSeen{Pod: grown})
	counts("that has grown", 1800)
	shrinks := grown.DeepCopy()
	shrinks.Generation = 3
	shrinks.Spec.Containers[0].Resources.Requests[v1.ResourceCPU] = resource.MustParse("500m")
	shrinks.Status.ContainerStatuses = []v1.ContainerStatus{{
		AllocatedResources: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1500m")},
		Resources:          &v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1500m")}},
	}}
	p.core.Step(p.now, PodSeen{Pod: shrinks})
	counts("that is still to shrink", 1800)
	p.step("pod-gone web")
	counts("without it", 300)
	p.step("pod static node=n1 mirror=yes cpus=300m phase=Failed")
	counts("without any", 0)
}
