package cis

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/k8sm/k8sm/api/statedir"
)

func TestEveryItemOfTheBenchmarkIsThereOnce(t *testing.T) {
	count := map[string]int{}
	for _, i := range items() {
		section := i.id[:strings.LastIndex(i.id, ".")]
		count[section]++
		if want := count[section]; !strings.HasSuffix(i.id, "."+strconv.Itoa(want)) {
			t.Errorf("%s is number %d of its section", i.id, want)
		}
	}
	// The sections of CIS Kubernetes Benchmark 1.10 and how many items each has.
	for section, want := range map[string]int{
		"1.1": 21, "1.2": 29, "1.3": 7, "1.4": 2, "2": 7, "3.1": 3, "3.2": 2, "4.1": 10, "4.2": 13, "4.3": 1,
		"5.1": 13, "5.2": 13, "5.3": 2, "5.4": 2, "5.5": 1, "5.7": 4,
	} {
		if count[section] != want {
			t.Errorf("section %s has %d items, want %d", section, count[section], want)
		}
	}
}

func TestFilesThatOthersMayReadFail(t *testing.T) {
	s := &seen{Target: Target{Dir: statedir.Dir(t.TempDir())}}
	path := filepath.Join(string(s.Dir), "admin.kubeconfig")
	check := mode(0o600, func(*seen) []string { return []string{path} })
	if v := check(t.Context(), s); v.result != Failed {
		t.Errorf("a missing file: %+v", v)
	}
	for perm, want := range map[os.FileMode]Result{0o600: Passed, 0o400: Passed, 0o640: Failed, 0o644: Failed, 0o700: Failed} {
		if err := os.WriteFile(path, nil, perm); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, perm); err != nil {
			t.Fatal(err)
		}
		if v := check(t.Context(), s); v.result != want {
			t.Errorf("mode %o: %+v, want %s", perm, v, want)
		}
	}
}

func TestFlagsAreCompared(t *testing.T) {
	s := &seen{apiServer: map[string]string{
		"authorization-mode": "[Node,RBAC]", "profiling": "true", "audit-log-maxage": "7", "token-auth-file": "/tokens", "client-ca-file": "",
		"weak": "[TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_RSA_WITH_AES_128_GCM_SHA256]", "strong": "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
		"cbc": "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
	}}
	of := flagsOf(apiServerFlags)
	for name, test := range map[string]struct {
		is   verdict
		want Result
	}{
		"an element":         {of.has("authorization-mode", "RBAC")(t.Context(), s), Passed},
		"no element":         {of.has("authorization-mode", "Webhook")(t.Context(), s), Failed},
		"a bad element":      {of.lacks("authorization-mode", "Node")(t.Context(), s), Failed},
		"another value":      {of.is("profiling", "false")(t.Context(), s), Failed},
		"too few":            {of.atLeast("audit-log-maxage", 30)(t.Context(), s), Failed},
		"enough":             {of.atLeast("audit-log-maxage", 7)(t.Context(), s), Passed},
		"set":                {of.unset("token-auth-file")(t.Context(), s), Failed},
		"not set":            {of.set("client-ca-file")(t.Context(), s), Failed},
		"no forward secrecy": {of.ciphers("weak")(t.Context(), s), Failed},
		"CBC":                {of.ciphers("cbc")(t.Context(), s), Failed},
		"no list":            {of.ciphers("none")(t.Context(), s), Failed},
		"strong":             {of.ciphers("strong")(t.Context(), s), Passed},
	} {
		if test.is.result != test.want {
			t.Errorf("%s: %+v, want %s", name, test.is, test.want)
		}
	}
}

func TestFirstAuditRuleDecides(t *testing.T) {
	policy := auditv1.Policy{Rules: []auditv1.PolicyRule{
		{Level: auditv1.LevelNone, Users: []string{"system:kube-scheduler"}},
		{Level: auditv1.LevelNone, Verbs: []string{"watch"}},
		{Level: auditv1.LevelMetadata, Resources: []auditv1.GroupResources{{Group: "", Resources: []string{"secrets"}}}},
		{Level: auditv1.LevelRequest},
	}}
	for request, want := range map[[3]string]auditv1.Level{
		{"", "secrets", "watch"}: auditv1.LevelNone, {"", "secrets", "get"}: auditv1.LevelMetadata, {"", "pods", "create"}: auditv1.LevelRequest,
		{"apps", "secrets", "get"}: auditv1.LevelRequest,
	} {
		if got := levelOf(policy, request[0], request[1], request[2]); got != want {
			t.Errorf("%v is logged at %s, want %s", request, got, want)
		}
	}
}

func TestWildcardMeetsEverything(t *testing.T) {
	rule := rbacv1.PolicyRule{APIGroups: []string{"*"}, Resources: []string{"pods"}, Verbs: []string{"get"}}
	if !meets(rule.APIGroups, []string{""}) || meets(rule.Resources, []string{"nodes"}) || !meets([]string{"get"}, []string{"*"}) {
		t.Error("a wildcard is an element of every list, and other names only of their own")
	}
}

func TestUnexpectedFailuresAreReturnedAndSumsPrinted(t *testing.T) {
	var out strings.Builder
	bad := Print(&out, []Finding{
		{ID: "1.1.1", Result: Passed}, {ID: "1.1.2", Result: NotApplicable}, {ID: "1.1.3", Result: Failed, Expected: true}, {ID: "1.1.4", Result: Failed},
	})
	if len(bad) != 1 || bad[0].ID != "1.1.4" || !strings.HasSuffix(out.String(), "cis: 1 passed, 2 failed, 1 not applicable\n") {
		t.Errorf("returned %v, printed\n%s", bad, &out)
	}
}
