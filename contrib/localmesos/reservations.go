package localmesos

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	mesos "github.com/mesos/mesos-go/api/v1/lib"

	"github.com/k8sm/k8sm/api"
)

// stack has the reservations of a resource, unless it is a single static one. It is serialized protobuf, to be comparable.
type stack string

// stackOf returns the role and the reservations of a resource in either format of the API.
func stackOf(r *mesos.Resource) (role string, how stack) {
	list := r.Reservations
	if len(list) == 0 && r.Reservation != nil {
		refined := *r.Reservation
		refined.Role, refined.Type = r.Role, mesos.Resource_ReservationInfo_DYNAMIC.Enum()
		list = []mesos.Resource_ReservationInfo{refined}
	}
	if len(list) == 0 {
		return r.GetRole(), ""
	}
	last := list[len(list)-1]
	if len(list) == 1 && last.GetType() != mesos.Resource_ReservationInfo_DYNAMIC {
		return last.GetRole(), ""
	}
	data, err := (&mesos.Resource{Type: mesos.SCALAR.Enum(), Reservations: list}).Marshal()
	if err != nil {
		panic(err) // no required field is missing
	}
	return last.GetRole(), stack(data)
}

// list returns the reservations; none for an unreserved resource.
func (s slot) list() []mesos.Resource_ReservationInfo {
	if s.how != "" {
		var r mesos.Resource
		if err := r.Unmarshal([]byte(s.how)); err != nil {
			panic(err) // stackOf wrote it
		}
		return r.Reservations
	}
	if s.role == "*" {
		return nil
	}
	return []mesos.Resource_ReservationInfo{{Type: mesos.Resource_ReservationInfo_STATIC.Enum(), Role: &s.role}}
}

// reservationsText formats reservations as in Mesos' messages.
func (s slot) reservationsText() string {
	var texts []string
	for _, r := range s.list() {
		text := "(" + r.GetType().String() + "," + r.GetRole()
		if r.Principal != nil {
			text += "," + *r.Principal
		}
		texts = append(texts, text+")")
	}
	if texts == nil {
		return ""
	}
	return "(reservations: [" + strings.Join(texts, ",") + "])"
}

// below returns the pool without the last reservation of each resource; ok is false if one of them is not dynamic.
func (p pool) below() (source pool, ok bool) {
	for _, a := range p {
		list := a.list()
		if len(list) == 0 || list[len(list)-1].GetType() != mesos.Resource_ReservationInfo_DYNAMIC || a.used != "" || a.revocable {
			return nil, false
		}
		role, how := stackOf(&mesos.Resource{Reservations: list[:len(list)-1]})
		a.role, a.how = role, how
		source = source.plus(pool{a})
	}
	return source, true
}

// conversion is a change to an agent's reservations.
type conversion struct{ from, to pool }

// reserve reserves resources of an agent, or unreserves them with undo
// (https://mesos.apache.org/documentation/latest/reservation/#operator-http-endpoints). It rescinds conflicting
// offers.
func (m *master) reserve(agent mesos.AgentID, resources []mesos.Resource, undo bool) answer {
	a := m.agents[api.AgentID(agent.Value)]
	if a == nil {
		return refused("No agent found with specified ID")
	}
	reserved := poolOf(resources)
	plain, ok := reserved.below()
	if problem := reservationProblem(reserved, ok); problem != "" {
		return refused("Invalid RESERVE operation: " + problem)
	}
	change := conversion{from: plain, to: reserved}
	if undo {
		change = conversion{from: reserved, to: plain}
	}
	m.rescindFor(a, change.from)
	if !a.free.contains(change.from) {
		return answer{status: http.StatusConflict, text: fmt.Sprintf("Insufficient resources: %s is not contained in the available %s", change.from, a.free)}
	}
	m.reservations[a.id] = append(m.reservations[a.id], change)
	a.total, a.free = change.in(a.total), change.in(a.free)
	m.do(saveFrameworks{})
	m.allocateSoon(a)
	return accepted
}

func (c conversion) in(p pool) pool { return p.minus(c.from).plus(c.to) }

func reservationProblem(reserved pool, dynamic bool) string {
	if !dynamic || reserved.empty() {
		return "A reserve operation was attempted with no dynamically reserved resources"
	}
	for _, a := range reserved {
		above := "*"
		for _, r := range a.list() {
			if problem := roleProblem(r.GetRole()); problem != "" || r.GetRole() == "*" {
				return cmp.Or(problem, "A reservation for role '*' was attempted")
			}
			if above != "*" && !strings.HasPrefix(r.GetRole(), above+"/") {
				return fmt.Sprintf("Role '%s' is not a refinement of '%s'", r.GetRole(), above)
			}
			above = r.GetRole()
		}
	}
	return ""
}

// rescindFor rescinds the agent's offers, in order, until the resources are free or no offer is left.
func (m *master) rescindFor(a *agentEntry, wanted pool) {
	for _, id := range slices.Sorted(maps.Keys(a.offers)) {
		if a.free.contains(wanted) {
			return
		}
		m.rescind(a.offers[id])
	}
}

// reservedTotal returns the resources of a registering agent with its reservations applied.
func (m *master) reservedTotal(id api.AgentID, own pool) pool {
	for _, change := range m.reservations[id] {
		own = change.in(own)
	}
	return own
}
