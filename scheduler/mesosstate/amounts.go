package mesosstate

import (
	"unique"

	mesos "github.com/mesos/mesos-go/api/v1/lib"

	"github.com/k8sm/k8sm/offers"
)

// maxNames limits the names of resources that are counted together.
const maxNames = 64

// text is a string of which equal ones share their memory.
type text = unique.Handle[string]

// amounts are amounts of scalar resources, each name once.
type amounts []amount

type amount struct {
	name  text
	value offers.Milli
}

// add adds value to the amount of a name.
func (a amounts) add(name text, value offers.Milli) amounts {
	for i := range a {
		if a[i].name == name {
			a[i].value += value
			return a
		}
	}
	if len(a) == maxNames {
		return a
	}
	return append(a, amount{name, value})
}

// plus adds others, times factor.
func (a amounts) plus(others amounts, factor offers.Milli) amounts {
	for _, other := range others {
		a = a.add(other.name, factor*other.value)
	}
	return a
}

// of returns the amount of a name.
func (a amounts) of(name text) offers.Milli {
	for i := range a {
		if a[i].name == name {
			return a[i].value
		}
	}
	return 0
}

// shown returns the amounts as people see them. None is negative: what a task freed may be more than what was known of it.
func (a amounts) shown() Amounts {
	out := make(Amounts, len(a))
	for _, one := range a {
		if one.value > 0 {
			out[one.name.Value()] = one.value.Float()
		}
	}
	return out
}

// byText are amounts by a role or a framework.
type byText map[text]amounts

// add adds amounts, times factor.
func (b byText) add(key text, a amounts, factor offers.Milli) { b[key] = b[key].plus(a, factor) }

// shown leaves out those that are empty.
func (b byText) shown() map[string]Amounts {
	out := make(map[string]Amounts, len(b))
	for key, a := range b {
		if shown := a.shown(); len(shown) > 0 {
			out[key.Value()] = shown
		}
	}
	return out
}

// sum adds up scalars.
func sum(resources []mesos.Resource) amounts {
	out := make(amounts, 0, 4)
	for i := range resources {
		if r := &resources[i]; r.Scalar != nil {
			out = out.add(unique.Make(r.Name), offers.MilliOf(r.Scalar.Value))
		}
	}
	return out
}

// sumBy adds up the scalars for each key; those with the key "" are left out.
func sumBy(resources []mesos.Resource, key func(*mesos.Resource) string) byText {
	out := byText{}
	for i := range resources {
		if k := key(&resources[i]); k != "" {
			out.add(unique.Make(k), sum(resources[i:i+1]), 1)
		}
	}
	return out
}

// allocatedTo returns the role to which the resource is allocated; "" for none.
func allocatedTo(r *mesos.Resource) string { return r.GetAllocationInfo().GetRole() }

// reservedFor returns the role for which the resource is reserved; "" for none
// (https://mesos.apache.org/documentation/latest/reservation/).
func reservedFor(r *mesos.Resource) string {
	if last := len(r.Reservations); last > 0 {
		return r.Reservations[last-1].GetRole()
	}
	if role := r.GetRole(); role != "*" {
		return role
	}
	return ""
}
