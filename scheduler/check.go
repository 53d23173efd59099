package scheduler

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// view is one agent as the matching of a cycle sees it: all its offers of one role together, less what the cycle has
// placed already.
type view struct {
	agent  *agent
	node   *v1.Node // nil if it does not exist yet
	role   string
	offers []api.OfferID
	free   offers.Resources
	tasks  []NewTask
	// charge is what the executor takes when it is launched with the first task; nil if it runs already.
	charge offers.Resources
	// executor is what an executor would be given that is prepared anew.
	executor offers.Resources
	// stranger is an executor on the agent that is none of ours.
	stranger api.ExecutorID
	wanted   bool // a pod would fit here if only the executor were prepared
	hopeless bool // the executor could not be prepared, and it is too early to try again
}

// refused is why a pod cannot have its task on an agent. The zero value says that it can.
type refused struct {
	// singular and plural go behind a number of agents: "1 has …", "2 have …".
	singular, plural string
	scalar           string // the resource that is short; then the numbers are told, too
	most             offers.Milli
	quiet            bool // passing: wait, say nothing
	reserve          bool // and keep the place, this is the agent to wait for
}

func (r refused) ok() bool { return r.singular == "" && !r.quiet }

// check applies the four checks in their order; the first that fails says why.
func (v *view) check(p *pod) refused {
	for _, check := range []func(*pod) refused{v.checkNode, v.checkResources, v.checkPorts, v.checkExecutor} {
		if r := check(p); !r.ok() {
			return r
		}
	}
	return refused{}
}

// checkNode: does the pod want this node, and does the node take it?
// (https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/)
func (v *view) checkNode(p *pod) refused {
	if v.node == nil {
		return refused{quiet: true}
	}
	if p.node != "" {
		if p.node != v.node.Name {
			return refused{singular: "is not node " + p.node, plural: "are not node " + p.node}
		}
		return refused{}
	}
	if match, err := nodeaffinity.GetRequiredNodeAffinity(p.obj).Match(v.node); err != nil || !match {
		text := "its node affinity"
		if selector := p.obj.Spec.NodeSelector; !labels.SelectorFromSet(selector).Matches(labels.Set(v.node.Labels)) {
			text = "its node selector " + labels.FormatLabels(selector)
		}
		return refused{singular: "does not match " + text, plural: "do not match " + text}
	}
	if v.node.Spec.Unschedulable && !tolerates(p.obj, v1.TaintNodeUnschedulable) {
		return refused{singular: "is cordoned", plural: "are cordoned"}
	}
	if !ready(v.node) && !tolerates(p.obj, v1.TaintNodeNotReady) {
		return refused{singular: "is not ready", plural: "are not ready"}
	}
	taint, found := corev1helpers.FindMatchingUntoleratedTaint(klog.Logger{}, v.node.Spec.Taints, p.obj.Spec.Tolerations, repels, false)
	if found {
		text := fmt.Sprintf("the taint %s that it does not tolerate", taint.ToString())
		return refused{singular: "has " + text, plural: "have " + text}
	}
	return refused{}
}

func repels(taint *v1.Taint) bool {
	return taint.Effect == v1.TaintEffectNoSchedule || taint.Effect == v1.TaintEffectNoExecute
}

func tolerates(pod *v1.Pod, key string) bool {
	taint := v1.Taint{Key: key, Effect: v1.TaintEffectNoSchedule}
	return corev1helpers.TolerationsTolerateTaint(klog.Logger{}, pod.Spec.Tolerations, &taint, false)
}

// checkResources: is there enough for the pod, and for the executor if it has to be launched with it?
func (v *view) checkResources(p *pod) refused {
	for i, name := range scalarNames {
		want := p.demand.Scalars[i]
		free := max(0, v.free.Sum(name)-v.charge.Sum(name))
		if want <= free {
			continue
		}
		if total := v.agent.total.scalars[i] - v.charge.Sum(name); len(v.offers) > 0 && want <= total {
			return refused{singular: "is busy: it has too little " + name + " now", plural: "are busy: they have too little " + name + " now", scalar: name, most: free}
		}
		return refused{singular: "has too little " + name, plural: "have too little " + name, scalar: name, most: free}
	}
	return refused{}
}

// checkPorts: are all host ports free?
func (v *view) checkPorts(p *pod) refused {
	var missing []uint64
	for _, port := range p.demand.Ports {
		if !v.free.HasPort(port) {
			missing = append(missing, port)
		}
	}
	if len(missing) == 0 {
		return refused{}
	}
	text := fmt.Sprintf("the host ports %v", missing)
	return refused{singular: "lacks " + text, plural: "lack " + text}
}

// checkExecutor: does no executor run there, or ours, and do we know how it was launched?
func (v *view) checkExecutor(*pod) refused {
	e := &v.agent.executor
	switch {
	case len(v.offers) == 0:
		return refused{singular: "has enough but offers nothing now", plural: "have enough but offer nothing now"}
	case v.stranger != "":
		text := fmt.Sprintf("another version of our executor (%s)", v.stranger)
		return refused{singular: "runs " + text, plural: "run " + text}
	case e.record == nil && v.hopeless:
		return refused{singular: "cannot be given an executor yet", plural: "cannot be given executors yet"}
	case e.record == nil:
		v.wanted = true
		return refused{quiet: true, reserve: true}
	}
	return refused{}
}

// take takes what the pod demands out of the view, and what the executor is charged if it comes with this pod. The pod
// must have passed the checks.
func (v *view) take(p *pod) offers.Resources {
	for _, r := range v.charge {
		_, v.free, _ = v.free.Take(r.Name, r.Scalar)
	}
	v.charge = nil
	var all offers.Resources
	for i, name := range scalarNames {
		var taken offers.Resources
		taken, v.free, _ = v.free.Take(name, p.demand.Scalars[i])
		all = append(all, taken...)
	}
	for _, port := range p.demand.Ports {
		var taken offers.Resource
		taken, v.free, _ = v.free.TakePort(port)
		all = append(all, taken)
	}
	return all
}

// summary counts refusals with the same reason and remembers the most that any of the agents has.
type summary struct {
	agents    int
	preparing int // whose refusal may be gone in a moment
	reasons   []reason
}

type reason struct {
	refused
	count int
}

func (s *summary) add(r refused) {
	s.agents++
	if r.quiet {
		s.preparing++
		return
	}
	for i := range s.reasons {
		if s.reasons[i].singular == r.singular {
			s.reasons[i].count++
			s.reasons[i].most = max(s.reasons[i].most, r.most)
			return
		}
	}
	s.reasons = append(s.reasons, reason{r, 1})
}

// message tells an operator why the pod waits.
func (s *summary) message(d Demand) string {
	if s.agents == 0 {
		return "0/0 agents can run it: no Mesos agent has made an offer yet"
	}
	reasons := s.reasons
	if s.preparing > 0 {
		reasons = append(reasons, reason{refused{singular: "is being prepared", plural: "are being prepared"}, s.preparing})
	}
	parts := make([]string, len(reasons))
	for i, r := range reasons {
		parts[i] = fmt.Sprintf("%d %s", r.count, r.singular)
		if r.count > 1 {
			parts[i] = fmt.Sprintf("%d %s", r.count, r.plural)
		}
		if at := slices.Index(scalarNames[:], r.scalar); at >= 0 {
			parts[i] += fmt.Sprintf(" (want %s, most free %s)", d.Scalars[at], r.most)
		}
	}
	return fmt.Sprintf("0/%d agents can run it: %s", s.agents, strings.Join(parts, ", "))
}
