package scheduler

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler/match"
)

var seedFlag = flag.Uint64("seed", 0, "play this game again, instead of a new one")

// TestNoPodWaitsForAnOfferThatFitsIt plays random events. After each cycle it checks every waiting pod against every agent, without
// the shortcuts of the index: none may fit, and no resources may be promised twice.
func TestNoPodWaitsForAnOfferThatFitsIt(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	for _, algorithm := range match.Algorithms {
		g := newGame(t, rand.New(rand.NewPCG(seed, 0)), algorithm)
		for range 2000 {
			g.play(g.line())
			if !g.player.core.step.cycle {
				g.play("+1s")
			}
			g.check()
		}
		if g.launches < 100 || g.preemptions == 0 {
			t.Errorf("%s: only %d launches and %d preemptions: the test tests nothing", algorithm, g.launches, g.preemptions)
		}
	}
}

// game generates random lines for a player.
type game struct {
	t           *testing.T
	rand        *rand.Rand
	player      *player
	offers      int
	pods        int
	launches    int
	preemptions int
	last        string
}

// newGame returns a game whose scheduler has subscribed.
func newGame(t *testing.T, random *rand.Rand, algorithm match.Algorithm) *game {
	g := &game{t: t, rand: random}
	cfg := testConfig()
	cfg.Algorithm, cfg.Roles = algorithm, []string{"r0", "r1"}
	g.player = &player{
		t: t, core: NewCore(cfg), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		prepared: map[api.AgentID]PrepareExecutor{}, claims: map[types.UID]PrepareClaims{},
	}
	g.play("synced")
	g.play("subscribed")
	return g
}

func (g *game) play(line string) {
	g.last = line
	for _, act := range g.player.step(line) {
		switch act := act.(type) {
		case PrepareExecutor:
			g.player.prepared[act.Agent] = act
		case PrepareClaims:
			g.player.claims[act.Pod.UID] = act
		case Launch:
			g.launches += len(act.Tasks)
		case Preempt:
			g.preemptions++
			if match.Priority(act.Victim) >= match.Priority(act.By) {
				g.t.Fatalf("after %q %s is preempted for %s", line, act.Victim.Name, act.By.Name)
			}
		}
	}
}

// line returns a random event about one of eight agents and the newest pods.
func (g *game) line() string {
	n := g.rand.IntN(8) + 1
	pod := fmt.Sprintf("p%d", max(1, g.pods-g.rand.IntN(20)))
	switch dice := g.rand.IntN(100); {
	case dice < 30:
		g.offers++
		executor := []string{"", " executor=ours"}[g.rand.IntN(2)]
		return fmt.Sprintf("offer o%d a%d host=n%d port=%d rack=r%d cpus=%d mem=%d ports=31000-31001 role=r%d%s",
			g.offers, n, n, 5050+n, n%2, g.rand.IntN(5), g.rand.IntN(5)*512, g.rand.IntN(2), executor)
	case dice < 60:
		g.pods++
		return fmt.Sprintf("pod p%d priority=%d", g.pods, g.rand.IntN(3)) +
			[]string{"", " cpus=1", " cpus=3", " rack=r0", " port=31000", " only=n1", " node=n2", " gated=yes", " roles=r1",
				" mapping=wildcard containerports=80"}[g.rand.IntN(10)]
	case dice < 65:
		return "pod-gone " + pod
	case dice < 75:
		return fmt.Sprintf("node n%d a%d port=%d rack=r%d", n, n, 5050+n, n%2) + []string{"", "", " cordoned=yes", " ready=False"}[g.rand.IntN(4)]
	case dice < 76:
		return fmt.Sprintf("node-gone n%d", n)
	case dice < 85:
		return fmt.Sprintf("executor a%d ", n) + []string{"ok", "ok", "failed"}[g.rand.IntN(3)]
	case dice < 87:
		return fmt.Sprintf("rescind o%d", max(1, g.offers-g.rand.IntN(5)))
	case dice < 88:
		return fmt.Sprintf("lost a%d", n)
	case dice < 95:
		return fmt.Sprintf("update %s.1 a%d ", pod, n) + []string{"FAILED", "RUNNING", "RUNNING"}[g.rand.IntN(3)]
	case dice < 96:
		return fmt.Sprintf("exited a%d", n)
	}
	return []string{"+1s", "+3s"}[g.rand.IntN(2)]
}

func (g *game) check() {
	c := g.player.core
	waiting := 0
	for _, p := range slices.SortedFunc(maps.Values(c.pods.byUID), before) {
		if needsTask(p) && (p.Node == "" || c.agents.ofNode(p.Node) != nil) {
			waiting++
		}
	}
	if err := c.index.Verify(nil); err != nil {
		g.t.Fatalf("%s: after %q %v", c.cfg.Algorithm, g.last, err)
	}
	for nominee := range c.index.Nominees() {
		if p := c.pods.of(nominee); p == nil || !needsTask(p) || &p.Pod != nominee {
			g.t.Fatalf("%s: after %q a place on %s is kept for %s", c.cfg.Algorithm, g.last, nominee.Nominated(), nominee.Obj.Name)
		}
	}
	if waiting != c.pods.queue.waiting {
		g.t.Fatalf("%s: after %q %d pods wait, and are counted as %d", c.cfg.Algorithm, g.last, waiting, c.pods.queue.waiting)
	}
}
