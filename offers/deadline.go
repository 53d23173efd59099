package offers

import (
	"time"

	"github.com/k8sm/k8sm/api"
)

// Deadline returns when a live offer expires; ok is false for an offer that is not live.
func (s *OfferStorage) Deadline(id api.OfferID) (deadline time.Time, ok bool) {
	e := s.live[id]
	if e == nil {
		return time.Time{}, false
	}
	return e.deadline, true
}
