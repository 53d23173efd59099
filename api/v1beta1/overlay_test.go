package v1beta1

import (
	"encoding/json"
	"math/rand"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// written is an object after its way to a client and back.
func written[T any](t *testing.T, o *T) *T {
	t.Helper()
	back := new(T)
	if err := json.Unmarshal([]byte(encode(t, o)), back); err != nil {
		t.Fatal(err)
	}
	return back
}

// A client that reads an object and writes it back must change nothing, whatever the object has.
func TestWritingWhatWasReadChangesNothing(t *testing.T) {
	fill := fuzzer.FuzzerFor(metafuzzer.Funcs, rand.NewSource(1), serializer.NewCodecFactory(runtime.NewScheme()))
	for range 300 {
		pod, controller, service, event := &v1.Pod{}, &v1.ReplicationController{}, &v1.Service{}, &v1.Event{}
		for _, o := range []metav1.Object{pod, controller, service, event} {
			fill.Fill(o)
			o.SetResourceVersion("5")
		}
		controller.Spec.Template = &v1.PodTemplateSpec{}
		fill.Fill(controller.Spec.Template)
		if controller.Spec.Replicas == nil {
			controller.Spec.Replicas = new(int32(1))
		}
		plausible(&pod.Spec)
		plausible(&controller.Spec.Template.Spec)
		for i := range service.Spec.Ports {
			service.Spec.Ports[i].Protocol = v1.ProtocolUDP
			service.Spec.Ports[i].TargetPort = intstr.FromString("www")
		}
		unchanged(t, pod, FromV1Pod, OverlayPod)
		unchanged(t, controller, FromV1ReplicationController, OverlayReplicationController)
		unchanged(t, service, FromV1Service, OverlayService)
		unchanged(t, event, FromV1Event, OverlayEvent)
	}
}

func unchanged[V1, Old any](t *testing.T, o *V1, from func(*V1) *Old, overlay func(*V1, *Old) (*V1, error)) {
	t.Helper()
	before := encode(t, o)
	got, err := overlay(o, written(t, from(o)))
	if err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(got, o) {
		t.Fatalf("what was stored is -, and what is written +:\n%s", cmp.Diff(o, got))
	}
	if encode(t, o) != before {
		t.Fatal("the stored object is changed itself")
	}
}

// plausible gives a random spec the words that v1 allows, where v1beta1 has no others.
func plausible(s *v1.PodSpec) {
	s.RestartPolicy = v1.RestartPolicyNever
	for i := range s.Containers {
		c := &s.Containers[i]
		c.Name, c.Image = "c"+string(rune('a'+i)), "image"
		for j := range c.Ports {
			c.Ports[j].Protocol = v1.ProtocolTCP
		}
		if p := c.LivenessProbe; p != nil {
			p.ProbeHandler = v1.ProbeHandler{HTTPGet: p.HTTPGet}
			if p.HTTPGet == nil {
				p.GRPC = &v1.GRPCAction{Port: 5}
			}
		}
		if c.Lifecycle != nil {
			for _, h := range []*v1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
				if h != nil && h.HTTPGet != nil {
					*h = v1.LifecycleHandler{HTTPGet: h.HTTPGet}
				}
			}
		}
	}
	for i := range s.Volumes {
		v := &s.Volumes[i].VolumeSource
		*v = v1.VolumeSource{HostPath: v.HostPath, EmptyDir: v.EmptyDir, Projected: v.Projected}
		switch {
		case v.HostPath != nil:
			*v = v1.VolumeSource{HostPath: v.HostPath}
		case v.EmptyDir != nil:
			*v = v1.VolumeSource{EmptyDir: v.EmptyDir}
		}
	}
}

