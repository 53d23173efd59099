package v1beta1

import (
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// OverlayPod returns the stored pod with what a client has written over it. All that v1beta1 has no word for stays as it is stored.
// So does an unset imagePullPolicy or restartPolicy.
//
// It is a *Status 409 if the client has not read what is stored, and 422 for what cannot be had today. The same is true of the other
// overlays.
func OverlayPod(stored *v1.Pod, p *Pod) (*v1.Pod, error) {
	if err := Conflict("pod", p.ID, p.ResourceVersion, ResourceVersion(stored.ResourceVersion)); err != nil {
		return nil, err
	}
	if err := p.DesiredState.Manifest.check(manifestPath).invalid("pod", p.ID); err != nil {
		return nil, err
	}
	o := stored.DeepCopy()
	p.overlay(&o.ObjectMeta, p.Labels)
	p.DesiredState.Manifest.overlay(&o.Spec)
	return o, nil
}

// OverlayReplicationController is OverlayPod for replication controllers.
func OverlayReplicationController(stored *v1.ReplicationController, r *ReplicationController) (*v1.ReplicationController, error) {
	if err := Conflict("replicationController", r.ID, r.ResourceVersion, ResourceVersion(stored.ResourceVersion)); err != nil {
		return nil, err
	}
	template := &r.DesiredState.PodTemplate
	if err := template.DesiredState.Manifest.check(templatePath).invalid("replicationController", r.ID); err != nil {
		return nil, err
	}
	o := stored.DeepCopy()
	r.overlay(&o.ObjectMeta, r.Labels)
	o.Spec.Replicas = new(r.DesiredState.Replicas)
	o.Spec.Selector = maps.Clone(r.DesiredState.ReplicaSelector)
	if o.Spec.Template == nil {
		o.Spec.Template = &v1.PodTemplateSpec{}
	}
	id, hidden := o.Spec.Template.Labels[LabelReplicationController]
	o.Spec.Template.Labels = maps.Clone(template.Labels)
	if hidden && id == IDOf(stored) && o.Spec.Template.Labels[LabelReplicationController] == "" {
		metav1.SetMetaDataLabel(&o.Spec.Template.ObjectMeta, LabelReplicationController, id)
	}
	template.DesiredState.Manifest.overlay(&o.Spec.Template.Spec)
	return o, nil
}

// Conflict is nil if the version that a client has written is the stored one, or else a *Status 409.
func Conflict(singular, id string, written, stored Version) error {
	if written == stored {
		return nil
	}
	return NewStatus(409, metav1.StatusReasonConflict, "%s %q cannot be updated: 101: Compare failed ([%d != %d]) [%d]",
		singular, id, written, stored, stored).about(singular, id)
}

// overlay writes labels and annotations over those that are stored. Annotations of Kubernetes and k8sm, which clients may not know,
// stay unless they are given another value.
func (m *Meta) overlay(o *metav1.ObjectMeta, labels map[string]string) {
	o.Labels = maps.Clone(labels)
	annotations := maps.Clone(m.Annotations)
	delete(annotations, AnnotationID)
	delete(annotations, AnnotationFirstPort)
	for key, value := range o.Annotations {
		if _, written := annotations[key]; written || !ofTheCluster(key) {
			continue
		}
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[key] = value
	}
	o.Annotations = annotations
}

// ofTheCluster tells whether an annotation belongs to Kubernetes or k8sm.
func ofTheCluster(key string) bool {
	domain, _, _ := strings.Cut(key, "/")
	return slices.ContainsFunc([]string{"k8sm.io", "k8s.io", "kubernetes.io"}, func(owner string) bool {
		return domain == owner || strings.HasSuffix(domain, "."+owner)
	})
}

func (m *Manifest) overlay(s *v1.PodSpec) {
	shown := shownVolumes(s)
	volumes := merger[v1.Volume, Volume]{
		key:     func(o *v1.Volume) string { return o.Name },
		nextKey: func(v *Volume) string { return v.Name },
		hidden:  func(o *v1.Volume) bool { return !shown(o.Name) },
		lay:     overlayVolume,
	}
	containers := merger[v1.Container, Container]{
		key:     func(o *v1.Container) string { return o.Name },
		nextKey: func(c *Container) string { return c.Name },
		hidden:  func(*v1.Container) bool { return false },
		lay:     func(o *v1.Container, c *Container) v1.Container { return c.overlay(o, shown) },
	}
	s.Volumes = volumes.merge(s.Volumes, m.Volumes)
	s.Containers = containers.merge(s.Containers, m.Containers)
	if m.RestartPolicy != (RestartPolicy{}) {
		s.RestartPolicy = m.RestartPolicy.toV1()
	}
}

func overlayVolume(o *v1.Volume, v *Volume) v1.Volume {
	next := v.toV1()
	switch {
	case o == nil:
	case o.HostPath != nil && next.HostPath != nil:
		o.HostPath.Path = next.HostPath.Path
		return *o
	case o.EmptyDir != nil && next.EmptyDir != nil:
		return *o
	}
	return next
}

// overlay writes the container over the stored one, which it changes and which may be nil.
func (c *Container) overlay(o *v1.Container, shown func(volume string) bool) v1.Container {
	next := c.toV1()
	if o == nil {
		return next
	}
	was := fromV1Container(o, shown)
	o.Image, o.Command, o.Args, o.WorkingDir, o.Ports = next.Image, next.Command, next.Args, next.WorkingDir, next.Ports
	if next.ImagePullPolicy != "" {
		o.ImagePullPolicy = next.ImagePullPolicy
	}
	if c.Privileged != was.Privileged {
		if o.SecurityContext == nil {
			o.SecurityContext = &v1.SecurityContext{}
		}
		o.SecurityContext.Privileged = new(c.Privileged)
	}
	o.Env = envMerger.merge(o.Env, c.Env)
	mounts := merger[v1.VolumeMount, VolumeMount]{
		key:     func(o *v1.VolumeMount) string { return o.MountPath },
		nextKey: (*VolumeMount).mountPath,
		hidden:  func(o *v1.VolumeMount) bool { return !shown(o.Name) },
		lay:     overlayMount,
	}
	o.VolumeMounts = mounts.merge(o.VolumeMounts, c.VolumeMounts)
	if c.CPU != was.CPU {
		overlayLimit(&o.Resources, v1.ResourceCPU, next.Resources.Limits)
	}
	if c.Memory != was.Memory {
		overlayLimit(&o.Resources, v1.ResourceMemory, next.Resources.Limits)
	}
	o.LivenessProbe = overlayProbe(o.LivenessProbe, next.LivenessProbe, was.LivenessProbe != nil)
	o.Lifecycle = overlayLifecycle(o.Lifecycle, next.Lifecycle)
	return *o
}

var envMerger = merger[v1.EnvVar, EnvVar]{
	key:     func(o *v1.EnvVar) string { return o.Name },
	nextKey: (*EnvVar).name,
	hidden:  func(o *v1.EnvVar) bool { return o.ValueFrom != nil },
	lay: func(_ *v1.EnvVar, e *EnvVar) v1.EnvVar {
		return v1.EnvVar{Name: e.name(), Value: e.Value}
	},
}

func overlayMount(o *v1.VolumeMount, m *VolumeMount) v1.VolumeMount {
	next := m.toV1()
	if o == nil || o.Name != next.Name {
		return next
	}
	o.ReadOnly = next.ReadOnly
	return *o
}

// overlayLimit changes a limit, and with it a request that was made of it.
func overlayLimit(r *v1.ResourceRequirements, name v1.ResourceName, limits v1.ResourceList) {
	was, limited := r.Limits[name]
	request, requested := r.Requests[name]
	follows := limited && requested && request.Cmp(was) == 0
	set := func(list *v1.ResourceList, quantity resource.Quantity, there bool) {
		switch {
		case !there:
			delete(*list, name)
		case *list == nil:
			*list = v1.ResourceList{name: quantity}
		default:
			(*list)[name] = quantity
		}
	}
	limit, there := limits[name]
	set(&r.Limits, limit, there)
	if follows {
		set(&r.Requests, limit, there)
	}
}

func overlayProbe(o, next *v1.Probe, wasShown bool) *v1.Probe {
	switch {
	case next == nil && wasShown:
		return nil
	case next == nil:
		return o
	case o == nil:
		return next
	}
	o.InitialDelaySeconds = next.InitialDelaySeconds
	if o.HTTPGet != nil && next.HTTPGet != nil {
		overlayHTTPGet(o.HTTPGet, next.HTTPGet)
	} else {
		o.ProbeHandler = next.ProbeHandler
	}
	return o
}

func overlayHTTPGet(o, next *v1.HTTPGetAction) {
	o.Path, o.Port, o.Host = next.Path, next.Port, next.Host
}

func overlayLifecycle(o, next *v1.Lifecycle) *v1.Lifecycle {
	if o == nil {
		return next
	}
	removed := next == nil
	if removed {
		next = &v1.Lifecycle{}
	}
	o.PostStart = overlayHandler(o.PostStart, next.PostStart)
	o.PreStop = overlayHandler(o.PreStop, next.PreStop)
	if removed && *o == (v1.Lifecycle{}) {
		return nil
	}
	return o
}

func overlayHandler(o, next *v1.LifecycleHandler) *v1.LifecycleHandler {
	switch {
	case next == nil && fromV1Handler(o) == nil:
		return o
	case o != nil && next != nil && o.HTTPGet != nil && next.HTTPGet != nil:
		overlayHTTPGet(o.HTTPGet, next.HTTPGet)
		return o
	}
	return next
}

// merger writes a list over a stored list whose items v1beta1 does not show all.
type merger[Stored, Next any] struct {
	key     func(*Stored) string
	nextKey func(*Next) string
	hidden  func(*Stored) bool          // whether v1beta1 shows no such item
	lay     func(*Stored, *Next) Stored // the first is nil for a new item
}

// merge has the items of next in their order. A hidden item follows the same item as before, unless an item of next has its key.
func (m merger[Stored, Next]) merge(stored []Stored, next []Next) []Stored {
	at := map[string][]int{} // indexes of next
	for j := range next {
		key := m.nextKey(&next[j])
		at[key] = append(at[key], j)
	}
	under := make([]*Stored, len(next))
	behind := make([][]Stored, len(next)+1) // hidden items, by the number of items before them
	last := 0
	for i := range stored {
		key := m.key(&stored[i])
		switch {
		case m.hidden(&stored[i]) && len(at[key]) == 0:
			behind[last] = append(behind[last], stored[i])
		case m.hidden(&stored[i]):
		case len(at[key]) > 0:
			under[at[key][0]] = &stored[i]
			last = at[key][0] + 1
			if len(at[key]) > 1 {
				at[key] = at[key][1:]
			}
		}
	}
	merged := slices.Clone(behind[0])
	for j := range next {
		merged = append(append(merged, m.lay(under[j], &next[j])), behind[j+1]...)
	}
	return merged
}
