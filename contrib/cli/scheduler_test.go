package cli

import (
	"testing"
	"time"

	"github.com/k8sm/k8sm/api"
)

func TestSchedulerSendsItsFiguresWhereMinionsDo(t *testing.T) {
	for target, want := range map[string]bool{"": false, "tcp://transfer:8433": true, "protocol-of-2036://there": false} {
		s := schedule{falcon: api.Falcon{Target: target, Step: 45}}
		pusher := s.pusher()
		if (pusher != nil) != want || want && pusher.Step() != 45*time.Second {
			t.Errorf("--falcon=%s: %+v", target, pusher)
		}
	}
}
