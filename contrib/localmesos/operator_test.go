package localmesos

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	agentpb "github.com/mesos/mesos-go/api/v1/lib/agent"
	pb "github.com/mesos/mesos-go/api/v1/lib/master"

	"github.com/k8sm/k8sm/contrib/localmesos/wire"
)

// taskOfRole makes a task with a command in an offer to the role.
func taskOfRole(id, role string, o object, line string) object {
	return commandTask(id, o, line, func(task object) {
		for _, r := range task["resources"].([]any) {
			r.(object)["allocation_info"] = object{"role": role}
		}
	})
}

// launchOnly accepts an offer and refuses what is left of it, so that nothing else is offered.
func (f *testFramework) launchOnly(o object, tasks ...object) {
	f.t.Helper()
	f.call("ACCEPT", object{"accept": object{
		"offer_ids": []any{o["id"]}, "filters": object{"refuse_seconds": 3600.0},
		"operations": []any{object{"type": "LAUNCH", "launch": object{"task_infos": tasks}}},
	}})
}

func TestRolesAndQuotasAndOperationsHaveMesosShape(t *testing.T) {
	t.Parallel()
	c := testConfig(t)
	c.Resources = "cpus:4;mem:4096;cpus(ops/night):1;ports:[31000-32000]"
	cluster := startCluster(t, c)
	o := operatorOf(t, cluster)
	o.must("UPDATE_QUOTA", object{"update_quota": object{"quota_configs": []any{object{
		"role": "dev", "guarantees": object{"cpus": object{"value": 1.0}}, "limits": object{"cpus": object{"value": 2.0}},
	}}}})
	f := subscribeWith(t, cluster, func(_, info object) { info["roles"] = []any{"eng/web"} })
	offer := f.mustOffer()
	f.launchOnly(offer, taskOfRole("t", "eng/web", offer, "sleep 600"))
	f.mustUpdate("t", "TASK_RUNNING")
	taken := []any{
		object{"name": "cpus", "type": "SCALAR", "scalar": object{"value": 0.1}}, object{"name": "mem", "type": "SCALAR", "scalar": object{"value": 32.0}},
	}
	role := func(name string, more ...any) object {
		out := object{"name": name, "weight": 1.0}
		for i := 0; i < len(more); i += 2 {
			out[more[i].(string)] = more[i+1]
		}
		return out
	}
	for call, want := range map[string]object{
		"GET_ROLES": {"get_roles": object{"roles": []any{
			role("dev"), role("eng", "resources", taken), role("eng/web", "resources", taken, "frameworks", []any{named(f.id)}),
			role("ops"), role("ops/night"),
		}}},
		"GET_WEIGHTS":    {},
		"GET_OPERATIONS": {"get_operations": object{}},
		"GET_QUOTA": {"get_quota": object{"status": object{
			"configs": []any{object{"role": "dev", "guarantees": object{"cpus": object{"value": 1.0}}, "limits": object{"cpus": object{"value": 2.0}}}},
			"infos": []any{object{"role": "dev", "guarantee": []any{
				object{"name": "cpus", "type": "SCALAR", "scalar": object{"value": 1.0}},
			}}},
		}}},
	} {
		want["type"] = call
		if diff := cmp.Diff(object{"status": http.StatusOK, "body": want}, o.call(call, nil)); diff != "" {
			t.Errorf("%s: Mesos has -, the local one +:\n%s", call, diff)
		}
	}
}

func TestRoleWithoutFrameworkQuotaAndReservationIsForgotten(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	o := operatorOf(t, cluster)
	f := subscribeWith(t, cluster, func(_, info object) { info["roles"] = []any{"a", "b"} })
	names := func() (names []string) {
		roles, _ := at(o.call("GET_ROLES", nil), "body", "get_roles", "roles").([]any)
		for _, r := range roles {
			names = append(names, text(r, "name"))
		}
		return names
	}
	if diff := cmp.Diff([]string{"a", "b"}, names()); diff != "" {
		t.Error(diff)
	}
	f.call("TEARDOWN", nil)
	if diff := cmp.Diff([]string(nil), names()); diff != "" {
		t.Error(diff)
	}
}

