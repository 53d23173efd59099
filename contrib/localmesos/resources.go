package localmesos

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	mesos "github.com/mesos/mesos-go/api/v1/lib"

	"github.com/k8sm/k8sm/contrib/localmesos/wire"
)

// slot identifies a resource.
type slot struct {
	name string
	role string // the role that it is reserved for, "*" for unreserved
	how  stack  // its reservations; "" for unreserved or a single static one
	used string // role it is allocated to, "" while it is not
	// revocable resources can be revoked (https://mesos.apache.org/documentation/latest/oversubscription/).
	revocable bool
}

// amount of one slot. Scalars are in thousandths, as in Mesos, so that sums are exact.
type amount struct {
	slot
	kind   mesos.Value_Type
	scalar int64
	ranges spans
	set    []string
}

// pool is a set of resources: at most one amount a slot, in the order of first appearance. Its methods return new
// pools.
type pool []amount

func milli(f float64) int64 { return int64(math.Round(f * 1000)) }

// poolOf reads resources in both formats of the API: with a role, or with a stack of reservations.
func poolOf(resources []mesos.Resource) pool {
	var p pool
	for i := range resources {
		r := &resources[i]
		a := amount{slot: slot{name: r.Name, used: r.GetAllocationInfo().GetRole(), revocable: r.Revocable != nil}, kind: r.GetType()}
		a.role, a.how = stackOf(r)
		a.scalar = milli(r.GetScalar().GetValue())
		for _, s := range r.GetRanges().GetRange() {
			a.ranges = a.ranges.plus(spans{{s.Begin, s.End}})
		}
		a.set = r.GetSet().GetItem()
		p = p.plus(pool{a})
	}
	return p
}

func (p pool) find(s slot) int {
	return slices.IndexFunc(p, func(a amount) bool { return a.slot == s })
}

func (p pool) plus(q pool) pool {
	out := slices.Clone(p)
	for _, a := range q {
		i := out.find(a.slot)
		if i < 0 {
			out = append(out, a)
			continue
		}
		out[i].scalar += a.scalar
		out[i].ranges = out[i].ranges.plus(a.ranges)
		out[i].set = union(out[i].set, a.set)
	}
	return out
}

// minus subtracts q, as far as p has it. It removes empty amounts.
func (p pool) minus(q pool) pool {
	out := make(pool, 0, len(p))
	for _, a := range p {
		if i := q.find(a.slot); i >= 0 {
			a.scalar = max(0, a.scalar-q[i].scalar)
			a.ranges = a.ranges.minus(q[i].ranges)
			a.set = without(a.set, q[i].set)
		}
		if !a.empty() {
			out = append(out, a)
		}
	}
	return out
}

func (p pool) contains(q pool) bool {
	for _, a := range q {
		if a.empty() {
			continue
		}
		i := p.find(a.slot)
		if i < 0 || p[i].scalar < a.scalar || len(a.ranges.minus(p[i].ranges)) > 0 || len(without(a.set, p[i].set)) > 0 {
			return false
		}
	}
	return true
}

func (a amount) empty() bool { return a.scalar == 0 && len(a.ranges) == 0 && len(a.set) == 0 }

func (p pool) empty() bool { return !slices.ContainsFunc(p, func(a amount) bool { return !a.empty() }) }

// allocatable reports whether the pool is worth an offer: Mesos offers nothing below 0.01 cpus and 32 MB.
func (p pool) allocatable() bool {
	return slices.ContainsFunc(p, func(a amount) bool {
		return a.name == "cpus" && a.scalar >= 10 || a.name == "mem" && a.scalar >= 32*1000
	})
}

// forRole returns the part that may be offered to the role: unreserved, or reserved for it or a parent.
func (p pool) forRole(role string) pool {
	return slices.DeleteFunc(slices.Clone(p), func(a amount) bool {
		return a.role != "*" && a.role != role && !strings.HasPrefix(role, a.role+"/")
	})
}

// plain returns the part that is not revocable.
func (p pool) plain() pool {
	return slices.DeleteFunc(slices.Clone(p), func(a amount) bool { return a.revocable })
}

// unrefined returns the part that is reserved in one step at most.
func (p pool) unrefined() pool {
	return slices.DeleteFunc(slices.Clone(p), func(a amount) bool { return len(a.list()) > 1 })
}

// mixed returns a resource with both revocable and other amounts in the pool, or "". Mesos refuses tasks that mix them.
func (p pool) mixed() string {
	for _, a := range p {
		mixes := func(b amount) bool { return b.name == a.name && !b.revocable }
		if a.revocable && slices.ContainsFunc(p, mixes) {
			return a.name
		}
	}
	return ""
}

// allocated returns the same amounts as allocated to the role; "" makes them free.
func (p pool) allocated(role string) pool {
	var out pool
	for _, a := range p {
		a.used = role
		out = out.plus(pool{a})
	}
	return out
}

// form is a format of resources in the API.
type form int

const (
	withRole         form = iota // with a role, for most frameworks and the operator API
	withReservations             // with a stack of reservations, for RESERVATION_REFINEMENT frameworks
)

