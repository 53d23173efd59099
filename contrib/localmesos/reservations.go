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

// stack are the reservations of a resource beyond a single static one, in protobuf, so that slots can be compared.
type stack string

// stackOf returns for whom a resource is reserved, and how, from either form that the API has.
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
		panic(err) // nothing that it must have is missing
	}
	return last.GetRole(), stack(data)
}

// list returns the reservations again; none of a resource that is reserved for nobody.
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

// reservationsText is how Mesos's messages name reservations.
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

// below returns the pool as it was before its last reservations; ok is false if one of them is not dynamic.
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

// conversion is a change of an agent's reservations.
type conversion struct{ from, to pool }

// reserve reserves resources of an agent, or with undo takes that back
// (https://mesos.apache.org/documentation/latest/reservation/#operator-http-endpoints). Offers that are in the way are
// rescinded.
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

// rescindFor takes back the agent's offers, in order, until it has the resources free or there is no offer left.
func (m *master) rescindFor(a *agentEntry, wanted pool) {
	for _, id := range slices.Sorted(maps.Keys(a.offers)) {
		if a.free.contains(wanted) {
			return
		}
		m.rescind(a.offers[id])
	}
}

// reservedTotal is what an agent that registers has, with what was reserved before.
func (m *master) reservedTotal(id api.AgentID, own pool) pool {
	for _, change := range m.reservations[id] {
		own = change.in(own)
	}
	return own
}
