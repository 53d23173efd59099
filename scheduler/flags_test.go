package scheduler

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
)

// second returns the first second in which such an action is done, 0 for never.
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
			"--refuse-seconds-idle=33s", []string{"synced", "subscribed", "node n1 a1", "offer o1 a1 host=n1 cpus=4 mem=4096"},
			"decline [o1] for 33s", 5,
		},
		{"--launch-grace-period=40s", launched, "kill web.1", 40},
		{
			"--agent-forget-after=90s", []string{"synced", "subscribed", "node n1 a1 ready=Unknown", "offer o1 a1 host=n1 cpus=4 mem=4096", "lost a1"},
			"delete node n1", 90,
		},
		{
			"--cordon-lead=100s", []string{
				"synced", "subscribed", "node n1 a1 maintenance=2026-01-01T00:04:50Z/..", "offer o1 a1 host=n1 cpus=4 mem=4096 away=290s",
			}, "cordon node n1", 190,
		},
		{
			"--drain-lead=50s", []string{
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

// shown returns the values that a registry serves, by name and labels.
func shown(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		if family.GetHelp() == "" {
			t.Errorf("%s has no help", family.GetName())
		}
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetName() + "=" + l.GetValue()
			}
			values[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return values
}

// among returns those of the values that have a name in names.
func among(values, names map[string]float64) map[string]float64 {
	picked := map[string]float64{}
	for name, value := range values {
		if _, wanted := names[name]; wanted {
			picked[name] = value
		}
	}
	return picked
}

// TestEveryEndOfAnOfferIsCountedByItsReason has an offer end in each way; an end that never came stands at 0, so that
// an alert on it has something to look at.
func TestEveryEndOfAnOfferIsCountedByItsReason(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := newMetrics(registry)
	m.set(playOn(t).core.Snapshot())
	want := map[string]float64{
		"k8sm_scheduler_pods_waiting": 0, "k8sm_scheduler_tasks": 0, "k8sm_scheduler_agents_alive": 0, "k8sm_scheduler_offers_live": 0,
		"k8sm_scheduler_preemption_attempts_total": 0, "k8sm_scheduler_preemption_victims_total": 0,
	}
	ends := []string{"launched", "declined", "expired", "rescinded", "agent_gone", "disconnected"}
	for _, end := range ends {
		want["k8sm_scheduler_offers_ended_total end="+end] = 0
	}
	if diff := cmp.Diff(want, among(shown(t, registry), want)); diff != "" {
		t.Errorf("at the start: %s", diff)
	}
	p := playOn(t, "synced", "subscribed", "node n1 a1", "node n2 a2 port=5052",
		"offer launched a1 host=n1 cpus=4 mem=4096", "pod web", "executor a1 ok",
		"offer declined a3 host=no_name cpus=4 mem=4096 port=5053",
		"offer expired a1 host=n1 cpus=1 mem=64 executor=ours", "+5s",
		"offer rescinded a1 host=n1 cpus=1 mem=64 executor=ours", "rescind rescinded",
		"offer gone a2 host=n2 cpus=1 mem=64 port=5052", "lost a2",
		"pod big cpus=50", "offer disconnected a1 host=n1 cpus=1 mem=64 executor=ours")
	m.set(p.core.Snapshot())
	if got := shown(t, registry)["k8sm_scheduler_offers_live"]; got != 1 {
		t.Errorf("%v offers are live", got)
	}
	p.step("disconnected")
	for range 2 { // what was told is not counted again
		m.set(p.core.Snapshot())
	}
	want["k8sm_scheduler_pods_waiting"], want["k8sm_scheduler_tasks"] = 1, 1
	want["k8sm_scheduler_agents_alive"], want["k8sm_scheduler_offers_live"] = 2, 0 // a1, and a3 that can have no node
	for _, end := range ends {
		want["k8sm_scheduler_offers_ended_total end="+end] = 1
	}
	if diff := cmp.Diff(want, among(shown(t, registry), want)); diff != "" {
		t.Error(diff)
	}
}
