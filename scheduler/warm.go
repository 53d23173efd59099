package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// warmMem is what a task without a pod is charged: Mesos accepts no task without resources.
const warmMem = offers.Milli(1000) // 1 MiB

// warmPatience is how long to wait after a subscription for updates of the tasks that an earlier scheduler launched, to learn
// which agents already have a task without a pod.
const warmPatience = 5 * time.Second

// WarmNodes says on how many agents the executor also runs without pods. It implements pflag.Value.
type WarmNodes struct {
	All   bool
	Count int
}

// String implements pflag.Value.
func (w *WarmNodes) String() string {
	if w.All {
		return "all"
	}
	return strconv.Itoa(w.Count)
}

// Set implements pflag.Value: it accepts "all" or a number.
func (w *WarmNodes) Set(text string) error {
	if text == "all" {
		*w = WarmNodes{All: true}
		return nil
	}
	count, err := strconv.Atoi(text)
	if err != nil || count < 0 {
		return fmt.Errorf("%q is neither all nor a number of nodes", text)
	}
	*w = WarmNodes{Count: count}
	return nil
}

// Type implements pflag.Value.
func (w *WarmNodes) Type() string { return "all|N" }

// warming keeps executors running without pods.
type warming struct {
	core    *Core
	lacking int // number of executors that shall run without pods and do not yet
}

// missing returns the number of executors that shall run without pods and do not yet.
func (wm *warming) missing() int { return wm.lacking }

// tick launches the missing tasks without a pod, and ends those not needed any more. Mesos starts an executor only for a task.
func (wm *warming) tick(now time.Time) []Action {
	wm.lacking = 0
	if now.Sub(wm.core.session.subscribed()) < warmPatience {
		return nil
	}
	wm.core.refresh(now)
	wanted := wm.want(now)
	var acts []Action
	var chosen []*grant
	for _, a := range wm.core.agents.inOrder() {
		wanted[a] = wanted[a] || wm.needsCompanion(now, a)
		switch {
		case a.warm != nil && !wanted[a] && wm.uncharged(a):
			if wm.alone(a) {
				acts = append(acts, wm.endMinion(now, a)...)
			}
		case a.warm != nil && !wanted[a]:
			a.warm.killLater(now)
			acts = append(acts, wm.core.tasks.tick(now, a.warm)...)
		case a.warm != nil || !wanted[a] || !a.failures.health.takes() && !wm.core.health.awaited(a):
		case now.Before(a.warmBackoff.until) || a.executor.preparing:
			wm.lacking++
		default:
			wm.lacking++
			if v := wm.core.index.FindWarm(&a.Agent, wm.core.cfg.warmDemand()); v != nil {
				g := &grant{view: v}
				wm.launch(now, a, g)
				chosen = append(chosen, g)
			}
		}
	}
	return append(acts, wm.core.launch(now, chosen)...)
}

// want chooses the agents whose executors shall run without pods.
func (wm *warming) want(now time.Time) map[*agent]bool {
	wanted := map[*agent]bool{}
	var open []*agent
	for _, a := range wm.core.agents.inOrder() {
		node := wm.core.agents.nodeOf(a)
		switch u := wm.core.disruptions.of(a.ID); {
		case !a.Alive:
			wanted[a] = a.warm != nil // out of reach, and not counted
		case node == nil:
			if a.warm != nil { // the node is being created again or relabelled
				open = append(open, a)
			}
		case u != nil && u.awaitsMinion():
			wanted[a] = true
		case a.warm == nil && !a.failures.health.takes(): // choose another agent
		case (u == nil || !u.draining) && wm.needsKeeper(now, a):
			wanted[a] = true
		case !node.Spec.Unschedulable && (u == nil || wm.core.disruptions.cordon(now, u) == ""):
			open = append(open, a)
		}
	}
	if wm.core.cfg.WarmNodes.All {
		for _, a := range open {
			wanted[a] = true
		}
		return wanted
	}
	for _, a := range wm.spreadOver(open, wm.core.cfg.WarmNodes.Count) {
		wanted[a] = true
	}
	return wanted
}

