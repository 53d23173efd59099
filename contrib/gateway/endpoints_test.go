//nolint:staticcheck // the API of 2014 has Endpoints, and nothing else can write those without a selector
package gateway

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func aSlice(service, name string, ips ...string) *discovery.EndpointSlice {
	s := &discovery.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discovery.LabelServiceName: service}},
		Ports:      []discovery.EndpointPort{{Name: new(""), Port: new(int32(8080))}}, AddressType: discovery.AddressTypeIPv4,
	}
	for _, ip := range ips {
		s.Endpoints = append(s.Endpoints, discovery.Endpoint{Addresses: []string{ip}})
	}
	return s
}

func writtenEndpoints(service string, ips ...string) *v1.Endpoints {
	o := &v1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: service}}
	for _, ip := range ips {
		o.Subsets = append(o.Subsets, v1.EndpointSubset{Addresses: []v1.EndpointAddress{{IP: ip}}, Ports: []v1.EndpointPort{{Port: 80, Protocol: v1.ProtocolTCP}}})
	}
	return o
}

func TestEndpointsAreThoseOfAllSlices(t *testing.T) {
	api := newFakeAPI(t)
	api.put(aService("web"), aService("db"), aSlice("web", "web-1", "10.0.0.1"), aSlice("web", "web-2", "10.0.0.2"), aSlice("gone", "gone-1", "10.0.0.3"))
	g := start(t, api, nil)
	for _, e := range []exchange{
		{"GET /api/v1beta1/endpoints", "", 200, `{"kind":"EndpointsList","creationTimestamp":null,"selfLink":"/api/v1beta1/endpoints","resourceVersion":15,"apiVersion":"v1beta1","items":[{"id":"db",*"endpoints":[]},{"id":"web",*"resourceVersion":14,"namespace":"default","endpoints":["10.0.0.1:8080","10.0.0.2:8080"]}]}`},
		{"GET /api/v1beta1/endpoints/web", "", 200, `{"kind":"Endpoints","id":"web",*"selfLink":"/api/v1beta1/endpoints/web","resourceVersion":14,*"endpoints":["10.0.0.1:8080","10.0.0.2:8080"]}`},
		{"GET /api/v1beta1/endpoints/gone", "", 404, `*endpoints \"gone\" not found*`},
		{"GET /api/v1beta1/endpoints?fields=name%3Ddb", "", 200, `*"items":[{"id":"db",*"endpoints":[]}]}`},
	} {
		if response, body := g.ask(e.line, e.body); response.StatusCode != e.code || !matches(e.want, body) {
			t.Errorf("%s: %d %s\nwant %d %s", e.line, response.StatusCode, body, e.code, e.want)
		}
	}
}