// today is a pod as the API server has it, with much that v1beta1 has no word for.
func today() *v1.Pod {
	token := v1.VolumeMount{Name: "token", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount", ReadOnly: true}
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "web", Namespace: "n", UID: "u", ResourceVersion: "5", Generation: 3,
			Labels:          map[string]string{"app": "web", "tier": "front"},
			Annotations:     map[string]string{"k8sm.io/task-id": "t", "kubectl.kubernetes.io/x": "y", "owner": "me", "note": "x", AnnotationID: "Web"},
			Finalizers:      []string{"example.com/f"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicationController", Name: "c"}},
		},
		Spec: v1.PodSpec{
			NodeName: "node", ServiceAccountName: "sa", RestartPolicy: v1.RestartPolicyAlways,
			Tolerations:    []v1.Toleration{{Key: "node.kubernetes.io/not-ready", Operator: v1.TolerationOpExists}},
			InitContainers: []v1.Container{{Name: "init", Image: "i"}},
			Volumes: []v1.Volume{
				{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}},
				{Name: "token", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{}}},
				{Name: "logs", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/l", Type: new(v1.HostPathDirectory)}}},
			},
			Containers: []v1.Container{
				{
					Name: "web", Image: "nginx:1", ImagePullPolicy: v1.PullIfNotPresent, TerminationMessagePath: "/dev/termination-log",
					Env: []v1.EnvVar{
						{Name: "FIRST", ValueFrom: &v1.EnvVarSource{}}, {Name: "A", Value: "1"}, {Name: "IP", ValueFrom: &v1.EnvVarSource{}}, {Name: "B", Value: "2"},
					},
					VolumeMounts: []v1.VolumeMount{{Name: "data", MountPath: "/data", SubPath: "sub"}, token, {Name: "logs", MountPath: "/logs"}},
					Resources: v1.ResourceRequirements{
						Limits:   v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m"), v1.ResourceMemory: resource.MustParse("1Mi"), "example.com/gpu": resource.MustParse("1")},
						Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m"), v1.ResourceMemory: resource.MustParse("512Ki")},
					},
					LivenessProbe: &v1.Probe{
						TimeoutSeconds: 7, InitialDelaySeconds: 3, ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(80), Scheme: v1.URISchemeHTTPS}},
					},
					Lifecycle:       &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 1}}},
					SecurityContext: &v1.SecurityContext{RunAsNonRoot: new(true)},
				},
				{Name: "side", Image: "side:1", ReadinessProbe: &v1.Probe{}},
			},
		},
	}
}