// TestFlagsAreTheConfiguration compares what the master and an agent show with what they were started with.
func TestFlagsAreTheConfiguration(t *testing.T) {
	t.Parallel()
	c := testConfig(t)
	c.ExecutorEnvironmentVariables = `{"A": "b"}`
	c.Authentication.Credentials = writeCredentials(t, "k8sm s3cret")
	cluster := startCluster(t, c)
	for url, want := range map[string]map[string]string{
		masterURL(cluster): {
			"agent_ping_timeout": "15secs", "max_agent_ping_timeouts": "5", "agent_reregister_timeout": "10mins", "allocation_interval": "1secs",
			"authenticate_http_readonly": "false", "credentials": c.Authentication.Credentials, "hostname": "laptop", "ip": "127.0.0.1",
		},
		agentURL(cluster): {
			"attributes": c.Attributes, "resources": c.Resources, "isolation": "posix/cpu,posix/mem", "enforce_container_ports": "false",
			"executor_environment_variables": `{"A": "b"}`, "executor_shutdown_grace_period": "5secs", "recovery_timeout": "15mins",
			"http_credentials": c.Authentication.Credentials, "authenticate_http_executors": "false", "hostname": "laptop",
		},
	} {
		flags, _ := at(post(t, url+"/api/v1", object{"type": "GET_FLAGS"}, nil), "body", "get_flags", "flags").([]any)
		got := map[string]string{}
		before := ""
		for _, f := range flags {
			if name := text(f, "name"); name <= before {
				t.Errorf("%s comes after %s", name, before)
			}
			before = text(f, "name")
			got[before] = text(f, "value")
		}
		for name, value := range want {
			if got[name] != value {
				t.Errorf("%s is %q, want %q", name, got[name], value)
			}
		}
		if secret, given := got["jwt_secret_key"]; given {
			t.Errorf("a flag that is not set is shown as %q", secret)
		}
	}
	if got := text(get(t, masterURL(cluster)+"/state"), "body", "flags", "allocation_interval"); got != "1secs" {
		t.Errorf("/state shows %q", got)
	}
}

// TestAnswerIsTheSameInBothEncodings asks for each in turn.
func TestAnswerIsTheSameInBothEncodings(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	f := subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	f.launchOnly(o, commandTask("t", o, "sleep 600", nil))
	f.mustUpdate("t", "TASK_RUNNING")
	for _, kind := range []pb.Call_Type{
		pb.Call_GET_HEALTH, pb.Call_GET_FLAGS, pb.Call_GET_VERSION, pb.Call_GET_STATE, pb.Call_GET_ROLES, pb.Call_GET_WEIGHTS,
		pb.Call_GET_OPERATIONS, pb.Call_GET_QUOTA, pb.Call_GET_MASTER, pb.Call_GET_MAINTENANCE_STATUS,
	} {
		compareEncodings(t, masterURL(cluster), &pb.Call{Type: kind}, &pb.Response{}, &pb.Response{})
	}
	for _, kind := range []agentpb.Call_Type{agentpb.Call_GET_HEALTH, agentpb.Call_GET_FLAGS, agentpb.Call_GET_VERSION} {
		compareEncodings(t, agentURL(cluster), &agentpb.Call{Type: kind}, &agentpb.Response{}, &agentpb.Response{})
	}
}

// compareEncodings makes a call in each encoding, and asks for the answer in the other one.
func compareEncodings(t *testing.T, url string, call, inJSON, inProtobuf wire.Message) {
	t.Helper()
	for codec, accepted := range map[wire.Codec]wire.Codec{wire.JSON: wire.Protobuf, wire.Protobuf: wire.JSON} {
		body, err := codec.Encode(call)
		if err != nil {
			t.Fatal(err)
		}
		status, kind, body := postRaw(t, url+"/api/v1", codec.String(), accepted.String(), string(body))
		answer := map[wire.Codec]wire.Message{wire.JSON: inJSON, wire.Protobuf: inProtobuf}[accepted]
		if status != http.StatusOK || kind != accepted.String() {
			t.Errorf("in %s: %d %s %s", codec, status, kind, body)
		}
		if err := accepted.Decode(body, answer); err != nil {
			t.Error(err)
		}
	}
	one, other := wire.Tree(inJSON), wire.Tree(inProtobuf) // both with the values that are the default
	if diff := cmp.Diff(one, other); diff != "" || one["type"] != wire.Tree(call)["type"] {
		t.Errorf("%v: in JSON -, in protobuf +:\n%s", wire.Tree(call), diff)
	}
}

