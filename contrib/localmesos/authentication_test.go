package localmesos

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
	c.AuthenticateHTTPFrameworks, c.Credentials = true, writeCredentials(t, "k8sm s3cret\nspark other\n")
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
		c.AuthenticateHTTPFrameworks, c.Credentials = true, writeCredentials(t, content)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "--credentials") {
			t.Errorf("%q: %v", content, err)
		}
	}
	c := testConfig(t)
	c.AuthenticateHTTPFrameworks = true
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "--credentials") {
		t.Errorf("no file: %v", err)
	}
}
