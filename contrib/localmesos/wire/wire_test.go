package wire

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"
)

func encode(t *testing.T, m Message) string {
	t.Helper()
	data, err := JSON.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestJSONLooksAsMesosWritesIt(t *testing.T) {
	id, text, one := "i", "text", 1.0
	for want, m := range map[string]Message{
		`{"type":"HEARTBEAT"}`: &scheduler.Event{Type: scheduler.Event_HEARTBEAT},
		`{"name":"cpus","scalar":{"value":1.0},"type":"SCALAR"}`: &mesos.Resource{Name: "cpus", Type: mesos.SCALAR.Enum(), Scalar: &mesos.Value_Scalar{Value: one}},
		`{"shell":true,"value":"text"}`:                          &mesos.CommandInfo{Value: &text},
		`{"failure":{"executor_id":{"value":"i"},"status":0},"type":"FAILURE"}`: &scheduler.Event{
			Type: scheduler.Event_FAILURE, Failure: &scheduler.Event_Failure{ExecutorID: &mesos.ExecutorID{Value: id}, Status: new(int32)},
		},
		`{"type":"QUOTA_V2"}`:         &mesos.MasterInfo_Capability{Type: MasterCapabilityQuotaV2},
		`{"begin":31000,"end":32000}`: &mesos.Value_Range{Begin: 31000, End: 32000},
		`{"state":"TASK_RUNNING","task_id":{"value":"t"},"uuid":"AQI="}`: &mesos.TaskStatus{
			TaskID: mesos.TaskID{Value: "t"}, State: mesos.TASK_RUNNING.Enum(), UUID: []byte{1, 2},
		},
	} {
		if got := encode(t, m); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestBothEncodingsRoundTrip(t *testing.T) {
	shell, name, seconds := false, "x", 3.5
	want := &scheduler.Call{
		Type: scheduler.Call_ACCEPT, FrameworkID: &mesos.FrameworkID{Value: "f"},
		Accept: &scheduler.Call_Accept{
			OfferIDs: []mesos.OfferID{{Value: "o"}}, Filters: &mesos.Filters{RefuseSeconds: &seconds},
			Operations: []mesos.Offer_Operation{{Type: mesos.Offer_Operation_LAUNCH, Launch: &mesos.Offer_Operation_Launch{TaskInfos: []mesos.TaskInfo{{
				Name: name, TaskID: mesos.TaskID{Value: "t"}, AgentID: mesos.AgentID{Value: "a"}, Data: []byte{0, 255},
				Command:    &mesos.CommandInfo{Shell: &shell, Value: &name, Arguments: []string{"a", "b"}},
				KillPolicy: &mesos.KillPolicy{GracePeriod: &mesos.DurationInfo{Nanoseconds: 1 << 60}},
			}}}}},
		},
	}
	for _, codec := range []Codec{JSON, Protobuf} {
		data, err := codec.Encode(want)
		if err != nil {
			t.Fatal(err)
		}
		got := &scheduler.Call{}
		if err := codec.Decode(data, got); err != nil {
			t.Fatal(err)
		}
		if !want.Equal(got) {
			t.Errorf("%s: %s", codec, cmp.Diff(want, got))
		}
	}
}

func TestUnknownFieldsAndEnumerationValuesAreIgnored(t *testing.T) {
	var call scheduler.Call
	const text = `{"type":"SUBSCRIBE","newer":1,"subscribe":{"framework_info":{"user":"u","name":"n","capabilities":[{"type":"FROM_THE_FUTURE"},{"type":"MULTI_ROLE"}]}}}`
	if err := JSON.Decode([]byte(text), &call); err != nil {
		t.Fatal(err)
	}
	got := call.Subscribe.FrameworkInfo.Capabilities
	if len(got) != 2 || got[0].Type != mesos.FrameworkInfo_Capability_UNKNOWN || got[1].Type != mesos.FrameworkInfo_Capability_MULTI_ROLE {
		t.Errorf("capabilities %v", got)
	}
}

func TestErrorsNameMissingAndInvalidFields(t *testing.T) {
	for text, want := range map[string]string{
		`{nope`:                                          "Failed to parse body into JSON",
		`{"type":"SUBSCRIBE","subscribe":{}}`:            "Missing required fields: subscribe.framework_info",
		`{"type":"KILL","kill":{"task_id":{}}}`:          "Missing required fields: kill.task_id.value",
		`{"type":"KILL","kill":[]}`:                      "kill: expecting an object",
		`{"type":"KILL","kill":{"task_id":{"value":7}}}`: "kill.task_id.value: expecting a string",
		`{"type":"DECLINE","decline":{"offer_ids":[],"filters":{"refuse_seconds":"soon"}}}`: "decline.filters.refuse_seconds",
	} {
		var call scheduler.Call
		if err := JSON.Decode([]byte(text), &call); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestMediaTypes(t *testing.T) {
	for header, want := range map[string]Codec{"application/json": JSON, "application/json; charset=utf-8": JSON, "Application/X-Protobuf": Protobuf} {
		if got, ok := CodecOf(header); !ok || got != want {
			t.Errorf("%s is %v", header, got)
		}
	}
	if _, ok := CodecOf("text/plain"); ok {
		t.Error("text/plain is an encoding")
	}
}

func TestAnswerIsInJSONIfThatIsAccepted(t *testing.T) {
	for header, want := range map[string]Codec{
		"application/json": JSON, "text/html, Application/JSON ;q=0.1": JSON, "*/*": JSON, "application/*;q=1": JSON,
		"application/x-protobuf": Protobuf, "application/x-protobuf;q=0.9,application/json;q=0": Protobuf, "application/json;q=x, */*": Protobuf,
		"": 0, "text/html": 0, "application/json;q=0": 0, "*/*;q=0": 0, ";;,,": 0, "application/jso": 0,
	} {
		if got, ok := Accepted([]string{header}); got != want || ok != (want != 0) {
			t.Errorf("Accept: %q gets %v", header, got)
		}
	}
	if got, ok := Accepted(nil); !ok || got != JSON {
		t.Errorf("without a header: %v", got)
	}
}

func TestRecordStartsWithItsLength(t *testing.T) {
	var out strings.Builder
	if err := WriteRecord(&out, []byte("hello")); err != nil || out.String() != "5\nhello" {
		t.Errorf("%q %v", out.String(), err)
	}
}

func TestFloatsHaveADecimalPoint(t *testing.T) {
	for n, want := range map[Float]string{4: "4.0", 0.1: "0.1", 1e21: "1e+21"} {
		if got, err := json.Marshal(n); err != nil || string(got) != want {
			t.Errorf("%v is %s", float64(n), got)
		}
	}
}
