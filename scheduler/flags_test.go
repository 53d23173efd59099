package scheduler

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/offers"
)

// second returns the first second with such an action; 0 for never.
func second(seconds [][]Action, action string) int {
	for i, acts := range seconds {
		for _, act := range acts {
			if strings.HasPrefix(act.String(), action) {
				return i + 1
			}
		}
	}
	return 0
}

func TestFlagsOfTimesHaveAnEffect(t *testing.T) {
	launched := []string{"synced", "subscribed", "node n1 a1", "offer o1 a1 host=n1 cpus=4 mem=4096", "pod web", "executor a1 ok"}
	for _, test := range []struct {
		flag   string
		lines  []string
		action string
		want   int // the second in which it is done
	}{
		{"--offer-ttl=7s", []string{"synced", "subscribed", "node n1 a1", "offer o1 a1 host=n1 cpus=4 mem=4096"}, "decline [o1]", 7},
		{
			"--decline-offer-duration=33s", []string{"synced", "subscribed", "node n1 a1", "offer o1 a1 host=n1 cpus=4 mem=4096"},
			"decline [o1] for 33s", 5,
		},
		{"--task-launch-timeout=40s", launched, "kill web.1", 40},
		{
			"--agent-removal-timeout=90s", []string{"synced", "subscribed", "node n1 a1 ready=Unknown", "offer o1 a1 host=n1 cpus=4 mem=4096", "lost a1"},
			"delete node n1", 90,
		},
		{
			"--cordon-lead-time=100s", []string{
				"synced", "subscribed", "node n1 a1 maintenance=2026-01-01T00:04:50Z/..", "offer o1 a1 host=n1 cpus=4 mem=4096 away=290s",
			}, "cordon node n1", 190,
		},
		{
			"--drain-lead-time=50s", []string{
				"synced", "subscribed", "node n1 a1 cordoned=yes", "pod web node=n1 task=web.1 agent=a1", "update web.1 a1 RUNNING",
				"inverse i1 a1 away=290s",
			}, "evict default/web", 240,
		},
	} {
		var cfg Config
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		cfg.AddFlags(fs)
		cfg.Gather = 0
		if err := fs.Parse([]string{test.flag}); err != nil {
			t.Fatal(err)
		}
		seconds := playWith(t, cfg, test.lines...).ticks(400)
		if got := second(seconds, test.action); got != test.want {
			t.Errorf("%s: %q is done in second %d, want %d", test.flag, test.action, got, test.want)
		}
		if got := second(playOn(t, test.lines...).ticks(400), test.action); got == test.want {
			t.Errorf("%s: it is done in second %d without it, too", test.flag, got)
		}
	}
}

// TestEveryEndOfAnOfferIsCountedByItsReason ends an offer in each way. Ends that have not occurred count 0, so that alerts find
// their metric.
func TestEveryEndOfAnOfferIsCountedByItsReason(t *testing.T) {
	none, once := map[offers.End]uint64{}, map[offers.End]uint64{}
	for _, end := range offers.Ends() {
		none[end], once[end] = 0, 1
	}
	if diff := cmp.Diff(none, playOn(t).core.Snapshot().OffersEnded); diff != "" {
		t.Errorf("at the start: %s", diff)
	}
	p := playOn(t, "synced", "subscribed", "node n1 a1", "node n2 a2 port=5052",
		"offer launched a1 host=n1 cpus=4 mem=4096", "pod web", "executor a1 ok",
		"offer declined a3 host=no_name cpus=4 mem=4096 port=5053",
		"offer expired a1 host=n1 cpus=1 mem=64 executor=ours", "+5s",
		"offer rescinded a1 host=n1 cpus=1 mem=64 executor=ours", "rescind rescinded",
		"offer gone a2 host=n2 cpus=1 mem=64 port=5052", "lost a2",
		"pod big cpus=50", "offer disconnected a1 host=n1 cpus=1 mem=64 executor=ours")
	if got := p.core.Snapshot().Offers; got != 1 {
		t.Errorf("%d offers are live", got)
	}
	p.step("disconnected")
	s := p.core.Snapshot()
	if diff := cmp.Diff(once, s.OffersEnded); diff != "" {
		t.Error(diff)
	}
	if s.PodsWaiting != 1 || s.Tasks != 1 || s.AgentsAlive != 2 || s.Offers != 0 { // a1, and a3 that can have no node
		t.Errorf("got %+v; want a pod that waits, a task, two agents and no offer", s)
	}
}
