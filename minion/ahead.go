package minion

import (
	"context"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/cgroups/systemd"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubetypes "k8s.io/kubelet/pkg/types"

	"github.com/k8sm/k8sm/executor"
	"github.com/k8sm/k8sm/executor/kube"
	"github.com/k8sm/k8sm/minion/cri"
)

// Annotations of the kubelet on the pods that it runs, beside cri.AnnotationSeen.
const (
	annotationSource = "kubernetes.io/config.source"
	annotationMirror = "kubernetes.io/config.mirror" // of a static pod
)

// makeAhead has the CRI server make the sandbox of a new pod while the kubelet waits for the pod's volumes, and remove one that the kubelet
// will not ask for.
func (n *node) makeAhead(ctx context.Context, group *errgroup.Group, pods *kube.Pods, event executor.PodChanged) {
	pod := pods.Get(event.Pod.Key, event.Pod.UID)
	switch {
	case pod == nil:
	case pod.Status.Phase != corev1.PodPending || pod.DeletionTimestamp != nil:
		n.dismiss(ctx, group, pod.UID)
	case pod.Status.StartTime == nil: // no kubelet has had it
		server := n.criServer.Load()
		config := n.cgroup.sandboxOf(pod, time.Now())
		if server == nil || config == nil {
			return
		}
		group.Go(func() error {
			if err := server.Prepare(ctx, config); err != nil {
				n.log.WithError(err).WithField("pod", event.Pod.Key).Debug("leaving the pod's sandbox to the kubelet")
			}
			return nil
		})
	}
}

// dismiss removes the sandbox of a pod that the kubelet has not asked for.
func (n *node) dismiss(ctx context.Context, group *errgroup.Group, pod types.UID) {
	server := n.criServer.Load()
	if server == nil {
		return // it has removed them
	}
	group.Go(func() error {
		if err := server.Dismiss(ctx, pod); err != nil {
			n.log.WithError(err).WithField("uid", pod).Warn("leaving the pod's sandbox to the kubelet")
		}
		return nil
	})
}

// sandboxOf returns what the kubelet will ask the runtime for: the sandbox of a pod, without what the pod's containers and network get
// later (generatePodSandboxConfig in Kubernetes' pkg/kubelet/kuberuntime). It returns nil for pods whose sandbox depends on more than
// the pod. The CRI server makes a sandbox anew if the kubelet asks for another one.
func (c podCgroup) sandboxOf(pod *corev1.Pod, now time.Time) *runtimeapi.PodSandboxConfig {
	sc := pod.Spec.SecurityContext
	if sc == nil || sc.SELinuxOptions != nil || pod.Spec.RuntimeClassName != nil || pod.Spec.HostUsers != nil || pod.Spec.HostnameOverride != nil ||
		pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN || pod.Annotations[annotationMirror] != "" {
		return nil
	}
	parent, err := c.ofPod(pod)
	if err != nil {
		return nil
	}
	labels, annotations := map[string]string{}, map[string]string{}
	maps.Copy(labels, pod.Labels)
	labels[kubetypes.KubernetesPodNameLabel], labels[kubetypes.KubernetesPodNamespaceLabel] = pod.Name, pod.Namespace
	labels[kubetypes.KubernetesPodUIDLabel] = string(pod.UID)
	maps.Copy(annotations, pod.Annotations)
	annotations[annotationSource], annotations[cri.AnnotationSeen] = "api", now.Format(time.RFC3339Nano)
	config := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID)},
		Labels:   labels, Annotations: annotations,
		Linux: &runtimeapi.LinuxPodSandboxConfig{CgroupParent: parent, SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			NamespaceOptions: namespacesOf(pod), RunAsUser: int64Value(sc.RunAsUser), RunAsGroup: int64Value(sc.RunAsGroup),
		}},
	}
	for _, s := range sc.Sysctls {
		if config.Linux.Sysctls == nil {
			config.Linux.Sysctls = map[string]string{}
		}
		config.Linux.Sysctls[s.Name] = s.Value
	}
	if !pod.Spec.HostNetwork {
		config.Hostname = hostnameOf(pod)
	}
	return config
}

func int64Value(v *int64) *runtimeapi.Int64Value {
	if v == nil {
		return nil
	}
	return &runtimeapi.Int64Value{Value: *v}
}

// namespacesOf returns which namespaces a pod shares with the node.
func namespacesOf(pod *corev1.Pod) *runtimeapi.NamespaceOption {
	options := &runtimeapi.NamespaceOption{
		Pid: runtimeapi.NamespaceMode_CONTAINER, UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE},
	}
	if pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace {
		options.Pid = runtimeapi.NamespaceMode_POD
	}
	if pod.Spec.HostPID {
		options.Pid = runtimeapi.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		options.Ipc = runtimeapi.NamespaceMode_NODE
	}
	if pod.Spec.HostNetwork {
		options.Network = runtimeapi.NamespaceMode_NODE
	}
	return options
}

// hostnameOf returns a pod's host name, cut off to what the kernel takes.
func hostnameOf(pod *corev1.Pod) string {
	const limit = 63
	name := pod.Name
	if pod.Spec.Hostname != "" {
		name = pod.Spec.Hostname
	}
	if len(name) <= limit {
		return name
	}
	return strings.TrimRight(name[:limit], "-.")
}

// ofPod returns the cgroup that the kubelet makes for a pod, as it names it to the runtime.
func (c podCgroup) ofPod(pod *corev1.Pod) (string, error) {
	parts := []string{c.parent, c.name, "kubepods"}
	if class := pod.Status.QOSClass; class != corev1.PodQOSGuaranteed {
		parts = append(parts, strings.ToLower(string(class)))
	}
	parts = append(parts, "pod"+string(pod.UID))
	if !c.systemd {
		return path.Join("/", path.Join(parts...)), nil
	}
	parts = slices.DeleteFunc(parts, func(part string) bool { return part == "" })
	for i := range parts {
		parts[i] = strings.ReplaceAll(parts[i], "-", "_")
	}
	return systemd.ExpandSlice(strings.Join(parts, "-") + ".slice")
}
