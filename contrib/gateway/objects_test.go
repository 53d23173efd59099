package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api/v1beta1"
)

const redisPod = `{"id":"redis","kind":"Pod","apiVersion":"v1beta1","labels":{"name":"redis"},"desiredState":{"manifest":{"version":"v1beta1","id":"redis","containers":[
	{"name":"redis","image":"dockerfile/redis","ports":[{"containerPort":6379,"hostPort":6379}],"imagePullPolicy":"PullIfNotPresent"}]}}}`

const redisController = `{"id":"redisController","desiredState":{"replicas":1,"replicaSelector":{"name":"redis"},"podTemplate":{"labels":{"name":"redis"},
	"desiredState":{"manifest":{"version":"v1beta1","containers":[{"name":"redis","image":"dockerfile/redis"}]}}}}}`

// exchange is a request and the answer to it.
type exchange struct {
	line, body string
	code       int
	want       string // the answer's body; * is anything
}

func TestAnswersAreThoseOf2014(t *testing.T) {
	g := start(t, newFakeAPI(t), nil)
	for i, e := range []exchange{
		{"GET /", "", 200, `<html><body>Welcome to Kubernetes</body></html>`},
		{"GET /healthz", "", 200, "ok"},
		{"HEAD /healthz", "", 200, ""},
		{"GET /version", "", 200, `{"major":"1","minor":"36","gitVersion":"v1.36.3"}`},
		{"GET /api/v1beta1/pods", "", 200, `{"kind":"PodList","creationTimestamp":null,"selfLink":"/api/v1beta1/pods","resourceVersion":10,"apiVersion":"v1beta1","items":[]}`},
		{"POST /api/v1beta1/pods", redisPod, 200, `{"kind":"Pod","id":"redis","creationTimestamp":"2026-11-29T07:36:47Z","selfLink":"/api/v1beta1/pods/redis","resourceVersion":11,"apiVersion":"v1beta1","namespace":"default","labels":{"name":"redis"},"desiredState":{"manifest":{"version":"v1beta1","id":"redis","uuid":"u-redis",*`},
		{"POST /api/v1beta1/pods", redisPod, 409, `{"kind":"Status","creationTimestamp":null,"selfLink":"/api/v1beta1/pods","apiVersion":"v1beta1","status":"Failure","message":"pod \"redis\" already exists","reason":"AlreadyExists","details":{"id":"redis","kind":"pod"},"code":409}`},
		{"GET /api/v1beta1/pods/redis", "", 200, `{"kind":"Pod","id":"redis",*`},
		{"GET /api/v1beta1/pods/nope", "", 404, `{"kind":"Status","creationTimestamp":null,"apiVersion":"v1beta1","status":"Failure","message":"pod \"nope\" not found","reason":"NotFound","details":{"id":"nope","kind":"pod"},"code":404}`},
		{"GET /api/v1beta1/pods?labels=name%3Dredis", "", 200, `{"kind":"PodList","creationTimestamp":null,"selfLink":"/api/v1beta1/pods","resourceVersion":11,"apiVersion":"v1beta1","items":[{"id":"redis","creationTimestamp":"2026-11-29T07:36:47Z","resourceVersion":11,*`},
		{"GET /api/v1beta1/pods?labels=name%3Dother", "", 200, `*"items":[]}`},
		{"GET /api/v1beta1/pods?fields=DesiredState.Host%3Dn1", "", 200, `*"items":[]}`},
		{"GET /api/v1beta1/pods?fields=Color%3Dred", "", 400, `*pods cannot be selected by 'Color'*`},
		{"POST /api/v1beta1/replicationControllers", redisController, 200, `{"kind":"ReplicationController","id":"redisController","creationTimestamp":"2026-11-29T07:36:47Z","selfLink":"/api/v1beta1/replicationControllers/redisController","resourceVersion":12,*`},
		{"POST /api/v1beta1/services", `{"id":"redis","port":6379,"containerPort":6379,"selector":{"name":"redis"}}`, 200, `{"kind":"Service","id":"redis","creationTimestamp":"2026-11-29T07:36:47Z","selfLink":"/api/v1beta1/services/redis","resourceVersion":13,"apiVersion":"v1beta1","namespace":"default","port":6379,*`},
		{"GET /api/v1beta1/minions", "", 200, `{"kind":"MinionList","creationTimestamp":null,"selfLink":"/api/v1beta1/minions","resourceVersion":13,"apiVersion":"v1beta1","minions":[],"items":[]}`},
		{"GET /api/v1beta1/operations", "", 200, `{"kind":"ServerOpList","creationTimestamp":null,"apiVersion":"v1beta1","items":[{"id":"1","creationTimestamp":null},{"id":"2","creationTimestamp":null},{"id":"3","creationTimestamp":null},{"id":"4","creationTimestamp":null}]}`},
		{"GET /api/v1beta1/operations/1", "", 200, `{"kind":"Pod","id":"redis",*`},
		{"GET /api/v1beta1/operations/2", "", 409, `*already exists*`},
		{"GET /api/v1beta1/operations/9", "", 404, `{"kind":"Status","creationTimestamp":null,"apiVersion":"v1beta1","status":"Failure","message":"operation \"9\" not found","reason":"NotFound","details":{"id":"9","kind":"operation"},"code":404}`},
		{"GET /api/v1beta1/widgets", "", 404, `Not Found: "/api/v1beta1/widgets"`},
		{"PATCH /api/v1beta1/pods/redis", "", 404, `Not Found: "/api/v1beta1/pods/redis"`},
		{"POST /api/v1beta1/pods/x", "{}", 404, `Not Found: "/api/v1beta1/pods/x"`},
		{"DELETE /api/v1beta1/pods", "", 404, `Not Found: "/api/v1beta1/pods"`},
		{"GET /api/v1beta3/pods", "", 404, `Not Found: "/api/v1beta3/pods"`},
		{"GET /api/v1beta1/watch", "", 404, `Not Found: "/api/v1beta1/watch"`},
		{"GET /api/v1beta1/watch/bindings", "", 404, `Not Found: "/api/v1beta1/watch/bindings"`},
		{"GET /api/v1beta1/proxy/events/x/", "", 404, `Not Found: "/api/v1beta1/proxy/events/x/"`},
		{"GET /api/v1beta1", "", 404, `Not Found: "/api/v1beta1"`},
		{"DELETE /api/v1beta1/pods/redis", "", 200, `{"kind":"Status","creationTimestamp":null,"apiVersion":"v1beta1","status":"Success"}`},
		{"DELETE /api/v1beta1/pods/redis", "", 404, `{"kind":"Status","creationTimestamp":null,"apiVersion":"v1beta1","status":"Failure","message":"pod \"redis\" not found","reason":"NotFound","details":{"id":"redis","kind":"pod"},"code":404}`},
		{"DELETE /api/v1beta1/services/redis?sync=true&timeout=10s", "", 200, `{"kind":"Status","creationTimestamp":null,"apiVersion":"v1beta1","status":"Success"}`},
		{"POST /api/v1beta1/pods", `{"kind":"Pod"`, 400, `*couldn't get version/kind: YAML error: line 1: did not find expected ',' or '}'*`},
		{"POST /api/v1beta1/pods", `{"kind":"Service","apiVersion":"v1beta1","id":"x","port":1}`, 400, `*data of kind 'Service', obj of type 'Pod'*`},
		{"POST /api/v1beta1/pods", `{"id":"x","desiredState":{"manifest":{"version":"v9"}}}`, 422, `{"kind":"Status","creationTimestamp":null,"apiVersion":"v1beta1","status":"Failure","message":"pod \"x\" is invalid: desiredState.manifest.version: unsupported value 'v9'",*`},
		{"POST /api/v1beta1/services", `{"id":"Bad_Name","port":1}`, 422, `{"kind":"Status","creationTimestamp":null,"apiVersion":"v1beta1","status":"Failure","message":"service \"Bad_Name\" is invalid: id: invalid value 'bad_name':*"field":"id"}*`},
		{"POST /api/v1beta1/services", "id: yaml\nport: 80\n", 200, `{"kind":"Service","id":"yaml",*`},
		{"GET /api/v1beta2/services/yaml", "", 200, `{"kind":"Service","id":"yaml","creationTimestamp":"2026-11-29T07:36:47Z","selfLink":"/api/v1beta2/services/yaml","resourceVersion":16,"apiVersion":"v1beta2",*`},
		{"GET /api/v1beta1/bindings", "", 404, `{"kind":"Status","creationTimestamp":null,"apiVersion":"v1beta1","status":"Failure","message":"binding \"list\" not found","reason":"NotFound","details":{"id":"list","kind":"binding"},"code":404}`},
		{"GET /api/v1beta1/pods?timeout=soon", "", 400, `*timeout \"soon\" is no time such as 30s or 2m*`},
		{"GET /api/v1beta1/pods?timeout=1ns", "", 504, `*the cluster did not answer in time*`},
		{"GET /api/v1beta1/pods?namespace=a/b", "", 400, `*is no namespace*`},
		{"DELETE /api/v1beta1/services/yaml?namespace=%zz", "", 400, `*cannot read the query: invalid URL escape \"%zz\"*`},
		{"DELETE /api/v1beta1/services/yaml?namespace=a;b", "", 400, `*cannot read the query: invalid semicolon separator in query*`},
		{"GET /api/v1beta1/watch/pods?labels=a;b", "", 400, `*cannot read the query: invalid semicolon separator in query*`},
		{"GET /api/v1beta1/proxy/pods/redis/?namespace=a;b", "", 400, `*cannot read the query: invalid semicolon separator in query*`},
		{"GET /api/v1beta1/pods/..", "", 404, `*pod \"..\" not found*`},
		{"PUT /api/v1beta1/minions/x", `{}`, 404, `*minion \"x\" not found*`},
	} {
		response, body := g.ask(e.line, e.body)
		if response.StatusCode != e.code || !matches(e.want, body) {
			t.Errorf("%d: %s: %d %s\nwant %d %s", i, e.line, response.StatusCode, body, e.code, e.want)
		}
		kind := response.Header.Get("Content-Type")
		if strings.HasPrefix(body, "{") && kind != "application/json" || strings.HasPrefix(body, "Not Found") && kind != "text/plain; charset=utf-8" {
			t.Errorf("%s: the type of the answer is %s", e.line, kind)
		}
	}
}

