package mesos

import (
	"strings"
	"testing"

	mesosapi "github.com/mesos/mesos-go/api/v1/lib"
	mesosexec "github.com/mesos/mesos-go/api/v1/lib/executor"

	"github.com/k8sm/k8sm/executor"
)

// FuzzEvents has the bytes of an event translated that an agent may send.
func FuzzEvents(f *testing.F) {
	for _, event := range []*mesosexec.Event{
		{Type: mesosexec.Event_LAUNCH, Launch: &mesosexec.Event_Launch{Task: mesosapi.TaskInfo{
			Name: "default/web", TaskID: mesosapi.TaskID{Value: "uid.1"}, AgentID: mesosapi.AgentID{Value: "a1"}, Data: []byte(`{"metadata":{"name":"web"}}`),
		}}},
		{Type: mesosexec.Event_LAUNCH}, {Type: mesosexec.Event_KILL}, {Type: mesosexec.Event_SUBSCRIBED}, {Type: mesosexec.Event_ACKNOWLEDGED},
		{Type: mesosexec.Event_MESSAGE}, {Type: mesosexec.Event_SHUTDOWN}, {Type: mesosexec.Event_LAUNCH_GROUP}, {},
		{Type: mesosexec.Event_KILL, Kill: &mesosexec.Event_Kill{TaskID: mesosapi.TaskID{Value: "uid.1"}}},
	} {
		data, err := event.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var event mesosexec.Event
		if event.Unmarshal(data) != nil {
			return
		}
		for _, e := range translate(&event) {
			launch, ok := e.(executor.Launch)
			if ok && event.Type == mesosexec.Event_LAUNCH && string(launch.Task) != event.GetLaunch().GetTask().TaskID.Value {
				t.Errorf("%v is translated as %+v", event, launch)
			}
		}
	})
}

// FuzzSSL reads the variables that an agent gives its executors.
func FuzzSSL(f *testing.F) {
	f.Add("true", "false", "openssl")
	f.Add("1", "0", "")
	f.Add("yes", "", "legacy")
	f.Add("", "TRUE", "x")
	f.Fuzz(func(t *testing.T, enabled, verify, scheme string) {
		for name, value := range map[string]string{"ENABLED": enabled, "VERIFY_CERT": verify, "HOSTNAME_VALIDATION_SCHEME": scheme} {
			if value == "" || len(value) > 100 || strings.ContainsRune(value, 0) {
				return // the environment takes none
			}
			t.Setenv("LIBPROCESS_SSL_"+name, value)
		}
		ssl, err := sslFromEnv()
		if err == nil && (ssl.Enabled == nil || *ssl.Enabled != (enabled == "true" || enabled == "1") || ssl.VerifyServer != (verify == "true" || verify == "1")) {
			t.Errorf("%q, %q is read as %+v", enabled, verify, ssl)
		}
	})
}
