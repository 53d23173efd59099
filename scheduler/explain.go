package scheduler

import (
	"slices"
	"time"

	"github.com/k8sm/k8sm/scheduler/match"
)

const (
	reportPatience = 2 * time.Second  // by then, the offers after a REVIVE have arrived
	prepareTimeout = 20 * time.Second // by then, nodes have appeared and executors are prepared
	reportFirst    = 10 * time.Second
	reportLast     = 5 * time.Minute
)

// report spaces out the reports about one waiting pod.
type report struct {
	message string
	again   time.Time     // when the same message may be repeated
	change  time.Time     // when to look for reasons again
	pause   time.Duration // between different messages
}

// due reports whether to report the message now, and then remembers it.
func (r *report) due(now time.Time, message string) bool {
	if now.Before(r.change) {
		return false
	}
	if message == r.message && now.Before(r.again) {
		r.change = now.Add(min(reportFirst, r.again.Sub(now)))
		return false
	}
	r.pause = min(max(2*r.pause, reportFirst), reportLast)
	r.message, r.again, r.change = message, now.Add(reportLast), now.Add(r.pause)
	return true
}

// checksPerTick limits how many agents are checked in one step, over all pods.
const checksPerTick = 200_000

// explain reports why pods wait, but not before offers have had time to arrive, nor while an executor or a node is being
// prepared. Equal pods share the reasons.
func (ps *pods) explain(now time.Time) []Action {
	var acts []Action
	reasons := map[match.Key]*match.Summary{}
	for _, p := range ps.unexplained(now) {
		if ps.core.addresses.awaits(p) {
			if message := p.claimed.refused; message != "" && p.report.due(now, message) {
				acts = append(acts, Report{Pod: p.Obj, Message: message})
			}
			continue
		}
		if ps.core.claims.awaits(p) {
			if message := ps.core.claims.message(p); p.report.due(now, message) {
				acts = append(acts, Report{Pod: p.Obj, Message: message})
			}
			continue
		}
		key := p.Key()
		refusals := reasons[key]
		if refusals == nil {
			if len(reasons) > 0 && len(reasons)*ps.core.agents.count() > checksPerTick {
				break
			}
			refusals = ps.core.index.WhyNot(&p.Pod)
			reasons[key] = refusals
		}
		if refusals.Preparing() > 0 && now.Sub(p.since) < prepareTimeout {
			continue
		}
		if message := refusals.String() + ps.core.preemption.outlook(p); p.report.due(now, message) {
			acts = append(acts, Report{Pod: p.Obj, Message: message})
		}
	}
	return append(acts, ps.explainHomeless(now)...)
}

// explainHomeless reports pods that somebody bound to a node that does not exist. Pods on existing nodes that are not ours
// do not concern us.
func (ps *pods) explainHomeless(now time.Time) []Action {
	var pods []*pod
	for node, home := range ps.queue.awaitingNode {
		for _, p := range home {
			if ps.core.agents.node(node) == nil && now.Sub(p.since) >= prepareTimeout {
				pods = append(pods, p)
			}
		}
	}
	slices.SortFunc(pods, before)
	var acts []Action
	for _, p := range pods {
		if message := noSuchNode(p); p.report.due(now, message) {
			acts = append(acts, Report{Pod: p.Obj, Message: message})
		}
	}
	return acts
}

func noSuchNode(p *pod) string { return "it is bound to node " + p.Node + ", which does not exist" }

// unexplained returns the waiting pods whose next report may be due, in the queue's order.
func (ps *pods) unexplained(now time.Time) []*pod {
	var pods []*pod
	late := func(p *pod) {
		if now.Sub(p.since) >= reportPatience && !now.Before(p.report.change) {
			pods = append(pods, p)
		}
	}
	for _, p := range ps.queue.awaitingExecutor {
		late(p)
	}
	for _, p := range ps.core.claims.all() {
		late(p)
	}
	for _, p := range ps.core.addresses.all() {
		late(p)
	}
	for class := range ps.core.index.Classes() {
		for p := range class.Pods() {
			late(ps.of(p))
		}
	}
	slices.SortFunc(pods, before)
	return slices.Compact(pods)
}
