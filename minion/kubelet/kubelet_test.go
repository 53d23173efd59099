package kubelet

import (
	"os"
	"path/filepath"
	"testing"
)

func TestEndpointIsThatOfTheConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubelet.yaml")
	if err := os.WriteFile(file, []byte("kind: KubeletConfiguration\ncontainerRuntimeEndpoint: unix:///run/cri.sock\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(t.TempDir(), "broken.yaml")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args []string
		want string
		bad  bool
	}{
		"as a minion calls it": {[]string{"--config=" + file, "--root-dir=/x", "--node-ip", "192.0.2.1", "--v=2"}, "unix:///run/cri.sock", false},
		"in two words":         {[]string{"--v", "2", "--config", file}, "unix:///run/cri.sock", false},
		"help":                 {[]string{"--help"}, "", false},
		"version":              {[]string{"--version"}, "", false},
		"no file":              {[]string{"--config=/missing"}, "", true},
		"a broken file":        {[]string{"--config=" + broken}, "", true},
	} {
		if got, err := runtimeEndpoint(test.args); got != test.want || (err != nil) != test.bad {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
