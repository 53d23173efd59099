package v1beta1

import (
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// toV1 converts a container.
func (c *Container) toV1() v1.Container {
	o := v1.Container{
		Name:            c.Name,
		Image:           c.Image,
		Command:         slices.Clone(c.Entrypoint),
		Args:            slices.Clone(c.Command),
		WorkingDir:      c.WorkingDir,
		Resources:       v1.ResourceRequirements{Limits: resources(c.CPU, c.Memory)},
		LivenessProbe:   c.LivenessProbe.toV1(),
		Lifecycle:       c.Lifecycle.toV1(),
		ImagePullPolicy: v1.PullPolicy(strings.TrimPrefix(c.ImagePullPolicy, "Pull")),
	}
	for _, p := range c.Ports {
		o.Ports = append(o.Ports, v1.ContainerPort{
			Name: p.Name, HostPort: p.HostPort, ContainerPort: p.ContainerPort, Protocol: v1.Protocol(strings.ToUpper(p.Protocol)), HostIP: p.HostIP,
		})
	}
	for _, e := range c.Env {
		o.Env = append(o.Env, v1.EnvVar{Name: e.name(), Value: e.Value})
	}
	for _, m := range c.VolumeMounts {
		o.VolumeMounts = append(o.VolumeMounts, m.toV1())
	}
	if c.Privileged {
		o.SecurityContext = &v1.SecurityContext{Privileged: new(true)}
	}
	return o
}

func (e *EnvVar) name() string {
	if e.Name != "" {
		return e.Name
	}
	return e.Key
}

func (m *VolumeMount) mountPath() string {
	if m.MountPath != "" {
		return m.MountPath
	}
	return m.Path
}

func (m *VolumeMount) toV1() v1.VolumeMount {
	return v1.VolumeMount{Name: m.Name, ReadOnly: m.ReadOnly, MountPath: m.mountPath()}
}

// resources has thousandths of a CPU, and bytes. What is 0 is not in it.
func resources(cpu, memory int64) v1.ResourceList {
	var list v1.ResourceList
	if cpu != 0 {
		list = v1.ResourceList{v1.ResourceCPU: *resource.NewMilliQuantity(cpu, resource.DecimalSI)}
	}
	if memory != 0 {
		if list == nil {
			list = v1.ResourceList{}
		}
		list[v1.ResourceMemory] = *resource.NewQuantity(memory, resource.DecimalSI)
	}
	return list
}

// fromV1Container converts a container, but for the mounts of volumes that are not shown.
func fromV1Container(o *v1.Container, shown func(volume string) bool) Container {
	c := Container{
		Name:          o.Name,
		Image:         o.Image,
		Entrypoint:    slices.Clone(o.Command),
		Command:       slices.Clone(o.Args),
		WorkingDir:    o.WorkingDir,
		CPU:           o.Resources.Limits.Cpu().MilliValue(),
		Memory:        o.Resources.Limits.Memory().Value(),
		LivenessProbe: fromV1Probe(o.LivenessProbe),
		Lifecycle:     fromV1Lifecycle(o.Lifecycle),
		Privileged:    o.SecurityContext != nil && o.SecurityContext.Privileged != nil && *o.SecurityContext.Privileged,
	}
	if o.ImagePullPolicy != "" {
		c.ImagePullPolicy = "Pull" + string(o.ImagePullPolicy)
	}
	for _, p := range o.Ports {
		c.Ports = append(c.Ports, Port{
			Name: p.Name, HostPort: p.HostPort, ContainerPort: p.ContainerPort, Protocol: string(p.Protocol), HostIP: p.HostIP,
		})
	}
	for _, e := range o.Env {
		if e.ValueFrom == nil {
			c.Env = append(c.Env, EnvVar{Name: e.Name, Key: e.Name, Value: e.Value})
		}
	}
	for _, m := range o.VolumeMounts {
		if shown(m.Name) {
			c.VolumeMounts = append(c.VolumeMounts, VolumeMount{Name: m.Name, ReadOnly: m.ReadOnly, MountPath: m.MountPath, Path: m.MountPath})
		}
	}
	return c
}

func (p *LivenessProbe) toV1() *v1.Probe {
	if p == nil {
		return nil
	}
	o := &v1.Probe{InitialDelaySeconds: p.InitialDelaySeconds}
	o.HTTPGet, o.Exec = p.HTTPGet.toV1(), p.Exec.toV1()
	if p.TCPSocket != nil {
		o.TCPSocket = &v1.TCPSocketAction{Port: portToV1(p.TCPSocket.Port)}
	}
	return o
}

// fromV1Probe is nil for a probe that v1beta1 has no word for.
func fromV1Probe(o *v1.Probe) *LivenessProbe {
	if o == nil || o.GRPC != nil {
		return nil
	}
	p := &LivenessProbe{HTTPGet: fromV1HTTPGet(o.HTTPGet), Exec: fromV1Exec(o.Exec), InitialDelaySeconds: o.InitialDelaySeconds}
	if o.TCPSocket != nil {
		p.TCPSocket = &TCPSocket{Port: o.TCPSocket.Port}
	}
	return p
}

func (h *HTTPGet) toV1() *v1.HTTPGetAction {
	if h == nil {
		return nil
	}
	return &v1.HTTPGetAction{Path: h.Path, Port: portToV1(h.Port), Host: h.Host}
}

func fromV1HTTPGet(o *v1.HTTPGetAction) *HTTPGet {
	if o == nil {
		return nil
	}
	return &HTTPGet{Path: o.Path, Port: o.Port, Host: o.Host}
}

func (e *Exec) toV1() *v1.ExecAction {
	if e == nil {
		return nil
	}
	return &v1.ExecAction{Command: slices.Clone(e.Command)}
}

func fromV1Exec(o *v1.ExecAction) *Exec {
	if o == nil {
		return nil
	}
	return &Exec{Command: slices.Clone(o.Command)}
}

func (l *Lifecycle) toV1() *v1.Lifecycle {
	if l == nil {
		return nil
	}
	return &v1.Lifecycle{PostStart: l.PostStart.toV1(), PreStop: l.PreStop.toV1()}
}

func fromV1Lifecycle(o *v1.Lifecycle) *Lifecycle {
	if o == nil {
		return nil
	}
	l := &Lifecycle{PostStart: fromV1Handler(o.PostStart), PreStop: fromV1Handler(o.PreStop)}
	if *l == (Lifecycle{}) && *o != (v1.Lifecycle{}) {
		return nil
	}
	return l
}

func (h *Handler) toV1() *v1.LifecycleHandler {
	if h == nil {
		return nil
	}
	return &v1.LifecycleHandler{Exec: h.Exec.toV1(), HTTPGet: h.HTTPGet.toV1()}
}

// fromV1Handler is nil for a handler that v1beta1 has no word for.
func fromV1Handler(o *v1.LifecycleHandler) *Handler {
	if o == nil || o.TCPSocket != nil || o.Sleep != nil {
		return nil
	}
	return &Handler{Exec: fromV1Exec(o.Exec), HTTPGet: fromV1HTTPGet(o.HTTPGet)}
}

// portToV1 makes a number of a port that is one in quotes: v1 takes it for a name.
func portToV1(port intstr.IntOrString) intstr.IntOrString {
	if port.Type == intstr.String {
		if n, err := strconv.ParseInt(port.StrVal, 10, 32); err == nil {
			return intstr.FromInt32(int32(n))
		}
	}
	return port
}
