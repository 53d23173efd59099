package v1beta1

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func template(manifest string) string {
	return `{"id":"c","desiredState":{"podTemplate":{"desiredState":{"manifest":{"version":"v1beta1"` + manifest + `}}}}}`
}

func pod(manifest string) string {
	return `{"id":"p","desiredState":{"manifest":{"version":"v1beta1"` + manifest + `}}}`
}

func container(fields string) string {
	return pod(`,"containers":[{"name":"a","image":"b"` + fields + `}]`)
}

// Each row is a field of v1beta1 with what it is in v1, on the way there.
func TestFieldsBecomeThoseOfV1(t *testing.T) {
	podSpec := func(o metav1.Object) *v1.PodSpec { return &o.(*v1.Pod).Spec }
	first := func(o metav1.Object) *v1.Container { return &podSpec(o).Containers[0] }
	probe := `,"livenessProbe":{"enabled":true,"type":"http","initialDelaySeconds":3,`
	cases := []struct {
		name, kind, body string
		got              func(metav1.Object) any
		want             any
	}{
		{"id", "Pod", pod(""), func(o metav1.Object) any { return o.GetName() }, "p"},
		{"id with capitals", "Service", `{"id":"aB"}`, func(o metav1.Object) any { return o.GetName() + o.GetAnnotations()[AnnotationID] }, "abaB"},
		{"what the server sets", "Pod", `{"id":"p","uid":"u","resourceVersion":5,"creationTimestamp":"2014-10-22T12:00:00Z","desiredState":{"host":"h","manifest":{"version":"v1beta2","uuid":"u"}}}`,
			func(o metav1.Object) any {
				return string(o.GetUID()) + o.GetResourceVersion() + o.GetCreationTimestamp().UTC().Format("2006") + podSpec(o).NodeName
			}, "0001"},
		{"namespace", "Pod", `{"namespace":"n","desiredState":{"manifest":{"version":"v1beta1"}}}`, func(o metav1.Object) any { return o.GetNamespace() }, "n"},
		{"annotations", "Service", `{"annotations":{"a":"b","k8sm.io/v1beta1-first-port":"no","k8sm.io/v1beta1-id":"X"},"containerPort":1}`,
			func(o metav1.Object) any { return o.GetAnnotations() }, map[string]string{"a": "b"}},
		{"labels that are numbers", "Pod", `{"labels":{"a":1,"b":true},"desiredState":{"manifest":{"version":"v1beta1"}}}`,
			func(o metav1.Object) any { return o.GetLabels() }, map[string]string{"a": "1", "b": "true"}},
		{"no restart policy", "Pod", pod(""), func(o metav1.Object) any { return podSpec(o).RestartPolicy }, v1.RestartPolicyAlways},
		{"restart policy always", "Pod", pod(`,"restartPolicy":{"always":{}}`), func(o metav1.Object) any { return podSpec(o).RestartPolicy }, v1.RestartPolicyAlways},
		{"restart policy onFailure", "Pod", pod(`,"restartPolicy":{"onFailure":{}}`), func(o metav1.Object) any { return podSpec(o).RestartPolicy }, v1.RestartPolicyOnFailure},
		{"restart policy never", "Pod", pod(`,"restartPolicy":{"never":{}}`), func(o metav1.Object) any { return podSpec(o).RestartPolicy }, v1.RestartPolicyNever},
		{"hostDir", "Pod", pod(`,"volumes":[{"name":"v","source":{"hostDir":{"path":"/p"}}}]`), func(o metav1.Object) any { return podSpec(o).Volumes },
			[]v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/p"}}}}},
		{"emptyDir", "Pod", pod(`,"volumes":[{"name":"v","source":{"emptyDir":{}}},{"name":"w","source":null}]`), func(o metav1.Object) any { return podSpec(o).Volumes },
			[]v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}, {Name: "w", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}},
		{"command", "Pod", container(`,"command":["x","y"]`), func(o metav1.Object) any { return first(o).Args }, []string{"x", "y"}},
		{"entrypoint", "Pod", container(`,"entrypoint":["x"]`), func(o metav1.Object) any { return first(o).Command }, []string{"x"}},
		{"workingDir", "Pod", container(`,"workingDir":"/w"`), func(o metav1.Object) any { return first(o).WorkingDir }, "/w"},
		{"cpu", "Pod", container(`,"cpu":100`), func(o metav1.Object) any { return first(o).Resources.Limits }, v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m")}},
		{"memory", "Pod", container(`,"memory":10000000`), func(o metav1.Object) any { return first(o).Resources.Limits }, v1.ResourceList{v1.ResourceMemory: resource.MustParse("10M")}},
		{"PullAlways", "Pod", container(`,"imagePullPolicy":"PullAlways"`), func(o metav1.Object) any { return first(o).ImagePullPolicy }, v1.PullAlways},
		{"PullIfNotPresent", "Pod", container(`,"imagePullPolicy":"PullIfNotPresent"`), func(o metav1.Object) any { return first(o).ImagePullPolicy }, v1.PullIfNotPresent},
		{"PullNever", "Pod", container(`,"imagePullPolicy":"PullNever"`), func(o metav1.Object) any { return first(o).ImagePullPolicy }, v1.PullNever},
		{"privileged", "Pod", container(`,"privileged":true`), func(o metav1.Object) any { return *first(o).SecurityContext.Privileged }, true},
		{"ports", "Pod", container(`,"ports":[{"name":"d","containerPort":53,"hostPort":54,"protocol":"udp","hostIP":"192.0.2.1"}]`), func(o metav1.Object) any { return first(o).Ports },
			[]v1.ContainerPort{{Name: "d", ContainerPort: 53, HostPort: 54, Protocol: v1.ProtocolUDP, HostIP: "192.0.2.1"}}},
		{"env", "Pod", container(`,"env":[{"key":"A","value":1},{"name":"B","key":"C","value":"x"}]`), func(o metav1.Object) any { return first(o).Env },
			[]v1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "x"}}},
		{"mounts", "Pod", container(`,"volumeMounts":[{"name":"v","path":"/p","mountType":"HOST"},{"name":"w","mountPath":"/m","path":"/p","readOnly":true}]`),
			func(o metav1.Object) any { return first(o).VolumeMounts }, []v1.VolumeMount{{Name: "v", MountPath: "/p"}, {Name: "w", MountPath: "/m", ReadOnly: true}}},
		{"httpGet", "Pod", container(probe + `"httpGet":{"path":"/h","port":"8080","host":"x"}}`), func(o metav1.Object) any { return first(o).LivenessProbe },
			&v1.Probe{InitialDelaySeconds: 3, ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/h", Port: intstr.FromInt32(8080), Host: "x"}}}},
		{"tcpSocket", "Pod", container(probe + `"tcpSocket":{"port":"www"}}`), func(o metav1.Object) any { return first(o).LivenessProbe },
			&v1.Probe{InitialDelaySeconds: 3, ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromString("www")}}}},
		{"exec", "Pod", container(probe + `"exec":{"command":["x"]}}`), func(o metav1.Object) any { return first(o).LivenessProbe },
			&v1.Probe{InitialDelaySeconds: 3, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"x"}}}}},
		{"lifecycle", "Pod", container(`,"lifecycle":{"postStart":{"exec":{"command":["x"]}},"preStop":{"httpGet":{"port":1}}}`), func(o metav1.Object) any { return first(o).Lifecycle },
			&v1.Lifecycle{
				PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"x"}}},
				PreStop:   &v1.LifecycleHandler{HTTPGet: &v1.HTTPGetAction{Port: intstr.FromInt32(1)}},
			}},
		{"replicas", "ReplicationController", `{"id":"c","desiredState":{"replicas":0,"replicaSelector":{"a":"b"},"podTemplate":{"labels":{"a":"b"},"desiredState":{"manifest":{"version":"v1beta1","id":"x"}}}}}`,
			func(o metav1.Object) any { return o.(*v1.ReplicationController).Spec },
			v1.ReplicationControllerSpec{
				Replicas: new(int32(0)), Selector: map[string]string{"a": "b"},
				Template: &v1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b", "replicationController": "c"}},
					Spec:       v1.PodSpec{RestartPolicy: v1.RestartPolicyAlways},
				},
			}},
		{"service", "Service", `{"id":"s","port":80,"protocol":"udp","containerPort":"8080","selector":{"a":"b"},"portalIP":"192.0.2.2","publicIPs":["192.0.2.3"],"createExternalLoadBalancer":true}`,
			func(o metav1.Object) any { return o.(*v1.Service).Spec },
			v1.ServiceSpec{
				Ports:    []v1.ServicePort{{Port: 80, Protocol: v1.ProtocolUDP, TargetPort: intstr.FromInt32(8080)}},
				Selector: map[string]string{"a": "b"}, ClusterIP: "192.0.2.2", ExternalIPs: []string{"192.0.2.3"}, Type: v1.ServiceTypeLoadBalancer,
			}},
		{"containerPort with a name", "Service", `{"id":"s","containerPort":"www"}`, func(o metav1.Object) any { return o.(*v1.Service).Spec.Ports[0].TargetPort }, intstr.FromString("www")},
		{"minion", "Minion", `{"id":"m","hostIP":"192.0.2.4","resources":{"capacity":{"cpu":1000,"memory":1024}}}`, func(o metav1.Object) any { return o.(*v1.Node).Status },
			v1.NodeStatus{
				Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "192.0.2.4"}},
				Capacity:  v1.ResourceList{v1.ResourceCPU: resource.MustParse("1"), v1.ResourceMemory: resource.MustParse("1024")},
			}},
		{"binding", "Binding", `{"podID":"Pod","host":"h","namespace":"n"}`, func(o metav1.Object) any { return o },
			&v1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "pod", Namespace: "n"}, Target: v1.ObjectReference{Kind: "Node", Name: "h"}}},
		{"event", "Event", `{"id":"e","involvedObject":{"kind":"Pod","name":"P","namespace":"n","uid":"u","fieldPath":"f"},"status":"running","reason":"r","message":"m","source":"kubelet","timestamp":"2014-10-22T12:00:00Z"}`,
			func(o metav1.Object) any {
				e := o.(*v1.Event)
				return []any{e.InvolvedObject, e.Action, e.Reason, e.Message, e.Source.Component, e.Type, e.LastTimestamp.UTC().Format("2006-01-02")}
			},
			[]any{v1.ObjectReference{Kind: "Pod", Name: "p", Namespace: "n", UID: "u", FieldPath: "f"}, "running", "r", "m", "kubelet", "Normal", "2014-10-22"}},
		{"event with one of today's types", "Event", `{"status":"Warning"}`, func(o metav1.Object) any { return o.(*v1.Event).Type + o.(*v1.Event).Action }, "Warning"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			o, err := create(decode(t, c.body, c.kind))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.got(o), c.want); diff != "" {
				t.Errorf("v1 has -, and should have +:\n%s", diff)
			}
		})
	}
}

