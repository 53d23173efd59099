package machines

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzResolvConf reads this machine's resolv.conf.
func FuzzResolvConf(f *testing.F) {
	for _, seed := range []string{"nameserver 127.0.0.53\n", "", "nameserver", "nameserver ::1\nnameserver 10.0.0.2", "# nameserver 127.0.0.1", "nameserver 127.0.0.1%lo"} {
		f.Add([]byte(seed))
	}
	path := filepath.Join(f.TempDir(), "resolv.conf")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		servers, err := loopbackResolvers(path)
		if err != nil {
			return
		}
		for _, server := range servers {
			if !server.Addr().IsLoopback() || server.Port() != 53 {
				t.Errorf("%q has the server %s", text, server)
			}
		}
		if len(servers) > strings.Count(string(text), "nameserver") {
			t.Errorf("%q has the servers %v", text, servers)
		}
	})
}

func FuzzRangeList(f *testing.F) {
	for _, seed := range []string{"10.244.0.0/16,fd00::/64", "", ",", " a , b "} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, part := range splitRanges(text) {
			if part == "" || strings.ContainsAny(part, ", ") {
				t.Errorf("%q has the range %q", text, part)
			}
		}
	})
}
