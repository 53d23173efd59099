package v1beta1

import (
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FromV1Node converts a node. Minions had no labels, no annotations and no time of creation.
func FromV1Node(o *v1.Node) *Minion {
	m := &Minion{Meta: fromV1(o)}
	m.Annotations, m.CreationTimestamp = nil, metav1.Time{}
	for _, a := range o.Status.Addresses {
		if a.Type == v1.NodeInternalIP {
			m.HostIP = a.Address
			break
		}
	}
	m.NodeResources.Capacity = Capacity{CPU: o.Status.Capacity.Cpu().MilliValue(), Memory: o.Status.Capacity.Memory().Value()}
	return m
}

// ToV1 converts a binding. The name of the result is that of the pod.
func (b *Binding) ToV1() *v1.Binding {
	return &v1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: NameOf(b.PodID), Namespace: b.Namespace},
		Target:     v1.ObjectReference{Kind: "Node", Name: NameOf(b.Host)},
	}
}

// ToV1 converts a minion that is created.
func (m *Minion) ToV1() *v1.Node {
	o := &v1.Node{ObjectMeta: m.objectMeta(nil)}
	o.Namespace = ""
	if m.HostIP != "" {
		o.Status.Addresses = []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: m.HostIP}}
	}
	o.Status.Capacity = resources(m.NodeResources.Capacity.CPU, m.NodeResources.Capacity.Memory)
	return o
}
