package offers

import (
	"container/heap"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/k8sm/k8sm/api"
)

// End is how an offer ended. Every added offer ends in exactly one of these ways.
type End int

// The ends of an offer.
const (
	Launched     End = iota // tasks were launched in it
	Declined                // declined because no pod needs it
	Expired                 // declined because its time to live is over
	Rescinded               // Mesos took it back
	AgentGone               // its agent was removed
	Disconnected            // the connection to the master was lost, which voids all offers

	numEnds
)

// Ends lists all ends of an offer.
func Ends() []End {
	return []End{Launched, Declined, Expired, Rescinded, AgentGone, Disconnected}
}

// String returns the name of the end for metrics and logs.
func (e End) String() string {
	return [numEnds]string{"launched", "declined", "expired", "rescinded", "agent_gone", "disconnected"}[e]
}

// OfferStorage has the live offers, by id and by agent, each with its deadline. For a while it keeps tombstones of ended offers, so
// that a late rescind or use is recognized as late, and for longer a history of how they ended. It is not safe for concurrent use: one goroutine owns it.
type OfferStorage struct {
	ttl, memory time.Duration
	live        map[api.OfferID]*entry
	byAgent     map[api.AgentID][]*entry // in order of arrival
	queue       delayedQueue
	tombs       map[api.OfferID]End
	burials     []burial // oldest first
	ended       [numEnds]uint64
	history     history
}

type entry struct {
	offer    Offer
	deadline time.Time
	place    int // in the queue
}

type burial struct {
	id api.OfferID
	at time.Time
}

// New returns an empty storage. Offers expire after ttl, and tombstones are kept for memory.
func New(ttl, memory time.Duration) *OfferStorage {
	return &OfferStorage{
		ttl: ttl, memory: memory,
		live:    map[api.OfferID]*entry{},
		byAgent: map[api.AgentID][]*entry{},
		tombs:   map[api.OfferID]End{},
	}
}

// Add adds an offer. It returns false, and changes nothing, for an offer that is or was already here.
func (s *OfferStorage) Add(now time.Time, o Offer) bool {
	s.forget(now)
	if _, dead := s.tombs[o.ID]; dead || s.live[o.ID] != nil {
		return false
	}
	e := &entry{offer: o, deadline: now.Add(s.ttl)}
	s.live[o.ID] = e
	s.byAgent[o.Agent] = append(s.byAgent[o.Agent], e)
	heap.Push(&s.queue, e)
	s.history.last = now
	return true
}

// Rescind ends an offer that Mesos rescinded. It returns false if the offer was not live, which is no error: the rescind may cross
// our own use or decline.
func (s *OfferStorage) Rescind(now time.Time, id api.OfferID) bool {
	return s.end(now, id, Rescinded, Detail{})
}

// Decline ends an offer that the caller declines. It returns false if the offer was not live.
func (s *OfferStorage) Decline(now time.Time, id api.OfferID, d Detail) bool {
	return s.end(now, id, Declined, d)
}

// Expire ends all offers whose deadline has passed and returns them. The caller must decline them, as the details say.
func (s *OfferStorage) Expire(now time.Time, details func(*Offer) Detail) []Offer {
	var expired []Offer
	for len(s.queue) > 0 && !s.queue[0].deadline.After(now) {
		o := s.queue[0].offer
		s.end(now, o.ID, Expired, details(&o))
		expired = append(expired, o)
	}
	s.forget(now)
	return expired
}

// Claim ends offers in which tasks are launched: all of them, or none. The error names an offer that is not live, and how it ended.
func (s *OfferStorage) Claim(now time.Time, d Detail, ids ...api.OfferID) error {
	for _, id := range ids {
		if s.live[id] != nil {
			continue
		}
		if end, known := s.Fate(id); known {
			return fmt.Errorf("cannot use offer %s: it was %s", id, end)
		}
		return fmt.Errorf("cannot use offer %s: unknown offer", id)
	}
	for _, id := range ids {
		s.end(now, id, Launched, d)
	}
	return nil
}

// DropAgent ends all offers of a removed agent and returns their number.
func (s *OfferStorage) DropAgent(now time.Time, agent api.AgentID) int {
	entries := slices.Clone(s.byAgent[agent])
	for _, e := range entries {
		s.end(now, e.offer.ID, AgentGone, Detail{})
	}
	return len(entries)
}

// Disconnect ends all offers, because the loss of the connection voids them, and returns their number. Do not decline them.
func (s *OfferStorage) Disconnect(now time.Time) int {
	count := len(s.live)
	for id := range s.live {
		s.end(now, id, Disconnected, Detail{})
	}
	return count
}

// OfAgent iterates over the live offers of an agent in order of arrival. They belong to the storage: do not modify or keep them, and
// do not modify the storage meanwhile.
func (s *OfferStorage) OfAgent(agent api.AgentID) iter.Seq[*Offer] {
	return func(yield func(*Offer) bool) {
		for _, e := range s.byAgent[agent] {
			if !yield(&e.offer) {
				return
			}
		}
	}
}

// Holder returns the agent of a live offer; "" if the offer is not live.
func (s *OfferStorage) Holder(id api.OfferID) api.AgentID {
	if e := s.live[id]; e != nil {
		return e.offer.Agent
	}
	return ""
}

// Fate returns how an offer ended, as long as its tombstone is kept.
func (s *OfferStorage) Fate(id api.OfferID) (end End, known bool) {
	end, known = s.tombs[id]
	return end, known
}

// Len returns the number of live offers.
func (s *OfferStorage) Len() int { return len(s.live) }

// Ended returns how many offers have ended in this way so far.
func (s *OfferStorage) Ended(end End) uint64 { return s.ended[end] }

func (s *OfferStorage) end(now time.Time, id api.OfferID, end End, d Detail) bool {
	e := s.live[id]
	if e == nil {
		return false
	}
	delete(s.live, id)
	heap.Remove(&s.queue, e.place)
	agent := e.offer.Agent
	s.byAgent[agent] = slices.DeleteFunc(s.byAgent[agent], func(other *entry) bool { return other == e })
	if len(s.byAgent[agent]) == 0 {
		delete(s.byAgent, agent)
	}
	s.tombs[id] = end
	s.burials = append(s.burials, burial{id, now})
	s.ended[end]++
	s.history.add(Ended{Offer: e.offer, Arrived: e.deadline.Add(-s.ttl), At: now, End: end, Detail: d})
	return true
}

func (s *OfferStorage) forget(now time.Time) {
	old := 0
	for old < len(s.burials) && now.Sub(s.burials[old].at) >= s.memory {
		delete(s.tombs, s.burials[old].id)
		old++
	}
	s.burials = s.burials[old:]
}

// delayedQueue is a heap of offers by deadline.
type delayedQueue []*entry

func (q delayedQueue) Len() int           { return len(q) }
func (q delayedQueue) Less(i, j int) bool { return q[i].deadline.Before(q[j].deadline) }
func (q delayedQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

// Push is for container/heap.
func (q *delayedQueue) Push(x any) {
	e := x.(*entry)
	e.place = len(*q)
	*q = append(*q, e)
}

// Pop is for container/heap.
func (q *delayedQueue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return e
}
