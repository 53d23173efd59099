package localmesos

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"

	"github.com/k8sm/k8sm/api"
)

const defaultRefusal = 5 * time.Second

// offer is resources of one agent that wait for a framework's answer.
type offer struct {
	id        api.OfferID
	framework *framework
	agent     *agentEntry
	role      string
	resources pool // allocated to role
}

// filterKey identifies a filter.
type filterKey struct {
	agent api.AgentID
	role  string
}

// filter suppresses offers of an agent to a framework that refused at least these resources.
type filter struct {
	until   time.Time
	refused pool
}

// Allocation follows src/master/allocator/mesos/hierarchical.cpp. A new framework, a new agent, REVIVE and a new
// unavailability run it at once, the first and the third for all agents. Everything else waits for the batch allocation once an
// interval: declined, returned or freed resources, an expired filter, REACTIVATE_AGENT, UPDATE_FRAMEWORK, a quota. A framework gets
// all offers of one run in one event.

// allocateAll offers the free resources of all agents.
func (m *master) allocateAll() { m.allocate(m.now, m.sortedAgents()...) }

// allocate offers the free resources of these agents. It was due at that time.
func (m *master) allocate(due time.Time, agents ...*agentEntry) {
	began := m.clock()
	defer func() {
		m.counts.add("allocator/mesos/allocation_runs")
		m.allocationLatency.add(m.now, began.Sub(due))
		m.allocationRuns.add(m.now, m.clock().Sub(began))
	}()
	made := map[*framework][]mesos.Offer{}
	for _, a := range agents {
		m.offerFrom(a, made)
	}
	m.tellOffers(made)
	asked := map[*framework][]mesos.InverseOffer{}
	for _, a := range agents {
		m.askBack(a, asked)
	}
	for f, offers := range asked {
		m.tell(f, &scheduler.Event{Type: scheduler.Event_INVERSE_OFFERS, InverseOffers: &scheduler.Event_InverseOffers{InverseOffers: offers}})
	}
}

// allocateSoon marks the agent for the next batch allocation.
func (m *master) allocateSoon(a *agentEntry) {
	a.allocating = true
	if m.allocating {
		return
	}
	m.allocating = true
	beats := m.now.Sub(m.started) / m.allocationInterval
	at := m.started.Add((beats + 1) * m.allocationInterval)
	m.timers.add(at, allocationDue{at})
}

// beat is the batch allocation: it offers the free resources of marked agents.
func (m *master) beat(due time.Time) {
	m.allocating = false
	agents := slices.DeleteFunc(m.sortedAgents(), func(a *agentEntry) bool { return !a.allocating })
	for _, a := range agents {
		a.allocating = false
	}
	m.allocate(due, agents...)
}

// offerFrom offers the agent's free resources to the framework that has waited longest for an offer and wants them. Reserved
// resources go to frameworks of their role.
func (m *master) offerFrom(a *agentEntry, made map[*framework][]mesos.Offer) {
	if !m.offersOf(a) {
		return
	}
	for _, f := range m.waitingLongest() {
		for _, role := range f.roles() {
			part := m.withinQuota(role, f.usable(a.free.forRole(role)))
			if f.suppressed[role] || !part.allocatable() || f.filtered(filterKey{a.id, role}, part, m.now) {
				continue
			}
			m.offersMade++
			o := &offer{
				id: api.OfferID(fmt.Sprintf("%s-O%d", m.info.ID, m.offersMade)), framework: f, agent: a, role: role,
				resources: part.allocated(role),
			}
			f.lastOffer = m.offersMade
			a.free = a.free.minus(part)
			m.offers[o.id], f.offers[o.id], a.offers[o.id] = o, o, o
			made[f] = append(made[f], m.message(o))
		}
	}
}

// usable returns the part that the framework's capabilities allow.
func (f *framework) usable(part pool) pool {
	if !hasCapability(f.info, mesos.FrameworkInfo_Capability_REVOCABLE_RESOURCES) {
		part = part.plain()
	}
	if !hasCapability(f.info, mesos.FrameworkInfo_Capability_RESERVATION_REFINEMENT) {
		part = part.unrefined()
	}
	return part
}

func (m *master) waitingLongest() []*framework {
	var out []*framework
	for _, f := range m.frameworks {
		if f.stream != "" {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b *framework) int {
		return cmp.Or(cmp.Compare(a.lastOffer, b.lastOffer), cmp.Compare(a.id, b.id))
	})
	return out
}

func (f *framework) filtered(key filterKey, part pool, now time.Time) bool {
	x, ok := f.filters[key]
	return ok && now.Before(x.until) && x.refused.contains(part)
}

func (m *master) tellOffers(made map[*framework][]mesos.Offer) {
	for f, offers := range made {
		m.tell(f, &scheduler.Event{Type: scheduler.Event_OFFERS, Offers: &scheduler.Event_Offers{Offers: offers}})
	}
}