// Each row is one change that a client makes to today's pod, with the same change in v1. All else must stay.
func TestClientsChangeWhatTheyMeanTo(t *testing.T) {
	cases := []struct {
		name   string
		client func(*Pod)
		want   func(*v1.Pod)
	}{
		{"nothing", func(*Pod) {}, func(*v1.Pod) {}},
		{"image", func(p *Pod) { p.DesiredState.Manifest.Containers[0].Image = "nginx:2" }, func(o *v1.Pod) { o.Spec.Containers[0].Image = "nginx:2" }},
		{"labels", func(p *Pod) { p.Labels = map[string]string{"app": "db"} }, func(o *v1.Pod) { o.Labels = map[string]string{"app": "db"} }},
		{"annotations", func(p *Pod) { p.Annotations = map[string]string{"note": "y", "kubectl.kubernetes.io/x": "z"} }, func(o *v1.Pod) {
			delete(o.Annotations, "owner")
			o.Annotations["note"], o.Annotations["kubectl.kubernetes.io/x"] = "y", "z"
		}},
		{"no annotations", func(p *Pod) { p.Annotations = nil }, func(o *v1.Pod) { delete(o.Annotations, "owner"); delete(o.Annotations, "note") }},
		{"another id", func(p *Pod) { p.Annotations[AnnotationID] = "Other" }, func(*v1.Pod) {}},
		{"what only the server sets", func(p *Pod) { p.DesiredState.Host, p.DesiredState.Manifest.UUID, p.CurrentState = "h", "x", PodState{} }, func(*v1.Pod) {}},
		{"unset policies", func(p *Pod) {
			p.DesiredState.Manifest.Containers[0].ImagePullPolicy, p.DesiredState.Manifest.RestartPolicy = "", RestartPolicy{}
		}, func(*v1.Pod) {}},
		{"policies", func(p *Pod) {
			p.DesiredState.Manifest.Containers[0].ImagePullPolicy, p.DesiredState.Manifest.RestartPolicy = "PullNever", RestartPolicy{Never: &struct{}{}}
		}, func(o *v1.Pod) {
			o.Spec.Containers[0].ImagePullPolicy, o.Spec.RestartPolicy = v1.PullNever, v1.RestartPolicyNever
		}},
		{"containers in another order", func(p *Pod) { slices.Reverse(p.DesiredState.Manifest.Containers) }, func(o *v1.Pod) { slices.Reverse(o.Spec.Containers) }},
		{"a container less", func(p *Pod) { p.DesiredState.Manifest.Containers = p.DesiredState.Manifest.Containers[1:] }, func(o *v1.Pod) { o.Spec.Containers = o.Spec.Containers[1:] }},
		{"a container more", func(p *Pod) {
			p.DesiredState.Manifest.Containers = append(p.DesiredState.Manifest.Containers, Container{Name: "new", Image: "n"})
		}, func(o *v1.Pod) { o.Spec.Containers = append(o.Spec.Containers, v1.Container{Name: "new", Image: "n"}) }},
		{"limit with a request of its own", func(p *Pod) { p.DesiredState.Manifest.Containers[0].Memory = 2 << 20 }, func(o *v1.Pod) {
			o.Spec.Containers[0].Resources.Limits[v1.ResourceMemory] = resource.MustParse("2Mi")
		}},
		{"limit that the request followed", func(p *Pod) { p.DesiredState.Manifest.Containers[0].CPU = 200 }, func(o *v1.Pod) {
			o.Spec.Containers[0].Resources.Limits[v1.ResourceCPU] = resource.MustParse("200m")
			o.Spec.Containers[0].Resources.Requests[v1.ResourceCPU] = resource.MustParse("200m")
		}},
		{"no limit", func(p *Pod) { p.DesiredState.Manifest.Containers[0].CPU = 0 }, func(o *v1.Pod) {
			delete(o.Spec.Containers[0].Resources.Limits, v1.ResourceCPU)
			delete(o.Spec.Containers[0].Resources.Requests, v1.ResourceCPU)
		}},
		{"first limit", func(p *Pod) { p.DesiredState.Manifest.Containers[1].CPU = 5 }, func(o *v1.Pod) {
			o.Spec.Containers[1].Resources.Limits = v1.ResourceList{v1.ResourceCPU: resource.MustParse("5m")}
		}},
		{"environment", func(p *Pod) {
			p.DesiredState.Manifest.Containers[0].Env = []EnvVar{{Key: "B", Value: "3"}, {Name: "C", Value: "4"}, {Name: "A", Value: "1"}}
		}, func(o *v1.Pod) {
			o.Spec.Containers[0].Env = []v1.EnvVar{
				{Name: "FIRST", ValueFrom: &v1.EnvVarSource{}}, {Name: "B", Value: "3"}, {Name: "C", Value: "4"}, {Name: "A", Value: "1"}, {Name: "IP", ValueFrom: &v1.EnvVarSource{}},
			}
		}},
		{"a value where v1beta1 shows none", func(p *Pod) {
			p.DesiredState.Manifest.Containers[0].Env = []EnvVar{{Name: "A", Value: "1"}, {Name: "IP", Value: "x"}}
		}, func(o *v1.Pod) {
			o.Spec.Containers[0].Env = []v1.EnvVar{{Name: "FIRST", ValueFrom: &v1.EnvVarSource{}}, {Name: "A", Value: "1"}, {Name: "IP", Value: "x"}}
		}},
		{"volumes", func(p *Pod) {
			p.DesiredState.Manifest.Volumes = []Volume{{Name: "logs", Source: &VolumeSource{HostDir: &HostDir{Path: "/other"}}}, {Name: "new"}}
			p.DesiredState.Manifest.Containers[0].VolumeMounts = []VolumeMount{{Name: "logs", Path: "/logs", ReadOnly: true}, {Name: "new", Path: "/data"}}
		}, func(o *v1.Pod) {
			token, logs := o.Spec.Volumes[1], o.Spec.Volumes[2]
			logs.HostPath.Path = "/other"
			o.Spec.Volumes = []v1.Volume{token, logs, {Name: "new", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
			mounts := o.Spec.Containers[0].VolumeMounts
			mounts[2].ReadOnly = true
			o.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{mounts[2], {Name: "new", MountPath: "/data"}, mounts[1]}
		}},
		{"volume of another kind", func(p *Pod) { p.DesiredState.Manifest.Volumes[0].Source = &VolumeSource{HostDir: &HostDir{Path: "/p"}} }, func(o *v1.Pod) {
			o.Spec.Volumes[0].VolumeSource = v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/p"}}
		}},
		{"probe", func(p *Pod) {
			p.DesiredState.Manifest.Containers[0].LivenessProbe.HTTPGet.Port = intstr.FromString("81")
		}, func(o *v1.Pod) {
			o.Spec.Containers[0].LivenessProbe.HTTPGet.Port = intstr.FromInt32(81)
		}},
		{"probe of another kind", func(p *Pod) {
			p.DesiredState.Manifest.Containers[0].LivenessProbe = &LivenessProbe{Exec: &Exec{Command: []string{"x"}}, InitialDelaySeconds: 4}
		}, func(o *v1.Pod) {
			o.Spec.Containers[0].LivenessProbe.ProbeHandler = v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"x"}}}
			o.Spec.Containers[0].LivenessProbe.InitialDelaySeconds = 4
		}},
		{"no probe", func(p *Pod) { p.DesiredState.Manifest.Containers[0].LivenessProbe = nil }, func(o *v1.Pod) { o.Spec.Containers[0].LivenessProbe = nil }},
		{"first probe", func(p *Pod) {
			p.DesiredState.Manifest.Containers[1].LivenessProbe = &LivenessProbe{TCPSocket: &TCPSocket{}}
		}, func(o *v1.Pod) {
			o.Spec.Containers[1].LivenessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{}}}
		}},
		{"lifecycle", func(p *Pod) {
			p.DesiredState.Manifest.Containers[0].Lifecycle = &Lifecycle{PostStart: &Handler{Exec: &Exec{Command: []string{"x"}}}}
		}, func(o *v1.Pod) {
			o.Spec.Containers[0].Lifecycle.PostStart = &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"x"}}}
		}},
		{"privileged", func(p *Pod) {
			p.DesiredState.Manifest.Containers[0].Privileged, p.DesiredState.Manifest.Containers[1].Privileged = true, true
		}, func(o *v1.Pod) {
			o.Spec.Containers[0].SecurityContext.Privileged = new(true)
			o.Spec.Containers[1].SecurityContext = &v1.SecurityContext{Privileged: new(true)}
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			stored, want := today(), today()
			p := written(t, FromV1Pod(stored))
			c.client(p)
			c.want(want)
			got, err := OverlayPod(stored, p)
			if err != nil {
				t.Fatal(err)
			}
			if !equality.Semantic.DeepEqual(got, want) {
				t.Errorf("what is written is -, and should be +:\n%s", cmp.Diff(got, want))
			}
			if !equality.Semantic.DeepEqual(stored, today()) {
				t.Error("the stored pod is changed itself")
			}
		})
	}
}

