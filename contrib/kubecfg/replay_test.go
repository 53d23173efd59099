package kubecfg

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// transcript is a recorded call.
type transcript struct {
	args   []string
	output string
	failed bool
}

// header is what a log put before each message.
var header = regexp.MustCompile(`(?m)^[EF]\d{4} [\d:.]+ +\d+ kubecfg\.go:\d+\] `)

func readTranscript(t *testing.T, name string) transcript {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata/cli", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	first, output, _ := strings.Cut(string(text), "\n")
	command, found := strings.CutPrefix(first, "$ kubecfg ")
	if !found { // of a call whose command line was not recorded
		return transcript{args: []string{"-h"}, output: string(text), failed: true}
	}
	end := regexp.MustCompile(`\[rc=(\d+)\]\n$`).FindStringSubmatch(output)
	if end == nil {
		t.Fatalf("%s does not say how the call ended", name)
	}
	output = header.ReplaceAllString(strings.TrimSuffix(output, end[0]), "")
	return transcript{args: strings.Fields(command), output: output, failed: end[1] != "0"}
}

// controller is the answer to a recorded write of a replication controller; it differs in these only.
func controller(id, ports string, version, replicas, current int) string {
	return fmt.Sprintf(`{"kind":"ReplicationController","id":"%[1]s","creationTimestamp":"2026-11-29T07:37:30Z",`+
		`"selfLink":"/api/v1beta1/replicationControllers/%[1]s","resourceVersion":%[3]d,"apiVersion":"v1beta1","namespace":"default",`+
		`"desiredState":{"replicas":%[4]d,"replicaSelector":{"simpleService":"%[1]s"},"podTemplate":{"desiredState":{"manifest":`+
		`{"version":"v1beta2","id":"","volumes":null,"containers":[{"name":"%[6]s","image":"dockerfile/nginx",%[2]s"imagePullPolicy":""}],`+
		`"restartPolicy":{"always":{}}}},"labels":{"simpleService":"%[1]s"}}},"currentState":{"replicas":%[5]d,"podTemplate":`+
		`{"desiredState":{"manifest":{"version":"","id":"","volumes":null,"containers":null,"restartPolicy":{}}}}}}`,
		id, ports, version, replicas, current, strings.ToLower(id))
}

const (
	controllers = "/api/v1beta1/replicationControllers"
	nginxPorts  = `"ports":[{"hostPort":8080,"containerPort":80,"protocol":"TCP"}],`
	webService  = `{"kind":"Service","id":"web","creationTimestamp":"2026-11-29T07:37:30Z","selfLink":"/api/v1beta1/services/web",` +
		`"resourceVersion":37,"apiVersion":"v1beta1","namespace":"default","port":9000,"protocol":"TCP","labels":{"simpleService":"web"},` +
		`"selector":{"simpleService":"web"},"containerPort":0,"portalIP":"172.16.0.3"}`
	twoServices = `{"kind":"ServiceList","creationTimestamp":null,"selfLink":"/api/v1beta1/services","resourceVersion":29,"apiVersion":"v1beta1","items":[` +
		`{"id":"svc","creationTimestamp":null,"resourceVersion":27,"namespace":"default","port":81,"protocol":"TCP","selector":{"a":"b"},"containerPort":0,"portalIP":"172.16.0.1"},` +
		`{"id":"y","creationTimestamp":null,"resourceVersion":28,"namespace":"default","port":90,"protocol":"TCP","selector":{"a":"b"},"containerPort":0,"portalIP":"172.16.0.2"}]}`
	noControllers = `{"kind":"ReplicationControllerList","creationTimestamp":null,"selfLink":"/api/v1beta1/replicationControllers","resourceVersion":29,"apiVersion":"v1beta1","items":[]}`
	onePod        = `{"kind":"PodList","creationTimestamp":null,"resourceVersion":44,"apiVersion":"v1beta1","items":[{"id":"web-1","creationTimestamp":null}]}`
)

