package scheduler

import (
	"cmp"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// view is one agent as the matching sees it: all its offers of one role together, less what was placed already.
type view struct {
	agent  *agent
	node   *v1.Node // nil if it does not exist yet
	place  *place   // the pods on that node
	role   string
	offers []api.OfferID
	free   offers.Resources
	have   [numScalars]offers.Milli // what of free is left for pods
	tasks  []NewTask
	parked []*pod // that have reserved a place
	// record is the executor's, for tasks in these offers; nil if it has to be prepared first.
	record []byte
	coming bool // the executor is on its way there, launched in offers of another role
	// charge is what the executor takes when it is launched with the first task; nil if it runs already.
	charge offers.Resources
	// companion is what the task without a pod is charged that has to come with the executor; nil if none has to.
	companion *Demand
	// executor is what an executor would be given that is prepared anew.
	executor offers.Resources
	// stranger is an executor on the agent that is none of ours.
	stranger api.ExecutorID
	// discouraging are the node's PreferNoSchedule taints.
	discouraging []v1.Taint
	closed       string   // for what its node is about to be cordoned; "" if it is not
	drains       bool     // it would drop every task
	wanted       bool     // a pod would fit here if only the executor were prepared
	next         requests // what the agent has for pods with another minion
	hopeless     bool     // the executor could not be prepared, and it is too early to try again
	installs     *installs
}

// count sums up what is free.
func (v *view) count() {
	for i, name := range scalarNames {
		v.have[i] = v.free.Sum(name) - v.charge.Sum(name)
		if v.place != nil {
			v.have[i] -= v.place.held[i]
		}
		if v.companion != nil {
			v.have[i] -= v.companion.Scalars[i]
		}
		v.have[i] = max(0, v.have[i])
	}
}

// refused is why a pod cannot have its task on an agent. It is put into words by a summary only.
type refused struct {
	reason  reason
	scalar  int          // the resource that is short, in scalarNames; then the numbers are told, too
	most    offers.Milli // free; ports are counted
	taint   *v1.Taint
	ports   []uint64 // that are missing
	runs    api.ExecutorID
	spare   int64  // what the kubelet admits of a request
	what    string // the topology key, claim, volume or resource that it is about, or the number of pods
	reserve bool   // but keep the place: this is the agent to wait for
}

// reason is a kind of refusal.
type reason int

const (
	fits reason = iota
	beingPrepared
	otherNode
	selectorMismatch
	affinityMismatch
	cordoned
	maintained
	draining
	replaced
	notReady
	tainted
	failing
	rejecting
	noRoom
	podsMissing
	podsAvoided
	podsRepel
	topologyMissing
	skewed
	claimMissing
	claimGoing
	claimLost
	claimForeign
	claimTaken
	claimUnbound
	volumeMissing
	volumeElsewhere
	claimElsewhere
	noVolume
	busy
	tooSmall
	insufficient
	deviceShort
	portsMissing
	portsShort
	otherRole
	revocableShort
	executorMixes
	minionShort
	promisedAway
	installing
	offersNothing
	otherExecutor
	noExecutor
	cutOff

	numReasons
)

func (r refused) ok() bool { return r.reason == fits }

// words are what goes behind a number of agents: "1 has …", "2 have …".
func (r refused) words(s *shape, roles string) (singular, plural string) {
	switch r.reason {
	case otherNode:
		return "is not node " + s.key.node, "are not node " + s.key.node
	case selectorMismatch:
		text := " match its node selector " + labels.FormatLabels(s.obj.Spec.NodeSelector)
		return "does not" + text, "do not" + text
	case affinityMismatch:
		return "does not match its node affinity", "do not match its node affinity"
	case cordoned:
		return "is cordoned", "are cordoned"
	case maintained:
		return "is cordoned because maintenance is planned", "are cordoned because maintenance is planned"
	case draining:
		text := " because Mesos drains its agent"
		return "is cordoned" + text, "are cordoned" + text
	case replaced:
		text := " while its km is replaced by another version"
		return "is cordoned" + text, "are cordoned" + text
	case notReady:
		return "is not ready", "are not ready"
	case tainted:
		text := fmt.Sprintf(" the taint %s that it does not tolerate", r.taint.ToString())
		return "has" + text, "have" + text
	case failing:
		text := " tasks before they run (see the events of its node)"
		return "fails" + text, "fail" + text
	case rejecting:
		return r.what, r.what
	case noRoom:
		text := fmt.Sprintf(" no room for another pod (%s of %s)", r.what, r.what)
		return "has" + text, "have" + text
	case podsMissing:
		text := " no pod near that its affinity wants there (by " + r.what + ")"
		return "has" + text, "have" + text
	case podsAvoided:
		text := " a pod near that its anti-affinity avoids (by " + r.what + ")"
		return "has" + text, "have" + text
	case podsRepel:
		text := " a pod near whose anti-affinity avoids it (by " + r.what + ")"
		return "has" + text, "have" + text
	case topologyMissing:
		return "has no label " + r.what, "have no label " + r.what
	case skewed:
		text := " more pods like it than its topology spread allows (by " + r.what + ")"
		return "has" + text, "have" + text
	case claimMissing:
		return ofPod("its claim " + r.what + " does not exist")
	case claimGoing:
		return ofPod("its claim " + r.what + " is being deleted")
	case claimLost:
		return ofPod("its claim " + r.what + " has lost its volume")
	case claimForeign:
		return ofPod("its claim " + r.what + " was not made for it")
	case claimTaken:
		return ofPod("its claim " + r.what + " is for one pod only, and another one uses it")
	case claimUnbound:
		return ofPod("its claim " + r.what + " is not bound to a volume yet")
	case volumeMissing:
		return ofPod("the volume " + r.what + " of its claim does not exist")
	case volumeElsewhere:
		return "cannot reach its volume " + r.what, "cannot reach its volume " + r.what
	case claimElsewhere:
		text := " not the node that a volume for its claim " + r.what + " is being made for"
		return "is" + text, "are" + text
	case noVolume:
		return "has no volume for its claim " + r.what, "have no volume for its claim " + r.what
	case busy:
		text := " too little " + scalarNames[r.scalar] + " now" + with(" for ", roles)
		return "is busy: it has" + text, "are busy: they have" + text
	case tooSmall:
		text := " too little " + scalarNames[r.scalar] + with(" for ", roles)
		return "has" + text, "have" + text
	case insufficient:
		text := "Insufficient " + string(requestNames[r.scalar])
		return text, text
	case deviceShort:
		return "has too little " + r.what, "have too little " + r.what
	case portsMissing:
		text := fmt.Sprintf(" the host ports %v", r.ports)
		return "lacks" + text, "lack" + text
	case portsShort:
		text := " too few free ports" + with(" for ", roles)
		return "has" + text, "have" + text
	case revocableShort:
		text := " too few revocable cpus now" + with(" for ", roles)
		return "has" + text, "have" + text
	case executorMixes:
		text := " that was given cpus, beside which Mesos allows no revocable ones: it has to end first"
		return "runs an executor" + text, "run executors" + text
	case minionShort:
		return "has too little for a minion", "have too little for a minion"
	case otherRole:
		text := " nothing now" + with(" to ", roles)
		return "offers" + text, "offer" + text
	case promisedAway:
		text := " promised to pods that are as important or more so"
		return "is" + text, "are" + text
	case installing:
		text := " until others have fetched km (--max-concurrent-installs)"
		return "waits" + text, "wait" + text
	case offersNothing:
		text := " nothing now" + with(" to ", roles)
		return "has enough but offers" + text, "have enough but offer" + text
	case otherExecutor:
		text := fmt.Sprintf(" another version of our executor (%s)", r.runs)
		return "runs" + text, "run" + text
	case noExecutor:
		return "cannot be given an executor yet", "cannot be given executors yet"
	case cutOff:
		return "has no agent that Mesos can reach", "have no agents that Mesos can reach"
	}
	return "is being prepared", "are being prepared"
}

// with puts words behind others if there are any.
func with(between, words string) string {
	if words == "" {
		return ""
	}
	return between + words
}

func ofPod(text string) (singular, plural string) { return text, text }

// ofPod tells whether the reason is the pod's own, whatever the agent.
func (r reason) ofPod() bool { return r >= claimMissing && r <= volumeMissing }

// used tells whether the view was given something in this cycle.
func (v *view) used() bool { return len(v.tasks) > 0 || v.wanted }

// check applies the four checks in their order; the first that fails says why. The pods around the node belong to the
// first check.
func (v *view) check(s *shape) refused {
	if r := v.checkNode(s); !r.ok() {
		return r
	}
	if s.wish != nil && !s.wish.takes(v) {
		return refused{reason: otherRole}
	}
	if s.key.node == "" {
		if v.place.full() && !s.stands(v.place) {
			return refused{reason: noRoom, what: v.place.words}
		}
		if s.near != nil {
			if r := s.near.check(v.node); !r.ok() {
				return r
			}
		}
		if s.extended != nil && !s.stands(v.place) {
			if r := v.checkExtended(s); !r.ok() {
				return r
			}
		}
		if v.place.bounded() && !s.stands(v.place) {
			if r := v.checkAdmission(s); !r.ok() {
				return r
			}
		}
	}
	if r := v.checkResources(s); !r.ok() {
		return r
	}
	if r := v.checkPorts(s); !r.ok() {
		return r
	}
	if len(v.agent.promises) > 0 {
		if r := v.checkPromises(s); !r.ok() {
			return r
		}
	}
	r := v.checkExecutor()
	if r.reason == installing {
		s.crowded = v.installs.ended
	}
	return r
}

// checkNode: does the pod want this node, and does the node take it?
// (https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/)
func (v *view) checkNode(s *shape) refused {
	if v.node == nil {
		return refused{reason: beingPrepared}
	}
	if s.key.node != "" {
		if s.key.node != v.node.Name {
			return refused{reason: otherNode}
		}
		return refused{}
	}
	if s.affinity != nil {
		if match, err := s.affinity.Match(v.node); err != nil || !match {
			for key, value := range s.obj.Spec.NodeSelector {
				if have, found := v.node.Labels[key]; !found || have != value {
					return refused{reason: selectorMismatch}
				}
			}
			return refused{reason: affinityMismatch}
		}
	}
	if (v.node.Spec.Unschedulable || v.closed != "") && !s.cordoned {
		switch cmp.Or(v.closed, v.node.Annotations[api.AnnotationCordoned]) {
		case "":
			return refused{reason: cordoned}
		case cordonedForRollout:
			return refused{reason: replaced}
		case CordonedForDraining:
			return refused{reason: draining}
		}
		return refused{reason: maintained}
	}
	ready := ready(v.node)
	unfit := !ready && unfit(v.node) // its agent's failures tell when it is tried again
	if !ready && !s.unready && !unfit {
		return refused{reason: notReady}
	}
	if r := v.checkFailures(s); !r.ok() || len(v.node.Spec.Taints) == 0 {
		return r
	}
	taint, found := corev1helpers.FindMatchingUntoleratedTaint(klog.Logger{}, v.node.Spec.Taints, s.obj.Spec.Tolerations, func(taint *v1.Taint) bool {
		return repels(taint) && (!unfit || taint.Key != v1.TaintNodeNotReady)
	}, false)
	if found {
		return refused{reason: tainted, taint: &taint}
	}
	return refused{}
}

func repels(taint *v1.Taint) bool {
	return (taint.Effect == v1.TaintEffectNoSchedule || taint.Effect == v1.TaintEffectNoExecute) && !isFailingTaint(*taint) // checkFailures knows better
}

func tolerates(pod *v1.Pod, key string) bool {
	taint := v1.Taint{Key: key, Effect: v1.TaintEffectNoSchedule}
	return corev1helpers.TolerationsTolerateTaint(klog.Logger{}, pod.Spec.Tolerations, &taint, false)
}

// checkResources: is there enough for the pod, and for the executor if it has to be launched with it?
func (v *view) checkResources(s *shape) refused {
	for i, want := range s.demand.Scalars {
		if want <= v.have[i] {
			continue
		}
		short := refused{reason: tooSmall, scalar: i, most: v.have[i]}
		if len(v.offers) > 0 && want <= v.agent.total.scalars[i]-v.charge.Sum(scalarNames[i]) {
			short.reason = busy
		}
		return short
	}
	if v.lacksForCompanion() {
		return refused{reason: minionShort}
	}
	if s.wish != nil && s.wish.revocable > 0 {
		return v.checkRevocable(s)
	}
	return refused{}
}

// checkPorts: are all host ports free?
func (v *view) checkPorts(s *shape) refused {
	var missing []uint64
	for _, port := range s.demand.Ports {
		if !v.free.HasPort(port) {
			missing = append(missing, port)
		}
	}
	if len(missing) == 0 {
		if s.wish != nil {
			return v.checkWildcards(s)
		}
		return refused{}
	}
	return refused{reason: portsMissing, ports: missing}
}

// checkExecutor: does the agent take tasks, does no executor run there, or ours, and do we know how it was launched?
func (v *view) checkExecutor() refused {
	switch {
	case v.drains:
		return refused{reason: draining}
	case v.charge != nil && v.installs.full(v.agent):
		return refused{reason: installing}
	case len(v.offers) == 0:
		return refused{reason: offersNothing}
	case v.stranger != "":
		return refused{reason: otherExecutor, runs: v.stranger}
	case v.coming:
		return refused{reason: beingPrepared}
	case v.record == nil && v.hopeless:
		return refused{reason: noExecutor}
	case v.record == nil:
		return refused{reason: beingPrepared, reserve: true}
	}
	return refused{}
}

// take takes what a pod demands out of the view, and what the executor is charged if it comes with this pod. The pod
// must have passed the checks.
func (v *view) take(d *Demand) offers.Resources {
	v.free.Remove(v.charge)
	v.charge = nil
	all := make(offers.Resources, 0, d.kinds())
	for i, name := range scalarNames {
		all, _ = v.free.Draw(name, d.Scalars[i], all)
		v.have[i] -= d.Scalars[i]
	}
	for _, port := range d.Ports {
		taken, _ := v.free.DrawPort(port)
		all = append(all, taken)
	}
	return all
}

// summary counts refusals with the same words and remembers the most that any of the agents has.
type summary struct {
	shape     *shape
	roles     string // that the pod depends on, as words
	agents    int
	preparing int // whose refusal may be gone in a moment
	counts    []count
}

// count is how many agents refuse a pod in the same words.
type count struct {
	refused
	agents           int
	singular, plural string
}

func (s *summary) add(r refused) {
	s.agents++
	if r.reason == beingPrepared {
		s.preparing++
		return
	}
	singular, plural := r.words(s.shape, s.roles)
	for i := range s.counts {
		if c := &s.counts[i]; c.singular == singular {
			c.agents++
			c.most, c.spare = max(c.most, r.most), max(c.spare, r.spare)
			return
		}
	}
	s.counts = append(s.counts, count{r, 1, singular, plural})
}

// message tells an operator why the pod waits.
func (s *summary) message(d Demand) string {
	if s.shape.wish.wrong() {
		return s.shape.wish.problem
	}
	if s.agents == 0 {
		return "0/0 agents can run it: no Mesos agent has made an offer yet"
	}
	counts := s.counts
	if s.preparing > 0 {
		singular, plural := refused{reason: beingPrepared}.words(s.shape, s.roles)
		counts = append(counts, count{refused{reason: beingPrepared}, s.preparing, singular, plural})
	}
	parts := make([]string, len(counts))
	for i, c := range counts {
		parts[i] = fmt.Sprintf("%d %s", c.agents, c.singular)
		if c.reason.ofPod() {
			parts[i] = c.singular
		} else if c.agents > 1 {
			parts[i] = fmt.Sprintf("%d %s", c.agents, c.plural)
		}
		if s.shape.key.node != "" {
			parts[i] = "it " + c.singular
		}
		switch c.reason {
		case busy, tooSmall:
			parts[i] += fmt.Sprintf(" (want %s, most free %s)", d.Scalars[c.scalar], c.most)
		case insufficient:
			parts[i] += fmt.Sprintf(" (want %s, most free %s)", amountOf(c.scalar, s.shape.requests[c.scalar]), amountOf(c.scalar, c.spare))
		case revocableShort:
			parts[i] += fmt.Sprintf(" (want %s, most free %s)", s.shape.wish.revocable, c.most)
		case portsShort:
			parts[i] += fmt.Sprintf(" (want %d, most free %d)", len(s.shape.wish.wildcards), c.most)
		}
	}
	if s.shape.key.node != "" {
		return fmt.Sprintf("node %s that it is bound to cannot run it: %s", s.shape.key.node, strings.Join(parts, ", "))
	}
	return fmt.Sprintf("0/%d agents can run it: %s", s.agents, strings.Join(parts, ", "))
}