func TestReplicationControllersAreOverlaid(t *testing.T) {
	stored := func() *v1.ReplicationController {
		o := &v1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "c", ResourceVersion: "5", Labels: map[string]string{"a": "b"}}}
		o.Spec = v1.ReplicationControllerSpec{
			Replicas: new(int32(2)), Selector: map[string]string{"a": "b"}, MinReadySeconds: 9,
			Template: &v1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b", "replicationController": "c"}}, Spec: today().Spec},
		}
		return o
	}
	r := written(t, FromV1ReplicationController(stored()))
	r.DesiredState.Replicas, r.DesiredState.ReplicaSelector = 0, map[string]string{"x": "y"}
	r.DesiredState.PodTemplate.Labels = map[string]string{"x": "y"}
	r.DesiredState.PodTemplate.DesiredState.Manifest.Containers[1].Image = "side:2"
	want := stored()
	want.Spec.Replicas, want.Spec.Selector = new(int32(0)), map[string]string{"x": "y"}
	want.Spec.Template.Labels = map[string]string{"x": "y", "replicationController": "c"}
	want.Spec.Template.Spec.Containers[1].Image = "side:2"
	got, err := OverlayReplicationController(stored(), r)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("what is written is -, and should be +:\n%s", diff)
	}
	r.DesiredState.PodTemplate.Labels["replicationController"] = "mine"
	if got, err := OverlayReplicationController(stored(), r); err != nil || got.Spec.Template.Labels["replicationController"] != "mine" {
		t.Errorf("a label that the client has written becomes %v, %v", got, err)
	}
}

