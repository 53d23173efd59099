package offers

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/k8sm/k8sm/api"
)

func TestHistoryTellsHowEachOfferEnded(t *testing.T) {
	s := newStorage()
	for i, agent := range []string{"a", "a", "b", "c", "d", "e"} {
		s.Add(at(i), offer(fmt.Sprintf("o%d", i+1), agent))
	}
	placed := Detail{Tasks: 12, Pods: []api.PodKey{{Namespace: "default", Name: "web"}}}
	if err := s.Claim(at(4), placed, "o1", "o2"); err != nil {
		t.Fatal(err)
	}
	s.Rescind(at(4), "o3")
	s.DropAgent(at(4), "c")
	unused := Detail{Reason: "no pod waits", Refuse: time.Minute}
	s.Decline(at(4), "o5", unused)
	s.Expire(at(10), func(o *Offer) Detail { return Detail{Reason: "late " + string(o.ID)} })
	want := []Ended{
		{Offer: offer("o6", "e"), Arrived: at(5), At: at(10), End: Expired, Detail: Detail{Reason: "late o6"}},
		{Offer: offer("o5", "d"), Arrived: at(4), At: at(4), End: Declined, Detail: unused},
		{Offer: offer("o4", "c"), Arrived: at(3), At: at(4), End: AgentGone},
		{Offer: offer("o3", "b"), Arrived: at(2), At: at(4), End: Rescinded},
		{Offer: offer("o2", "a"), Arrived: at(1), At: at(4), End: Launched, Detail: placed},
		{Offer: offer("o1", "a"), Arrived: at(0), At: at(4), End: Launched, Detail: placed},
	}
	if diff := cmp.Diff(want, s.LastEnded()); diff != "" {
		t.Error(diff)
	}
	if !s.LastArrival().Equal(at(5)) {
		t.Errorf("the last offer arrived at %s", s.LastArrival())
	}
}

func TestRefusalConcernsAllOffersThatWereUsedTogether(t *testing.T) {
	s := newStorage()
	for _, id := range []string{"o1", "o2", "o3"} {
		s.Add(at(0), offer(id, "a"))
	}
	s.Add(at(0), offer("other", "b"))
	for i, ids := range [][]api.OfferID{{"o1", "o2"}, {"other"}, {"o3"}} {
		if err := s.Claim(at(i/2), Detail{}, ids...); err != nil {
			t.Fatal(err)
		}
	}
	s.Refuse("o1", "invalid")
	s.Refuse("o2", "invalid again") // the next task of the same launch
	s.Refuse("unknown", "invalid")
	got := map[api.OfferID]string{}
	for _, e := range s.LastEnded() {
		got[e.Offer.ID] = e.Refused
	}
	if diff := cmp.Diff(map[api.OfferID]string{"o1": "invalid", "o2": "invalid", "o3": "", "other": ""}, got); diff != "" || s.Refused() != 2 {
		t.Errorf("%d refused\n%s", s.Refused(), diff)
	}
	if s.Ended(Launched) != 4 {
		t.Errorf("%d launched", s.Ended(Launched))
	}
}

func TestHistoryKeepsTheLastOffersOnly(t *testing.T) {
	s := newStorage()
	if got := s.LastEnded(); len(got) != 0 {
		t.Errorf("%d before the first", len(got))
	}
	for i := range HistorySize + 7 {
		id := api.OfferID(fmt.Sprint(i))
		s.Add(at(i), Offer{ID: id, Agent: "a"})
		s.Rescind(at(i), id)
		if i > 2 && i < HistorySize-2 {
			continue
		}
		got := s.LastEnded()
		oldest := max(0, i-HistorySize+1)
		if len(got) != i-oldest+1 || got[0].Offer.ID != id || got[len(got)-1].Offer.ID != api.OfferID(fmt.Sprint(oldest)) {
			t.Fatalf("after %d: %d, from %s to %s", i, len(got), got[0].Offer.ID, got[len(got)-1].Offer.ID)
		}
	}
}

func TestMinutesCountTheLastHour(t *testing.T) {
	s := newStorage()
	end := func(seconds int) {
		id := api.OfferID(fmt.Sprint(seconds))
		s.Add(at(seconds), Offer{ID: id, Agent: "a"})
		s.Decline(at(seconds), id, Detail{})
	}
	for _, seconds := range []int{0, 59, 60, 3599, 3600 + 120} {
		end(seconds)
	}
	got := map[int]uint32{}
	minutes := s.LastMinutes(at(3600 + 125))
	for i, m := range minutes {
		if want := at(180 + 60*i); !m.At.Equal(want) {
			t.Fatalf("minute %d begins at %s, want %s", i, m.At, want)
		}
		if count := m.Count(Declined); count > 0 {
			got[i] = count
		}
	}
	// Those of minutes 0 and 1 are more than an hour ago. The ring's places of minutes 2 to 58 have nothing.
	if diff := cmp.Diff(map[int]uint32{56: 1, 59: 1}, got); diff != "" || len(minutes) != HistoryMinutes {
		t.Errorf("%d minutes\n%s", len(minutes), diff)
	}
}

func TestEndingAnOfferAllocatesNothingForItsHistory(t *testing.T) {
	var h history
	e := Ended{Offer: offer("o1", "a"), At: start}
	for range HistorySize {
		h.add(e)
	}
	if allocations := testing.AllocsPerRun(100, func() { h.add(e) }); allocations != 0 {
		t.Errorf("%v allocations", allocations)
	}
}
