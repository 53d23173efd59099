package scheduler

import (
	"time"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// OfferHistory is how offers ended since the scheduler became the leader.
type OfferHistory struct {
	// Since is when the scheduler subscribed to Mesos for the first time; nil if it has not yet.
	Since *time.Time `json:"since,omitempty"`
	// LastOffer is when the last offer arrived; nil if none has yet.
	LastOffer *time.Time `json:"lastOffer,omitempty"`
	// Held is how many offers are held now.
	Held int `json:"held"`
	// Totals counts the offers by how they ended (offers.End), as the metric k8sm_scheduler_offers_ended_total does. Beside the ends it
	// has "invalid": those of "launched" that had a task which Mesos refused.
	Totals map[string]uint64 `json:"totals"`
	// Minutes counts the same ends, without "invalid", in each of the last 60 minutes, the oldest first. The last one has just begun.
	Minutes []OfferMinute `json:"minutes"`
	// Offers are the last 1,000 that ended, the newest first.
	Offers []EndedOffer `json:"offers"`
}

// OfferMinute counts the offers that ended within a minute.
type OfferMinute struct {
	At time.Time `json:"at"`
	// Ends are by name (offers.End); those that are missing are 0.
	Ends map[string]uint32 `json:"ends"`
}

// EndedOffer is an offer that has ended.
type EndedOffer struct {
	ID       api.OfferID `json:"id"`
	Agent    api.AgentID `json:"agent"`
	Hostname string      `json:"hostname"`
	Role     string      `json:"role"`
	// Resources are as in LiveOffer.
	Resources string    `json:"resources"`
	Arrived   time.Time `json:"arrived"`
	Ended     time.Time `json:"ended"`
	// End is the name of an offers.End.
	End string `json:"end"`
	// Tasks is how many tasks were launched in the offer and those of the same agent that were used with it. Pods are the first ten of
	// their pods, as "namespace/name".
	Tasks int      `json:"tasks,omitempty"`
	Pods  []string `json:"pods,omitempty"`
	// Reason is why the offer was declined or expired, and RefuseSeconds for how long Mesos shall not offer the resources again.
	Reason        string  `json:"reason,omitempty"`
	RefuseSeconds float64 `json:"refuseSeconds,omitempty"`
	// Refused is why Mesos did not launch a task in the offer.
	Refused string `json:"refused,omitempty"`
}

// OfferRecord is what OfferHistory is made of. To copy it from a Core is quick, and to format it is not.
type OfferRecord struct {
	since, last time.Time
	held        int
	ended       map[offers.End]uint64
	invalid     uint64
	minutes     []offers.Minute
	offers      []offers.Ended
}

// OfferRecord returns how the offers ended.
func (c *Core) OfferRecord(now time.Time) OfferRecord { return c.offering.record(now) }

// record implements Core.OfferRecord.
func (of *offering) record(now time.Time) OfferRecord {
	held, ended := of.counts()
	return OfferRecord{
		since: of.core.session.begun(), last: of.held.LastArrival(), held: held, ended: ended, invalid: of.held.Refused(),
		minutes: of.held.LastMinutes(now), offers: of.held.LastEnded(),
	}
}

// History formats the record. It may be called concurrently with a Step of the Core.
func (r *OfferRecord) History() OfferHistory {
	h := OfferHistory{
		Since: known(r.since), LastOffer: known(r.last), Held: r.held, Totals: map[string]uint64{"invalid": r.invalid},
		Minutes: make([]OfferMinute, len(r.minutes)), Offers: make([]EndedOffer, len(r.offers)),
	}
	for end, count := range r.ended {
		h.Totals[end.String()] = count
	}
	for i, m := range r.minutes {
		h.Minutes[i] = OfferMinute{At: m.At, Ends: map[string]uint32{}}
		for _, end := range offers.Ends() {
			if count := m.Count(end); count > 0 {
				h.Minutes[i].Ends[end.String()] = count
			}
		}
	}
	for i := range r.offers {
		h.Offers[i] = seenEnded(&r.offers[i])
	}
	return h
}

func seenEnded(e *offers.Ended) EndedOffer {
	seen := EndedOffer{
		ID: e.Offer.ID, Agent: e.Offer.Agent, Hostname: e.Offer.Hostname, Role: e.Offer.Role, Resources: e.Offer.Resources.String(),
		Arrived: e.Arrived, Ended: e.At, End: e.End.String(), Tasks: e.Tasks,
		Reason: e.Reason, RefuseSeconds: e.Refuse.Seconds(), Refused: e.Refused,
	}
	for _, pod := range e.Pods {
		seen.Pods = append(seen.Pods, pod.String())
	}
	return seen
}

// known returns nil for no time.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
