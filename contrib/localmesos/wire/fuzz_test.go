package wire

import (
	"bytes"
	"testing"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	mesossched "github.com/mesos/mesos-go/api/v1/lib/scheduler"
)

// FuzzCalls reads calls of schedulers in both encodings.
func FuzzCalls(f *testing.F) {
	call := &mesossched.Call{
		Type: mesossched.Call_KILL, FrameworkID: &mesos.FrameworkID{Value: "fw"},
		Kill: &mesossched.Call_Kill{TaskID: mesos.TaskID{Value: "t.1"}, AgentID: &mesos.AgentID{Value: "a1"}},
	}
	for _, codec := range []Codec{JSON, Protobuf} {
		body, err := codec.Encode(call)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(int(codec), body)
	}
	for _, seed := range []string{"", "{}", "null", "[]", `{"type":"NONSENSE"}`, `{"type":"REVIVE","revive":{"roles":["a"]}}`, `{"decline":{"filters":{"refuse_seconds":"x"}}}`} {
		f.Add(int(JSON), []byte(seed))
	}
	f.Fuzz(func(t *testing.T, number int, body []byte) {
		codec := JSON
		if number == int(Protobuf) {
			codec = Protobuf
		}
		var call mesossched.Call
		if codec.Decode(body, &call) != nil {
			return
		}
		written, err := codec.Encode(&call)
		if err != nil {
			return // what is missing may be required
		}
		var again mesossched.Call
		if err := codec.Decode(written, &again); err != nil {
			t.Fatalf("%q is written as %q, which cannot be read: %v", body, written, err)
		}
		if rewritten, err := codec.Encode(&again); err != nil || !bytes.Equal(written, rewritten) {
			t.Errorf("%q is written as %q, and that as %q (%v)", body, written, rewritten, err)
		}
	})
}

func FuzzContentType(f *testing.F) {
	for _, seed := range []string{"application/json", "Application/X-Protobuf; charset=x", "", ";", "text/plain"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		codec, ok := CodecOf(header)
		if !ok {
			return
		}
		if again, same := CodecOf(codec.String()); !same || again != codec {
			t.Errorf("%q is %s, and that is %s", header, codec, again)
		}
	})
}
