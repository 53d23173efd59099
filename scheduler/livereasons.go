package scheduler

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// QueueReasons is why pods wait, by reason.
type QueueReasons struct {
	// Pods is how many wait.
	Pods int `json:"pods"`
	// Groups are the reasons, that of most pods first. A pod with several reasons is in several groups.
	Groups []ReasonGroup `json:"groups"`
}

// ReasonGroup are the pods that wait for one reason.
type ReasonGroup struct {
	// Reason is the reason of a WaitingPod without its numbers, such as "Insufficient cpu in offers".
	Reason string `json:"reason"`
	// Pods is how many wait for that reason, the oldest of them since Oldest.
	Pods   int       `json:"pods"`
	Oldest time.Time `json:"oldest"`
	// Agents is the largest number of agents that refuse one of the pods for that reason; 0 if the reason is not one of agents.
	Agents int `json:"agents,omitempty"`
	// Examples are the first pods in order of arrival, ten at most.
	Examples []WaitingFor `json:"examples"`
}

// WaitingFor is a pod that waits for a reason.
type WaitingFor struct {
	Pod      string    `json:"pod"`
	Since    time.Time `json:"since"`
	Attempts int       `json:"attempts"`
	// Agents is the number of agents that refuse it for that reason; 0 if the reason is not one of agents.
	Agents int `json:"agents,omitempty"`
	// Detail is what the pod requests and the most that an agent has, such as "requested 8, most free 3.5"; "" for reasons without.
	Detail string `json:"detail,omitempty"`
}

// maxExamples limits the examples of a group.
const maxExamples = 10

var (
	reasonCount  = regexp.MustCompile(`^(\d+) `)
	reasonDetail = regexp.MustCompile(` \((requested [^()]*)\)$`)
	// reasonOwn are the parts of a reason that differ from pod to pod.
	reasonOwn = regexp.MustCompile(`^(its tasks ended )\d+( times; the next is tried )at .*$`)
)

// GroupReasons groups waiting pods, which are in order of arrival, by why they wait.
func GroupReasons(pods []WaitingPod) QueueReasons {
	groups := map[string]*ReasonGroup{}
	split := map[string]splitReason{} // equal pods have equal reasons
	for _, p := range pods {
		for _, text := range p.Reasons {
			r, known := split[text]
			if !known {
				r = splitOne(text)
				split[text] = r
			}
			g := groups[r.words]
			if g == nil {
				g = &ReasonGroup{Reason: r.words, Oldest: p.Since}
				groups[r.words] = g
			}
			g.Pods++
			g.Agents = max(g.Agents, r.agents)
			if p.Since.Before(g.Oldest) {
				g.Oldest = p.Since
			}
			if len(g.Examples) < maxExamples {
				g.Examples = append(g.Examples, WaitingFor{Pod: p.Pod, Since: p.Since, Attempts: p.Attempts, Agents: r.agents, Detail: r.detail})
			}
		}
	}
	out := QueueReasons{Pods: len(pods), Groups: []ReasonGroup{}}
	for _, g := range groups {
		out.Groups = append(out.Groups, *g)
	}
	slices.SortFunc(out.Groups, func(a, b ReasonGroup) int {
		return cmp.Or(cmp.Compare(b.Pods, a.Pods), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}

// splitReason is a reason of a WaitingPod, taken apart.
type splitReason struct {
	words, detail string
	agents        int
}

func splitOne(text string) splitReason {
	var r splitReason
	if m := reasonCount.FindStringSubmatch(text); m != nil {
		if agents, err := strconv.Atoi(m[1]); err == nil {
			r.agents, text = agents, text[len(m[0]):]
		}
	}
	if m := reasonDetail.FindStringSubmatch(text); m != nil {
		r.detail, text = m[1], text[:len(text)-len(m[0])]
	}
	if m := reasonOwn.FindStringSubmatch(text); m != nil {
		r.detail, text = text, m[1]+"several"+m[2]+"later"
	}
	r.words = text
	return r
}
