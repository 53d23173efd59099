package scheduler

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler/match"
)

// flagged returns the configuration of a scheduler of version v2 with these flags.
func flagged(t *testing.T, flags ...string) Config {
	t.Helper()
	cfg := testConfig()
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	cfg.AddFlags(fs)
	cfg.Gather = 0
	if err := fs.Parse(append([]string{"--km-path=/km"}, flags...)); err != nil {
		t.Fatal(err)
	}
	cfg.Version = "v2"
	return cfg
}

// older returns events for the given number of nodes with minions of v1.
func older(nodes int) []string {
	lines := []string{"synced", "subscribed"}
	for i := 1; i <= nodes; i++ {
		lines = append(lines, fmt.Sprintf("node n%d a%d minion=v1@0s kubelet=0s port=505%d", i, i, i),
			fmt.Sprintf("pod p%d node=n%d task=p%d.1 agent=a%d owner=ReplicaSet", i, i, i, i), fmt.Sprintf("update p%d.1 a%d RUNNING", i, i))
	}
	return lines
}

func TestFlagsOfRolloutsHaveAnEffect(t *testing.T) {
	for flag, want := range map[string]string{
		"--rollout-delay=90s":       "n1 in second 90",
		"--max-unavailable-nodes=2": "n1 in second 300, n2 in second 300",
		"--max-unavailable-nodes=0": "",
		"--warm-nodes=0":            "n1 in second 300", // as by default
	} {
		seconds := playWith(t, flagged(t, flag), older(3)...).ticks(400)
		var got []string
		for _, node := range []string{"n1", "n2", "n3"} {
			if at := second(seconds, "cordon node "+node); at != 0 {
				got = append(got, fmt.Sprintf("%s in second %d", node, at))
			}
		}
		if got := strings.Join(got, ", "); got != want {
			t.Errorf("%s: cordoned are %s; want %s", flag, got, want)
		}
	}
	for flag, want := range map[string]int{"--rollout-timeout=100s": 101, "--rollout-delay=1s": 601} {
		p := playWith(t, flagged(t, flag), "synced", "subscribed",
			"node n1 a1 minion=v1@0s kubelet=0s mark=rollout cordoned=yes rollout=v2_replaces_2026-01-01T00:00:00Z", "offer o1 a1 host=n1 cpus=0.01 mem=1")
		if got := second(p.ticks(700), "complain of NoOfferForMinion: node n1: no offer for its new minion"); got != want {
			t.Errorf("%s: waited for the new minion until second %d, want %d", flag, got, want)
		}
	}
}

