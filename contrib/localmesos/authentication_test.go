package localmesos

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func writeCredentials(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSchedulerMustAuthenticateAsItsPrincipal(t *testing.T) {
	t.Parallel()
	c := testConfig(t)
	c.Authentication.HTTPFrameworks, c.Authentication.Credentials = true, writeCredentials(t, "k8sm s3cret\nspark other\n")
	cluster := startCluster(t, c)
	url := "http://" + cluster.MasterAddr() + "/api/v1/scheduler"
	claim := func(principal string) object {
		return object{"type": "SUBSCRIBE", "subscribe": object{"framework_info": object{"user": "root", "name": "x", "principal": principal}}}
	}
	for _, test := range []struct {
		name, secret, claims string
		want                 int
	}{
		{"", "", "k8sm", http.StatusUnauthorized},
		{"k8sm", "wrong", "k8sm", http.StatusUnauthorized},
		{"nobody", "s3cret", "nobody", http.StatusUnauthorized},
		{"spark", "other", "k8sm", http.StatusBadRequest},
	} {
		got := post(t, url, claim(test.claims), func(r *http.Request) {
			if test.name != "" {
				r.SetBasicAuth(test.name, test.secret)
			}
		})
		if got["status"] != test.want {
			t.Errorf("%s/%s as %s: %v, want %d", test.name, test.secret, test.claims, got, test.want)
		}
	}
	if got := get(t, "http://"+cluster.MasterAddr()+"/health"); got["status"] != http.StatusOK {
		t.Errorf("operators are asked too: %v", got)
	}
}

func TestCredentialsInBothFormatsOfMesos(t *testing.T) {
	t.Parallel()
	want := credentials{"k8sm": "s3cret", "spark": "x"}
	for _, content := range []string{
		`{"credentials": [{"principal": "k8sm", "secret": "s3cret"}, {"principal": "spark", "secret": "x"}]}`, "k8sm s3cret\n\nspark x",
	} {
		got, err := readCredentials(writeCredentials(t, content))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", content, err, diff)
		}
	}
	for _, content := range []string{"", `{"credentials": [{"principal": "k8sm"}]}`} {
		c := testConfig(t)
		c.Authentication.HTTPFrameworks, c.Authentication.Credentials = true, writeCredentials(t, content)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "--credentials") {
			t.Errorf("%q: %v", content, err)
		}
	}
}

// TestEachFlagOfAuthenticationHasItsEffect starts with one of them at a time: only its endpoint is closed.
func TestEachFlagOfAuthenticationHasItsEffect(t *testing.T) {
	t.Parallel()
	key := writeCredentials(t, "sesame")
	for flag, closed := range map[string]string{
		"--authenticate-http-frameworks": "m/api/v1/scheduler", "--authenticate-http-readwrite": "m/api/v1 a/api/v1",
		"--authenticate-http-readonly": "m/state a/state", "--authenticate-http-executors": "a/api/v1/executor", "--jwt-secret-key=" + key: "",
	} {
		c := testConfig(t)
		flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
		c.Authentication.addFlags(flags)
		c.Authentication = Authentication{}
		if err := flags.Parse([]string{flag}); err != nil {
			t.Fatal(err)
		}
		cluster := startCluster(t, c)
		for _, path := range []string{"m/api/v1/scheduler", "m/api/v1", "m/state", "a/state", "a/api/v1", "a/api/v1/executor"} {
			url := strings.NewReplacer("m/", "http://"+cluster.MasterAddr()+"/", "a/", agentURL(cluster)+"/").Replace(path[:2]) + path[2:]
			got := get(t, url)["status"] == http.StatusUnauthorized
			if want := slices.Contains(strings.Fields(closed), path); got != want {
				t.Errorf("with %s only, %s is closed: %t, want %t", flag, path, got, want)
			}
		}
		_, err := os.Stat(filepath.Join(c.WorkDir, keyName))
		if made, want := err == nil, flag == "--authenticate-http-executors"; made != want {
			t.Errorf("with %s only, a key was made: %t, want %t", flag, made, want)
		}
		if strings.HasPrefix(flag, "--jwt") && string(cluster.plan.auth.key) != "sesame" {
			t.Errorf("it signs with %q", cluster.plan.auth.key)
		}
	}
}

func TestSecretsStayTheSame(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := keepSecret(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := keepSecret(filepath.Join(dir, "s")); err != nil || !slices.Equal(first, again) {
		t.Errorf("the second start has another secret: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "s"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keepSecret(filepath.Join(dir, "s")); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("an empty file: %v", err)
	}
}
