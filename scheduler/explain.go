package scheduler

import (
	"slices"
	"time"

	"github.com/k8sm/k8sm/scheduler/match"
)

const (
	reportPatience  = 2 * time.Second  // offers that REVIVE calls for arrive within this
	preparePatience = 20 * time.Second // nodes appear, and executors are prepared, within this
	reportFirst     = 10 * time.Second
	reportLast      = 5 * time.Minute
)

// report spaces out what is told about one waiting pod.
type report struct {
	message string
	again   time.Time     // the same message is not repeated before
	change  time.Time     // nor another one looked for before
	pause   time.Duration // between changed messages
}

// due tells whether to tell the message now, and remembers that it was told.
func (r *report) due(now time.Time, message string) bool {
	if now.Before(r.change) {
		return false
	}
	if message == r.message && now.Before(r.again) {
		r.change = now.Add(min(reportFirst, r.again.Sub(now))) // look again then, not all the time
		return false
	}
	r.pause = min(max(2*r.pause, reportFirst), reportLast)
	r.message, r.again, r.change = message, now.Add(reportLast), now.Add(r.pause)
	return true
}

// looksPerTick bounds for how many agents it is found out in one step why they refuse a pod.
const looksPerTick = 200_000

// explain tells why pods wait when there is something to tell: not while a refusal may be gone in a moment, and not
// before the offers that were called for can have come. Equal pods share the reasons.
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
			if len(reasons) > 0 && len(reasons)*ps.core.agents.count() > looksPerTick {
				break
			}
			refusals = ps.core.index.WhyNot(&p.Pod)
			reasons[key] = refusals
		}
		if refusals.Preparing() > 0 && now.Sub(p.since) < preparePatience {
			continue
		}
		if message := refusals.String() + ps.core.preemption.outlook(p); p.report.due(now, message) {
			acts = append(acts, Report{Pod: p.Obj, Message: message})
		}
	}
	return append(acts, ps.explainHomeless(now)...)
}

// explainHomeless tells of the pods that somebody bound to a node that does not exist. What is bound to a node that is
// none of ours is not ours to start, nor to explain.
func (ps *pods) explainHomeless(now time.Time) []Action {
	var pods []*pod
	for node, home := range ps.queue.awaitingNode {
		for _, p := range home {
			if ps.core.agents.node(node) == nil && now.Sub(p.since) >= preparePatience {
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

// unexplained returns the pods of which it may be time to tell why they wait, the next in turn first.
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
