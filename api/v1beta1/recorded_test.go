//nolint:staticcheck // the API of 2014 has Endpoints, and nothing else can write those without a selector
package v1beta1

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The files below testdata were recorded from Kubernetes v0.4-dev of 2014-10-22.

func read(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(append([]string{"testdata"}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(strings.ReplaceAll(string(data), "\r\n", "\n"))
}

// exchange is a recorded request with its answer's body.
func exchange(t *testing.T, name string) (request, answer string) {
	t.Helper()
	head, answer, ok := strings.Cut(read(t, "http", name), "\n\n")
	if !ok {
		t.Fatalf("%s has no body", name)
	}
	request, _, _ = strings.Cut(head, "\n")
	return request, answer
}

func answer(t *testing.T, name string) string {
	t.Helper()
	_, answer := exchange(t, name)
	return answer
}

// sent is the body of a recorded request, which curl was given on its command line.
func sent(t *testing.T, name string) string {
	t.Helper()
	request, _ := exchange(t, name)
	_, body, ok := strings.Cut(request, "--data-binary ")
	if !ok {
		t.Fatalf("%s sends nothing", name)
	}
	return body[:strings.LastIndex(body, " http://")]
}

func resourceOf(t *testing.T, name string) Resource {
	t.Helper()
	for _, r := range Resources() {
		if r.Name == name || r.Kind == name {
			return r
		}
	}
	t.Fatalf("there is no resource %s", name)
	return Resource{}
}

func decode(t *testing.T, body, kind string) Object {
	t.Helper()
	o, err := Decode([]byte(body), resourceOf(t, kind), V1Beta1)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func encode(t *testing.T, o any) string {
	t.Helper()
	data, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func at(t *testing.T, text string) metav1.Time {
	t.Helper()
	when, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return metav1.NewTime(when)
}

// same compares texts of JSON byte by byte.
func same(t *testing.T, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	lines := strings.NewReplacer(",", ",\n", "{", "{\n")
	t.Errorf("the answer is - and the recorded one +:\n%s", cmp.Diff(lines.Replace(got), lines.Replace(want)))
}

// create converts an object that a client sends.
func create(o Object) (metav1.Object, error) {
	switch o := o.(type) {
	case *Pod:
		return o.ToV1()
	case *ReplicationController:
		return o.ToV1()
	case *Service:
		return o.ToV1(), nil
	case *Minion:
		return o.ToV1(), nil
	case *Event:
		return o.ToV1(), nil
	case *Binding:
		return o.ToV1(), nil
	case *Endpoints:
		return OverlayEndpoints(&v1.Endpoints{}, ofEndpoints, o)
	}
	return nil, errors.New("nobody creates this")
}

// ofEndpoints is the service of all endpoints.
var ofEndpoints = &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: v1.ServiceSpec{Ports: []v1.ServicePort{{Name: "p", Protocol: v1.ProtocolTCP}}}}

// show converts an object that a client reads; nil for what no one can read.
func show(o metav1.Object) Object {
	switch o := o.(type) {
	case *v1.Pod:
		return FromV1Pod(o)
	case *v1.ReplicationController:
		return FromV1ReplicationController(o)
	case *v1.Service:
		return FromV1Service(o)
	case *v1.Node:
		return FromV1Node(o)
	case *v1.Event:
		return FromV1Event(o)
	case *v1.Endpoints:
		return FromV1Endpoints(ofEndpoints, o, nil)
	}
	return nil
}

// store does to a created object what the API server does to it. What the recorded server chose is taken from its answer.
func store(o metav1.Object, recorded Object) {
	m := recorded.Base()
	o.SetNamespace(DefaultNamespace)
	o.SetCreationTimestamp(m.CreationTimestamp)
	o.SetResourceVersion(strconv.FormatUint(uint64(m.ResourceVersion), 10))
	tcp := func(s *v1.PodSpec) {
		for i := range s.Containers {
			for j := range s.Containers[i].Ports {
				s.Containers[i].Ports[j].Protocol = v1.ProtocolTCP
			}
		}
	}
	switch o := o.(type) {
	case *v1.Pod:
		tcp(&o.Spec)
		o.UID = types.UID(recorded.(*Pod).DesiredState.Manifest.UUID)
	case *v1.ReplicationController:
		tcp(&o.Spec.Template.Spec)
	case *v1.Service:
		o.Spec.ClusterIP = recorded.(*Service).PortalIP
		o.Spec.Ports[0].Protocol = v1.ProtocolTCP
	}
}

// shown is an object as the answer to a request for it.
func shown(r Resource, o metav1.Object) Object {
	object := show(o)
	m := object.Base()
	m.Kind, m.APIVersion, m.SelfLink = r.Kind, V1Beta1, SelfLink(V1Beta1, r.Name, m.ID, m.Namespace)
	return object
}

func TestRecordedExamplesAreAnsweredAsTheyWere(t *testing.T) {
	answers, err := filepath.Glob("testdata/examples/*.response")
	if err != nil || len(answers) < 14 {
		t.Fatalf("found %d answers: %v", len(answers), err)
	}
	for _, file := range answers {
		name := strings.TrimSuffix(filepath.Base(file), ".response")
		want := read(t, "examples", name+".response")
		var head Meta
		if err := json.Unmarshal([]byte(want), &head); err != nil {
			t.Fatal(err)
		}
		if head.Kind == "Status" {
			continue // the next test's
		}
		t.Run(name, func(t *testing.T) {
			r := resourceOf(t, head.Kind)
			recorded := decode(t, want, r.Kind)
			o := decode(t, read(t, "examples", name), r.Kind)
			if o.Base().ID == "" {
				o.Base().ID = head.ID // a UUID
			}
			created, err := create(o)
			if err != nil {
				t.Fatal(err)
			}
			store(created, recorded)
			// v1 knows no numbers in quotes, and this one is a number.
			same(t, encode(t, shown(r, created)), strings.Replace(want, `"port":"8080"`, `"port":8080`, 1))
		})
	}
}

func TestLabelsInAListAreRefusedAsTheyWere(t *testing.T) {
	name := "examples_walkthrough_replication-controller.yaml"
	_, err := Decode([]byte(read(t, "examples", name)), resourceOf(t, "ReplicationController"), V1Beta1)
	got := status(t, err)
	var want Status
	if err := json.Unmarshal([]byte(read(t, "examples", name+".response")), &want); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(got.Message, "desiredState.podTemplate.labels: invalid value") || !strings.Contains(got.Message, "write a map") {
		t.Errorf("the message is %q", got.Message)
	}
	// The recorded messages have a dump of the server's memory.
	got.Message, want.Message = "", ""
	got.Details.Causes[0].Message, want.Details.Causes[0].Message = "", ""
	same(t, encode(t, got), encode(t, &want))
}

// The recorded server had no cloud and refused it.
func TestRecordedExampleOfALoadBalancerIsConverted(t *testing.T) {
	o := decode(t, read(t, "examples", "api_examples_external-service.json"), "Service").(*Service).ToV1()
	if o.Spec.Type != v1.ServiceTypeLoadBalancer {
		t.Errorf("the service has type %q", o.Spec.Type)
	}
}

// status is the Status that an error is.
func status(t *testing.T, err error) *Status {
	t.Helper()
	var s *Status
	if !errors.As(err, &s) {
		t.Fatalf("the error is %v, and no Status", err)
	}
	return s
}

func TestRecordedListsAreRead(t *testing.T) {
	for file, list := range map[string]Object{
		"api_examples_pod-list.json":        &PodList{},
		"api_examples_controller-list.json": &ReplicationControllerList{},
		"api_examples_service-list.json":    &ServiceList{},
	} {
		if err := json.Unmarshal([]byte(read(t, "examples", file)), list); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		var items []Object
		switch list := list.(type) {
		case *PodList:
			for i := range list.Items {
				items = append(items, &list.Items[i])
			}
		case *ReplicationControllerList:
			for i := range list.Items {
				items = append(items, &list.Items[i])
			}
		case *ServiceList:
			for i := range list.Items {
				items = append(items, &list.Items[i])
			}
		}
		if len(items) == 0 || list.Base().Kind == "" {
			t.Errorf("%s: read %d items of kind %q", file, len(items), list.Base().Kind)
		}
		for _, item := range items {
			if _, err := create(item); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
}

// runningPod is the recorded pod as it is in v1.
func runningPod(t *testing.T) *v1.Pod {
	t.Helper()
	started := at(t, "2014-10-22T12:00:00Z")
	o, err := decode(t, answer(t, "04-get-pod.txt"), "Pod").(*Pod).ToV1()
	if err != nil {
		t.Fatal(err)
	}
	o.Namespace, o.ResourceVersion, o.UID = "default", "6", "a217b55b-ebc7-11f1-99b0-fa49ee168e65"
	o.CreationTimestamp = at(t, "2026-11-29T07:36:47Z")
	o.Spec.NodeName = "127.0.0.1"
	o.Status = v1.PodStatus{
		Phase: v1.PodRunning, PodIP: "10.244.1.7", StartTime: &started,
		ContainerStatuses: []v1.ContainerStatus{{
			Name: "redis", Image: "dockerfile/redis", State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: started}},
		}},
	}
	return o
}

// withoutPause takes the network container's image from a recorded answer: v1 does not tell it.
func withoutPause(recorded string) string {
	return strings.ReplaceAll(recorded, "kubernetes/pause:latest", "")
}

func TestPodIsShownAsRecorded(t *testing.T) {
	pods := resourceOf(t, "Pod")
	same(t, encode(t, shown(pods, runningPod(t))), withoutPause(answer(t, "04-get-pod.txt")))

	list := &PodList{Meta: Meta{Kind: "PodList", APIVersion: V1Beta1, SelfLink: SelfLink(V1Beta1, "pods", "", ""), ResourceVersion: 7}}
	list.Items = []Pod{*FromV1Pod(runningPod(t))}
	same(t, encode(t, list), withoutPause(answer(t, "06-list-labels.txt")))
	list.Items, list.ResourceVersion = []Pod{}, 4
	same(t, encode(t, list), answer(t, "01-list-pods-empty.txt"))

	created := runningPod(t)
	created.ResourceVersion, created.Spec.NodeName, created.Status = "5", "", v1.PodStatus{Phase: v1.PodPending}
	same(t, encode(t, shown(pods, created)), answer(t, "02-create-pod.txt"))
}

func TestWatchedPodsAreShownAsRecorded(t *testing.T) {
	_, lines, _ := strings.Cut(read(t, "http", "30-watch-pods.txt"), "\n\n")
	want := strings.Split(lines, "\n")
	o := runningPod(t)
	o.UID, o.CreationTimestamp, o.Status = "b8434095-ebc7-11f1-99b0-fa49ee168e65", at(t, "2026-11-29T07:37:24Z"), v1.PodStatus{Phase: v1.PodPending}
	for i, change := range []struct{ what, version, node string }{{"ADDED", "21", ""}, {"MODIFIED", "22", "127.0.0.1"}, {"DELETED", "24", "127.0.0.1"}} {
		o.ResourceVersion, o.Spec.NodeName = change.version, change.node
		p := FromV1Pod(o)
		p.Kind, p.APIVersion = "Pod", V1Beta1
		same(t, encode(t, WatchEvent{Type: change.what, Object: p}), want[i])
	}
}

func TestReplicationControllerIsShownAsRecorded(t *testing.T) {
	controllers := resourceOf(t, "ReplicationController")
	recorded := decode(t, answer(t, "10-create-rc.txt"), "ReplicationController").(*ReplicationController)
	o, err := recorded.ToV1()
	if err != nil {
		t.Fatal(err)
	}
	store(o, recorded)
	if o.Name != "rediscontroller" || o.Spec.Template.Labels[LabelReplicationController] != "redisController" {
		t.Errorf("the controller is %s, and its pods have the labels %v", o.Name, o.Spec.Template.Labels)
	}
	same(t, encode(t, shown(controllers, o)), answer(t, "10-create-rc.txt"))
	o.Status.Replicas = 1
	same(t, encode(t, shown(controllers, o)), answer(t, "11-get-rc.txt"))
}

func TestServiceIsShownAsRecorded(t *testing.T) {
	services := resourceOf(t, "Service")
	o := decode(t, sent(t, "12-create-service.txt"), "Service").(*Service).ToV1()
	store(o, decode(t, answer(t, "12-create-service.txt"), "Service"))
	same(t, encode(t, shown(services, o)), answer(t, "12-create-service.txt"))
	same(t, encode(t, shown(services, o)), answer(t, "13-get-service.txt"))
}

func TestServiceIsOverwrittenAsRecorded(t *testing.T) {
	services := resourceOf(t, "Service")
	put := decode(t, sent(t, "31-put-service.txt"), "Service").(*Service)
	stored := put.ToV1()
	stored.Namespace, stored.ResourceVersion = "default", "26"
	stored.Spec.ClusterIP, stored.Spec.Ports[0] = "172.16.0.1", v1.ServicePort{Port: 80, Protocol: v1.ProtocolTCP}
	o, err := OverlayService(stored, put)
	if err != nil {
		t.Fatal(err)
	}
	o.ResourceVersion = "27"
	same(t, encode(t, shown(services, o)), answer(t, "31-put-service.txt"))
	v1beta2 := shown(services, o)
	v1beta2.Base().APIVersion, v1beta2.Base().SelfLink = V1Beta2, SelfLink(V1Beta2, "services", "svc", "default")
	same(t, encode(t, v1beta2), answer(t, "39-v1beta2.txt"))

	_, err = OverlayService(o, decode(t, sent(t, "32-put-stale.txt"), "Service").(*Service))
	stale := status(t, err)
	stale.SelfLink = SelfLink(V1Beta1, "services", "svc", "")
	same(t, encode(t, stale), answer(t, "32-put-stale.txt"))
}

func TestEndpointsAreShownAsRecorded(t *testing.T) {
	o := &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "redis", CreationTimestamp: at(t, "2026-11-29T07:36:55Z"), ResourceVersion: "9"}}
	o.Spec.Ports = []v1.ServicePort{{Port: 6379}}
	slice := &discovery.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{ResourceVersion: "10"},
		Ports:      []discovery.EndpointPort{{Name: new(""), Port: new(int32(6379))}},
		Endpoints:  []discovery.Endpoint{{Addresses: []string{"10.244.1.7"}}},
	}
	list := &EndpointsList{Items: []Endpoints{*FromV1Endpoints(o, nil, []*discovery.EndpointSlice{slice})}}
	list.Meta = Meta{Kind: "EndpointsList", APIVersion: V1Beta1, SelfLink: SelfLink(V1Beta1, "endpoints", "", ""), ResourceVersion: 10}
	same(t, encode(t, list), answer(t, "14-endpoints.txt"))
}