// What v1beta1 shows of an object of v1.
func TestFieldsBecomeThoseOfV1beta1(t *testing.T) {
	started, ended := at(t, "2014-10-22T12:00:00Z"), at(t, "2014-10-22T13:00:00Z")
	phase := func(phase v1.PodPhase) metav1.Object { return &v1.Pod{Status: v1.PodStatus{Phase: phase}} }
	state := func(s v1.ContainerState) metav1.Object {
		return &v1.Pod{Status: v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{{Name: "a", Image: "b", RestartCount: 2, State: s}}}}
	}
	status := func(o Object) any { return o.(*Pod).CurrentState.Status }
	info := func(o Object) any { return o.(*Pod).CurrentState.Info["a"] }
	containers := func(o Object) any { return o.(*Pod).DesiredState.Manifest.Containers }
	spec := func(c v1.Container, volumes ...v1.Volume) metav1.Object {
		return &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{c}, Volumes: volumes}}
	}
	projected := v1.Volume{Name: "token", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{}}}
	cases := []struct {
		name string
		o    metav1.Object
		got  func(Object) any
		want any
	}{
		{"pending", phase(v1.PodPending), status, Waiting},
		{"running", phase(v1.PodRunning), status, Running},
		{"succeeded", phase(v1.PodSucceeded), status, Terminated},
		{"failed", phase(v1.PodFailed), status, Terminated},
		{"unknown", phase(v1.PodUnknown), status, Terminated},
		{"desired status", phase(v1.PodFailed), func(o Object) any { return o.(*Pod).DesiredState.Status }, Running},
		{"uuid", &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}}, func(o Object) any { return o.(*Pod).DesiredState.Manifest.UUID }, "u"},
		{"addresses", &v1.Pod{Spec: v1.PodSpec{NodeName: "n"}, Status: v1.PodStatus{Phase: v1.PodRunning, HostIP: "192.0.2.1", PodIP: "192.0.2.2", StartTime: &started}},
			func(o Object) any { return o.(*Pod).CurrentState },
			PodState{Status: Running, Host: "n", HostIP: "192.0.2.1", PodIP: "192.0.2.2", Info: map[string]ContainerStatus{
				"net": {PodIP: "192.0.2.2", State: ContainerState{Running: &StateRunning{StartedAt: started}}},
			}}},
		{"container that waits", state(v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "r"}}), info,
			ContainerStatus{Image: "b", RestartCount: 2, State: ContainerState{Waiting: &StateWaiting{Reason: "r"}}}},
		{"container that runs", state(v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: started}}), info,
			ContainerStatus{Image: "b", RestartCount: 2, State: ContainerState{Running: &StateRunning{StartedAt: started}}}},
		{"container that has ended", state(v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: 1, Signal: 9, Reason: "r", StartedAt: started, FinishedAt: ended}}), info,
			ContainerStatus{Image: "b", RestartCount: 2, State: ContainerState{Termination: &StateTerminated{ExitCode: 1, Signal: 9, Reason: "r", StartedAt: started, FinishedAt: ended}}}},
		{"what there is no word for", spec(v1.Container{
			Name: "a", Image: "b", ReadinessProbe: &v1.Probe{},
			LivenessProbe: &v1.Probe{ProbeHandler: v1.ProbeHandler{GRPC: &v1.GRPCAction{}}},
			Lifecycle:     &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{}}},
			Env:           []v1.EnvVar{{Name: "A", ValueFrom: &v1.EnvVarSource{}}, {Name: "B", Value: "x"}},
			VolumeMounts:  []v1.VolumeMount{{Name: "token", MountPath: "/t"}},
		}, projected), containers, []Container{{Name: "a", Image: "b", Env: []EnvVar{{Name: "B", Key: "B", Value: "x"}}}}},
		{"volumes there is no word for", spec(v1.Container{}, projected, v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}),
			func(o Object) any { return o.(*Pod).DesiredState.Manifest.Volumes }, []Volume{{Name: "v", Source: &VolumeSource{EmptyDir: &struct{}{}}}}},
		{"mount", spec(v1.Container{VolumeMounts: []v1.VolumeMount{{Name: "v", MountPath: "/m"}}}, v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/p"}}}), containers,
			[]Container{{VolumeMounts: []VolumeMount{{Name: "v", MountPath: "/m", Path: "/m"}}}}},
		{"replicas by default", &v1.ReplicationController{}, func(o Object) any { return o.(*ReplicationController).DesiredState.Replicas }, int32(1)},
		{"the label of a controller's pods", &v1.ReplicationController{
			ObjectMeta: metav1.ObjectMeta{Name: "ab", Annotations: map[string]string{AnnotationID: "aB"}},
			Spec:       v1.ReplicationControllerSpec{Template: &v1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"replicationController": "aB", "x": "y"}}}},
		}, func(o Object) any { return o.(*ReplicationController).DesiredState.PodTemplate.Labels }, map[string]string{"x": "y"}},
		{"the label that a user gave to a controller's pods", &v1.ReplicationController{
			ObjectMeta: metav1.ObjectMeta{Name: "ab"},
			Spec:       v1.ReplicationControllerSpec{Template: &v1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"replicationController": "aB"}}}},
		}, func(o Object) any { return o.(*ReplicationController).DesiredState.PodTemplate.Labels }, map[string]string{"replicationController": "aB"}},
		{"service without ports", &v1.Service{Spec: v1.ServiceSpec{Type: v1.ServiceTypeExternalName}}, func(o Object) any { return o.(*Service).Port }, int32(0)},
		{"our annotations", &v1.Service{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{AnnotationID: "x", AnnotationFirstPort: "true", "a": "b"}}},
			func(o Object) any { return o.Base().Annotations }, map[string]string{"a": "b"}},
		{"minion", &v1.Node{Status: v1.NodeStatus{Addresses: []v1.NodeAddress{
			{Type: v1.NodeHostName, Address: "h"}, {Type: v1.NodeInternalIP, Address: "192.0.2.1"}, {Type: v1.NodeInternalIP, Address: "2001:db8::1"},
		}}}, func(o Object) any { return o.(*Minion).HostIP }, "192.0.2.1"},
		{"event of today", &v1.Event{Type: v1.EventTypeWarning, ReportingController: "c", EventTime: metav1.MicroTime(started)},
			func(o Object) any {
				e := o.(*Event)
				return []any{e.Status, e.Source, e.Timestamp.UTC().Format("2006")}
			}, []any{"Warning", "c", "2014"}},
		{"event of then", &v1.Event{Type: v1.EventTypeNormal, Action: "running", Source: v1.EventSource{Component: "kubelet"}, LastTimestamp: started},
			func(o Object) any {
				e := o.(*Event)
				return []any{e.Status, e.Source, e.Timestamp.UTC().Format("2006")}
			}, []any{"running", "kubelet", "2014"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.got(show(c.o)), c.want); diff != "" {
				t.Errorf("v1beta1 has -, and should have +:\n%s", diff)
			}
		})
	}
}