// TestRecordedCalls replays what the program of 2014 was recorded to print, with the answers that its server gave.
func TestRecordedCalls(t *testing.T) {
	success, missing := recorded(t, "21-delete-pod"), strings.ReplaceAll(recorded(t, "05-get-missing"), "nope", "none")
	answers := map[string][]answer{
		"00-usage":         nil,
		"01-help":          nil,
		"02-list-services": {{to: "GET /api/v1beta1/services", body: twoServices}},
		"03-list-minions":  {{to: "GET /api/v1beta1/minions", body: recorded(t, "15-minions")}},
		"04-list-rc-empty": {{to: "GET " + controllers, body: noControllers}},
		"05-run":           {{to: "POST " + controllers, body: controller("myNginx", nginxPorts, 31, 2, 0)}},
		"06-run-service": {
			{to: "POST " + controllers, body: controller("web", "", 36, 1, 0)},
			{to: "POST /api/v1beta1/services", body: webService},
		},
		"07-resize": {
			{to: "GET " + controllers + "/myNginx", body: controller("myNginx", nginxPorts, 31, 2, 2)},
			{to: "PUT " + controllers + "/myNginx", body: controller("myNginx", nginxPorts, 41, 3, 2)},
		},
		"08-stop": {
			{to: "GET " + controllers + "/myNginx", body: controller("myNginx", nginxPorts, 41, 3, 2)},
			{to: "PUT " + controllers + "/myNginx", body: controller("myNginx", nginxPorts, 43, 0, 2)},
		},
		"09-rm-nonzero": {{to: "GET " + controllers + "/web", body: controller("web", "", 36, 1, 1)}},
		"11-rolling": {
			{to: "GET " + controllers + "/web", body: controller("web", "", 36, 1, 1)},
			{to: "GET /api/v1beta1/pods", body: onePod},
			{to: "DELETE /api/v1beta1/pods/web-1", body: success},
			{to: "GET /api/v1beta1/pods", body: onePod},
		},
		"12-delete":      {{to: "DELETE /api/v1beta1/services/web", body: success}},
		"13-get-missing": {{to: "GET /api/v1beta1/pods/none", code: http.StatusNotFound, body: missing}},
		"16-json":        {{to: "GET /api/v1beta1/services/svc", body: recorded(t, "31-put-service")}},
		"17-badverb":     nil,
		"18-badresource": nil,
		"19-list-id":     nil,
		"20-create-noc":  nil,
		"21-badport":     nil,
		"23-version":     {{to: "GET /version", body: `{"major":"0","minor":"4+","gitVersion":"v0.4-dev","gitCommit":"","gitTreeState":""}`}},
		"25-print":       nil,
	}
	files, err := filepath.Glob("testdata/cli/*.txt")
	if err != nil || len(files) != len(answers) {
		t.Fatalf("%d recordings, answers to %d: %v", len(files), len(answers), err)
	}
	redis, err := os.ReadFile("../examples/v1beta1/redis.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		t.Run(name, func(t *testing.T) {
			script := readTranscript(t, name)
			s := newServer(t, answers[name]...)
			t.Setenv("HOME", "") // as it was then; so files are looked for in the directory
			t.Chdir(t.TempDir())
			if err := os.WriteFile("redis.json", redis, 0o600); err != nil {
				t.Fatal(err)
			}
			got := kubecfgAt(t, s.URL, script.args...)
			printed, silent := got.out, got.errs
			if script.failed {
				printed, silent = silent, printed
			}
			if diff := cmp.Diff(script.output, printed); diff != "" || silent != "" {
				t.Errorf("also %q; -recorded +printed:\n%s", silent, diff)
			}
			if failed := got.status != 0; failed != script.failed {
				t.Errorf("exit status %d", got.status)
			}
		})
	}
}

