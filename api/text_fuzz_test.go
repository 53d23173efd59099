package api

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
)

func FuzzTaskID(f *testing.F) {
	for _, seed := range []string{"", ".", "uid.1", "uid.0", "uid.-1", "a.b.2", "warm-agent.7", "uid.99999999999999999999", "uid.+1", "uid.01"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		pod, attempt, err := TaskID(text).Parse()
		agent, warm := TaskID(text).Warm()
		if err != nil {
			if warm {
				t.Errorf("%q cannot be read, but is of agent %s", text, agent)
			}
			return
		}
		again, same, err := NewTaskID(pod, attempt).Parse()
		if err != nil || again != pod || same != attempt || attempt < 1 || pod == "" {
			t.Errorf("%q is read as %s, %d, and that as %s, %d (%v)", text, pod, attempt, again, same, err)
		}
		if warm && string(NewWarmTaskID(agent, int64(attempt))) != string(NewTaskID(pod, attempt)) {
			t.Errorf("%q is read as attempt %d of agent %s", text, attempt, agent)
		}
	})
}

func FuzzPortMappings(f *testing.F) {
	for _, seed := range []string{"", "80/TCP=31005", "80/TCP=31005,53/UDP=31006", "80/TCP", "80=1", ",", "0/TCP=1", "80/tcp=1", "65536/TCP=1", "80/TCP=1=2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		mappings, err := ParsePortMappings(text)
		if err != nil {
			if !strings.Contains(err.Error(), AnnotationPortMappings) {
				t.Errorf("the error does not name the annotation: %v", err)
			}
			return
		}
		again, err := ParsePortMappings(FormatPortMappings(mappings))
		if err != nil || !slices.Equal(mappings, again) {
			t.Errorf("%q is read as %v, and that as %v (%v)", text, mappings, again, err)
		}
	})
}

// FuzzRanges reads the texts in which there are ranges of addresses.
func FuzzRanges(f *testing.F) {
	for _, seed := range []string{"", "10.244.0.0/16", "10.244.0.0/16,fd00::/64", "10.244.0.1/16", " 192.0.2.7/32 ,", "::ffff:10.0.0.0/104", "10.0.0.0/33", "fe80::%eth0/64"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		join := func(prefixes []netip.Prefix) string {
			texts := make([]string, len(prefixes))
			for i, prefix := range prefixes {
				texts[i] = prefix.String()
			}
			return strings.Join(texts, ",")
		}
		for name, parse := range map[string]func(string) ([]netip.Prefix, error){"ranges": ParseRanges, "pod prefixes": ParsePodPrefixes} {
			prefixes, err := parse(text)
			if err != nil {
				continue
			}
			again, err := parse(join(prefixes))
			if err != nil || !slices.Equal(prefixes, again) {
				t.Errorf("%s %q are read as %v, and these as %v (%v)", name, text, prefixes, again, err)
			}
			for _, prefix := range prefixes {
				if prefix != prefix.Masked() {
					t.Errorf("%s %q: %s is no range", name, text, prefix)
				}
			}
		}
	})
}

func FuzzEviction(f *testing.F) {
	for _, seed := range []string{DefaultEvictionHard, "", "memory.available<10%", "memory.available<0", "nodefs.available<NaN%", "pid.available<-1%", "memory.available<1e999", "memory.available<1Ei,memory.available<2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		thresholds, err := ParseEviction(text)
		if err != nil {
			return
		}
		if err := (MinionConfig{EvictionHard: thresholds}).Validate(); err != nil {
			t.Errorf("%q is taken, but not in a configuration: %v", text, err)
		}
		const capacity = 1 << 40
		for signal, value := range thresholds {
			if threshold, err := EvictionThreshold(value, capacity); err != nil || threshold < 0 || strings.HasSuffix(value, "%") && threshold > capacity {
				t.Errorf("%q: %s is %d of %d (%v)", text, signal, threshold, int64(capacity), err)
			}
		}
	})
}

func FuzzBootstrap(f *testing.F) {
	whole, err := json.Marshal(Bootstrap{Cluster: "c", Node: "n", APIServer: "https://127.0.0.1:6443", CA: []byte("pem"), Token: "id.secret"})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{string(whole), "", "null", "{}", "[]", `{"cluster":1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseBootstrap(data)
		if err == nil && (b.Cluster == "" || b.Node == "" || b.APIServer == "" || len(b.CA) == 0 || b.Token == "") {
			t.Errorf("%q lacks something: %+v", data, b)
		}
	})
}

func FuzzMinionConfig(f *testing.F) {
	for _, seed := range []string{
		"", "null", "{}", `{"nodePorts":"30000-30999","evictionHard":{"memory.available":"5%"},"suicideTimeout":"20m"}`,
		`{"nodePorts":"2-1"}`, `{"network":{"mode":"vxlan","vxlanVNI":-1}}`, `{"cleanupDelay":"-1s"}`, `{"suicideTimeout":1}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ReadMinionConfig(map[string]string{MinionConfigKey: text})
		if err != nil || c.Validate() != nil {
			return
		}
		if first, last, err := c.NodePortRange(); err != nil || first > last || last > 65535 {
			t.Errorf("a valid configuration has the ports %d to %d (%v)", first, last, err)
		}
		written, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ReadMinionConfig(map[string]string{MinionConfigKey: string(written)})
		if err != nil {
			t.Fatalf("%s cannot be read again: %v", written, err)
		}
		if rewritten, err := json.Marshal(again); err != nil || string(rewritten) != string(written) {
			t.Errorf("%s is read as %s (%v)", written, rewritten, err)
		}
	})
}

// FuzzNames makes names and labels of what agents say of themselves.
func FuzzNames(f *testing.F) {
	for _, seed := range []string{"", "rack", "Host-1.example.COM", "-x-", strings.Repeat("a", 100), "ä", "a b", "mesos://x", "...."} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if problems := validation.IsValidLabelValue(LabelValue(text)); len(problems) > 0 {
			t.Errorf("%q becomes the label value %q: %v", text, LabelValue(text), problems)
		}
		if name, err := NodeName(text); err == nil && len(validation.IsDNS1123Subdomain(name)) > 0 {
			t.Errorf("%q becomes the node name %q", text, name)
		}
		if agent, ok := AgentOfProviderID(text); ok && ProviderID(agent) != text {
			t.Errorf("%q is the provider id of agent %q", text, agent)
		}
	})
}

// FuzzPodPrefixes reads what a node says of the addresses of its pods.
func FuzzPodPrefixes(f *testing.F) {
	for _, seed := range []string{"", "192.0.2.7/32,192.0.2.9/32", "fd00::1/128, 192.0.2.9/24", "192.0.2.7", ",,", "::ffff:192.0.2.7/120", "fe80::1%eth0/64"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		prefixes, err := ParsePodPrefixes(text)
		if err != nil {
			return
		}
		written := FormatPodPrefixes(prefixes)
		again, err := ParsePodPrefixes(written)
		if err != nil || len(again) != len(prefixes) || FormatPodPrefixes(again) != written {
			t.Errorf("%q is read as %v, written as %q and read as %v, %v", text, prefixes, written, again, err)
		}
	})
}