func TestWhatCannotBeHadTodayIsRefused(t *testing.T) {
	disk := `,"volumes":[{"name":"v","source":{"emptyDir":{}}},{"name":"d","source":{"persistentDisk":{"pdName":"disk"}}}]`
	git := `,"volumes":[{"name":"g","source":{"gitRepo":{"repository":"https://example.com/r"}}}]`
	cases := []struct {
		name, kind, body string
		fields           []string
	}{
		{"persistentDisk", "Pod", pod(disk), []string{"desiredState.manifest.volumes[1].source.persistentDisk"}},
		{"gitRepo", "Pod", pod(git), []string{"desiredState.manifest.volumes[0].source.gitRepo"}},
		{"no version", "Pod", `{"id":"p"}`, []string{"desiredState.manifest.version"}},
		{"all of it in a template", "ReplicationController", template(disk + `,"containers":[{"name":"A"},{"image":"b"}]`), []string{
			"desiredState.podTemplate.desiredState.manifest.volumes[1].source.persistentDisk",
			"desiredState.podTemplate.desiredState.manifest.containers[0].name",
			"desiredState.podTemplate.desiredState.manifest.containers[0].image",
			"desiredState.podTemplate.desiredState.manifest.containers[1].name",
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			o := decode(t, c.body, c.kind)
			_, created := create(o)
			var overlaid error
			switch o := o.(type) {
			case *Pod:
				_, overlaid = OverlayPod(&v1.Pod{}, o)
			case *ReplicationController:
				_, overlaid = OverlayReplicationController(&v1.ReplicationController{}, o)
			}
			for _, err := range []error{created, overlaid} {
				s := status(t, err)
				var fields []string
				for _, cause := range s.Details.Causes {
					fields = append(fields, cause.Field)
				}
				if diff := cmp.Diff(fields, c.fields); diff != "" || s.Code != 422 || s.Reason != "Invalid" || s.Details.ID != o.Base().ID {
					t.Errorf("the answer is %s:\n%s", encode(t, s), diff)
				}
			}
		})
	}
}

