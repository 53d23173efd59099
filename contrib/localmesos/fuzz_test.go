package localmesos

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	pb "github.com/mesos/mesos-go/api/v1/lib/master"

	"github.com/k8sm/k8sm/contrib/localmesos/wire"
)

func FuzzResources(f *testing.F) {
	for _, seed := range []string{
		"cpus:4;mem:4096;ports:[31000-32000]", "cpus(prod):2;cpus:1", "", ";", ":", "a:", "cpus:-1", "cpus:nan", "cpus:1e300", "sets:{a,b,a}",
		"ports:[1-2,2-3,18446744073709551615-18446744073709551615]", "ports:[3-2]", "ports:[1]", "cpus(:1", "cpus():1", "vlans:[]",
		`[{"name":"cpus","type":"SCALAR","scalar":{"value":2}}]`, `[{}]`, `[{"name":"ports","type":"RANGES","ranges":{"range":[{"begin":2,"end":1}]}}]`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		have, err := parseResources(text)
		if err != nil {
			return
		}
		written := have.messages(withReservations)
		if again := poolOf(written); !slices.EqualFunc(again.messages(withReservations), written, func(a, b mesos.Resource) bool { return a.Equal(b) }) {
			t.Errorf("%q is read as %v, and that as %v", text, written, again.messages(withReservations))
		}
		for _, a := range have {
			if a.scalar < 0 || !slices.IsSortedFunc(a.ranges, func(x, y span) int { return boolToInt(x.end > y.begin) - boolToInt(x.end < y.begin) }) {
				t.Errorf("%q has %v", text, a)
			}
		}
	})
}

func FuzzRanges(f *testing.F) {
	for _, seed := range []string{"[1-5, 8-9]", "[]", "[", "[1-]", "[5]", "[0-18446744073709551615]", "[2-3,1-2,3-4]"} {
		f.Add(seed, "[2-3]")
	}
	f.Fuzz(func(t *testing.T, text, taken string) {
		if !strings.HasPrefix(text, "[") || !strings.HasPrefix(taken, "[") {
			return
		}
		have, err := parseSpans(text)
		minus, takenErr := parseSpans(taken)
		if err != nil || takenErr != nil {
			return
		}
		if again, err := parseSpans(have.String()); err != nil || !slices.Equal(have, again) {
			t.Errorf("%q is read as %s, and that as %s (%v)", text, have, again, err)
		}
		rest := have.minus(minus)
		if back := rest.plus(have); !slices.Equal(back, have) {
			t.Errorf("%s less %s is %s, which is not a part of it", have, minus, rest)
		}
		if again := rest.minus(minus); !slices.Equal(again, rest) {
			t.Errorf("%s less %s is %s, and less that again %s", have, minus, rest, again)
		}
	})
}

func FuzzAttributes(f *testing.F) {
	for _, seed := range []string{"rack:r1;weight:3", "", ":", "a", "a:[1-2]", "a:{x,y}", "a:[", "a:{", "a:b:c", " a : b ; "} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		attributes, err := parseAttributes(text)
		if err != nil {
			return
		}
		for i := range attributes {
			if a := &attributes[i]; a.Name == "" || a.Scalar == nil && a.Ranges == nil && a.Set == nil && a.Text == nil {
				t.Errorf("%q has the attribute %v", text, a)
			}
		}
	})
}

// FuzzFlags reads flags of the agent and the master.
func FuzzFlags(f *testing.F) {
	for _, seed := range []string{"cgroups/cpu,cgroups/mem", "process", "posix/disk, disk/du", ",", "nonsense", "ECDHE-RSA-AES128-GCM-SHA256:RC4-SHA", "cpus:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if i, err := parseIsolation(text); err == nil && !slices.IsSorted(i.subsystems) {
			t.Errorf("--isolation=%q has the subsystems %q", text, i.subsystems)
		}
		if suites, err := parseCiphers(text); err == nil && len(suites) == 0 {
			t.Errorf("--ssl-ciphers=%q has none", text)
		}
		if p, err := parseOversubscribed(text); err == nil && slices.ContainsFunc(p, func(a amount) bool { return !a.revocable }) {
			t.Errorf("%q is oversubscribed, but not all of it is revocable", text)
		}
	})
}

func FuzzMachines(f *testing.F) {
	for _, seed := range []string{`[{"hostname":"h","ip":"10.0.0.1"}]`, `[]`, `null`, `{}`, `[null]`, `[{"ip":1}]`, `[[]]`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if ids, err := readMachines(strings.NewReader(text)); err != nil && len(ids) > 0 {
			t.Errorf("%q has machines %v and an error: %v", text, ids, err)
		}
	})
}

