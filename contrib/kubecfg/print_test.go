package kubecfg

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTables(t *testing.T) {
	for name, test := range map[string]struct{ object, want string }{
		"a pod that runs": {recorded(t, "04-get-pod"), `
ID                  Image(s)            Host                Labels              Status
----------          ----------          ----------          ----------          ----------
redis               dockerfile/redis    127.0.0.1/          name=redis          Running
`},
		"pods": {`{"kind":"PodList","items":[{"id":"a-pod-with-a-long-name","labels":{"b":"2","a":"1"},"desiredState":{"manifest":{"containers":` +
			`[{"image":"one"},{"image":"two"}]}},"currentState":{"host":"n1","hostIP":"192.0.2.1","status":"Waiting"}}]}`, `
ID                       Image(s)            Host                Labels              Status
----------               ----------          ----------          ----------          ----------
a-pod-with-a-long-name   one,two             n1/192.0.2.1        a=1,b=2             Waiting
`},
		"a controller": {recorded(t, "11-get-rc"), `
ID                  Image(s)            Selector            Replicas
----------          ----------          ----------          ----------
redisController     dockerfile/redis    name=redis          1
`},
		"events": {`{"kind":"EventList","items":[{"involvedObject":{"name":"web","kind":"Pod"},"status":"running","reason":"Started","message":"it runs"}]}`, `
Name                Kind                Status              Reason              Message
----------          ----------          ----------          ----------          ----------
web                 Pod                 running             Started             it runs
`},
		"endpoints": {recorded(t, "14-endpoints"), `
ID                  Endpoints
----------          ----------
redis               10.244.1.7:6379
`},
		"a list without items": {`{"kind":"MinionList","items":null}`, `
Minion identifier
----------
`},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			if err := printTable(&out, []byte(test.object)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimPrefix(test.want, "\n"), out.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWhatIsNoObjectIsNotPrinted(t *testing.T) {
	for object, want := range map[string]string{
		`{"kind":"Widget"}`: `unknown kind "Widget"`, `[]`: "cannot unmarshal array", `{"kind":"Pod","id":1}`: "cannot unmarshal number", ``: "unexpected end",
		`{"kind":"PodList","items":[7]}`: "cannot unmarshal number",
	} {
		var out strings.Builder
		if err := printTable(&out, []byte(object)); err == nil || !strings.Contains(err.Error(), want) || out.Len() > 0 {
			t.Errorf("%s: %v, %s", object, err, out.String())
		}
		if object == "" {
			if err := printYAML(&out, nil); err == nil {
				t.Error("nothing is printed as YAML")
			}
		}
	}
}

// TestServerDoesNotControlTheTerminal: nor does who made an object, or an event's message.
func TestServerDoesNotControlTheTerminal(t *testing.T) {
	const evil = `\u001b]0;x\u0007\u001b[2J\r\n\t\u009b2J`
	for name, test := range map[string]struct{ args, path, body string }{
		"a table":   {"list events", "/api/v1beta1/events", `{"kind":"EventList","items":[{"message":"` + evil + `"}]}`},
		"yaml":      {"-yaml list events", "/api/v1beta1/events", `{"kind":"EventList","items":[{"message":"` + evil + `"}]}`},
		"a failure": {"list pods", "/api/v1beta1/pods", `{"kind":"Status","status":"Failure","message":"` + evil + `"}`},
		"no object": {"list pods", "/api/v1beta1/pods", "\x1b[2J\r\x07"},
		"no JSON":   {"-json list pods", "/api/v1beta1/pods", "{\"id\":\"\x1b[2J\"}"},
		"a version": {"-server_version", "/version", `{"gitVersion":"` + evil + `"}`},
	} {
		s := newServer(t, answer{to: "GET " + test.path, body: test.body})
		got := kubecfgAt(t, s.URL, strings.Fields(test.args)...)
		if text := got.out + got.errs; strings.ContainsAny(text, "\x1b\x07\r\u009b") || text == "" {
			t.Errorf("%s: it prints %q", name, text)
		}
		if want := 4; name == "a table" && strings.Count(got.out, "\n") != want {
			t.Errorf("the table has other lines: %q", got.out)
		}
	}
}

func TestYAML(t *testing.T) {
	var out strings.Builder
	const pods = `{"kind":"PodList","creationTimestamp":null,"resourceVersion":7,"apiVersion":"v1beta1","items":[{"id":"on","labels":{"n":"1","kind":"x"},` +
		`"creationTimestamp":"2026-11-29T07:36:47Z","desiredState":{"manifest":{"version":"v1beta1","volumes":null,"containers":[{"name":"a: b","cpu":100,` +
		`"privileged":true,"command":["sh","-c","echo 😀\nexit 1"],"lifecycle":null}]}}}]}`
	if err := printYAML(&out, []byte(pods)); err != nil {
		t.Fatal(err)
	}
	want := `creationTimestamp: null
resourceVersion: "7"
items:
- id: "on"
  labels:
    "n": "1"
    kind: x
  creationTimestamp: 2026-11-29T07:36:47Z
  desiredState:
    manifest:
      version: v1beta1
      volumes: []
      containers:
      - name: 'a: b'
        cpu: 100
        privileged: true
        command:
        - sh
        - -c
        - "echo \U0001F600\nexit 1"
        lifecycle: null
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}
