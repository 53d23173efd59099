package v1beta1

import (
	"maps"

	v1 "k8s.io/api/core/v1"
)

// manifestPath is where the manifest stands in a pod.
const manifestPath = "desiredState.manifest"

// ToV1 converts a pod that is created. What only the server knows is ignored: version, uuid, host and the current state. What cannot
// be had today is a *Status 422.
func (p *Pod) ToV1() (*v1.Pod, error) {
	if err := p.DesiredState.Manifest.check(manifestPath).invalid("pod", p.ID); err != nil {
		return nil, err
	}
	return &v1.Pod{ObjectMeta: p.objectMeta(p.Labels), Spec: p.DesiredState.Manifest.toV1()}, nil
}

// FromV1Pod converts a pod. Kind, version and link are the caller's to set: see Meta.
func FromV1Pod(o *v1.Pod) *Pod {
	p := &Pod{
		Meta:         fromV1(o),
		Labels:       maps.Clone(o.Labels),
		DesiredState: PodState{Manifest: fromV1Spec(&o.Spec), Status: Running, Host: o.Spec.NodeName},
		CurrentState: fromV1PodStatus(o),
	}
	p.DesiredState.Manifest.ID = p.ID
	p.DesiredState.Manifest.UUID = string(o.UID)
	return p
}

func fromV1PodStatus(o *v1.Pod) PodState {
	s := PodState{Status: podStatus(o.Status.Phase), Host: o.Spec.NodeName, HostIP: o.Status.HostIP, PodIP: o.Status.PodIP}
	if s.Status == Waiting && len(o.Status.ContainerStatuses) == 0 {
		s.Host = "" // the pod is not there yet
	}
	info := map[string]ContainerStatus{}
	for i := range o.Status.ContainerStatuses {
		c := &o.Status.ContainerStatuses[i]
		info[c.Name] = ContainerStatus{State: fromV1State(&c.State), RestartCount: int(c.RestartCount), Image: c.Image}
	}
	if s.PodIP != "" {
		net := ContainerStatus{PodIP: s.PodIP, State: ContainerState{Running: &StateRunning{}}}
		if o.Status.StartTime != nil {
			net.State.Running.StartedAt = *o.Status.StartTime
		}
		info[NetContainer] = net
	}
	if len(info) > 0 {
		s.Info = info
	}
	return s
}

func podStatus(phase v1.PodPhase) string {
	switch phase {
	case "", v1.PodPending:
		return Waiting
	case v1.PodRunning:
		return Running
	}
	return Terminated
}

func fromV1State(o *v1.ContainerState) ContainerState {
	switch {
	case o.Waiting != nil:
		return ContainerState{Waiting: &StateWaiting{Reason: o.Waiting.Reason}}
	case o.Running != nil:
		return ContainerState{Running: &StateRunning{StartedAt: o.Running.StartedAt}}
	case o.Terminated != nil:
		t := o.Terminated
		return ContainerState{Termination: &StateTerminated{
			ExitCode: int(t.ExitCode), Signal: int(t.Signal), Reason: t.Reason, StartedAt: t.StartedAt, FinishedAt: t.FinishedAt,
		}}
	}
	return ContainerState{}
}

// toV1 converts a manifest that was checked.
func (m *Manifest) toV1() v1.PodSpec {
	s := v1.PodSpec{RestartPolicy: m.RestartPolicy.toV1()}
	for _, v := range m.Volumes {
		s.Volumes = append(s.Volumes, v.toV1())
	}
	for i := range m.Containers {
		s.Containers = append(s.Containers, m.Containers[i].toV1())
	}
	return s
}

// fromV1Spec converts a pod's spec, but for the volumes that v1beta1 has no word for and their mounts.
func fromV1Spec(s *v1.PodSpec) Manifest {
	m := Manifest{Version: V1Beta1, RestartPolicy: fromV1RestartPolicy(s.RestartPolicy)}
	shown := shownVolumes(s)
	for i := range s.Volumes {
		if v, ok := fromV1Volume(&s.Volumes[i]); ok {
			m.Volumes = append(m.Volumes, v)
		}
	}
	for i := range s.Containers {
		m.Containers = append(m.Containers, fromV1Container(&s.Containers[i], shown))
	}
	return m
}

// shownVolumes tells which volumes v1beta1 has a word for.
func shownVolumes(s *v1.PodSpec) func(name string) bool {
	shown := map[string]bool{}
	for i := range s.Volumes {
		if v, ok := fromV1Volume(&s.Volumes[i]); ok {
			shown[v.Name] = true
		}
	}
	return func(name string) bool { return shown[name] }
}

func (r RestartPolicy) toV1() v1.RestartPolicy {
	switch {
	case r.OnFailure != nil:
		return v1.RestartPolicyOnFailure
	case r.Never != nil:
		return v1.RestartPolicyNever
	}
	return v1.RestartPolicyAlways
}

func fromV1RestartPolicy(p v1.RestartPolicy) RestartPolicy {
	switch p {
	case v1.RestartPolicyOnFailure:
		return RestartPolicy{OnFailure: &struct{}{}}
	case v1.RestartPolicyNever:
		return RestartPolicy{Never: &struct{}{}}
	}
	return RestartPolicy{Always: &struct{}{}}
}

func (v Volume) toV1() v1.Volume {
	o := v1.Volume{Name: v.Name}
	if v.Source != nil && v.Source.HostDir != nil {
		o.HostPath = &v1.HostPathVolumeSource{Path: v.Source.HostDir.Path}
	} else {
		o.EmptyDir = &v1.EmptyDirVolumeSource{}
	}
	return o
}

// fromV1Volume reports whether v1beta1 has a word for the volume.
func fromV1Volume(o *v1.Volume) (Volume, bool) {
	v := Volume{Name: o.Name, Source: &VolumeSource{}}
	switch {
	case o.HostPath != nil:
		v.Source.HostDir = &HostDir{Path: o.HostPath.Path}
	case o.EmptyDir != nil:
		v.Source.EmptyDir = &struct{}{}
	default:
		return Volume{}, false
	}
	return v, true
}