func TestEveryResourceIsStoredSomewhere(t *testing.T) {
	for _, r := range v1beta1.Resources() {
		if known, ok := resourceNamed(r.Name); !ok || known.open == nil {
			t.Errorf("%s is nowhere", r.Name)
		}
	}
}

// matches compares with a pattern in which * is anything.
func matches(pattern, text string) bool {
	return regexp.MustCompile("(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*") + "$").MatchString(text)
}

func TestPutNeedsTheVersionThatIsStored(t *testing.T) {
	api := newFakeAPI(t)
	api.put(&v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "svc", Annotations: map[string]string{"kubernetes.io/x": "kept"}}, Spec: v1.ServiceSpec{Ports: []v1.ServicePort{{Port: 80}}}})
	g := start(t, api, nil)
	put := func(version string) string {
		return fmt.Sprintf(`{"id":"svc",%s"port":81,"selector":{"a":"b"}}`, version)
	}
	for _, e := range []exchange{
		{"PUT /api/v1beta1/services/svc", put(`"resourceVersion":11,`), 200, `*"resourceVersion":12,*"port":81,*`},
		{"PUT /api/v1beta1/services/svc", put(`"resourceVersion":11,`), 409, `{"kind":"Status","creationTimestamp":null,"selfLink":"/api/v1beta1/services/svc","apiVersion":"v1beta1","status":"Failure","message":"service \"svc\" cannot be updated: 101: Compare failed ([11 != 12]) [12]","reason":"Conflict","details":{"id":"svc","kind":"service"},"code":409}`},
		{"PUT /api/v1beta1/services/svc", put(""), 409, `*Compare failed ([0 != 12]) [12]*`},
		{"PUT /api/v1beta1/services/none", `{"id":"none","port":83}`, 404, `{"kind":"Status","creationTimestamp":null,"selfLink":"/api/v1beta1/services/none","apiVersion":"v1beta1","status":"Failure","message":"service \"none\" not found","reason":"NotFound","details":{"id":"none","kind":"service"},"code":404}`},
		{"PUT /api/v1beta1/services/svc", `{"id":"other","resourceVersion":12,"port":83}`, 400, `*the object has the id \"other\", and the path \"svc\"*`},
		{"PUT /api/v1beta1/services/svc?namespace=a", `{"namespace":"b","resourceVersion":12,"port":83}`, 400, `*the object has the namespace \"b\", and the query \"a\"*`},
	} {
		response, body := g.ask(e.line, e.body)
		if response.StatusCode != e.code || !matches(e.want, body) {
			t.Errorf("%s %s: %d %s\nwant %d %s", e.line, e.body, response.StatusCode, body, e.code, e.want)
		}
	}
	stored := api.stored("services/default/svc").(*v1.Service)
	if stored.Spec.Ports[0].Port != 81 || stored.Annotations["kubernetes.io/x"] != "kept" {
		t.Errorf("stored is %+v", stored)
	}
}