func FuzzCredentials(f *testing.F) {
	for _, seed := range []string{`{"credentials":[{"principal":"p","secret":"s"}]}`, "p s\nq t\n", "", "p", `{"credentials":[{}]}`, "{", "null"} {
		f.Add([]byte(seed))
	}
	file := filepath.Join(f.TempDir(), "credentials")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		known, err := readCredentials(file)
		if err == nil && len(known) == 0 {
			t.Errorf("%q lets everybody in", text)
		}
		for principal, secret := range known {
			if principal == "" || secret == "" {
				t.Errorf("%q has %q with %q", text, principal, secret)
			}
		}
	})
}

// FuzzCalls steps a master by calls of the operator API, in both encodings, while an operator is subscribed.
func FuzzCalls(f *testing.F) {
	for _, seed := range []string{
		`{"type":"GET_METRICS","get_metrics":{"timeout":{"nanoseconds":5000000000}}}`, `{"type":"GET_METRICS","get_metrics":{"timeout":{"nanoseconds":"-1"}}}`,
		`{"type":"GET_ROLES"}`, `{"type":"UPDATE_WEIGHTS","update_weights":{"weight_infos":[{"role":"a/b","weight":0.5}]}}`, `{"type":"GET_FLAGS"}`, `{"type":"GET_OPERATIONS"}`, `{"type":"SUBSCRIBE"}`, `{"type":"GET_STATE","get_state":7}`,
		`{"type":"UPDATE_QUOTA","update_quota":{"quota_configs":[{"role":"a/b","limits":{"cpus":{"value":1e300}},"guarantees":{"":{"value":-0}}}]}}`,
		`{"type":"RESERVE_RESOURCES","reserve_resources":{"agent_id":{"value":"m-S0"},"resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":1},` +
			`"reservations":[{"type":"DYNAMIC","role":"a"}]}]}}`,
		`{"type":"DRAIN_AGENT","drain_agent":{"agent_id":{"value":"m-S0"},"mark_gone":true}}`, `{"type":"MARK_AGENT_GONE","mark_agent_gone":{"agent_id":{"value":"m-S0"}}}`,
		`{"type":"UPDATE_MAINTENANCE_SCHEDULE","update_maintenance_schedule":{"schedule":{"windows":[{"machine_ids":[{"hostname":"laptop"}],` +
			`"unavailability":{"start":{"nanoseconds":1}}}]}}}`,
	} {
		f.Add(int(wire.JSON), []byte(seed))
		var call pb.Call
		if wire.JSON.Decode([]byte(seed), &call) == nil {
			body, err := wire.Protobuf.Encode(&call)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(int(wire.Protobuf), body)
		}
	}
	f.Fuzz(func(t *testing.T, number int, body []byte) {
		var call pb.Call
		if wire.Codec(number).Decode(body, &call) != nil || operatorCallProblem(&call) != "" {
			return
		}
		s := newScript(t)
		s.step(operatorSubscribe{"o"})
		s.framework("a", 60, "a/b")
		s.agent(0, "cpus:2;mem:512")
		if changes(call.Type) {
			s.step(operatorCall{&call})
			s.pass(time.Hour)
		}
		var response pb.Response
		s.m.respond(call.Type, &response)
		if _, err := wire.JSON.Encode(&response); err != nil {
			t.Errorf("after %s the answer is none: %v", body, err)
		}
		for _, e := range s.told["o"] {
			if data, err := encodeEvent(wire.JSON, e); err != nil || !json.Valid(data) {
				t.Errorf("after %s: %s %v", body, data, err)
			}
		}
		for name, value := range s.m.metrics() {
			if math.IsNaN(value) || math.IsInf(value, 0) || value < 0 {
				t.Errorf("after %s: %s is %v", body, name, value)
			}
		}
	})
}

// FuzzMesosDuration reads the timeout of /metrics/snapshot.
func FuzzMesosDuration(f *testing.F) {
	for _, seed := range []string{"5secs", "1.5hrs", "", "ns", "1e400weeks", "-0.1us", "nansecs", "infdays"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseMesosDuration(text)
		if err != nil {
			return
		}
		if again, err := parseMesosDuration(mesosDuration(d)); err != nil || again != d && d.Abs() < 1<<53 {
			t.Errorf("%q is %s, and that as %s %s (%v)", text, d, mesosDuration(d), again, err)
		}
	})
}
