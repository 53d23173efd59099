package scheduler

import (
	"slices"

	"github.com/k8sm/k8sm/offers"
)

// holding is what pods or their tasks take of an agent, or need there, with what they have wished for.
type holding struct {
	Demand
	wildcards int          // ports that are still to be chosen
	revocable offers.Milli // cpus
	pods      int
	extended  extended
	requests  requests
}

// needs is what the pod's next task will take.
func (p *pod) needs() holding {
	h := holding{Demand: p.demand}
	if p.standing.place == nil { // it is counted there already otherwise
		h.pods, h.extended, h.requests = 1, p.extended, p.requests
	}
	if p.wish != nil {
		h.wildcards, h.revocable = len(p.wish.wildcards), p.wish.revocable
	}
	return h
}

// heldBy is what the task has taken.
func (c *Core) heldBy(t *task) holding {
	h := holding{Demand: t.demand}
	if len(t.mapped) > 0 {
		h.Demand = t.demand.with(t.mapped)
	}
	p := c.pods[t.pod]
	if p == nil {
		return h
	}
	if h.pods, h.extended, h.requests = 1, p.standing.extended, p.standing.requests; p.wish != nil {
		h.revocable = p.wish.revocable
	}
	return h
}

// frees tells whether what the task has taken comes back in offers of the view's role: surely if it was launched in such
// offers. An earlier scheduler's tasks may have been launched in any.
func (t *task) frees(v *view) bool { return t.role == "" || t.role == v.role }

func (h *holding) add(o holding) { *h = h.and(o) }

// and returns the sum of both.
func (h *holding) and(o holding) holding {
	sum := holding{
		wildcards: h.wildcards + o.wildcards, revocable: h.revocable + o.revocable, pods: h.pods + o.pods, extended: h.extended.and(o.extended),
	}
	sum.requests = h.requests
	sum.requests.add(o.requests, 1)
	for i := range sum.Scalars {
		sum.Scalars[i] = h.Scalars[i] + o.Scalars[i]
	}
	sum.Ports = slices.Concat(h.Ports, o.Ports)
	return sum
}

// resources returns what is held as if it was offered to the role.
func (h *holding) resources(role string) offers.Resources {
	rs := make(offers.Resources, 0, numScalars+2)
	for i, name := range scalarNames {
		rs = append(rs, offers.Resource{Name: name, Role: role, Scalar: h.Scalars[i]})
	}
	ports := offers.Resource{Name: offers.Ports, Role: role}
	for _, port := range h.Ports {
		ports.Ranges = append(ports.Ranges, offers.Range{Begin: port, End: port})
	}
	return append(rs, ports, offers.Resource{Name: offers.RevocableCPUs, Role: role, Scalar: h.revocable})
}

// hasBeside tells whether a pod of the shape finds enough in the view beside what others will take of it. They count for
// exactly what view.takeAll takes: when one of them is placed, nothing changes for the pods that were looked at before.
func (v *view) hasBeside(s *shape, others *holding) bool {
	for i, want := range s.demand.Scalars {
		if want > 0 && want > v.have[i]-others.Scalars[i] {
			return false
		}
	}
	for _, port := range s.demand.Ports {
		if v.free.CountPort(port) <= times(others.Ports, port) {
			return false
		}
	}
	if s.key.node == "" && !s.stands(v.place) && (!v.place.takes(s, others) || !v.admitsBeside(s, others)) {
		return false
	}
	ports, revocable := len(s.demand.Ports), offers.Milli(0)
	if s.wish != nil {
		ports, revocable = ports+len(s.wish.wildcards), s.wish.revocable
	}
	if ports > 0 && ports > v.free.PortCount()-len(others.Ports)-others.wildcards {
		return false
	}
	return revocable == 0 || revocable <= v.free.Sum(offers.RevocableCPUs)-others.revocable
}

func times(ports []uint64, port uint64) int {
	n := 0
	for _, other := range ports {
		if other == port {
			n++
		}
	}
	return n
}
