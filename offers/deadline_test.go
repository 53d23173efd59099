package offers

import (
	"testing"
	"time"

	"github.com/k8sm/k8sm/api"
)

func TestOnlyALiveOfferHasADeadline(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := New(5*time.Second, time.Minute)
	s.Add(now, Offer{ID: "o1", Agent: "a1"})
	if deadline, ok := s.Deadline("o1"); !ok || !deadline.Equal(now.Add(5*time.Second)) {
		t.Errorf("a live offer: %v, %v", deadline, ok)
	}
	s.Rescind(now, "o1")
	for _, id := range []api.OfferID{"o1", "never seen"} {
		if deadline, ok := s.Deadline(id); ok {
			t.Errorf("%s: %v", id, deadline)
		}
	}
}
