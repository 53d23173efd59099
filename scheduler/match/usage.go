package match

import (
	"slices"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// Usage is what pods or their tasks use of an agent, or need there.
type Usage struct {
	Demand
	Wildcards int          // ports that are not chosen yet
	Revocable offers.Milli // cpus
	Pods      int
	Extended  Extended
	Requests  Requests
}

// needs returns what the pod's next task will use.
func (p *Pod) needs() Usage {
	u := Usage{Demand: p.Demand}
	if p.occupant.node == nil { // otherwise the node counts it already
		u.Pods, u.Extended, u.Requests = 1, p.Extended, p.Requests
	}
	if p.Asks != nil {
		u.Wildcards, u.Revocable = len(p.Asks.wildcards), p.Asks.revocable
	}
	return u
}

// UsageOf returns what a task with this demand and these mapped ports uses; p is its pod, or nil if that is gone.
func UsageOf(p *Pod, d Demand, mapped []api.PortMapping) Usage {
	if len(mapped) > 0 {
		d = d.with(mapped)
	}
	u := Usage{Demand: d}
	if p == nil {
		return u
	}
	if u.Pods, u.Extended, u.Requests = 1, p.occupant.extended, p.occupant.requests; p.Asks != nil {
		u.Revocable = p.Asks.revocable
	}
	return u
}

// Add adds o.
func (u *Usage) Add(o Usage) { *u = u.And(o) }

// And returns the sum of both.
func (u *Usage) And(o Usage) Usage {
	sum := Usage{
		Wildcards: u.Wildcards + o.Wildcards, Revocable: u.Revocable + o.Revocable, Pods: u.Pods + o.Pods, Extended: u.Extended.and(o.Extended),
	}
	sum.Requests = u.Requests
	sum.Requests.add(o.Requests, 1)
	for i := range sum.Scalars {
		sum.Scalars[i] = u.Scalars[i] + o.Scalars[i]
	}
	sum.Ports = slices.Concat(u.Ports, o.Ports)
	return sum
}

// resources returns the usage as resources offered to the role.
func (u *Usage) resources(role string) offers.Resources {
	rs := make(offers.Resources, 0, NumScalars+2)
	for i, name := range ScalarNames {
		rs = append(rs, offers.Resource{Name: name, Role: role, Scalar: u.Scalars[i]})
	}
	ports := offers.Resource{Name: offers.Ports, Role: role}
	for _, port := range u.Ports {
		ports.Ranges = append(ports.Ranges, offers.Range{Begin: port, End: port})
	}
	return append(rs, ports, offers.Resource{Name: offers.RevocableCPUs, Role: role, Scalar: u.Revocable})
}

// HasBeside tells whether a pod of the class fits in the view together with the others. The others count for exactly what
// View.Take takes, so that placing one of them changes no answer.
func (v *View) HasBeside(c *Class, others *Usage) bool {
	for i, want := range c.demand.Scalars {
		if want > 0 && want > v.have[i]-others.Scalars[i] {
			return false
		}
	}
	for _, port := range c.demand.Ports {
		if v.Free.CountPort(port) <= times(others.Ports, port) {
			return false
		}
	}
	if c.key.node == "" && !c.occupies(v.node) && (!v.node.fitsBeside(c, others) || !v.admitsBeside(c, others)) {
		return false
	}
	ports, revocable := len(c.demand.Ports), offers.Milli(0)
	if c.asks != nil {
		ports, revocable = ports+len(c.asks.wildcards), c.asks.revocable
	}
	if ports > 0 && ports > v.Free.PortCount()-len(others.Ports)-others.Wildcards {
		return false
	}
	return revocable == 0 || revocable <= v.Free.Sum(offers.RevocableCPUs)-others.Revocable
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