// message returns the offer as its framework gets it.
func (m *master) message(o *offer) mesos.Offer {
	out := o.message()
	if machine := m.machine(o.agent); machine != nil {
		when := machine.when
		out.Unavailability = &when
	}
	return out
}

func (o *offer) message() mesos.Offer {
	path := "/slave(1)"
	out := mesos.Offer{
		ID: mesos.OfferID{Value: string(o.id)}, FrameworkID: mesos.FrameworkID{Value: string(o.framework.id)},
		AgentID: mesos.AgentID{Value: string(o.agent.id)}, Hostname: o.agent.info.Hostname,
		URL:       &mesos.URL{Scheme: "http", Address: o.agent.address(), Path: &path},
		Resources: o.resources.rangesFirst().messages(o.framework.resourceForm()), Attributes: o.agent.info.Attributes,
	}
	if o.framework.multiRole() {
		role := o.role
		out.AllocationInfo = &mesos.Resource_AllocationInfo{Role: &role}
	} else {
		for i := range out.Resources {
			out.Resources[i].AllocationInfo = nil
		}
	}
	for key := range o.agent.executors {
		if key.framework == o.framework.id {
			out.ExecutorIDs = append(out.ExecutorIDs, mesos.ExecutorID{Value: string(key.executor)})
		}
	}
	slices.SortFunc(out.ExecutorIDs, func(a, b mesos.ExecutorID) int { return cmp.Compare(a.Value, b.Value) })
	return out
}

// endOffer removes the offer. The caller must give back its resources.
func (m *master) endOffer(o *offer) {
	delete(m.offers, o.id)
	delete(o.framework.offers, o.id)
	delete(o.agent.offers, o.id)
}

// withdrawOffers removes all offers of a disconnected framework, without RESCIND events.
func (m *master) withdrawOffers(f *framework) {
	m.forgetAsked(f)
	for _, o := range f.offers {
		m.endOffer(o)
		m.free(o.agent, o.resources)
	}
}

// rescindOffers rescinds all offers and inverse offers of an agent.
func (m *master) rescindOffers(a *agentEntry) {
	m.withdrawInverse(func(key askKey) bool { return key.agent == a.id })
	for _, o := range a.offers {
		m.rescind(o)
	}
}

// rescind rescinds an offer and frees its resources, without offering them again.
func (m *master) rescind(o *offer) {
	m.endOffer(o)
	o.agent.free = o.agent.free.plus(o.resources.allocated(""))
	m.tell(o.framework, &scheduler.Event{Type: scheduler.Event_RESCIND, Rescind: &scheduler.Event_Rescind{
		OfferID: mesos.OfferID{Value: string(o.id)},
	}})
}

// free gives resources back to the agent and marks it for allocation.
func (m *master) free(a *agentEntry, resources pool) {
	if resources.empty() {
		return
	}
	a.free = a.free.plus(resources.allocated(""))
	m.allocateSoon(a)
}

// decline ends offers. Like Mesos, it ignores ids that are not the framework's or no longer valid.
func (m *master) decline(f *framework, ids []mesos.OfferID, filters *mesos.Filters) {
	for _, id := range ids {
		if o := f.offers[api.OfferID(id.Value)]; o != nil {
			f.counts.add("offers/declined")
			m.endOffer(o)
			m.refuse(o, o.resources, filters)
		}
	}
}

// refuse gives back what a framework did not use of an offer, and filters it for a while.
func (m *master) refuse(o *offer, rest pool, filters *mesos.Filters) {
	if rest.empty() {
		return
	}
	m.free(o.agent, rest)
	duration := refusal(filters)
	if duration == 0 {
		return
	}
	until := m.now.Add(max(duration, m.allocationInterval)) // must not expire before the next allocation
	o.framework.filters[filterKey{o.agent.id, o.role}] = filter{until: until, refused: rest.allocated("")}
	m.timers.add(until, filterEnded{o.agent.id})
}

// refusal returns for how long a call's filters keep offers away.
func refusal(filters *mesos.Filters) time.Duration {
	seconds := defaultRefusal.Seconds()
	if filters != nil && filters.RefuseSeconds != nil && *filters.RefuseSeconds >= 0 {
		seconds = min(*filters.RefuseSeconds, (365 * 24 * time.Hour).Seconds())
	}
	return time.Duration(seconds * float64(time.Second))
}

// revive clears filters and suppression of the roles; no role means all.
func (m *master) revive(f *framework, roles []string) {
	for key := range f.filters {
		if len(roles) == 0 || slices.Contains(roles, key.role) {
			delete(f.filters, key)
		}
	}
	for role := range f.suppressed {
		if len(roles) == 0 || slices.Contains(roles, role) {
			delete(f.suppressed, role)
		}
	}
	m.allocateAll()
}

func (m *master) suppress(f *framework, roles []string) {
	if len(roles) == 0 {
		roles = f.roles()
	}
	for _, role := range roles {
		f.suppressed[role] = true
	}
}
