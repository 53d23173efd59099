package localmesos

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/executor"
)

func TestAcknowledgementWithoutAValidUUIDIsRefused(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	f := subscribeWith(t, cluster, nil)
	for _, bytes := range []string{"", "short", strings.Repeat("x", 17), "a version\x00 nine"} {
		got := f.call("ACKNOWLEDGE", object{"acknowledge": object{
			"agent_id": named("a"), "task_id": named("t"), "uuid": base64.StdEncoding.EncodeToString([]byte(bytes)),
		}})
		if got["status"] != http.StatusBadRequest || got["body"] != "Failed to validate scheduler::Call: Not a valid UUID\n" {
			t.Errorf("%q: %v", bytes, got)
		}
	}
}

func TestUpdateOfAnExecutorIsValidated(t *testing.T) {
	good := func() *executor.Call {
		return &executor.Call{
			Type: executor.Call_UPDATE, ExecutorID: mesos.ExecutorID{Value: "x"}, FrameworkID: mesos.FrameworkID{Value: "f"},
			Update: &executor.Call_Update{Status: mesos.TaskStatus{
				State: mesos.TASK_RUNNING.Enum(), Source: mesos.SOURCE_EXECUTOR.Enum(), UUID: []byte("0123456789abcdef"),
			}},
		}
	}
	for _, test := range []struct {
		change func(*mesos.TaskStatus)
		want   string
	}{
		{func(*mesos.TaskStatus) {}, ""},
		{func(s *mesos.TaskStatus) { s.UUID = nil }, "Expecting 'uuid' to be present"},
		{func(s *mesos.TaskStatus) { s.UUID = []byte("x") }, "Not a valid UUID"},
		{func(s *mesos.TaskStatus) { s.ExecutorID = &mesos.ExecutorID{Value: "y"} }, "ExecutorID in Call: x does not match ExecutorID in TaskStatus: y"},
		{func(s *mesos.TaskStatus) { s.Source = nil }, "Received Call from executor x of framework f with invalid source, expecting 'SOURCE_EXECUTOR'"},
		{func(s *mesos.TaskStatus) { s.State = mesos.TASK_STAGING.Enum() }, "Received TASK_STAGING from executor x of framework f which is not allowed"},
	} {
		call := good()
		test.change(&call.Update.Status)
		want := test.want
		if want != "" {
			want = "Failed to validate Executor::Call: " + want
		}
		if got := executorCallProblem(call, ""); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestInvalidSubscriptionIsRefusedWithMesosMessage(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	first := subscribeWith(t, cluster, func(_, info object) { info["principal"] = "one" })
	for _, test := range []struct {
		change func(call, info object)
		want   string
	}{
		{func(_, info object) { info["roles"] = []any{"b", "a", "b", "a", "c"} }, "'FrameworkInfo.roles' contains duplicate items: { a, b }"},
		{func(_, info object) { info["failover_timeout"] = 1e10 }, "The framework failover_timeout (1e+10) is invalid"},
		{func(call, _ object) { call["subscribe"].(object)["suppressed_roles"] = []any{"x"} }, "Suppressed roles { x } are not contained in the set of roles"},
		{func(call, info object) {
			info["id"], call["framework_id"], info["principal"] = named(first.id), named(first.id), "two"
		}, "Changing framework's principal is not allowed."},
		{func(call, info object) { info["id"], call["framework_id"] = named(first.id), named(first.id) }, "Changing framework's principal is not allowed."},
	} {
		f := subscribeWith(t, cluster, test.change)
		if got := text(f.subscribed, "error", "message"); got != test.want {
			t.Errorf("got %v, want %q", f.subscribed, test.want)
		}
	}
	if got := first.call("REVIVE", nil); got["status"] != http.StatusAccepted {
		t.Errorf("the first scheduler was cut off: %v", got)
	}
}

func TestSubscriptionWithAStreamIDIsRefused(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	f := subscribeWith(t, cluster, nil)
	info := object{"name": "x", "user": "root", "roles": []any{"*"}, "capabilities": []any{object{"type": "MULTI_ROLE"}}}
	got := post(t, f.url, object{"type": "SUBSCRIBE", "subscribe": object{"framework_info": info}}, func(r *http.Request) {
		r.Header.Set("Mesos-Stream-Id", f.stream.id)
	})
	if got["status"] != http.StatusBadRequest || got["body"] != "Subscribe calls should not include the 'Mesos-Stream-Id' header\n" {
		t.Errorf("got %v", got)
	}
}

func TestUserAndCheckpointOfFrameworkAreImmutable(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	first := subscribeWith(t, cluster, nil)
	again := subscribeWith(t, cluster, func(call, info object) {
		info["id"], call["framework_id"], info["user"], info["checkpoint"] = named(first.id), named(first.id), "nobody", false
	})
	shown := get(t, "http://"+cluster.MasterAddr()+"/frameworks")
	f := at(shown, "body", "frameworks").([]any)[0]
	if text(f, "user") != "root" || at(f, "checkpoint") != true {
		t.Errorf("shown as %v, %v", at(f, "user"), at(f, "checkpoint"))
	}
	info := object{"id": named(again.id), "name": "x", "user": "nobody", "checkpoint": true, "roles": []any{"*"}, "capabilities": []any{object{"type": "MULTI_ROLE"}}}
	got := again.call("UPDATE_FRAMEWORK", object{"update_framework": object{"framework_info": info}})
	want := "FrameworkInfo update is not valid: Updating 'FrameworkInfo.user' is unsupported; attempted to update from 'root' to 'nobody'\n"
	if got["status"] != http.StatusBadRequest || got["body"] != want {
		t.Errorf("UPDATE_FRAMEWORK: %v", got)
	}
	info["user"] = "root"
	if got := again.call("UPDATE_FRAMEWORK", object{"update_framework": object{"framework_info": info}}); got["status"] != http.StatusOK {
		t.Errorf("UPDATE_FRAMEWORK: %v", got)
	}
}
