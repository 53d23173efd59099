package mesoshttp

import (
	"bytes"
	"io"
	"reflect"
	"runtime"
	"strings"
	"testing"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/encoding/framing"
	mesosexec "github.com/mesos/mesos-go/api/v1/lib/executor"
	"github.com/mesos/mesos-go/api/v1/lib/recordio"
	mesossched "github.com/mesos/mesos-go/api/v1/lib/scheduler"
)

// decode reads events of a stream until its end, which is an error.
func decode(stream io.Reader) (events []mesossched.Event, err error) {
	decoder := Codec().NewDecoder(func() framing.Reader { return recordio.NewReader(stream) })
	for {
		var e mesossched.Event
		if err := decoder.Decode(&e); err != nil {
			return events, err
		}
		events = append(events, e)
	}
}

// record frames a message as Mesos does.
func record(message []byte) []byte {
	var framed bytes.Buffer
	_ = recordio.NewWriter(&framed).WriteFrame(message) // a buffer takes all
	return framed.Bytes()
}

func encode(t testing.TB, e *mesossched.Event) []byte {
	t.Helper()
	data, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// events are some that masters send.
func events() []*mesossched.Event {
	heartbeat := 15.0
	return []*mesossched.Event{
		{Type: mesossched.Event_SUBSCRIBED, Subscribed: &mesossched.Event_Subscribed{
			FrameworkID: &mesos.FrameworkID{Value: "f"}, HeartbeatIntervalSeconds: &heartbeat, MasterInfo: &mesos.MasterInfo{ID: "m", IP: 1, Port: ptr(uint32(5050))},
		}},
		{Type: mesossched.Event_OFFERS, Offers: &mesossched.Event_Offers{Offers: []mesos.Offer{{
			ID: mesos.OfferID{Value: "o"}, FrameworkID: mesos.FrameworkID{Value: "f"}, AgentID: mesos.AgentID{Value: "a"}, Hostname: "h",
			Resources: []mesos.Resource{{Name: "cpus", Type: ptr(mesos.SCALAR), Scalar: &mesos.Value_Scalar{Value: 4}}},
		}}}},
		{Type: mesossched.Event_UPDATE, Update: &mesossched.Event_Update{Status: mesos.TaskStatus{
			TaskID: mesos.TaskID{Value: "t"}, State: ptr(mesos.TASK_RUNNING), UUID: []byte("0123456789abcdef"), Limitation: &mesos.TaskResourceLimitation{},
			ContainerStatus: &mesos.ContainerStatus{ContainerID: &mesos.ContainerID{Value: "c", Parent: &mesos.ContainerID{Value: "p"}}},
		}}},
		{Type: mesossched.Event_HEARTBEAT},
	}
}

func ptr[T any](v T) *T { return &v }

func TestEventsAreReadAsTheyWereWritten(t *testing.T) {
	var stream bytes.Buffer
	stream.WriteString("0\n") // an empty record is none
	for _, e := range events() {
		stream.Write(record(encode(t, e)))
	}
	got, err := decode(&stream)
	if err != io.EOF || len(got) != len(events()) {
		t.Fatalf("%d events, %v", len(got), err)
	}
	for i, want := range events() {
		if !got[i].Equal(want) {
			t.Errorf("%v is read as %v", want, got[i])
		}
	}
}

// nested is a container's id below others, each the parent of the former.
func nested(depth int) []byte {
	id := &mesos.ContainerID{Value: "c"}
	for range depth {
		id = &mesos.ContainerID{Value: "c", Parent: id}
	}
	data, _ := (&mesossched.Event{Type: mesossched.Event_UPDATE, Update: &mesossched.Event_Update{Status: mesos.TaskStatus{
		TaskID: mesos.TaskID{Value: "t"}, State: ptr(mesos.TASK_RUNNING), ContainerStatus: &mesos.ContainerStatus{ContainerID: id},
	}}}).Marshal()
	return data
}

func TestGarbageEndsTheStreamAndNothingElse(t *testing.T) {
	for name, test := range map[string]struct{ stream, want string }{
		"a length of 64 bits":           {"9223372036854775809\nxx", "9223372036854775809 bytes"},
		"a length beyond the limit":     {"268435457\nxx", "268435457 bytes, and 268435456 are allowed"},
		"a length of more than 64 bits": {"99999999999999999999\nxx", "not the length"},
		"a negative length":             {"-1\nxx", "not the length"},
		"a length that does not end":    {strings.Repeat("1", 10<<20), "no length"},
		"HTML":                          {"<html>\n", "not the length"},
		"a stream that is cut":          {"10\nxx", "within a record"},
		"a length that is cut":          {"10", "within a record"},
		// 20 million levels of a group: the stack would overflow, and nothing can recover from that.
		"groups": {string(record(append([]byte{0x9b, 0x06}, bytes.Repeat([]byte{0x0b}, 20<<20)...))), "group"},
		// The length and what is before it are together 2^63, which is negative.
		"a field's length of 63 bits": {string(record([]byte{0x08, 0x01, 0x9a, 0x06, 0xf4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})), "EOF"},
		"garbage":                     {string(record(bytes.Repeat([]byte{0xff}, 1<<10))), "overflow"},
		"nesting":                     {string(record(nested(1000))), "100 deep"},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := decode(strings.NewReader(test.stream))
		runtime.ReadMemStats(&after)
		if len(got) > 0 || err == nil || err == io.EOF || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %d events, %v; want %q", name, len(got), err, test.want)
		}
		// A buffer that grows by doubling, and once more for its copy.
		if took := after.TotalAlloc - before.TotalAlloc; took > uint64(8*len(test.stream)+1<<20) {
			t.Errorf("%s: a stream of %d bytes took %d", name, len(test.stream), took)
		}
	}
}

