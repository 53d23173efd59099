package offers

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/k8sm/k8sm/api"
)

// Names of the resources that k8sm knows (https://mesos.apache.org/documentation/latest/attributes-resources/).
const (
	CPUs  = "cpus"  // cores
	Mem   = "mem"   // MiB
	Disk  = "disk"  // MiB
	GPUs  = "gpus"  // devices
	Ports = "ports" // TCP and UDP port numbers

	// RevocableCPUs are cores that Mesos may take back. They have a name of their own here, so that they are not confused with
	// others (https://mesos.apache.org/documentation/latest/oversubscription/).
	RevocableCPUs = "cpus{REV}"
)

// Milli is a Mesos scalar in thousandths. Mesos itself computes with three decimals, so sums and comparisons here agree exactly with
// the master's (https://mesos.apache.org/documentation/latest/attributes-resources/#scalar).
type Milli int64

// MilliOf returns a floating point scalar as thousandths, rounded as Mesos rounds.
func MilliOf(f float64) Milli { return Milli(math.Round(f * 1000)) }

// Float returns the scalar as Mesos writes it on the wire.
func (m Milli) Float() float64 { return float64(m) / 1000 }

// String returns the shortest decimal, such as "3.9".
func (m Milli) String() string { return strconv.FormatFloat(m.Float(), 'f', -1, 64) }

// Range is a range of numbers, such as ports, both ends included.
type Range struct{ Begin, End uint64 }

// Resource is one resource of an offer. It keeps its kind, role and reservation from the offer to the launch: Origin is the resource
// as Mesos sent it, opaque here, without the amount, which is filled in when a task takes a part. Resources with equal Origins
// differ only in their amounts.
type Resource struct {
	Name     string
	Role     string  // the role to which it is allocated
	Reserved bool    // reserved for a role; used before unreserved resources
	Scalar   Milli   // the amount, for a scalar
	Ranges   []Range // for ranges: Ports, and custom ones such as "vlans"
	Origin   []byte
}

// String returns the resource in the notation of Mesos's --resources flag, such as "cpus:3.9" or "ports:[80-90]".
func (r Resource) String() string {
	if r.Name != Ports && r.Ranges == nil {
		return r.Name + ":" + r.Scalar.String()
	}
	parts := make([]string, len(r.Ranges))
	for i, p := range r.Ranges {
		parts[i] = fmt.Sprintf("%d-%d", p.Begin, p.End)
	}
	return r.Name + ":[" + strings.Join(parts, ",") + "]"
}

// Resources are the resources of one or several offers from one agent and role. Only Draw, DrawPort and Remove modify their
// receiver.
type Resources []Resource

// String joins the resources by ";".
func (rs Resources) String() string {
	parts := make([]string, len(rs))
	for i, r := range rs {
		parts[i] = r.String()
	}
	return strings.Join(parts, ";")
}

// Sum returns the total of a scalar.
func (rs Resources) Sum(name string) Milli {
	var sum Milli
	for _, r := range rs {
		if r.Name == name {
			sum += r.Scalar
		}
	}
	return sum
}

// HasPort reports whether a port is in one of the ranges.
func (rs Resources) HasPort(port uint64) bool {
	return slices.ContainsFunc(rs, func(r Resource) bool { return inRanges(r.ports(), port) })
}

// CountPort returns how many of the ranges contain a port.
func (rs Resources) CountPort(port uint64) int {
	count := 0
	for _, r := range rs {
		if inRanges(r.ports(), port) {
			count++
		}
	}
	return count
}

// PortCount returns the number of ports.
func (rs Resources) PortCount() int {
	var count uint64
	for _, r := range rs {
		for _, p := range r.ports() {
			count += p.End - p.Begin + 1
		}
	}
	return int(count)
}

// FirstPort returns the lowest reserved port, or the lowest port if none is reserved; ok is false if there is none.
func (rs Resources) FirstPort() (port uint64, ok bool) {
	reserved := false
	for _, r := range rs {
		for _, p := range r.ports() {
			if !ok || r.Reserved && !reserved || r.Reserved == reserved && p.Begin < port {
				port, ok, reserved = p.Begin, true, r.Reserved
			}
		}
	}
	return port, ok
}

// PortRanges returns the ranges of all ports.
func (rs Resources) PortRanges() []Range {
	var ranges []Range
	for i := range rs {
		ranges = append(ranges, rs[i].ports()...)
	}
	return ranges
}

// ports returns the ranges of a resource if they are ports. Agents may have other ranges, such as "vlans:[1-100]"
// (https://mesos.apache.org/documentation/latest/attributes-resources/#ranges).
func (r *Resource) ports() []Range {
	if r.Name != Ports {
		return nil
	}
	return r.Ranges
}