func TestIDsWithCapitalsAreFoundByBothNames(t *testing.T) {
	api := newFakeAPI(t)
	g := start(t, api, nil)
	for _, e := range []exchange{
		{"POST /api/v1beta1/replicationControllers", redisController, 200, `*"id":"redisController"*`},
		{"POST /api/v1beta1/replicationControllers", strings.Replace(redisController, "redisController", "RedisController", 1), 409, `*replicationController \"RedisController\" already exists*`},
		{"GET /api/v1beta1/replicationControllers/redisController", "", 200, `*"selfLink":"/api/v1beta1/replicationControllers/redisController"*`},
		{"GET /api/v1beta1/replicationControllers/rediscontroller", "", 200, `*"id":"redisController"*`},
		{"GET /api/v1beta1/replicationControllers/REDISController", "", 404, `*replicationController \"REDISController\" not found*`},
		{"DELETE /api/v1beta1/replicationControllers/REDISController", "", 404, `*replicationController \"REDISController\" not found*`},
		{"PUT /api/v1beta1/replicationControllers/redisController", strings.Replace(redisController, "{", `{"resourceVersion":11,`, 1), 200, `*"id":"redisController"*`},
		{"DELETE /api/v1beta1/replicationControllers/redisController", "", 200, `*Success*`},
		{"GET /api/v1beta1/replicationControllers/rediscontroller", "", 404, `*`},
	} {
		if response, body := g.ask(e.line, e.body); response.StatusCode != e.code || !matches(e.want, body) {
			t.Errorf("%s: %d %s\nwant %d %s", e.line, response.StatusCode, body, e.code, e.want)
		}
	}
}

