package scheduler

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func TestNamespacesOfRolesAreReadFromTheirFlag(t *testing.T) {
	for _, test := range []struct {
		flags []string
		want  RoleNamespaces
		fails string
	}{
		{[]string{"--role-namespaces=spark=analytics,batch", "--role-namespaces=*=default"}, RoleNamespaces{"spark": {"analytics", "batch"}, "*": {"default"}}, ""},
		{[]string{"--role-namespaces=spark"}, nil, "ROLE=NAMESPACE"},
		{[]string{"--role-namespaces=spark="}, nil, "ROLE=NAMESPACE"},
		{[]string{"--role-namespaces==default"}, nil, "ROLE=NAMESPACE"},
		{[]string{"--role-namespaces=spark=a,,b"}, nil, "not the name of a namespace"},
		{[]string{"--role-namespaces=spark=a*"}, nil, "not the name of a namespace"},
		{[]string{"--role-namespaces=spark=a", "--role-namespaces=spark=b"}, nil, "role spark is there twice"},
		{[]string{"--role-namespaces=sparc=a"}, RoleNamespaces{"sparc": {"a"}}, "--role-namespaces=sparc=a: --mesos-roles=spark,* does not have that role"},
	} {
		cfg := testConfig()
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		cfg.AddFlags(fs)
		err := fs.Parse(test.flags)
		if err == nil {
			cfg.Roles = []string{"spark", "*"}
			err = cfg.Validate()
		}
		if (err == nil) != (test.fails == "") || err != nil && !strings.Contains(err.Error(), test.fails) {
			t.Errorf("%s: %v, want %q", test.flags, err, test.fails)
		}
		if diff := cmp.Diff(test.want, cfg.RoleNamespaces); test.fails == "" && diff != "" {
			t.Errorf("%s: %s", test.flags, diff)
		}
	}
}

// A configuration file has the flag as a list.
func TestNamespacesOfRolesAreReplacedAsAList(t *testing.T) {
	texts := []string{"*=default", "spark=analytics,batch"}
	r := RoleNamespaces{"old": {"x"}}
	if err := r.Replace(texts); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(texts, r.GetSlice()); diff != "" || r.String() != "*=default spark=analytics,batch" {
		t.Errorf("%s %s", r, diff)
	}
	if err := r.Replace([]string{"spark"}); err == nil {
		t.Error("a role without namespaces is taken")
	}
}