func TestIDs(t *testing.T) {
	capitals := &metav1.ObjectMeta{Name: "rediscontroller", Annotations: map[string]string{AnnotationID: "redisController"}}
	foreign := &metav1.ObjectMeta{Name: "copy", Annotations: map[string]string{AnnotationID: "redisController"}}
	small := &metav1.ObjectMeta{Name: "redis"}
	for _, c := range []struct {
		o       metav1.Object
		id      string
		answers []string
		silent  []string
	}{
		{capitals, "redisController", []string{"redisController", "rediscontroller"}, []string{"RedisController", "redis", ""}},
		{foreign, "copy", []string{"copy"}, []string{"redisController"}},
		{small, "redis", []string{"redis"}, []string{"Redis"}},
	} {
		if got := IDOf(c.o); got != c.id {
			t.Errorf("the id of %s is %s", c.o.GetName(), got)
		}
		for _, id := range c.answers {
			if !Answers(c.o, id) {
				t.Errorf("%s does not answer to %q", c.o.GetName(), id)
			}
		}
		for _, id := range c.silent {
			if Answers(c.o, id) {
				t.Errorf("%s answers to %q", c.o.GetName(), id)
			}
		}
	}
}

func TestSelfLink(t *testing.T) {
	for _, c := range []struct{ version, resource, id, namespace, want string }{
		{V1Beta1, "pods", "", "", "/api/v1beta1/pods"},
		{V1Beta2, "pods", "a", "default", "/api/v1beta2/pods/a"},
		{V1Beta1, "pods", "a", "n", "/api/v1beta1/pods/a?namespace=n"},
	} {
		if got := SelfLink(c.version, c.resource, c.id, c.namespace); got != c.want {
			t.Errorf("SelfLink(%v) = %s", c, got)
		}
	}
}