func TestServicesAreOverlaid(t *testing.T) {
	stored := func() *v1.Service {
		o := &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s", ResourceVersion: "5"}}
		o.Spec = v1.ServiceSpec{
			Type: v1.ServiceTypeLoadBalancer, ClusterIP: "192.0.2.1", ClusterIPs: []string{"192.0.2.1"}, Selector: map[string]string{"a": "b"},
			SessionAffinity: v1.ServiceAffinityClientIP, ExternalIPs: []string{"192.0.2.9"},
			Ports: []v1.ServicePort{
				{Name: "www", Port: 80, Protocol: v1.ProtocolTCP, TargetPort: intstr.FromInt32(8080), NodePort: 30000}, {Name: "tls", Port: 443},
			},
		}
		return o
	}
	cases := []struct {
		name   string
		client func(*Service)
		want   func(*v1.Service)
	}{
		{"nothing", func(*Service) {}, func(*v1.Service) {}},
		{"unset", func(s *Service) { s.PortalIP, s.Protocol = "", "" }, func(*v1.Service) {}},
		{"all", func(s *Service) {
			s.Port, s.Protocol, s.ContainerPort, s.Selector = 81, "udp", intstr.FromString("x"), map[string]string{"c": "d"}
			s.Labels, s.PublicIPs, s.PortalIP, s.CreateExternalLoadBalancer = map[string]string{"e": "f"}, nil, "192.0.2.2", false
		}, func(o *v1.Service) {
			o.Spec.Ports[0].Port, o.Spec.Ports[0].Protocol, o.Spec.Ports[0].TargetPort = 81, v1.ProtocolUDP, intstr.FromString("x")
			o.Spec.Selector, o.Labels, o.Spec.ExternalIPs = map[string]string{"c": "d"}, map[string]string{"e": "f"}, nil
			o.Spec.ClusterIP, o.Spec.Type = "192.0.2.2", v1.ServiceTypeClusterIP
		}},
		{"no containerPort any more", func(s *Service) { s.ContainerPort = intstr.IntOrString{} }, func(o *v1.Service) {
			o.Annotations = map[string]string{AnnotationFirstPort: "true"}
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, want := written(t, FromV1Service(stored())), stored()
			c.client(s)
			c.want(want)
			got, err := OverlayService(stored(), s)
			if err != nil {
				t.Fatal(err)
			}
			if !equality.Semantic.DeepEqual(got, want) {
				t.Errorf("what is written is -, and should be +:\n%s", cmp.Diff(got, want))
			}
		})
	}
	bare := &v1.Service{Spec: v1.ServiceSpec{Type: v1.ServiceTypeClusterIP}}
	got, err := OverlayService(bare, &Service{Port: 80, CreateExternalLoadBalancer: true})
	if err != nil || got.Spec.Type != v1.ServiceTypeLoadBalancer || len(got.Spec.Ports) != 1 || got.Spec.Ports[0].Port != 80 {
		t.Errorf("a port and a load balancer become %v, %v", got, err)
	}
}

func TestStaleWritesConflict(t *testing.T) {
	for _, version := range []Version{0, 4, 6} {
		m := Meta{ID: "x", ResourceVersion: version}
		stored := metav1.ObjectMeta{Name: "x", ResourceVersion: "5"}
		_, pod := OverlayPod(&v1.Pod{ObjectMeta: stored}, &Pod{Meta: m})
		_, controller := OverlayReplicationController(&v1.ReplicationController{ObjectMeta: stored}, &ReplicationController{Meta: m})
		_, service := OverlayService(&v1.Service{ObjectMeta: stored}, &Service{Meta: m})
		_, event := OverlayEvent(&v1.Event{ObjectMeta: stored}, &Event{Meta: m})
		for kind, err := range map[string]error{"pod": pod, "replicationController": controller, "service": service, "event": event} {
			s := status(t, err)
			if s.Code != 409 || s.Reason != "Conflict" || s.Details.Kind != kind || s.Details.ID != "x" {
				t.Errorf("version %d: the answer is %s", version, encode(t, s))
			}
		}
	}
}
