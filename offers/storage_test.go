package offers

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/k8sm/k8sm/api"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }

func offer(id, agent string) Offer { return Offer{ID: api.OfferID(id), Agent: api.AgentID(agent)} }

// plain has no details of an expired offer.
func plain(*Offer) Detail { return Detail{} }

func newStorage() *OfferStorage { return New(5*time.Second, 2*time.Minute) }

func TestOfferExpiresAtItsDeadlineAndNotBefore(t *testing.T) {
	s := newStorage()
	s.Add(at(0), offer("o1", "a"))
	s.Add(at(1), offer("o2", "a"))
	if got := s.Expire(at(4), plain); got != nil {
		t.Errorf("expired before the deadline: %v", got)
	}
	if diff := cmp.Diff([]Offer{offer("o1", "a")}, s.Expire(at(5), plain)); diff != "" {
		t.Error(diff)
	}
	if s.Len() != 1 || s.Ended(Expired) != 1 {
		t.Errorf("live %d, expired %d; want 1 and 1", s.Len(), s.Ended(Expired))
	}
}

func TestOfferRescindedAfterLaunchIsIgnored(t *testing.T) {
	s := newStorage()
	s.Add(at(0), offer("o1", "a"))
	if err := s.Claim(at(1), Detail{}, "o1"); err != nil {
		t.Fatal(err)
	}
	if s.Rescind(at(1), "o1") {
		t.Error("a launched offer was rescinded")
	}
	if end, known := s.Fate("o1"); !known || end != Launched {
		t.Errorf("fate %v %v, want launched", end, known)
	}
}

func TestClaimTakesAllOrNoneAndTellsWhy(t *testing.T) {
	s := newStorage()
	s.Add(at(0), offer("o1", "a"))
	s.Add(at(0), offer("o2", "a"))
	s.Rescind(at(1), "o2")
	err := s.Claim(at(1), Detail{}, "o1", "o2")
	if err == nil || err.Error() != "cannot use offer o2: it was rescinded" {
		t.Errorf("got %v", err)
	}
	if s.Len() != 1 {
		t.Error("a failed claim took an offer")
	}
	if err := s.Claim(at(1), Detail{}, "o3"); err == nil || err.Error() != "cannot use offer o3: unknown offer" {
		t.Errorf("got %v", err)
	}
}

func TestTombstoneIsForgottenAfterItsTime(t *testing.T) {
	s := newStorage()
	s.Add(at(0), offer("o1", "a"))
	s.Decline(at(0), "o1", Detail{})
	if s.Add(at(119), offer("o1", "a")) {
		t.Error("an ended offer came to life again")
	}
	s.Expire(at(120), plain)
	if _, known := s.Fate("o1"); known {
		t.Error("a tombstone outlived its time")
	}
}

func TestDisconnectVoidsEveryOffer(t *testing.T) {
	s := newStorage()
	for i := range 10 {
		s.Add(at(0), offer(fmt.Sprint(i), fmt.Sprint(i%3)))
	}
	if got := s.Disconnect(at(1)); got != 10 {
		t.Errorf("voided %d offers, want 10", got)
	}
	if got := s.Expire(at(100), plain); got != nil {
		t.Errorf("an offer of a lost connection is to be declined: %v", got)
	}
}

func TestOffersOfAnAgentAreInOrderOfArrival(t *testing.T) {
	s := newStorage()
	s.Add(at(0), offer("o2", "a"))
	s.Add(at(0), offer("o9", "b"))
	s.Add(at(1), offer("o1", "a"))
	var got []Offer
	for o := range s.OfAgent("a") {
		got = append(got, *o)
	}
	if diff := cmp.Diff([]Offer{offer("o2", "a"), offer("o1", "a")}, got); diff != "" {
		t.Error(diff)
	}
	if s.DropAgent(at(1), "a") != 2 || s.Len() != 1 {
		t.Error("an agent that is gone did not take its offers with it")
	}
}