func TestWarmNodesIsAllOrANumber(t *testing.T) {
	for text, want := range map[string]WarmNodes{"all": {All: true}, "0": {}, "12": {Count: 12}} {
		cfg := flagged(t, "--warm-nodes="+text)
		if cfg.WarmNodes != want || cfg.WarmNodes.String() != text {
			t.Errorf("%s is read as %+v, written as %s", text, cfg.WarmNodes, &cfg.WarmNodes)
		}
	}
	for _, bad := range []string{"-1", "some", ""} {
		if err := new(WarmNodes).Set(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestNodesShowHowTheRolloutStands(t *testing.T) {
	script := strings.Join(older(3), "\n") + `
scheduler v2 --rollout-delay=0s --max-unavailable-nodes=1
node n4 a4 minion=v2@0s kubelet=0s port=5054
update warm-a4.1 a4 RUNNING
pod bare node=n3 task=bare.1 agent=a3
+61s
node n1 a1 minion=v1@0s kubelet=0s port=5051 mark=rollout cordoned=yes rollout=v2_replaces_2026-01-01T00:00:00Z
evicted a1 p1 blocked
`
	p := playOn(t, strings.Split(strings.TrimSpace(script), "\n")...)
	nodes := p.core.agents.live(p.now)
	if len(nodes) != 4 {
		t.Fatalf("%+v", nodes)
	}
	for i, want := range []string{
		"to v2: draining", "to v2: waits", "to v2: waits: pod default/bare has no controller that would replace it: delete it", "",
	} {
		if got := nodes[i].Rollout.String(); got != want {
			t.Errorf("%s: %q, want %q", nodes[i].Node, got, want)
		}
	}
	n1, n4 := nodes[0], nodes[3]
	if n1.KM != "v1" || !n1.Minion || n1.Tasks != 1 || !n1.Since.Equal(scriptStart) || n1.CordonedFor != "rollout" {
		t.Errorf("got %+v", n1)
	}
	if n4.KM != "v2" || !n4.Warm || n4.CordonedFor != "" {
		t.Errorf("got %+v", n4)
	}
}

func TestSnapshotTellsOfRolloutsAndWarmNodes(t *testing.T) {
	p := playWith(t, flagged(t, "--rollout-delay=0s"), older(3)...)
	p.ticks(31) // the first is begun
	p.step("node n9 a9 port=5059 rollout=v2_failed:_why")
	p.step("update warm-a9.1 a9 RUNNING")
	s := p.core.Snapshot()
	if s.NodesOutdated != 3 || s.RolloutsUnderWay != 1 || s.RolloutsStopped != 1 || s.NodesWarm != 1 {
		t.Errorf("got %+v; want 3 outdated nodes, a rollout under way, one that stopped, and a warm node", s)
	}
}

func TestWhatKeepsANodeWarmIsNoTenantAndTakesNoRoomThatIsPromised(t *testing.T) {
	p := playWith(t, flagged(t, "--warm-nodes=all"), "synced", "subscribed", "node n1 a1", "update warm-a1.1 a1 RUNNING",
		"offer o1 a1 host=n1 cpus=1 mem=512 executor=ours", "pod low cpus=1 priority=1")
	if got := p.core.agents.byID["a1"].Total.Scalars[match.Memory]; got != offers.Milli(512_000+256_000+1_000) {
		t.Errorf("the agent is taken to have mem %s", got)
	}
	p.step("executor a1 ok")
	p.step("update low.1 a1 RUNNING")
	p.step("bound low.1 ok")
	p.step("pod low cpus=1 priority=1 node=n1 task=low.1 agent=a1")
	p.step("pod high cpus=1 priority=10")
	if at := second(p.ticks(60), "preempt default/low"); at == 0 {
		t.Error("the less important pod is left where it is")
	}
}

func TestNodesShowWhoHasOldSettings(t *testing.T) {
	p := playWith(t, flagged(t, "--rollout-delay=0s"), "settings two", "synced", "subscribed",
		"node n1 a1 minion=v2@0s settings=one kubelet=0s", "node n2 a2 port=5052 minion=v2@0s settings=two kubelet=0s",
		"node n3 a3 port=5053 minion=v1@0s settings=two kubelet=0s", "node n4 a4 port=5054 minion=v2@0s kubelet=0s")
	for i := 1; i <= 4; i++ {
		p.step(fmt.Sprintf("pod p%d node=n%d task=p%d.1 agent=a%d owner=ReplicaSet", i, i, i, i))
		p.step(fmt.Sprintf("update p%d.1 a%d RUNNING", i, i))
	}
	for i, want := range [][2]string{{"old", "to new settings: waits"}, {"current", ""}, {"", "to v2: waits"}, {"", ""}} {
		n := p.core.agents.live(p.now)[i]
		if got := [2]string{n.Settings, n.Rollout.String()}; got != want {
			t.Errorf("%s: %q, want %q", n.Node, got, want)
		}
	}
	p.ticks(31)
	if got := p.core.agents.live(p.now)[0].Rollout.String(); got != "to new settings: draining" {
		t.Errorf("then n1 is %q", got)
	}
	if got := p.core.Snapshot().NodesOutdated; got != 2 {
		t.Errorf("%d nodes are outdated, want 2", got)
	}
}

func TestRolloutOffKeepsMinionsWithOldSettings(t *testing.T) {
	p := playWith(t, flagged(t, "--rollout-delay=0s", "--rollout=off"), "settings two", "synced", "subscribed",
		"node n1 a1 minion=v2@0s settings=one kubelet=0s", "pod p1 node=n1 task=p1.1 agent=a1 owner=ReplicaSet", "update p1.1 a1 RUNNING")
	if at := second(p.ticks(400), "cordon"); at != 0 {
		t.Errorf("it is drained in second %d", at)
	}
	if got := p.core.agents.live(p.now)[0].Rollout.String(); got != "kept: the scheduler replaces none (--rollout=off)" {
		t.Errorf("it is shown as %q", got)
	}
}

func TestSettingsThatSchedulersUseAreTakenOver(t *testing.T) {
	c := NewCore(testConfig())
	idle := metav1.Duration{Duration: time.Minute}
	acts := c.Step(scriptStart, SettingsSeen{Minions: api.MinionConfig{NodePorts: "30000-30999", IdleTimeout: &idle, DockerHost: "unix:///d.sock", DockerCertPath: "/tls"}})
	if len(acts) != 0 || c.cfg.NodePorts != (offers.Range{Begin: 30000, End: 30999}) || c.cfg.IdleTimeout != time.Minute ||
		c.rollouts.engineOfMinions() != (Engine{Host: "unix:///d.sock", CertPath: "/tls"}) {
		t.Errorf("%v, %+v, %+v", acts, c.cfg, c.rollouts.engineOfMinions())
	}
	acts = c.Step(scriptStart, SettingsSeen{Minions: api.MinionConfig{NodePorts: "many", DockerHost: api.DefaultDockerHost}})
	if len(acts) != 1 || c.cfg.NodePorts.Begin != 30000 || c.cfg.IdleTimeout != api.DefaultIdleTimeout || c.rollouts.engineOfMinions() != (Engine{}) {
		t.Errorf("of wrong ports: %v, %+v, %+v", acts, c.cfg, c.rollouts.engineOfMinions())
	}
}
