package minion

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestCgroupOfAPodIsTheKubelets compares with names that kubelets made. The e2e test compares all of a sandbox with what a kubelet asks for.
func TestCgroupOfAPodIsTheKubelets(t *testing.T) {
	const uid = types.UID("4c9bff6e-9d8c-4f9c-8d2b-6a4b8a3f2b10")
	for _, test := range []struct {
		node podCgroup
		qos  corev1.PodQOSClass
		want string
	}{
		{podCgroup{name: "k8sm_1"}, corev1.PodQOSGuaranteed, "/k8sm_1/kubepods/pod4c9bff6e-9d8c-4f9c-8d2b-6a4b8a3f2b10"},
		{podCgroup{name: "k8sm_1"}, corev1.PodQOSBurstable, "/k8sm_1/kubepods/burstable/pod4c9bff6e-9d8c-4f9c-8d2b-6a4b8a3f2b10"},
		{podCgroup{parent: "/mesos/ID", name: "k8sm_1"}, corev1.PodQOSBestEffort, "/mesos/ID/k8sm_1/kubepods/besteffort/pod4c9bff6e-9d8c-4f9c-8d2b-6a4b8a3f2b10"},
		{podCgroup{name: "k8sm_1", systemd: true}, corev1.PodQOSBurstable, "/k8sm_1.slice/k8sm_1-kubepods.slice/k8sm_1-kubepods-burstable.slice/" +
			"k8sm_1-kubepods-burstable-pod4c9bff6e_9d8c_4f9c_8d2b_6a4b8a3f2b10.slice"},
	} {
		got, err := test.node.ofPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}, Status: corev1.PodStatus{QOSClass: test.qos}})
		if err != nil || got != test.want {
			t.Errorf("%+v, %s: got %s, %v, want %s", test.node, test.qos, got, err, test.want)
		}
	}
}

func TestSandboxesThatDependOnMoreThanThePodAreLeftToTheKubelet(t *testing.T) {
	yes, name := true, "any"
	for what, change := range map[string]func(*corev1.Pod){
		"the runtime class":    func(p *corev1.Pod) { p.Spec.RuntimeClassName = &name },
		"users of its own":     func(p *corev1.Pod) { p.Spec.HostUsers = &yes },
		"the cluster's domain": func(p *corev1.Pod) { p.Spec.SetHostnameAsFQDN = &yes },
		"a feature's gate":     func(p *corev1.Pod) { p.Spec.HostnameOverride = &name },
		"SELinux":              func(p *corev1.Pod) { p.Spec.SecurityContext.SELinuxOptions = &corev1.SELinuxOptions{} },
		"a file of the node":   func(p *corev1.Pod) { p.Annotations = map[string]string{annotationMirror: "x"} },
		"nothing":              func(*corev1.Pod) {},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{}}}
		change(pod)
		if got := (podCgroup{name: "k8sm_1"}).sandboxOf(pod, metav1.Now().Time); (got != nil) != (what == "nothing") {
			t.Errorf("%s: got %v", what, got)
		}
	}
}