// messages returns the pool as resources of the API.
func (p pool) messages(f form) []mesos.Resource {
	out := make([]mesos.Resource, 0, len(p))
	for _, a := range p {
		r := mesos.Resource{Name: a.name, Type: a.kind.Enum()}
		switch a.kind {
		case mesos.SCALAR:
			r.Scalar = &mesos.Value_Scalar{Value: float64(a.scalar) / 1000}
		case mesos.RANGES:
			r.Ranges = a.ranges.message()
		case mesos.SET:
			r.Set = &mesos.Value_Set{Item: a.set}
		}
		list := a.list()
		if f == withReservations || len(list) > 1 { // refined reservations have no other format
			r.Reservations = list
		}
		if f == withRole {
			r.Role = &a.role
			if len(list) == 1 && a.how != "" {
				r.Reservation = &mesos.Resource_ReservationInfo{Principal: list[0].Principal, Labels: list[0].Labels}
			}
		}
		if a.revocable {
			r.Revocable = &mesos.Resource_RevocableInfo{}
		}
		if a.used != "" {
			r.AllocationInfo = &mesos.Resource_AllocationInfo{Role: &a.used}
		}
		out = append(out, r)
	}
	return out
}

// rangesFirst orders resources as Mesos does in offers.
func (p pool) rangesFirst() pool {
	out := slices.Clone(p)
	slices.SortStableFunc(out, func(a, b amount) int {
		return boolToInt(b.kind == mesos.RANGES) - boolToInt(a.kind == mesos.RANGES)
	})
	return out
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// String returns "cpus:4; ports:[31000-32000]" as in Mesos's messages.
func (p pool) String() string {
	texts := make([]string, 0, len(p))
	for _, a := range p {
		text := a.name + a.reservationsText()
		if a.used != "" {
			text += "(allocated: " + a.used + ")"
		}
		if a.revocable {
			text += "{REV}"
		}
		texts = append(texts, text+":"+a.valueText())
	}
	return strings.Join(texts, "; ")
}

func (a amount) valueText() string {
	switch a.kind {
	case mesos.RANGES:
		return a.ranges.String()
	case mesos.SET:
		return "{" + strings.Join(a.set, ", ") + "}"
	}
	return strconv.FormatFloat(float64(a.scalar)/1000, 'f', -1, 64)
}

// span is a range of whole numbers, both ends included; spans are sorted and do not touch.
type span struct{ begin, end uint64 }
type spans []span

func (s spans) plus(t spans) spans {
	all := slices.Concat(s, t)
	slices.SortFunc(all, func(a, b span) int {
		if a.begin < b.begin {
			return -1
		}
		return boolToInt(a.begin > b.begin)
	})
	var out spans
	for _, x := range all {
		if n := len(out); n > 0 && (out[n-1].end == math.MaxUint64 || x.begin <= out[n-1].end+1) {
			out[n-1].end = max(out[n-1].end, x.end)
			continue
		}
		out = append(out, x)
	}
	return out
}

func (s spans) minus(t spans) spans {
	var out spans
	for _, x := range s {
		rest := true
		for _, y := range t {
			if y.end < x.begin || y.begin > x.end {
				continue
			}
			if y.begin > x.begin {
				out = append(out, span{x.begin, y.begin - 1})
			}
			if rest = y.end < x.end; !rest {
				break
			}
			x.begin = y.end + 1
		}
		if rest {
			out = append(out, x)
		}
	}
	return out
}

func (s spans) message() *mesos.Value_Ranges {
	out := &mesos.Value_Ranges{}
	for _, x := range s {
		out.Range = append(out.Range, mesos.Value_Range{Begin: x.begin, End: x.end})
	}
	return out
}

func (s spans) String() string {
	texts := make([]string, 0, len(s))
	for _, x := range s {
		texts = append(texts, fmt.Sprintf("%d-%d", x.begin, x.end))
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

func union(a, b []string) []string {
	return slices.Concat(a, without(b, a))
}

func without[T comparable](a, b []T) []T {
	return slices.DeleteFunc(slices.Clone(a), func(x T) bool { return slices.Contains(b, x) })
}

// flat formats a pool for the older endpoints: cpus, mem, disk and gpus always, others if present.
func (p pool) flat() map[string]any {
	out := map[string]any{}
	for _, name := range []string{"cpus", "mem", "disk", "gpus"} {
		out[name] = wire.Float(0)
	}
	total := pool{}
	for _, a := range p {
		total = total.plus(pool{{slot: slot{name: a.name}, kind: a.kind, scalar: a.scalar, ranges: a.ranges, set: a.set}})
	}
	for _, a := range total {
		if a.kind == mesos.SCALAR {
			out[a.name] = wire.Float(float64(a.scalar) / 1000)
		} else {
			out[a.name] = a.valueText()
		}
	}
	return out
}

// split separates a pool into unreserved resources and those reserved for each role.
func (p pool) split() (unreserved pool, reserved map[string]pool) {
	reserved = map[string]pool{}
	for _, a := range p {
		if a.role == "*" {
			unreserved = append(unreserved, a)
		} else {
			reserved[a.role] = append(reserved[a.role], a)
		}
	}
	return unreserved, reserved
}
