package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// RoleNamespaces are the namespaces whose pods may use a Mesos role, by role. All may use a role without an entry. It is a flag that
// may be repeated: "ROLE=NAMESPACE[,NAMESPACE]".
type RoleNamespaces map[string][]string

// String implements pflag.Value.
func (r RoleNamespaces) String() string { return strings.Join(r.GetSlice(), " ") }

// Type implements pflag.Value.
func (*RoleNamespaces) Type() string { return "stringArray" }

// Set implements pflag.Value.
func (r *RoleNamespaces) Set(text string) error { return r.Append(text) }

// Append implements pflag.SliceValue.
func (r *RoleNamespaces) Append(text string) error {
	role, list, _ := strings.Cut(text, "=")
	if role == "" || list == "" {
		return fmt.Errorf("%q is not of the form ROLE=NAMESPACE[,NAMESPACE], such as spark=analytics,batch", text)
	}
	if _, twice := (*r)[role]; twice {
		return fmt.Errorf("role %s is there twice: list all its namespaces at once", role)
	}
	namespaces := strings.Split(list, ",")
	for _, namespace := range namespaces {
		if problems := validation.IsDNS1123Label(namespace); len(problems) > 0 {
			return fmt.Errorf("%q, for role %s, is not the name of a namespace: %s", namespace, role, problems[0])
		}
	}
	if *r == nil {
		*r = RoleNamespaces{}
	}
	(*r)[role] = namespaces
	return nil
}

// Replace implements pflag.SliceValue.
func (r *RoleNamespaces) Replace(texts []string) error {
	*r = nil
	for _, text := range texts {
		if err := r.Append(text); err != nil {
			return err
		}
	}
	return nil
}

// GetSlice implements pflag.SliceValue.
func (r RoleNamespaces) GetSlice() []string {
	var texts []string
	for _, role := range slices.Sorted(maps.Keys(r)) {
		texts = append(texts, role+"="+strings.Join(r[role], ","))
	}
	return texts
}

// check returns an error for a role that the framework does not subscribe to: its name may be wrong.
func (r RoleNamespaces) check(subscribed []string) error {
	for _, role := range slices.Sorted(maps.Keys(r)) {
		if !slices.Contains(subscribed, role) {
			return fmt.Errorf("cannot use --role-namespaces=%s=%s: --mesos-roles=%s does not have that role",
				role, strings.Join(r[role], ","), strings.Join(subscribed, ","))
		}
	}
	return nil
}