// TestNoOfferIsEverLost plays a million random events against a model that only knows the rules: each offer is live or
// has ended once, in the way that the first event about it says.
func TestNoOfferIsEverLost(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	m := &model{
		rand: rand.New(rand.NewPCG(seed, 0)), storage: newStorage(), now: start,
		live: map[api.OfferID]time.Time{}, agent: map[api.OfferID]api.AgentID{},
	}
	steps := 1_000_000
	if testing.Short() {
		steps = 50_000
	}
	for range steps {
		m.step(t)
	}
	var ended uint64
	for _, end := range Ends() {
		if m.storage.Ended(end) != m.ended[end] {
			t.Errorf("%s: %d, the model says %d", end, m.storage.Ended(end), m.ended[end])
		}
		ended += m.storage.Ended(end)
	}
	if added := uint64(m.next); ended+uint64(m.storage.Len()) != added {
		t.Errorf("%d offers came, %d ended, %d are live", added, ended, m.storage.Len())
	}
	if m.storage.Len() != len(m.live) {
		t.Errorf("%d offers are live, the model says %d", m.storage.Len(), len(m.live))
	}
}

type model struct {
	rand    *rand.Rand
	storage *OfferStorage
	now     time.Time
	next    int
	live    map[api.OfferID]time.Time // deadlines
	agent   map[api.OfferID]api.AgentID
	ended   [numEnds]uint64
}

// someOffer returns an offer that came lately: live, ended, or never seen.
func (m *model) someOffer() api.OfferID {
	return api.OfferID(fmt.Sprint(max(0, m.next-m.rand.IntN(100)+1)))
}

func (m *model) end(id api.OfferID, end End) {
	delete(m.live, id)
	delete(m.agent, id)
	m.ended[end]++
}

func (m *model) step(t *testing.T) {
	m.now = m.now.Add(time.Duration(m.rand.IntN(100)) * time.Millisecond)
	id := m.someOffer()
	_, live := m.live[id]
	switch dice := m.rand.IntN(1000); {
	case dice < 500:
		m.add(t)
	case dice < 600:
		if m.storage.Rescind(m.now, id) != live {
			t.Fatalf("rescind of %s, live %v", id, live)
		}
		if live {
			m.end(id, Rescinded)
		}
	case dice < 700:
		if m.storage.Decline(m.now, id, Detail{}) != live {
			t.Fatalf("decline of %s, live %v", id, live)
		}
		if live {
			m.end(id, Declined)
		}
	case dice < 850:
		if err := m.storage.Claim(m.now, Detail{}, id); (err == nil) != live {
			t.Fatalf("claim of %s, live %v: %v", id, live, err)
		}
		if live {
			m.end(id, Launched)
		}
	case dice < 998:
		m.expire(t)
	case dice < 999:
		m.dropAgent(t)
	default:
		if got := m.storage.Disconnect(m.now); got != len(m.live) {
			t.Fatalf("disconnect voided %d offers of %d", got, len(m.live))
		}
		for id := range m.live {
			m.end(id, Disconnected)
		}
	}
}

func (m *model) add(t *testing.T) {
	m.next++
	id, agent := api.OfferID(fmt.Sprint(m.next)), api.AgentID(fmt.Sprint(m.rand.IntN(20)))
	if !m.storage.Add(m.now, Offer{ID: id, Agent: agent}) {
		t.Fatalf("new offer %s was refused", id)
	}
	m.live[id], m.agent[id] = m.now.Add(5*time.Second), agent
}

func (m *model) expire(t *testing.T) {
	for _, o := range m.storage.Expire(m.now, plain) {
		deadline, live := m.live[o.ID]
		if !live || deadline.After(m.now) {
			t.Fatalf("offer %s expired; live %v, deadline %v, now %v", o.ID, live, deadline, m.now)
		}
		m.end(o.ID, Expired)
	}
	for id, deadline := range m.live {
		if !deadline.After(m.now) {
			t.Fatalf("offer %s did not expire", id)
		}
	}
}

func (m *model) dropAgent(t *testing.T) {
	agent := api.AgentID(fmt.Sprint(m.rand.IntN(20)))
	want := 0
	for id, a := range m.agent {
		if a == agent {
			m.end(id, AgentGone)
			want++
		}
	}
	if got := m.storage.DropAgent(m.now, agent); got != want {
		t.Fatalf("agent %s took %d offers with it, want %d", agent, got, want)
	}
}
