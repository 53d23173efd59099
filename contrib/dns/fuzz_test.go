package dns

import (
	"strings"
	"testing"
)

func FuzzResolvConf(f *testing.F) {
	for _, seed := range []string{"nameserver 10.0.0.2\nnameserver ::1\n", "", "nameserver", "nameserver x", "nameserver fe80::1%eth0", "# nameserver 1.1.1.1", "search a\nnameserver\t1.1.1.1 # x\r\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		servers, left, err := Forwarding{}.upstreams(text, nameservers(text)[:min(1, len(nameservers(text)))])
		if err != nil || len(servers) > maxUpstreams || len(servers)+len(left) > strings.Count(string(text), "nameserver") {
			t.Errorf("%q has the servers %v, without %v (%v)", text, servers, left, err)
		}
	})
}

func FuzzUpstream(f *testing.F) {
	for _, seed := range []string{"10.0.0.2", "10.0.0.2:5353", "[::1]:53", "[::1]", "::1", "h:53", "", "10.0.0.2:", "10.0.0.2:0", "[[::1]]", "fe80::1%eth0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		server, err := parseUpstream(text)
		if err != nil {
			return
		}
		if again, err := parseUpstream(server.String()); err != nil || again != server || !server.IsValid() {
			t.Errorf("%q is read as %s, and that as %s (%v)", text, server, again, err)
		}
	})
}

func FuzzMessages(f *testing.F) {
	for _, seed := range []string{"[WARNING] text", "[FATAL] ", "[INFO]", "text", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, message string) {
		if _, text := readLevel(message); !strings.HasSuffix(message, text) {
			t.Errorf("%q says %q", message, text)
		}
	})
}