func TestPodsOutliveTheirController(t *testing.T) {
	api := newFakeAPI(t)
	g := start(t, api, nil)
	for _, line := range []string{"POST /api/v1beta1/replicationControllers", "DELETE /api/v1beta1/replicationControllers/rediscontroller"} {
		if response, body := g.ask(line, redisController); response.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", line, body)
		}
	}
	if last := api.last(); last.method != http.MethodDelete || !strings.Contains(last.body, "Orphan") {
		t.Errorf("the API server was asked to %s %s: %s", last.method, last.uri, last.body)
	}
}

func TestPodsWithoutAnIDGetOne(t *testing.T) {
	g := start(t, newFakeAPI(t), nil)
	for path, body := range map[string]string{
		"pods": strings.Replace(redisPod, `"id":"redis",`, "", 1), "replicationControllers": strings.Replace(redisController, `"id":"redisController",`, "", 1),
	} {
		response, answer := g.ask("POST /api/v1beta1/"+path, body)
		if response.StatusCode != http.StatusOK || !regexp.MustCompile(`"id":"[0-9a-f]{8}-[0-9a-f-]{27}"`).MatchString(answer) {
			t.Errorf("%s: %d %s", path, response.StatusCode, answer)
		}
	}
}

func TestNamespacesOfReadsAndWrites(t *testing.T) {
	api := newFakeAPI(t)
	for _, ns := range []string{"default", "other"} {
		api.put(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "in-" + ns}})
	}
	g := start(t, api, nil)
	list := func(query string) (names []string) {
		_, body := g.ask("GET /api/v1beta1/pods"+query, "")
		var l struct{ Items []struct{ ID string } }
		if err := json.Unmarshal([]byte(body), &l); err != nil {
			t.Fatal(err)
		}
		for _, item := range l.Items {
			names = append(names, item.ID)
		}
		return names
	}
	if diff := cmp.Diff([][]string{{"in-default", "in-other"}, {"in-other"}}, [][]string{list(""), list("?namespace=other")}); diff != "" {
		t.Errorf("lists: %s", diff)
	}
	for _, e := range []exchange{
		{"GET /api/v1beta1/pods/in-default", "", 200, `*"selfLink":"/api/v1beta1/pods/in-default"*`},
		{"GET /api/v1beta1/pods/in-other", "", 404, `*`},
		{"GET /api/v1beta1/pods/in-other?namespace=other", "", 200, `*"selfLink":"/api/v1beta1/pods/in-other?namespace=other"*`},
		{"POST /api/v1beta1/services", `{"id":"a","namespace":"other","port":1}`, 200, `*"namespace":"other"*`},
		{"POST /api/v1beta1/services", `{"id":"a","port":1}`, 200, `*"namespace":"default"*`},
		{"POST /api/v1beta1/services?namespace=third", `{"id":"a","port":1}`, 200, `*"namespace":"third"*`},
		{"POST /api/v1beta1/services", `{"id":"a","namespace":"../x","port":1}`, 400, `*is no namespace*`},
	} {
		if response, body := g.ask(e.line, e.body); response.StatusCode != e.code || !matches(e.want, body) {
			t.Errorf("%s: %d %s\nwant %d %s", e.line, response.StatusCode, body, e.code, e.want)
		}
	}
}