func TestMinionIsShownAsRecorded(t *testing.T) {
	o := &v1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: "127.0.0.1", ResourceVersion: "4", CreationTimestamp: metav1.Now(),
		Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"},
	}}
	o.Status.Capacity = v1.ResourceList{v1.ResourceCPU: resource.MustParse("1"), v1.ResourceMemory: resource.MustParse("3Gi")}
	same(t, encode(t, shown(resourceOf(t, "Minion"), o)), answer(t, "16-minion.txt"))
	list := &MinionList{Minions: []Minion{*FromV1Node(o)}, Items: []Minion{*FromV1Node(o)}}
	list.Meta = Meta{Kind: "MinionList", APIVersion: V1Beta1, SelfLink: SelfLink(V1Beta1, "minions", "", ""), ResourceVersion: 10}
	same(t, encode(t, list), answer(t, "15-minions.txt"))
}

func TestOperationsAreShownAsRecorded(t *testing.T) {
	list := &OperationList{Meta: Meta{Kind: "ServerOpList", APIVersion: V1Beta1}}
	for i := range 6 {
		list.Items = append(list.Items, Operation{Meta{ID: strconv.Itoa(i + 1)}})
	}
	same(t, encode(t, list), answer(t, "17-operations.txt"))
}

func TestErrorsAreShownAsRecorded(t *testing.T) {
	pods, services, bindings := resourceOf(t, "Pod"), resourceOf(t, "Service"), resourceOf(t, "Binding")
	group := func(r Resource) schema.GroupResource { return r.V1.GroupResource() }
	for name, got := range map[string]*Status{
		"03-create-pod-again.txt": linked(ofV1Error(apierrors.NewAlreadyExists(group(pods), "redis"), pods, "redis"), SelfLink(V1Beta1, "pods", "", "")),
		"05-get-missing.txt":      ofV1Error(apierrors.NewNotFound(group(pods), "nope"), pods, "nope"),
		"22-delete-missing.txt":   ofV1Error(apierrors.NewNotFound(group(pods), "redis"), pods, "redis"),
		"34-put-missing.txt":      linked(ofV1Error(apierrors.NewNotFound(group(services), "none"), services, "none"), SelfLink(V1Beta1, "services", "none", "")),
		"38-get-bindings.txt":     NotFound(bindings.Singular, "list"),
		"21-delete-pod.txt":       Succeeded(),
		"37-binding.txt":          linked(Succeeded(), SelfLink(V1Beta1, "bindings", "", "")),
	} {
		t.Run(name, func(t *testing.T) { same(t, encode(t, got), answer(t, name)) })
	}
}