// postRaw posts a body, and returns the status and the answer's type and body. Without a type or accepted types it sends no such header.
func postRaw(t *testing.T, url, contentType, accepted, body string) (int, string, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if accepted != "" {
		r.Header.Set("Accept", accepted)
	}
	resp, err := caller.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), answer
}

func TestMalformedOperatorCallIsRefusedWithMesosMessage(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	const json, protobuf = "application/json", "application/x-protobuf"
	for _, test := range []struct {
		contentType, accepted, body string
		status                      int
		want                        string
	}{
		{"", "", "{}", 400, "Expecting 'Content-Type' to be present"},
		{"text/plain", "", "{}", 415, "Expecting 'Content-Type' of application/json or application/x-protobuf"},
		{json, "", "", 400, "Failed to parse body into JSON"},
		{json, "", "{nope", 400, "Failed to parse body into JSON"},
		{json, "", "[]", 400, "Failed to convert JSON into Call protobuf"},
		{json, "", "{}", 400, "Expecting 'type' to be present"},
		{json, "", `{"type": "DANCE"}`, 400, "Expecting 'type' to be present"},
		{json, "", `{"type": "GET_METRICS"}`, 400, "Expecting 'get_metrics' to be present"},
		{json, "", `{"type": "GET_METRICS", "get_metrics": {"timeout": {}}}`, 400, "Missing required fields: get_metrics.timeout.nanoseconds"},
		{json, "", `{"type": "GET_METRICS", "get_metrics": {"timeout": {"nanoseconds": "soon"}}}`, 400, "get_metrics.timeout.nanoseconds"},
		{protobuf, "", "\xff\xff", 400, "Failed to parse body into Call protobuf"},
		{json, "text/html", `{"type": "GET_FLAGS"}`, 406, "Expecting 'Accept' to allow 'application/x-protobuf' or 'application/json'"},
		{json, "application/json;q=0", `{"type": "GET_FLAGS"}`, 406, "Expecting 'Accept' to allow"},
		{json, "", `{"type": "LIST_FILES", "list_files": {"path": "/"}}`, 501, "The local Mesos does not know the call LIST_FILES"},
	} {
		for _, url := range []string{masterURL(cluster), agentURL(cluster)} {
			status, _, body := postRaw(t, url+"/api/v1", test.contentType, test.accepted, test.body)
			if status != test.status || !bytes.Contains(body, []byte(test.want)) {
				t.Errorf("%s %q to %s: %d %s, want %d %s", test.contentType, test.body, url, status, body, test.status, test.want)
			}
		}
	}
	for _, url := range []string{masterURL(cluster), agentURL(cluster)} {
		got := get(t, url+"/api/v1")
		if want := "405 Method Not Allowed. Expecting one of { 'POST' }, but received 'GET'.\n"; got["status"] != 405 || got["body"] != want {
			t.Errorf("GET %s: %v", url, got)
		}
	}
}

// TestAnswerIsInJSONUnlessProtobufAloneIsAccepted also when the call is in protobuf, as in Mesos.
func TestAnswerIsInJSONUnlessProtobufAloneIsAccepted(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	body, err := wire.Protobuf.Encode(&pb.Call{Type: pb.Call_GET_HEALTH})
	if err != nil {
		t.Fatal(err)
	}
	for accepted, want := range map[string]wire.Codec{
		"": wire.JSON, "*/*": wire.JSON, "application/*": wire.JSON, "application/x-protobuf, application/json": wire.JSON,
		"application/x-protobuf": wire.Protobuf, "application/json;q=0.0, */*": wire.Protobuf,
	} {
		_, kind, body := postRaw(t, masterURL(cluster)+"/api/v1", "application/x-protobuf", accepted, string(body))
		if kind != want.String() || want == wire.JSON && !json.Valid(body) {
			t.Errorf("Accept: %q gets %s %q", accepted, kind, body)
		}
	}
}
