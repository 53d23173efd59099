package v1beta1

import (
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// ToV1 converts a service that is created. If it has no containerPort, WantsFirstPort says so of the result.
func (s *Service) ToV1() *v1.Service {
	port := v1.ServicePort{Port: s.Port, Protocol: v1.Protocol(strings.ToUpper(s.Protocol))}
	if !s.wantsFirstPort() {
		port.TargetPort = portToV1(s.ContainerPort)
	}
	o := &v1.Service{
		ObjectMeta: s.objectMeta(s.Labels),
		Spec: v1.ServiceSpec{
			Ports:       []v1.ServicePort{port},
			Selector:    maps.Clone(s.Selector),
			ClusterIP:   s.PortalIP,
			ExternalIPs: slices.Clone(s.PublicIPs),
		},
	}
	if s.CreateExternalLoadBalancer {
		o.Spec.Type = v1.ServiceTypeLoadBalancer
	}
	if s.wantsFirstPort() {
		metav1.SetMetaDataAnnotation(&o.ObjectMeta, AnnotationFirstPort, "true")
	}
	return o
}

func (s *Service) wantsFirstPort() bool {
	port := portToV1(s.ContainerPort)
	return port.Type == intstr.Int && port.IntVal == 0 || port.Type == intstr.String && port.StrVal == ""
}

// WantsFirstPort tells whether a service has no containerPort: it wants the first port of the first container of its pods.
func WantsFirstPort(o *v1.Service) bool { return o.Annotations[AnnotationFirstPort] == "true" }

// SetFirstPort changes a service that WantsFirstPort to send to this port of its pods. It reports whether that is a change.
func SetFirstPort(o *v1.Service, port int32) bool {
	if len(o.Spec.Ports) == 0 || o.Spec.Ports[0].TargetPort == intstr.FromInt32(port) {
		return false
	}
	o.Spec.Ports[0].TargetPort = intstr.FromInt32(port)
	return true
}

// FirstPort is the port that a service without containerPort sends to on a pod; false if the pod's first container lists none.
func FirstPort(o *v1.Pod) (int32, bool) {
	if len(o.Spec.Containers) == 0 || len(o.Spec.Containers[0].Ports) == 0 {
		return 0, false
	}
	return o.Spec.Containers[0].Ports[0].ContainerPort, true
}

// FromV1Service converts a service. Of its ports v1beta1 has the first.
func FromV1Service(o *v1.Service) *Service {
	s := &Service{
		Meta:                       fromV1(o),
		Labels:                     maps.Clone(o.Labels),
		Selector:                   maps.Clone(o.Spec.Selector),
		CreateExternalLoadBalancer: o.Spec.Type == v1.ServiceTypeLoadBalancer,
		PublicIPs:                  slices.Clone(o.Spec.ExternalIPs),
		PortalIP:                   o.Spec.ClusterIP,
	}
	if len(o.Spec.Ports) > 0 {
		s.Port, s.Protocol = o.Spec.Ports[0].Port, string(o.Spec.Ports[0].Protocol)
		if !WantsFirstPort(o) {
			s.ContainerPort = o.Spec.Ports[0].TargetPort
		}
	}
	return s
}

// OverlayService is OverlayPod for services. An unset protocol or portalIP stays, and so do all ports but the first.
func OverlayService(stored *v1.Service, s *Service) (*v1.Service, error) {
	if err := Conflict("service", s.ID, s.ResourceVersion, ResourceVersion(stored.ResourceVersion)); err != nil {
		return nil, err
	}
	o := stored.DeepCopy()
	s.overlay(&o.ObjectMeta, s.Labels)
	o.Spec.Selector = maps.Clone(s.Selector)
	o.Spec.ExternalIPs = slices.Clone(s.PublicIPs)
	if s.PortalIP != "" {
		o.Spec.ClusterIP = s.PortalIP
	}
	switch balanced := o.Spec.Type == v1.ServiceTypeLoadBalancer; {
	case s.CreateExternalLoadBalancer && !balanced:
		o.Spec.Type = v1.ServiceTypeLoadBalancer
	case !s.CreateExternalLoadBalancer && balanced:
		o.Spec.Type = v1.ServiceTypeClusterIP
	}
	s.overlayPort(o)
	return o, nil
}

func (s *Service) overlayPort(o *v1.Service) {
	if len(o.Spec.Ports) == 0 && s.Port == 0 {
		return
	}
	if len(o.Spec.Ports) == 0 {
		o.Spec.Ports = []v1.ServicePort{{}}
	}
	port := &o.Spec.Ports[0]
	port.Port = s.Port
	if s.Protocol != "" {
		port.Protocol = v1.Protocol(strings.ToUpper(s.Protocol))
	}
	if s.wantsFirstPort() {
		metav1.SetMetaDataAnnotation(&o.ObjectMeta, AnnotationFirstPort, "true")
	} else {
		delete(o.Annotations, AnnotationFirstPort)
		port.TargetPort = portToV1(s.ContainerPort)
	}
}