// TestRequests are those of the recorded calls whose answers do not show what was sent.
func TestRequests(t *testing.T) {
	const (
		pair = `{"simpleService":"web"}`
		none = `{"manifest":{"version":"","id":"","volumes":null,"containers":null,"restartPolicy":{}}}`
	)
	deleted, pods, service := recorded(t, "21-delete-pod"), recorded(t, "06-list-labels"), recorded(t, "31-put-service")
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{
		"service.yaml":   "id: svc\nport: 9376 # of the service\nselector: {a: b}\n",
		"endpoints.yaml": "id: db\nendpoints: [\"10.0.0.1:5432\"]\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		args    string
		answers []answer
		want    []asked
	}{
		{
			args: "-p 8080:80,443 -s 9000 run dockerfile/nginx 2 web",
			answers: []answer{
				{to: "POST " + controllers, body: controller("web", "", 36, 2, 0)},
				{to: "POST /api/v1beta1/services", body: webService},
			},
			want: []asked{
				{"POST " + controllers + "?namespace=default", `{"kind":"ReplicationController","id":"web","creationTimestamp":null,"apiVersion":"v1beta1",` +
					`"desiredState":{"replicas":2,"replicaSelector":` + pair + `,"podTemplate":{"desiredState":{"manifest":{"version":"v1beta2","id":"","volumes":null,` +
					`"containers":[{"name":"web","image":"dockerfile/nginx","ports":[{"hostPort":8080,"containerPort":80},{"containerPort":443}],"imagePullPolicy":""}],` +
					`"restartPolicy":{}}},"labels":` + pair + `}},"currentState":{"replicas":0,"podTemplate":{"desiredState":` + none + `}}}`},
				{"POST /api/v1beta1/services?namespace=default", `{"kind":"Service","id":"web","creationTimestamp":null,"apiVersion":"v1beta1","port":9000,` +
					`"labels":` + pair + `,"selector":` + pair + `,"containerPort":0}`},
			},
		},
		{
			args: "-ns prod resize web 5",
			answers: []answer{
				{to: "GET " + controllers + "/web", body: controller("web", nginxPorts, 36, 2, 2)},
				{to: "PUT " + controllers + "/web", body: controller("web", nginxPorts, 37, 5, 2)},
			},
			want: []asked{
				{"GET " + controllers + "/web?namespace=prod", ""},
				{"PUT " + controllers + "/web?namespace=prod", controller("web", nginxPorts, 36, 5, 2)},
			},
		},
		{
			args: "-u 1ms -image dockerfile/nginx:2 rollingupdate web",
			answers: []answer{
				{to: "GET " + controllers + "/web", body: controller("web", "", 36, 1, 1)},
				{to: "PUT " + controllers + "/web", body: controller("web", "", 37, 1, 1)},
				{to: "GET /api/v1beta1/pods", body: onePod},
				{to: "DELETE /api/v1beta1/pods/web-1", body: deleted},
				{to: "GET /api/v1beta1/pods", body: strings.Replace(onePod, `{"id":"web-1","creationTimestamp":null}`, "", 1)},
				{to: "GET /api/v1beta1/pods", body: strings.Replace(onePod, "web-1", "web-2", 1)},
			},
			want: []asked{
				{"GET " + controllers + "/web?namespace=default", ""},
				{"PUT " + controllers + "/web?namespace=default", strings.Replace(controller("web", "", 36, 1, 1), "dockerfile/nginx", "dockerfile/nginx:2", 1)},
				{"GET /api/v1beta1/pods?labels=simpleService%3Dweb&namespace=default", ""},
				{"DELETE /api/v1beta1/pods/web-1?namespace=default", ""},
				{"GET /api/v1beta1/pods?labels=simpleService%3Dweb&namespace=default", ""},
				{"GET /api/v1beta1/pods?labels=simpleService%3Dweb&namespace=default", ""},
			},
		},
		{
			args: "rm web",
			answers: []answer{
				{to: "GET " + controllers + "/web", body: controller("web", "", 36, 0, 0)},
				{to: "DELETE " + controllers + "/web", body: deleted},
			},
			want: []asked{{"GET " + controllers + "/web?namespace=default", ""}, {"DELETE " + controllers + "/web?namespace=default", ""}},
		},
		{
			args:    "-l name=redis,!old -fields DesiredState.Host=n1 list /pods/",
			answers: []answer{{to: "GET /api/v1beta1/pods", body: pods}},
			want:    []asked{{"GET /api/v1beta1/pods?fields=DesiredState.Host%3Dn1&labels=name%3Dredis%2C%21old&namespace=default", ""}},
		},
		{
			args:    "-api_version v1beta2 -c service.yaml create services",
			answers: []answer{{to: "POST /api/v1beta2/services", body: service}},
			want:    []asked{{"POST /api/v1beta2/services?namespace=default", `{"kind":"Service","id":"svc","creationTimestamp":null,"apiVersion":"v1beta2","port":9376,"selector":{"a":"b"},"containerPort":0}`}},
		},
		{
			args: "-c service.yaml update services/svc",
			answers: []answer{
				{to: "GET /api/v1beta1/services/svc", body: service},
				{to: "PUT /api/v1beta1/services/svc", body: service},
			},
			want: []asked{
				{"GET /api/v1beta1/services/svc?namespace=default", ""},
				{"PUT /api/v1beta1/services/svc?namespace=default", `{"kind":"Service","id":"svc","creationTimestamp":null,"resourceVersion":27,"apiVersion":"v1beta1","port":9376,"selector":{"a":"b"},"containerPort":0}`},
			},
		},
		{
			args: "-c endpoints.yaml update endpoints/db",
			answers: []answer{
				{to: "GET /api/v1beta1/endpoints/db", body: `{"kind":"Endpoints","id":"db","endpoints":[]}`},
				{to: "PUT /api/v1beta1/endpoints/db", body: `{"kind":"Endpoints","id":"db","resourceVersion":8,"endpoints":["10.0.0.1:5432"]}`},
			},
			want: []asked{
				{"GET /api/v1beta1/endpoints/db?namespace=default", ""},
				{"PUT /api/v1beta1/endpoints/db?namespace=default", `{"kind":"Endpoints","id":"db","creationTimestamp":null,"apiVersion":"v1beta1","endpoints":["10.0.0.1:5432"]}`},
			},
		},
		{ // an old server that does not wait
			args: "delete pods/redis",
			answers: []answer{
				{to: "DELETE /api/v1beta1/pods/redis", code: http.StatusAccepted, body: `{"kind":"Status","status":"Working","details":{"id":"7","kind":"operation"}}`},
				{to: "GET /api/v1beta1/operations/7", body: deleted},
			},
			want: []asked{{"DELETE /api/v1beta1/pods/redis?namespace=default", ""}, {"GET /api/v1beta1/operations/7", ""}},
		},
	} {
		t.Run(test.args, func(t *testing.T) {
			s := newServer(t, test.answers...)
			if got := kubecfgAt(t, s.URL, strings.Fields(test.args)...); got.status != 0 || got.errs != "" {
				t.Errorf("%+v", got)
			}
			if diff := cmp.Diff(test.want, s.asked(), cmp.AllowUnexported(asked{})); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}
