package cis

import (
	"context"
	"errors"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
)

// refusals says for each property that the restricted level forbids whether a pod with it was refused.
type refusals struct {
	refused map[string]bool
	err     error
}

// tryPods tries to create pods in a namespace that enforces Kubernetes' restricted level
// (https://kubernetes.io/docs/concepts/security/pod-security-standards/). Nothing runs: the API server is asked for a dry run.
func (t Target) tryPods(ctx context.Context) (r refusals) {
	namespaces := t.Kube.CoreV1().Namespaces()
	space, err := namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "cis-", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}, metav1.CreateOptions{})
	if err != nil {
		return refusals{err: err}
	}
	defer func() { r.err = errors.Join(r.err, namespaces.Delete(ctx, space.Name, metav1.DeleteOptions{})) }()
	create := func(ctx context.Context, pod *corev1.Pod) error {
		_, err := t.Kube.CoreV1().Pods(space.Name).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	// The namespace's service account comes a moment later.
	var last error
	harmless := func(ctx context.Context) (bool, error) {
		last = create(ctx, harmlessPod())
		return last == nil, nil
	}
	if err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, 10*time.Second, true, harmless); err != nil {
		return refusals{err: errors.Join(errors.New("a harmless pod is refused"), last)}
	}
	r.refused = map[string]bool{}
	for property, spoil := range forbidden() {
		pod := harmlessPod()
		spoil(pod)
		err := create(ctx, pod)
		r.refused[property] = err != nil && strings.Contains(err.Error(), "violates PodSecurity")
	}
	return r
}

// harmlessPod is a pod that the restricted level allows.
func harmlessPod() *corev1.Pod {
	yes, no := true, false
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "try"},
		Spec: corev1.PodSpec{
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name: "try", Image: "try",
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
			}},
		},
	}
}

// forbidden gives a pod one property that the restricted level forbids.
func forbidden() map[string]func(*corev1.Pod) {
	yes, no := true, false
	container := func(change func(*corev1.SecurityContext)) func(*corev1.Pod) {
		return func(p *corev1.Pod) { change(p.Spec.Containers[0].SecurityContext) }
	}
	return map[string]func(*corev1.Pod){
		"privileged": container(func(c *corev1.SecurityContext) {
			c.Privileged, c.AllowPrivilegeEscalation = &yes, nil
		}),
		"hostPID":     func(p *corev1.Pod) { p.Spec.HostPID = true },
		"hostIPC":     func(p *corev1.Pod) { p.Spec.HostIPC = true },
		"hostNetwork": func(p *corev1.Pod) { p.Spec.HostNetwork = true },
		"escalation":  container(func(c *corev1.SecurityContext) { c.AllowPrivilegeEscalation = &yes }),
		"root":        func(p *corev1.Pod) { p.Spec.SecurityContext.RunAsNonRoot = &no },
		"NET_RAW":     container(func(c *corev1.SecurityContext) { c.Capabilities.Add = []corev1.Capability{"NET_RAW"} }),
		"added":       container(func(c *corev1.SecurityContext) { c.Capabilities.Add = []corev1.Capability{"SYS_ADMIN"} }),
		"undropped":   container(func(c *corev1.SecurityContext) { c.Capabilities = nil }),
		"hostProcess": func(p *corev1.Pod) {
			p.Spec.HostNetwork = true
			p.Spec.SecurityContext.WindowsOptions = &corev1.WindowsSecurityContextOptions{HostProcess: &yes}
		},
		"hostPath": func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "root", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}}
		},
		"hostPort": func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
		},
	}
}
