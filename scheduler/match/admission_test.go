package match

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestRequestsCountWhileAPodIsOnTheNode also covers pods that are resized in place: the larger of the old and new requests count
// (https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/).
func TestRequestsCountWhileAPodIsOnTheNode(t *testing.T) {
	x := NewIndex(Config{}, emptySource{})
	x.NodeSeen("n1", &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	counts := func(what string, want int64) {
		t.Helper()
		if got := x.nodeFor("n1").requested[0]; got != want {
			t.Errorf("%s: %dm are counted, want %dm", what, got, want)
		}
	}
	requests := func(name, cpu string, generation int64) *v1.Pod {
		return &v1.Pod{
			ObjectMeta: metav1.ObjectMeta{UID: types.UID(name), Generation: generation},
			Spec:       v1.PodSpec{NodeName: "n1", Containers: []v1.Container{{Name: "c", Resources: requesting(cpu, "", "")}}},
		}
	}
	x.OtherSeen(requests("static", "300m", 0), false)
	counts("a static pod", 300)
	web := &Pod{Obj: requests("web", "1", 1)}
	x.Occupy(web, "n1")
	counts("and web", 1300)
	web.Obj = requests("web", "1500m", 2)
	x.Occupy(web, "n1")
	counts("web has grown", 1800)
	web.Obj = requests("web", "500m", 3)
	web.Obj.Status.ContainerStatuses = []v1.ContainerStatus{{
		Name:               "c",
		AllocatedResources: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1500m")},
		Resources:          &v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1500m")}},
	}}
	x.Occupy(web, "n1")
	counts("web is shrinking", 1800)
	x.Occupy(web, "")
	counts("without web", 300)
	x.OtherSeen(requests("static", "300m", 0), true)
	counts("without pods", 0)
}