func inRanges(ranges []Range, port uint64) bool {
	return slices.ContainsFunc(ranges, func(p Range) bool { return p.Begin <= port && port <= p.End })
}

// Take splits off an amount of a scalar, reserved resources first. It returns false if there is too little.
func (rs Resources) Take(name string, amount Milli) (taken, rest Resources, ok bool) {
	rest = slices.Clone(rs)
	taken, ok = rest.Draw(name, amount, nil)
	return taken, rest.withoutEmpty(), ok
}

// Draw moves an amount of a scalar from the receiver to the end of into, reserved resources first. It returns false if there is too
// little.
func (rs Resources) Draw(name string, amount Milli, into Resources) (Resources, bool) {
	for _, reserved := range [...]bool{true, false} {
		for i := range rs {
			r := &rs[i]
			if amount == 0 || r.Name != name || r.Reserved != reserved || r.Scalar <= 0 {
				continue
			}
			part := *r
			part.Scalar = min(amount, r.Scalar)
			into = append(into, part)
			r.Scalar -= part.Scalar
			amount -= part.Scalar
		}
	}
	return into, amount == 0
}

// Holds reports whether the resources contain exactly these scalars, with their roles and reservations.
func (rs Resources) Holds(scalars Resources) bool { return slices.Clone(rs).Remove(scalars) }

// Remove removes exactly these scalars, with their roles and reservations, from the receiver. It returns false if there is too
// little, and has removed a part then.
func (rs Resources) Remove(scalars Resources) bool {
	enough := true
	for _, want := range scalars {
		rest := want.Scalar
		for i := range rs {
			if r := &rs[i]; r.Name == want.Name && r.Role == want.Role && r.Reserved == want.Reserved && bytes.Equal(r.Origin, want.Origin) {
				part := max(0, min(rest, r.Scalar))
				r.Scalar -= part
				rest -= part
			}
		}
		enough = enough && rest <= 0
	}
	return enough
}

// DrawPort removes one port from the receiver, from a reserved range if possible. It returns false if no range contains the port.
func (rs Resources) DrawPort(port uint64) (taken Resource, ok bool) {
	for _, reserved := range [...]bool{true, false} {
		for i := range rs {
			r := &rs[i]
			if r.Reserved != reserved || !inRanges(r.ports(), port) {
				continue
			}
			taken = *r
			taken.Ranges = []Range{{port, port}}
			r.Ranges = withoutPort(r.Ranges, port)
			return taken, true
		}
	}
	return Resource{}, false
}

// WithoutPorts returns the resources without the ports in a range, and the ports that were left out.
func (rs Resources) WithoutPorts(without Range) (rest Resources, cut []Range) {
	rest = slices.Clone(rs)
	for i := range rest {
		if rest[i].Name != Ports {
			continue
		}
		var kept []Range
		for _, r := range rest[i].Ranges {
			if r.End < without.Begin || without.End < r.Begin {
				kept = append(kept, r)
				continue
			}
			cut = append(cut, Range{max(r.Begin, without.Begin), min(r.End, without.End)})
			if r.Begin < without.Begin {
				kept = append(kept, Range{r.Begin, without.Begin - 1})
			}
			if without.End < r.End {
				kept = append(kept, Range{without.End + 1, r.End})
			}
		}
		rest[i].Ranges = kept
	}
	return rest, cut
}

func withoutPort(ranges []Range, port uint64) []Range {
	var out []Range
	for _, p := range ranges {
		if port < p.Begin || p.End < port {
			out = append(out, p)
			continue
		}
		if p.Begin < port {
			out = append(out, Range{p.Begin, port - 1})
		}
		if port < p.End {
			out = append(out, Range{port + 1, p.End})
		}
	}
	return out
}

func (rs Resources) withoutEmpty() Resources {
	return slices.DeleteFunc(rs, func(r Resource) bool {
		return r.Ranges == nil && r.Name != Ports && r.Scalar <= 0
	})
}

// Attribute is an agent's attribute, its value as text (https://mesos.apache.org/documentation/latest/attributes-resources/#attributes).
type Attribute struct{ Name, Value string }

// Offer is a Mesos offer: what a role of ours may use on one agent now.
type Offer struct {
	ID         api.OfferID
	Agent      api.AgentID
	Hostname   string
	IP         string // of the agent's endpoint; empty if unknown
	Port       int    // of the agent's endpoint
	Role       string // the role to which all Resources are allocated
	Region     string // fault domain; empty if the agent has none
	Zone       string
	Attributes []Attribute
	Resources  Resources
	Executors  []api.ExecutorID // executors of this framework on the agent
	// Unavailable is the agent's planned maintenance; nil if there is none. It is immutable.
	Unavailable *Unavailability
}
