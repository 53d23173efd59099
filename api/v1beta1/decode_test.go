package v1beta1

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBodiesAreDecoded(t *testing.T) {
	for _, c := range []struct{ name, body, want string }{
		{"JSON", `{"kind":"Service","apiVersion":"v1beta1","id":"s","port":1}`, `{"kind":"Service","id":"s","creationTimestamp":null,"apiVersion":"v1beta1","port":1,"selector":null,"containerPort":0}`},
		{"YAML", "# a service\nid: s\nport: 1\ncontainerPort: www\n", `{"kind":"Service","id":"s","creationTimestamp":null,"apiVersion":"v1beta1","port":1,"selector":null,"containerPort":"www"}`},
		{"the other version", `{"apiVersion":"v1beta2"}`, `{"kind":"Service","creationTimestamp":null,"apiVersion":"v1beta1","port":0,"selector":null,"containerPort":0}`},
		{"unknown fields", `{"x":{"y":[1]},"proxyPort":3}`, `{"kind":"Service","creationTimestamp":null,"apiVersion":"v1beta1","port":0,"selector":null,"containerPort":0}`},
		{"a version in quotes", `{"resourceVersion":"7"}`, `{"kind":"Service","creationTimestamp":null,"resourceVersion":7,"apiVersion":"v1beta1","port":0,"selector":null,"containerPort":0}`},
		{"numbers for strings", `{"selector":{"a":1.5}}`, `{"kind":"Service","creationTimestamp":null,"apiVersion":"v1beta1","port":0,"selector":{"a":"1.5"},"containerPort":0}`},
		{"characters that YAML has not", `{"selector":{"a":"\ud83d\ude00\u007f\u0001\t\/"}}`,
			`{"kind":"Service","creationTimestamp":null,"apiVersion":"v1beta1","port":0,"selector":{"a":"😀` + "\x7f" + `\u0001\t/"},"containerPort":0}`},
	} {
		t.Run(c.name, func(t *testing.T) { same(t, encode(t, decode(t, c.body, "Service")), c.want) })
	}
	o, err := Decode([]byte("{}"), resourceOf(t, "Pod"), V1Beta2)
	if err != nil || o.Base().Kind != "Pod" || o.Base().APIVersion != V1Beta2 {
		t.Errorf("an empty object is %v, %v", o, err)
	}
}

func TestWrongBodiesAreRefused(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for i := range 12 {
		last, next := string(rune('a'+i)), string(rune('b'+i))
		bomb += next + ": &" + next + " [" + strings.TrimSuffix(strings.Repeat("*"+last+",", 9), ",") + "]\n"
	}
	for _, c := range []struct {
		name, kind, body string
		code             int
		message          string
	}{
		{"nothing", "Pod", "", 400, "the body is empty: send an object"},
		{"comments", "Pod", "# x\n", 400, "the body is empty: send an object"},
		{"null", "Pod", "null", 400, "the body is empty: send an object"},
		{"text", "Pod", "hello", 400, "the body: cannot read string as an object"},
		{"list", "Pod", "[]", 400, "the body: cannot read array as an object"},
		{"JSON that does not end", "Pod", `{"kind":"Pod"`, 400, "YAML error: line 1: did not find expected ',' or '}'"},
		{"YAML", "Pod", "a: b: c", 400, "YAML error: mapping values are not allowed in this context"},
		{"control characters", "Pod", "a: \x00", 400, "YAML error: control characters are not allowed"},
		{"a YAML bomb", "Pod", bomb, 400, "YAML error: document contains excessive aliasing"},
		{"kind of an unfit type", "Pod", `{"kind":{"a":1}}`, 400, "kind: cannot read object as a string"},
		{"wrong kind", "Pod", `{"kind":"PodList"}`, 400, "data of kind 'PodList', obj of type 'Pod'"},
		{"wrong version", "Pod", `{"kind":"Pod","apiVersion":"v1"}`, 400, "apiVersion 'v1' is none of v1beta1, v1beta2: send other objects to the Kubernetes API server"},
		{"text for a number", "Service", `{"port":"80"}`, 400, "couldn't read the service: port: cannot read string as a whole number of type int32"},
		{"a number that is too large", "Service", `{"port":4294967296}`, 400, "port: cannot read number 4294967296 as a whole number of type int32"},
		{"a part of a number", "Pod", pod(`,"containers":[{"cpu":0.5}]`), 400, "desiredState.manifest.containers.cpu: cannot read number 0.5 as a whole number of type int64"},
		{"text for a list", "Pod", pod(`,"containers":"x"`), 400, "desiredState.manifest.containers: cannot read string as a list"},
		{"text for a container", "Pod", pod(`,"containers":["x"]`), 400, "desiredState.manifest.containers: cannot read string as an object"},
		{"text for a switch", "Pod", container(`,"privileged":"x"`), 400, "privileged: cannot read string as true or false"},
		{"a version that is no number", "Service", `{"resourceVersion":"x"}`, 400, "resourceVersion x is not a number: use the one that the object was read with"},
		{"a time that is none", "Event", `{"timestamp":"yesterday"}`, 400, "couldn't read the event: parsing time"},
		{"a list for labels", "Service", "id: s\nlabels:\n- name: x\n", 422, "service \"s\" is invalid: labels: invalid value 'a list': write a map (name: nginx), not a list (- name: nginx)"},
		{"a list for a selector", "Service", `{"selector":[]}`, 422, "selector: invalid value 'a list'"},
		{"a number for an id", "Pod", `{"id":5}`, 400, "couldn't read the pod: id: cannot read number as a string"},
		{"a list for annotations", "Pod", `{"annotations":[]}`, 422, "annotations: invalid value 'a list'"},
		{"a list for env", "Pod", container(`,"env":{"A":"x"}`), 400, "desiredState.manifest.containers.env: cannot read object as a list"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, err := Decode([]byte(c.body), resourceOf(t, c.kind), V1Beta1)
			if o != nil || err == nil {
				t.Fatalf("it is read as %s", encode(t, o))
			}
			if s := status(t, err); s.Code != c.code || !strings.Contains(s.Message, c.message) {
				t.Errorf("the answer is %d, %q", s.Code, s.Message)
			}
		})
	}
}

func TestResources(t *testing.T) {
	names := map[string]bool{}
	for _, r := range Resources() {
		names[r.Name] = true
		for _, name := range []string{r.Name, strings.ToLower(r.Name)} {
			if found, ok := ResourceNamed(name); !ok || found.Kind != r.Kind {
				t.Errorf("%s is %s", name, found.Kind)
			}
		}
		if kind := reflect.TypeOf(r.New()).Elem().Name(); kind != r.Kind || r.V1.Version != "v1" {
			t.Errorf("%s has objects of kind %s, and %v", r.Name, kind, r.V1)
		}
		if readable := r.Kind != "Binding"; (r.ListKind == r.Kind+"List") != readable || r.Namespaced != (r.Kind != "Minion") {
			t.Errorf("%s has lists of kind %q, and is in namespaces: %t", r.Name, r.ListKind, r.Namespaced)
		}
	}
	want := map[string]bool{"pods": true, "replicationControllers": true, "services": true, "minions": true, "endpoints": true, "events": true, "bindings": true}
	if diff := cmp.Diff(names, want); diff != "" {
		t.Errorf("the resources are -, and should be +:\n%s", diff)
	}
	for _, name := range []string{"", "widgets", "Pods", "operations"} {
		if _, ok := ResourceNamed(name); ok {
			t.Errorf("%q is a resource", name)
		}
	}
}