func TestBindingPlacesAPod(t *testing.T) {
	api := newFakeAPI(t)
	api.put(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}})
	g := start(t, api, nil)
	for _, e := range []exchange{
		{"POST /api/v1beta1/bindings", `{"kind":"Binding","podID":"web","host":"node-1"}`, 200, `{"kind":"Status","creationTimestamp":null,"selfLink":"/api/v1beta1/bindings","apiVersion":"v1beta1","status":"Success"}`},
		{"POST /api/v1beta1/bindings", `{"podID":"nopod","host":"node-1"}`, 404, `{"kind":"Status","creationTimestamp":null,"selfLink":"/api/v1beta1/bindings","apiVersion":"v1beta1","status":"Failure","message":"pod \"nopod\" not found",*`},
		{"POST /api/v1beta1/bindings", `{"host":"node-1"}`, 422, `*podID*`},
		{"POST /api/v1beta1/bindings", `{"podID":"web"}`, 422, `*binding is invalid: host: required value*`},
		{"DELETE /api/v1beta1/bindings/web", "", 404, `*binding \"web\" not found*`},
	} {
		if response, body := g.ask(e.line, e.body); response.StatusCode != e.code || !matches(e.want, body) {
			t.Errorf("%s: %d %s\nwant %d %s", e.line, response.StatusCode, body, e.code, e.want)
		}
	}
	if p := api.stored("pods/default/web").(*v1.Pod); p.Spec.NodeName != "node-1" {
		t.Errorf("the pod is on %q", p.Spec.NodeName)
	}
}
