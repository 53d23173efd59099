package gateway

import (
	"net/http"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/k8sm/k8sm/api/v1beta1"
)

// TestServiceWithoutContainerPortFollowsItsPods: first there is no pod, then one with a port, then one with another.
func TestServiceWithoutContainerPortFollowsItsPods(t *testing.T) {
	api := newFakeAPI(t)
	g := start(t, api, nil)
	if response, body := g.ask("POST /api/v1beta1/services", `{"id":"web","port":80,"selector":{"app":"web"}}`); response.StatusCode != http.StatusOK {
		t.Fatal(body)
	}
	own := aService("own")
	own.Spec.Selector, own.Spec.Ports[0].TargetPort = map[string]string{"app": "web"}, intstr.FromInt32(7)
	silent := aPod("default", "silent", map[string]string{"app": "web"})
	silent.Spec.Containers = []v1.Container{{}}
	api.put(own, silent)
	api.put(listening("default", "web-1", 8080), listening("other", "web", 9090))
	deadline := time.Now().Add(20 * time.Second)
	for port := int32(0); port != 8080; {
		if time.Now().After(deadline) {
			t.Fatalf("the service sends to port %d", port)
		}
		time.Sleep(20 * time.Millisecond)
		port = api.stored("services/default/web").(*v1.Service).Spec.Ports[0].TargetPort.IntVal
	}
	if port := api.stored("services/default/own").(*v1.Service).Spec.Ports[0].TargetPort.IntVal; port != 7 {
		t.Errorf("a service with a port of its own sends to %d", port)
	}
	if _, body := g.ask("GET /api/v1beta1/services/web", ""); !matches(`*"containerPort":0*`, body) {
		t.Errorf("it is shown as %s", body)
	}
}

func listening(namespace, name string, port int32) *v1.Pod {
	p := aPod(namespace, name, map[string]string{"app": "web"})
	p.Spec.Containers = []v1.Container{{Ports: []v1.ContainerPort{{ContainerPort: port}, {ContainerPort: port + 1}}}, {Ports: []v1.ContainerPort{{ContainerPort: 1}}}}
	return p
}

// TestFirstPortsAreLookedForNowAndThen: the less often, the longer there is no pod.
func TestFirstPortsAreLookedForNowAndThen(t *testing.T) {
	api := newFakeAPI(t)
	who, err := newCallers(api.dir, administrator(t, api.dir), false)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := who.caller("administrator", "", who.admin, true)
	if err != nil {
		t.Fatal(err)
	}
	f := firstPorts{core: admin.core, next: map[string]turn{}}
	wanted := (&v1beta1.Service{Meta: v1beta1.Meta{ID: "web", Namespace: "default"}, Port: 80, Selector: map[string]string{"app": "web"}}).ToV1()
	api.put(wanted)
	looks := func(span time.Duration) (count int) {
		began, before := time.Now(), len(api.calls)
		for at := time.Duration(0); at < span; at += firstPortEvery {
			f.look(t.Context(), began.Add(at), []any{wanted})
		}
		return len(api.calls) - before
	}
	if n := looks(time.Hour); n < 100 || n > 130 {
		t.Errorf("%d looks in an hour without pods", n)
	}
	f.look(t.Context(), time.Now(), nil)
	if len(f.next) != 0 {
		t.Errorf("it remembers %v", f.next)
	}
	api.put(listening("default", "web-1", 8080))
	if n := looks(firstPortAgain); n != 3 { // pods, the service, and its update
		t.Errorf("%d calls for a pod", n)
	}
	if port := api.stored("services/default/web").(*v1.Service).Spec.Ports[0].TargetPort.IntVal; port != 8080 {
		t.Errorf("the service sends to %d", port)
	}
}
