package upgrade_test

import (
	"strings"
	"testing"
	"time"

	"github.com/k8sm/k8sm/contrib/upgrade"
)

var now = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

// old and next are two versions of km.
var (
	old  = upgrade.Versions{KM: "v0.1.0", Kubernetes: "v1.35.4"}
	next = upgrade.Versions{KM: "v0.2.0", Kubernetes: "v1.36.3", Etcd: "3.6.14"}
)

func part(name string, v upgrade.Versions) upgrade.Part {
	return upgrade.Part{Name: name, Versions: v}
}

// well is a cluster of the old version in which nothing is in the way.
func well() upgrade.State {
	return upgrade.State{
		Now: now, Target: next, Snapshot: now.Add(-time.Hour),
		EtcdMembers:  []upgrade.Part{part("m1", upgrade.Versions{Etcd: "3.6.8"}), part("m2", upgrade.Versions{Etcd: "3.6.14"})},
		Servers:      []upgrade.Part{part("10.0.0.5:6443", old), part("10.0.0.6:6443", old)},
		Schedulers:   []upgrade.Part{part("m1/7", old)},
		Nodes:        []upgrade.Node{{Part: part("n1", old)}, {Part: part("n2", old)}},
		Certificates: []upgrade.Certificate{{Name: "apiserver", Since: now.Add(-time.Hour), Until: now.Add(90 * 24 * time.Hour)}},
	}
}

func TestPartsAreUpgradedInTheOrderOfKubernetes(t *testing.T) {
	p := upgrade.Make(well())
	var order []string
	for _, s := range p.Steps {
		order = append(order, s.Kind+" "+s.Name)
	}
	const want = "etcd m1, apiserver 10.0.0.5:6443, apiserver 10.0.0.6:6443, scheduler m1/7, node n1, node n2"
	if got := strings.Join(order, ", "); got != want {
		t.Errorf("the order is %s, want %s", got, want)
	}
	if len(p.Blocks) > 0 {
		t.Errorf("in the way are %q", p.Blocks)
	}
	if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "before the schedulers") {
		t.Errorf("warnings are %q", p.Warnings)
	}
}

func TestClusterOfTheTargetNeedsNothing(t *testing.T) {
	s := well()
	s.EtcdMembers = s.EtcdMembers[1:]
	s.Servers, s.Schedulers, s.Nodes = s.Servers[:1], nil, []upgrade.Node{{Part: part("n1", upgrade.Versions{KM: next.KM, Kubernetes: next.Kubernetes})}}
	s.Servers[0].Versions = upgrade.Versions{KM: next.KM, Kubernetes: next.Kubernetes}
	s.Budgets = []string{"default/web"} // no node is drained
	if p := upgrade.Make(s); len(p.Steps)+len(p.Blocks)+len(p.Warnings) > 0 {
		t.Errorf("got %+v", p)
	}
	s.Nodes[0].OldSettings = true
	if p := upgrade.Make(s); len(p.Steps) != 1 || p.Steps[0].What != "new settings" || len(p.Blocks) != 1 {
		t.Errorf("with new settings: %+v", p)
	}
}

func TestWhatIsInTheWayBlocks(t *testing.T) {
	for what, test := range map[string]struct {
		change func(*upgrade.State)
		says   string
	}{
		"a version is skipped":    {func(s *upgrade.State) { s.Servers[0].Kubernetes = "v1.34.1" }, "no minor version may be skipped"},
		"two versions back":       {func(s *upgrade.State) { s.Target.Kubernetes = "v1.33.0" }, "cannot read for sure"},
		"servers far apart":       {func(s *upgrade.State) { s.Servers[0].Kubernetes = "v1.37.0" }, "more than one minor version apart"},
		"a server is silent":      {func(s *upgrade.State) { s.Servers[1].Problem = "it does not answer" }, "apiserver 10.0.0.6:6443: it does not answer"},
		"a member is behind":      {func(s *upgrade.State) { s.EtcdMembers[0].Problem = "timeout" }, "etcd m1: timeout"},
		"etcd goes back":          {func(s *upgrade.State) { s.EtcdMembers[0].Etcd = "3.7.1" }, "does not go back"},
		"etcd skips a version":    {func(s *upgrade.State) { s.EtcdMembers[0].Etcd = "3.4.1" }, "none may be skipped"},
		"a kubelet is too old":    {func(s *upgrade.State) { s.Nodes[0].Kubernetes = "v1.32.1" }, "node n1: kubelet v1.32.1"},
		"a node is not ready":     {func(s *upgrade.State) { s.Nodes[1].Problem = "it is not ready" }, "node n2: it is not ready"},
		"a rollout was given up":  {func(s *upgrade.State) { s.Nodes[1].Stopped = "not ready within 10m" }, "no other begins: not ready within 10m"},
		"a budget allows nothing": {func(s *upgrade.State) { s.Budgets = []string{"default/web"} }, "PodDisruptionBudget default/web"},
		"an API is removed":       {func(s *upgrade.State) { s.Deprecated = []upgrade.API{{Name: "a.v1beta1.g", Removed: "1.36"}} }, "API a.v1beta1.g is in use"},
		"a certificate has ended": {func(s *upgrade.State) { s.Certificates[0].Until = now }, "certificate apiserver has ended"},
		"a certificate ends soon": {func(s *upgrade.State) {
			s.Certificates[0].Since, s.Certificates[0].Until = now.Add(-8760*time.Hour), now.Add(72*time.Hour)
		}, "ends in 72h0m0s"},
		"the snapshot is old":      {func(s *upgrade.State) { s.Snapshot = now.Add(-49 * time.Hour) }, "49h0m0s old"},
		"there is no snapshot":     {func(s *upgrade.State) { s.Snapshot = time.Time{} }, "no snapshot is known"},
		"something cannot be read": {func(s *upgrade.State) { s.Unread = []string{"cannot read the nodes: no"} }, "cannot read the nodes: no"},
	} {
		s := well()
		test.change(&s)
		p := upgrade.Make(s)
		if !strings.Contains(strings.Join(p.Blocks, "\n"), test.says) {
			t.Errorf("%s: in the way are %q, want %q", what, p.Blocks, test.says)
		}
	}
}

func TestWhatIsOnlyUnusualIsAWarning(t *testing.T) {
	for what, test := range map[string]struct {
		change func(*upgrade.State)
		says   string
	}{
		"one version back":           {func(s *upgrade.State) { s.Target.Kubernetes = "v1.34.1" }, "has written objects here"},
		"a scheduler is ahead":       {func(s *upgrade.State) { s.Schedulers[0].Kubernetes = "v1.36.3" }, "starts and replaces no minion"},
		"a scheduler is elsewhere":   {func(s *upgrade.State) { s.Schedulers[0].Versions = upgrade.Versions{} }, "its version is not known here"},
		"an API is removed later":    {func(s *upgrade.State) { s.Deprecated = []upgrade.API{{Name: "a", Removed: "1.37"}} }, "Kubernetes 1.37 has it no more"},
		"an API is removed some day": {func(s *upgrade.State) { s.Deprecated = []upgrade.API{{Name: "a"}} }, "API a is in use, and deprecated"},
	} {
		s := well()
		test.change(&s)
		p := upgrade.Make(s)
		if len(p.Blocks) > 0 || !strings.Contains(strings.Join(p.Warnings, "\n"), test.says) {
			t.Errorf("%s: warnings are %q, want %q; in the way are %q", what, p.Warnings, test.says, p.Blocks)
		}
	}
}
