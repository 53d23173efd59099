package minion

import (
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Go's HTTP client reads the proxy variables once per process, so each case runs in a process of its own.
func TestEnvironmentHasPathAndHomeAndNoProxy(t *testing.T) {
	const inside = "MINION_TEST_ENVIRONMENT=yes"
	if os.Getenv("MINION_TEST_ENVIRONMENT") != "" {
		if err := settleEnvironment(); err != nil {
			t.Fatal(err)
		}
		for _, url := range []string{"http://10.1.2.3:5051/api/v1/executor", "https://10.1.2.3:6443/api"} {
			request, err := http.NewRequest(http.MethodGet, url, nil)
			if err != nil {
				t.Fatal(err)
			}
			if proxy, err := http.ProxyFromEnvironment(request); proxy != nil || err != nil {
				t.Errorf("%s is called through the proxy %v (%v)", url, proxy, err)
			}
		}
		if _, err := exec.LookPath("sh"); err != nil {
			t.Error(err)
		}
		if _, err := os.UserHomeDir(); err != nil {
			t.Error(err)
		}
		return
	}
	for name, environment := range map[string][]string{
		"none":       nil,
		"lower case": {"http_proxy=http://127.0.0.1:1", "https_proxy=http://127.0.0.1:1", "no_proxy=10.9.9.9"},
		"upper case": {"HTTP_PROXY=http://127.0.0.1:1", "HTTPS_PROXY=http://127.0.0.1:1", "PATH="},
		"all_proxy":  {"ALL_PROXY=socks5://127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestWithoutAnEnvironment", "-test.v")
			cmd.Env = append(environment, inside)
			if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}
