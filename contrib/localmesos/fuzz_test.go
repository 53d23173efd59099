package localmesos

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
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