func ofV1Error(err *apierrors.StatusError, r Resource, id string) *Status {
	s := err.Status()
	return FromV1Status(&s, r, id)
}

func linked(s *Status, link string) *Status {
	s.SelfLink = link
	return s
}

// They were 500 then.
func TestUnreadableBodiesAreRefusedAsRecorded(t *testing.T) {
	for _, name := range []string{"24-post-garbage.txt", "25-post-wrong-kind.txt"} {
		_, err := Decode([]byte(sent(t, name)), resourceOf(t, "Pod"), V1Beta1)
		same(t, encode(t, status(t, err)), strings.Replace(answer(t, name), `"code":500`, `"reason":"BadRequest","code":400`, 1))
	}
}

func TestInvalidPodIsRefusedAsRecorded(t *testing.T) {
	_, err := decode(t, sent(t, "26-post-invalid.txt"), "Pod").(*Pod).ToV1()
	same(t, encode(t, status(t, err)), answer(t, "26-post-invalid.txt"))
}

// What the API server finds is told as if this package had.
func TestInvalidObjectOfV1IsShownAsRecorded(t *testing.T) {
	err := apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, "bad_name", field.ErrorList{
		field.Invalid(field.NewPath("spec", "containers").Index(0).Child("name"), "UP", ""),
		field.Required(field.NewPath("spec", "containers").Index(0).Child("image"), ""),
	})
	want := `pod "Bad_Name" is invalid: [desiredState.manifest.containers[0].name: invalid value 'UP', ` +
		`desiredState.manifest.containers[0].image: required value '']`
	got := ofV1Error(err, resourceOf(t, "Pod"), "Bad_Name")
	if got.Message != want || got.Code != 422 || got.Details.ID != "Bad_Name" || got.Details.Kind != "pod" {
		t.Errorf("the answer is %s", encode(t, got))
	}
	var recorded Status
	if err := json.Unmarshal([]byte(answer(t, "26-post-invalid.txt")), &recorded); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got.Details.Causes, recorded.Details.Causes[1:]); diff != "" {
		t.Errorf("the causes are - and the recorded ones +:\n%s", diff)
	}
}