// spreadOver chooses count agents: first those that are warm already, then from the zone with the fewest chosen ones the
// agent with the lowest cost.
func (wm *warming) spreadOver(agents []*agent, count int) []*agent {
	var chosen []*agent
	var names []string // of the zones, in the order in which their agents came
	zones, taken := map[string][]*agent{}, map[string]int{}
	for _, a := range agents {
		zone := a.last.Zone
		if _, known := taken[zone]; !known {
			names, taken[zone] = append(names, zone), 0
		}
		if a.warm == nil {
			zones[zone] = append(zones[zone], a)
		} else if len(chosen) < count {
			chosen = append(chosen, a)
			taken[zone]++
		}
	}
	for _, others := range zones {
		slices.SortStableFunc(others, func(a, b *agent) int { return cmp.Compare(wm.cost(a), wm.cost(b)) })
	}
	for len(chosen) < count {
		names = slices.DeleteFunc(names, func(zone string) bool { return len(zones[zone]) == 0 })
		if len(names) == 0 {
			break
		}
		zone := slices.MinFunc(names, func(a, b string) int { return cmp.Compare(taken[a], taken[b]) })
		chosen = append(chosen, zones[zone][0])
		zones[zone] = zones[zone][1:]
		taken[zone]++
	}
	return chosen
}

// cost ranks agents by the effort to warm them: 0 if the executor runs, 1 if offers suffice now, else 2.
func (wm *warming) cost(a *agent) int {
	switch {
	case a.hasExecutor:
		return 0
	case wm.core.index.FindWarm(&a.Agent, wm.core.cfg.warmDemand()) != nil:
		return 1
	}
	return 2
}

// launch adds a task without a pod to the grant, or has the executor prepared first.
func (wm *warming) launch(now time.Time, a *agent, g *grant) {
	v := g.view
	if v.Executor().Charge != nil {
		wm.core.index.Installs.Begin(v.Agent)
	}
	if !v.Executor().Prepared {
		g.wanted = true
		return
	}
	t := wm.add(now, a, api.NewWarmTaskID(a.ID, now.Unix()))
	t.offer, t.role = v.Offers[0], v.Role
	a.tries(t.who(), nil)
	g.tasks = append(g.tasks, NewTask{ID: t.id, Node: a.Node, Resources: v.TakeWarm(&t.demand)})
}

// add adds a task without a pod.
func (wm *warming) add(now time.Time, a *agent, id api.TaskID) *task {
	t := &task{id: id, agent: a.ID, warm: true, since: now, taskNews: taskNews{askAt: now.Add(silentAfter)}}
	t.demand = wm.core.cfg.warmDemand()
	wm.core.tasks.add(t)
	a.warm = t
	return t
}

// updated handles an update of a task without a pod. One that an earlier scheduler launched is adopted, or killed if its
// agent already has another.
func (wm *warming) updated(now time.Time, s TaskStatus, r reaction) []Action {
	acts := acknowledge(s.Task, s.Agent, s.UUID)
	t := wm.core.tasks.get(s.Task)
	if t == nil {
		id, _ := s.Task.Warm()
		a := wm.core.agents.get(id)
		if !r.running {
			return acts
		}
		if a == nil || a.warm != nil {
			return append(acts, Kill{Task: s.Task, Agent: s.Agent})
		}
		t = wm.add(now, a, s.Task)
	}
	t.state, t.heard, t.message = s.State, true, s.Message
	wm.core.rollouts.noteFailure(t, s, r)
	acts = append(acts, wm.core.health.note(now, t, s)...)
	wm.core.tasks.answered(t.id)
	if !r.running {
		wm.core.offering.freed(now, s)
		wm.ended(now, t)
	}
	return acts
}

// ended forgets a task without a pod that has ended. The next one is launched after a backoff.
func (wm *warming) ended(now time.Time, t *task) {
	wm.core.tasks.drop(t)
	a := wm.core.agents.get(t.agent)
	if a == nil {
		return
	}
	if t.killed || now.Sub(t.since) >= stableAfter {
		a.warmBackoff = backoff{}
	}
	if !t.killed {
		a.warmBackoff.fail(now)
	}
}
