package api_test

import (
	"math/rand/v2"
	"testing"

	"github.com/k8sm/k8sm/api"
)

func TestRolloutIsReadAsItWasWritten(t *testing.T) {
	for _, r := range []api.Rollout{
		{},
		{State: api.RolloutRolling, Target: "v2"},
		{State: api.RolloutRolling, Target: "v2", Replaces: "2026-01-01T00:00:00Z", RevertedFrom: []api.KMVersion{"v1", "v0 of \"ours\""}},
		{State: api.RolloutFailed, Target: "v2", Reason: "a: b <c> & ü"},
		{State: api.RolloutStuck, Target: "v2", Reason: "why", RevertedFrom: []api.KMVersion{"v3"}},
		{State: api.RolloutReverted, Target: "v1", RevertedFrom: []api.KMVersion{"v3", "v2"}},
		{State: api.RolloutHeld, Reason: "not before Monday"},
	} {
		if got := api.ParseRollout(r.Annotation()); !got.Equal(r) {
			t.Errorf("%+v is written as %s and read as %+v", r, r.Annotation(), got)
		}
	}
}

func TestRolloutOfAnEarlierSchedulerIsUnderstood(t *testing.T) {
	for text, want := range map[string]api.Rollout{
		"v2 replaces -":                    {State: api.RolloutRolling, Target: "v2"},
		"v2 replaces 2026-01-01T00:00:00Z": {State: api.RolloutRolling, Target: "v2", Replaces: "2026-01-01T00:00:00Z"},
		"v2 failed: a: b":                  {State: api.RolloutFailed, Target: "v2", Reason: "a: b"},
		"v2 stuck: why":                    {State: api.RolloutStuck, Target: "v2", Reason: "why"},
		"hold":                             {State: api.RolloutHeld, Reason: "hold"},
	} {
		got := api.ParseRollout(text)
		if !got.Equal(want) || got.String() != text {
			t.Errorf("%q is read as %+v and told as %q", text, got, got)
		}
	}
}

func TestWhatNoSchedulerHasWrittenHoldsTheMinion(t *testing.T) {
	for _, text := range []string{
		"true", `"hold"`, "{}", `{"state":"Rolling"}`, `{"state":"Paused","target":"v2"}`, `{"state":"Held","target":"v2"}`, " failed: why", "v2 replaces",
	} {
		if got := api.ParseRollout(text); got.State != api.RolloutHeld || got.Annotation() != text {
			t.Errorf("%s is read as %+v", text, got)
		}
	}
}

func FuzzRolloutIsReadAsItWasWritten(f *testing.F) {
	for _, text := range []string{
		"", "hold", "v2 replaces -", "v2 failed: why", "v2 stuck: \xff", `{"state":"Rolling","target":"v2","replaces":"x"}`,
		`{"state":"Reverted","target":"v1","revertedFrom":["v2"]}`, `{"state":"Failed","target":"v1","revertedFrom":[]}`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := api.ParseRollout(text)
		if again := api.ParseRollout(r.Annotation()); !again.Equal(r) {
			t.Errorf("%q is read as %+v, written as %q and read as %+v", text, r, r.Annotation(), again)
		}
		if (r.State == api.RolloutNone) != (text == "") {
			t.Errorf("%q is read as %+v", text, r)
		}
	})
}

// TestNoNodeGoesInACircleWhateverLeads has schedulers of several versions lead in any order, each with or without leave to go back,
// and counts how often a node changes its version.
func TestNoNodeGoesInACircleWhateverLeads(t *testing.T) {
	versions := append([]api.KMVersion{"x", "y", "v0.1.0-5-gaa", "v0.1.0-5-gbb"}, ascending[1:]...)
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		var builds []api.KMVersion
		for range 2 + random.IntN(4) {
			builds = append(builds, versions[random.IntN(len(versions))])
		}
		runs, r, moves := builds[0], api.Rollout{}, 0
		for range 1000 {
			lead := builds[random.IntN(len(builds))]
			if lead == runs || !r.Allows(runs, lead, random.IntN(2) == 0) {
				continue
			}
			r = r.Leave(runs, lead).Over(lead)
			runs = lead
			moves++
		}
		if moves > 2*len(builds)*len(builds) {
			t.Errorf("seed %d: schedulers of %q had a node change its version %d times", seed, builds, moves)
		}
	}
}

func TestSchedulersThatGoForwardOnlyReplaceEachMinionOnce(t *testing.T) {
	r, runs, moves := api.Rollout{}, api.KMVersion("v0.1.0"), 0
	for i := range 20 {
		lead := []api.KMVersion{"v0.2.0", "v0.1.0"}[i%2]
		if lead != runs && r.Allows(runs, lead, false) {
			r = r.Leave(runs, lead).Over(lead)
			runs = lead
			moves++
		}
	}
	if moves != 1 || runs != "v0.2.0" || r.State != api.RolloutNone {
		t.Errorf("%d moves to %s, %+v", moves, runs, r)
	}
}
