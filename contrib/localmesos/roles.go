package localmesos

import (
	"maps"
	"slices"
	"strings"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	pb "github.com/mesos/mesos-go/api/v1/lib/master"

	"github.com/k8sm/k8sm/api"
)

// trackedRoles returns the frameworks of each role: those that are subscribed to it, or have resources allocated to it.
func (m *master) trackedRoles() map[string][]api.FrameworkID {
	tracked := map[string][]api.FrameworkID{}
	for _, f := range m.sortedFrameworks() {
		names := map[string]bool{}
		for _, role := range f.roles() {
			names[role] = true
		}
		for _, x := range m.usedBy(f) {
			names[x.used] = true
		}
		for role := range names {
			tracked[role] = append(tracked[role], f.id)
		}
	}
	return tracked
}

// knownRoles returns the roles with frameworks, reservations, a quota or a weight, and those above them (Master::knownRoles in
// src/master/master.cpp), in order.
func (m *master) knownRoles(tracked map[string][]api.FrameworkID) []string {
	known := map[string]bool{}
	add := func(role string) {
		for ; ; role = role[:strings.LastIndexByte(role, '/')] {
			known[role] = true
			if !strings.Contains(role, "/") {
				return
			}
		}
	}
	for role := range tracked {
		add(role)
	}
	for _, a := range m.registeredAgents() {
		for _, x := range a.total {
			if x.role != "*" {
				add(x.role)
			}
		}
	}
	for role := range m.quotas {
		add(role)
	}
	for role := range m.weights {
		add(role)
	}
	return slices.Sorted(maps.Keys(known))
}

// getRoles follows Master::ReadOnlyHandler::getRoles in src/master/readonly_handler.cpp. A role's resources are those that its
// frameworks, and those of the roles below, use or are offered.
func (m *master) getRoles() *pb.Response_GetRoles {
	var taken pool
	for _, f := range m.frameworks {
		taken = taken.plus(m.usedBy(f)).plus(f.offered())
	}
	tracked := m.trackedRoles()
	out := &pb.Response_GetRoles{}
	for _, name := range m.knownRoles(tracked) {
		role := mesos.Role{Name: name, Weight: m.weights.of(name), Resources: taken.ofRole(name)}
		for _, f := range tracked[name] {
			role.Frameworks = append(role.Frameworks, mesos.FrameworkID{Value: string(f)})
		}
		out.Roles = append(out.Roles, role)
	}
	return out
}

// ofRole sums what is allocated to the role or one below it, by name.
func (p pool) ofRole(role string) []mesos.Resource {
	sums := p.sums(func(a amount) bool { return belongsTo(a.used, role) })
	var out []mesos.Resource
	for _, name := range []string{"cpus", "disk", "gpus", "mem"} {
		if sums[name] > 0 {
			out = append(out, mesos.Resource{Name: name, Type: mesos.SCALAR.Enum(), Scalar: &mesos.Value_Scalar{Value: sums[name]}})
		}
	}
	return out
}

// sums adds the scalars that fit, by name.
func (p pool) sums(fits func(amount) bool) map[string]float64 {
	thousandths := map[string]int64{}
	for _, a := range p {
		if a.kind == mesos.SCALAR && fits(a) {
			thousandths[a.name] += a.scalar
		}
	}
	out := map[string]float64{}
	for name, sum := range thousandths {
		out[name] = float64(sum) / 1000
	}
	return out
}