func TestEmptyRecordsWithoutEndTakeNoMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if got, err := decode(io.LimitReader(zeros{}, 2<<20)); len(got) > 0 || err != io.EOF {
		t.Errorf("%d events, %v", len(got), err)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 256<<10 {
		t.Errorf("it took %d bytes", took)
	}
}

// zeros is a stream of records without content.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	for i := range b[:len(b)/2] {
		b[2*i], b[2*i+1] = '0', '\n'
	}
	return len(b) / 2 * 2, nil
}

// FuzzStream reads what a master may send: whole streams, broken or not.
func FuzzStream(f *testing.F) {
	var all []byte
	for _, e := range events() {
		f.Add(record(encode(f, e)))
		all = append(all, record(encode(f, e))...)
	}
	f.Add(all)
	f.Add(all[:len(all)-1])
	f.Add(record(nested(3)))
	for _, seed := range []string{"", "0\n", "5", "9223372036854775809\nxx", "-1\n", "2\n\x0b\x0b", "\n", " 1 \nx", "1\n1\n1\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		got, err := decode(bytes.NewReader(stream))
		if err == nil || len(got) > len(stream) {
			t.Errorf("%q has %d events, and ended with %v", stream, len(got), err)
		}
	})
}

// FuzzMessage holds the check to the decoders of executors' events: they never panic on what passes.
func FuzzMessage(f *testing.F) {
	for _, e := range []*mesosexec.Event{
		{Type: mesosexec.Event_KILL, Kill: &mesosexec.Event_Kill{TaskID: mesos.TaskID{Value: "uid.1"}}},
		{Type: mesosexec.Event_LAUNCH, Launch: &mesosexec.Event_Launch{Task: mesos.TaskInfo{Name: "default/web", TaskID: mesos.TaskID{Value: "uid.1"},
			AgentID: mesos.AgentID{Value: "a1"}, Data: []byte(`{"metadata":{"name":"web"}}`), Limits: map[string]mesos.Value_Scalar{"cpus": {Value: 1}}}}},
		{Type: mesosexec.Event_SHUTDOWN},
	} {
		data, err := e.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte{0x08, 0x01, 0x9a, 0x06, 0xf4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Add([]byte{0x9b, 0x06, 0x0b, 0x0c})
	f.Fuzz(func(t *testing.T, data []byte) {
		var e mesosexec.Event
		checked := CheckMessage(data, reflect.TypeFor[mesosexec.Event]())
		if checked == nil {
			_ = e.Unmarshal(data) // what is required may be missing
		}
	})
}
