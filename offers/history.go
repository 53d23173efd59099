package offers

import (
	"time"

	"github.com/k8sm/k8sm/api"
)

const (
	// HistorySize is how many ended offers a storage remembers.
	HistorySize = 1000
	// HistoryMinutes is for how many minutes it counts the ends of each.
	HistoryMinutes = 60
	// MaxPods is how many pods a Detail names: offers of large agents take over a hundred.
	MaxPods = 10
)

// Detail is more about the end of an offer.
type Detail struct {
	// Reason is why it was declined; "" for the other ends.
	Reason string
	// Refuse is for how long Mesos shall not offer the resources again; 0 if the offer was not declined.
	Refuse time.Duration
	// Tasks is how many tasks were launched in the offer and those of the agent that were used with it. Pods are those of the first
	// MaxPods of them that have one.
	Tasks int
	Pods  []api.PodKey
}

// Ended is an offer that has ended.
type Ended struct {
	Offer       Offer
	Arrived, At time.Time
	End         End
	Detail
	// Refused is why Mesos did not launch a task in the offer; "" if it did, or if nothing was launched.
	Refused string
}

// Minute counts the ends of one minute.
type Minute struct {
	At   time.Time // its beginning
	Ends [numEnds]uint32
}

// history remembers how the last offers ended. To add one costs no allocation and no search.
type history struct {
	ring    []Ended // grows to HistorySize
	next    int     // the place of the next one, which is the oldest once the ring is full
	minutes [HistoryMinutes]Minute
	refused uint64
	last    time.Time // when the last offer arrived; zero for none
}

func (h *history) add(e Ended) {
	if len(h.ring) < HistorySize {
		h.ring = append(h.ring, e)
	} else {
		h.ring[h.next] = e
	}
	h.next = (h.next + 1) % HistorySize
	at := e.At.Truncate(time.Minute)
	m := &h.minutes[at.Unix()/60%HistoryMinutes]
	if !m.At.Equal(at) {
		*m = Minute{At: at}
	}
	m.Ends[e.End]++
}

// newest iterates over the places of the ring, the newest first.
func (h *history) newest(yield func(*Ended) bool) {
	for i := range h.ring {
		if !yield(&h.ring[(h.next-1-i+2*len(h.ring))%len(h.ring)]) {
			return
		}
	}
}

// Refuse notes that Mesos did not launch a task in an offer that ended as Launched, and why. Offers that were used together count
// each. It does nothing for an offer that is forgotten.
func (s *OfferStorage) Refuse(id api.OfferID, why string) {
	var of *Ended
	for e := range s.history.newest {
		if e.Offer.ID == id {
			of = e
			break
		}
	}
	if of == nil || of.End != Launched || of.Refused != "" {
		return
	}
	agent, at := of.Offer.Agent, of.At
	for e := range s.history.newest {
		if e.Offer.Agent == agent && e.End == Launched && e.At.Equal(at) && e.Refused == "" {
			e.Refused = why
			s.history.refused++
		}
	}
}

// Refused returns how many offers that ended as Launched had a task that Mesos refused.
func (s *OfferStorage) Refused() uint64 { return s.history.refused }

// LastEnded returns the last HistorySize ended offers, the newest first. They are copies, but share what offers share.
func (s *OfferStorage) LastEnded() []Ended {
	out := make([]Ended, 0, len(s.history.ring))
	for e := range s.history.newest {
		out = append(out, *e)
	}
	return out
}

// LastMinutes returns the last HistoryMinutes minutes, the oldest first. The last one has just begun.
func (s *OfferStorage) LastMinutes(now time.Time) []Minute {
	out := make([]Minute, 0, HistoryMinutes)
	for at := now.Truncate(time.Minute).Add(-(HistoryMinutes - 1) * time.Minute); !at.After(now); at = at.Add(time.Minute) {
		m := s.history.minutes[at.Unix()/60%HistoryMinutes]
		if !m.At.Equal(at) {
			m = Minute{At: at}
		}
		out = append(out, m)
	}
	return out
}

// Count returns how many offers ended so within the minute.
func (m Minute) Count(end End) uint32 { return m.Ends[end] }

// LastArrival returns when the last offer arrived; zero for none.
func (s *OfferStorage) LastArrival() time.Time { return s.history.last }