func TestWatchOfEndpointsFollowsServicesAndSlices(t *testing.T) {
	api := newFakeAPI(t)
	api.put(aService("web"), aSlice("web", "web-1", "10.0.0.1")) // 11, 12
	g := start(t, api, nil)
	w := g.watch(t, "endpoints")
	step := func(want string, change func()) {
		t.Helper()
		change()
		_, line := w.next()
		if !matches(want, line) {
			t.Errorf("got %s, want %s", line, want)
		}
	}
	step(`{"type":"MODIFIED","object":{"kind":"Endpoints","id":"web",*"resourceVersion":13,"apiVersion":"v1beta1",*"endpoints":["10.0.0.1:8080","10.0.0.2:8080"]}}`, func() { api.put(aSlice("web", "web-2", "10.0.0.2")) })
	step(`{"type":"ADDED","object":{"kind":"Endpoints","id":"db",*"endpoints":[]}}`, func() { api.put(aService("db")) })
	api.put(aSlice("web", "web-2", "10.0.0.2"), aService("db"), aSlice("other", "other-1", "10.0.0.9")) // nothing new for the client
	step(`{"type":"MODIFIED",*"id":"web",*"endpoints":["10.0.0.1:8080"]}}`, func() { api.drop("endpointslices/default/web-2") })
	step(`{"type":"DELETED",*"id":"web",*}`, func() { api.drop("services/default/web") })
	step(`{"type":"MODIFIED",*"id":"db",*"endpoints":["10.0.0.5:8080"]}}`, func() { api.put(aSlice("db", "db-1", "10.0.0.5")) })
	step(`{"type":"MODIFIED",*"id":"db",*"endpoints":["10.0.0.5:8080","10.0.0.6:80"]}}`, func() { api.put(writtenEndpoints("db", "10.0.0.6")) })
	step(`{"type":"MODIFIED",*"id":"db",*"endpoints":["10.0.0.5:8080"]}}`, func() { api.drop("endpoints/default/db") })

	past := g.watch(t, "endpoints?resourceVersion=12") // a client that knows web at 10.0.0.1 only
	known := map[string]string{"web": `["10.0.0.1:8080"]`}
	want := map[string]string{"db": `["10.0.0.5:8080"]`}
	for deadline := time.Now().Add(10 * time.Second); cmp.Diff(want, known) != ""; {
		if time.Now().After(deadline) {
			t.Fatalf("the client knows %v", known)
		}
		_, line := past.next()
		var e struct {
			Type   string
			Object struct {
				ID        string
				Endpoints json.RawMessage
			}
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if known[e.Object.ID] = string(e.Object.Endpoints); e.Type == "DELETED" {
			delete(known, e.Object.ID)
		}
	}
}

func TestEndpointsOfAServiceWithoutASelectorAreWritten(t *testing.T) {
	api := newFakeAPI(t)
	named := aService("named")
	named.Spec.Ports[0].Name, named.Spec.Ports[0].Protocol = "sql", v1.ProtocolTCP
	capitals := aService("capitals")
	capitals.Annotations = map[string]string{"k8sm.io/v1beta1-id": "Capitals"}
	selecting := aService("web")
	selecting.Spec.Selector = map[string]string{"app": "web"}
	made := writtenEndpoints("left", "10.9.0.1")
	made.Labels = map[string]string{"endpoints.kubernetes.io/managed-by": "endpoint-controller"}
	api.put(named, capitals, selecting, aSlice("web", "web-1", "10.0.0.1"), aService("left"), made) // 11 to 16
	g := start(t, api, nil)
	const refused = `*cannot write endpoints \"web\": they are the pods that the service selects*"reason":"MethodNotAllowed"*`
	for i, e := range []exchange{
		{"GET /api/v1beta1/endpoints/named", "", 200, `*"namespace":"default","endpoints":[]}`},
		{"DELETE /api/v1beta1/endpoints/named", "", 404, `*endpoints \"named\" not found*`},
		{"POST /api/v1beta1/endpoints", `{"kind":"Endpoints","id":"named","endpoints":["10.0.0.2:5432","10.0.0.1:5432"]}`, 200,
			`{"kind":"Endpoints","id":"named","creationTimestamp":null,"selfLink":"/api/v1beta1/endpoints/named","resourceVersion":17,"apiVersion":"v1beta1","namespace":"default","endpoints":["10.0.0.1:5432","10.0.0.2:5432"]}`},
		{"GET /api/v1beta1/endpoints/named", "", 200, `*"resourceVersion":17,*"endpoints":["10.0.0.1:5432","10.0.0.2:5432"]}`},
		{"POST /api/v1beta1/endpoints", `{"id":"named","endpoints":[]}`, 409, `*endpoints \"named\" already exists*`},
		{"PUT /api/v1beta1/endpoints/named", `{"endpoints":["10.0.0.3:5432"]}`, 409, `*endpoints \"named\" cannot be updated: 101: Compare failed ([0 != 17]) [17]*`},
		{"PUT /api/v1beta2/endpoints/named", `{"resourceVersion":17,"annotations":{"a":"b"},"endpoints":["10.0.0.3:5432"]}`, 200, `*"resourceVersion":18,"apiVersion":"v1beta2",*"annotations":{"a":"b"},"endpoints":["10.0.0.3:5432"]}`},
		{"PUT /api/v1beta1/endpoints/named", `{"resourceVersion":18,"endpoints":["db:5432"]}`, 422, `*endpoints \"named\" is invalid: endpoints[0]: invalid value 'db:5432'*"field":"endpoints[0]"*`},
		{"GET /api/v1beta1/endpoints/named", "", 200, `*"endpoints":["10.0.0.3:5432"]}`},
		{"POST /api/v1beta1/endpoints", `{"id":"Capitals","endpoints":["10.0.0.4:80"]}`, 200, `*"id":"Capitals",*"endpoints":["10.0.0.4:80"]}`},
		{"DELETE /api/v1beta1/endpoints/Capitals", "", 200, `*Success*`},
		{"GET /api/v1beta1/endpoints/Capitals", "", 200, `*"endpoints":[]}`},
		{"PUT /api/v1beta1/endpoints/Capitals", `{"endpoints":["10.0.0.5:80"]}`, 200, `*"id":"Capitals",*"endpoints":["10.0.0.5:80"]}`},
		{"GET /api/v1beta1/endpoints/left", "", 200, `*"endpoints":[]}`},
		{"PUT /api/v1beta1/endpoints/left", `{"endpoints":["10.0.0.6:80"]}`, 200, `*"endpoints":["10.0.0.6:80"]}`},
		{"GET /api/v1beta1/endpoints/left", "", 200, `*"endpoints":["10.0.0.6:80"]}`},
		{"POST /api/v1beta1/endpoints", `{"id":"web","endpoints":["10.0.0.2:80"]}`, 405, refused},
		{"PUT /api/v1beta1/endpoints/web", `{"resourceVersion":14,"endpoints":["10.0.0.2:80"]}`, 405, refused},
		{"DELETE /api/v1beta1/endpoints/web", "", 405, refused},
		{"POST /api/v1beta1/endpoints", `{"id":"none","endpoints":["10.0.0.2:80"]}`, 404, `*service \"none\" not found: create it, without a selector, before its endpoints*`},
		{"POST /api/v1beta1/endpoints?namespace=other", `{"id":"named","endpoints":["10.0.0.2:80"]}`, 404, `*service \"named\" not found*`},
		{"POST /api/v1beta1/endpoints", `{"endpoints":["10.0.0.2:80"]}`, 422, `*endpoints is invalid: id: required value*`},
		{"PUT /api/v1beta1/endpoints/none", `{"endpoints":["10.0.0.2:80"]}`, 404, `*endpoints \"none\" not found*`},
		{"DELETE /api/v1beta1/endpoints/none", "", 404, `*endpoints \"none\" not found*`},
	} {
		if response, body := g.ask(e.line, e.body); response.StatusCode != e.code || !matches(e.want, body) {
			t.Errorf("%d: %s: %d %s\nwant %d %s", i, e.line, response.StatusCode, body, e.code, e.want)
		}
	}
	stored := api.stored("endpoints/default/named").(*v1.Endpoints)
	want := []v1.EndpointSubset{{Addresses: []v1.EndpointAddress{{IP: "10.0.0.3"}}, Ports: []v1.EndpointPort{{Name: "sql", Port: 5432, Protocol: v1.ProtocolTCP}}}}
	if diff := cmp.Diff(want, stored.Subsets); diff != "" || len(api.stored("endpoints/default/left").(*v1.Endpoints).Labels) > 0 {
		t.Errorf("stored is %+v", stored)
	}
}

// TestEndpointsAreWrittenByWhoMay: the API server decides.
func TestEndpointsAreWrittenByWhoMay(t *testing.T) {
	api := newFakeAPI(t)
	api.put(aService("db"))
	g := start(t, api, nil).as("Authorization: Bearer carols-token")
	for _, line := range []string{"POST /api/v1beta1/endpoints", "PUT /api/v1beta1/endpoints/db", "DELETE /api/v1beta1/endpoints/db"} {
		if response, body := g.ask(line, `{"id":"db","endpoints":["10.0.0.1:80"]}`); response.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %d %s", line, response.StatusCode, body)
		}
	}
}