func TestVersionIsReadFromNumbersAndStrings(t *testing.T) {
	for text, want := range map[string]Version{`5`: 5, `"5"`: 5, `""`: 0, `null`: 0, `18446744073709551615`: 18446744073709551615} {
		var v Version
		if err := json.Unmarshal([]byte(text), &v); err != nil || v != want {
			t.Errorf("%s is read as %d, %v", text, v, err)
		}
	}
	for _, text := range []string{`-1`, `1.5`, `"x"`, `true`, `[]`, `18446744073709551616`} {
		if err := json.Unmarshal([]byte(text), new(Version)); err == nil {
			t.Errorf("%s is read", text)
		}
	}
	if ResourceVersion("x") != 0 || ResourceVersion("") != 0 || ResourceVersion("7") != 7 {
		t.Error("versions of v1 are read wrongly")
	}
}

func TestServiceWithoutContainerPortFollowsTheFirstPort(t *testing.T) {
	for _, body := range []string{`{"port":80}`, `{"port":80,"containerPort":0}`, `{"port":80,"containerPort":"0"}`, `{"port":80,"containerPort":""}`} {
		o := decode(t, body, "Service").(*Service).ToV1()
		if !WantsFirstPort(o) || o.Spec.Ports[0].TargetPort != (intstr.IntOrString{}) {
			t.Errorf("%s becomes %v", body, o)
		}
		if !SetFirstPort(o, 8080) || SetFirstPort(o, 8080) || o.Spec.Ports[0].TargetPort != intstr.FromInt32(8080) {
			t.Errorf("%s sends to %v", body, o.Spec.Ports)
		}
		if s := FromV1Service(o); s.ContainerPort != (intstr.IntOrString{}) || s.Port != 80 {
			t.Errorf("%s is shown with the port %v", body, s.ContainerPort)
		}
		explicit := FromV1Service(o)
		explicit.ContainerPort = intstr.FromInt32(81)
		if o, err := OverlayService(o, explicit); err != nil || WantsFirstPort(o) || o.Spec.Ports[0].TargetPort != intstr.FromInt32(81) {
			t.Errorf("an explicit port becomes %v, %v", o, err)
		}
	}
	if WantsFirstPort(decode(t, `{"port":80,"containerPort":81}`, "Service").(*Service).ToV1()) || SetFirstPort(&v1.Service{}, 1) {
		t.Error("a service with a containerPort, or without ports, follows another")
	}
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Ports: []v1.ContainerPort{{ContainerPort: 5}, {ContainerPort: 6}}}, {Ports: []v1.ContainerPort{{ContainerPort: 7}}}}}}
	if port, ok := FirstPort(pod); port != 5 || !ok {
		t.Errorf("the first port is %d", port)
	}
	pod.Spec.Containers[0].Ports = nil
	for _, o := range []*v1.Pod{pod, {}} {
		if port, ok := FirstPort(o); ok {
			t.Errorf("the first port is %d", port)
		}
	}
}
