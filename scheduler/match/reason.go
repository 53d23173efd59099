package match

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// refusal is why a pod cannot have its task on an agent. It is put into words by a summary only.
type refusal struct {
	reason  reason
	scalar  int          // the resource that is short, in ScalarNames; then the numbers are told, too
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
	tooManyPods
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
	extendedShort
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

func (r refusal) ok() bool { return r.reason == fits }

// words are what goes behind a number of agents: "1 has …", "2 have …".
func (r refusal) words(s *Class, roles string) (singular, plural string) {
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
	case tooManyPods:
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
		text := " too little " + ScalarNames[r.scalar] + " now" + with(" for ", roles)
		return "is busy: it has" + text, "are busy: they have" + text
	case tooSmall:
		text := " too little " + ScalarNames[r.scalar] + with(" for ", roles)
		return "has" + text, "have" + text
	case insufficient:
		text := "Insufficient " + string(RequestNames[r.scalar])
		return text, text
	case extendedShort:
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

// Summary counts refusals with the same words and remembers the most that any of the agents has.
type Summary struct {
	class     *Class
	roles     string // that the pod depends on, as words
	agents    int
	preparing int // whose refusal may be gone in a moment
	counts    []count
}

// count is how many agents refuse a pod in the same words.
type count struct {
	refusal
	agents           int
	singular, plural string
}

func (s *Summary) add(r refusal) {
	s.agents++
	if r.reason == beingPrepared {
		s.preparing++
		return
	}
	singular, plural := r.words(s.class, s.roles)
	for i := range s.counts {
		if c := &s.counts[i]; c.singular == singular {
			c.agents++
			c.most, c.spare = max(c.most, r.most), max(c.spare, r.spare)
			return
		}
	}
	s.counts = append(s.counts, count{r, 1, singular, plural})
}

// String tells an operator why the pod waits.
func (s *Summary) String() string {
	if s.class.asks.Wrong() {
		return s.class.asks.problem
	}
	if s.agents == 0 {
		return "0/0 agents can run it: no Mesos agent has made an offer yet"
	}
	counts := s.counts
	if s.preparing > 0 {
		singular, plural := refusal{reason: beingPrepared}.words(s.class, s.roles)
		counts = append(counts, count{refusal{reason: beingPrepared}, s.preparing, singular, plural})
	}
	parts := make([]string, len(counts))
	for i, c := range counts {
		parts[i] = fmt.Sprintf("%d %s", c.agents, c.singular)
		if c.reason.ofPod() {
			parts[i] = c.singular
		} else if c.agents > 1 {
			parts[i] = fmt.Sprintf("%d %s", c.agents, c.plural)
		}
		if s.class.key.node != "" {
			parts[i] = "it " + c.singular
		}
		switch c.reason {
		case busy, tooSmall:
			parts[i] += fmt.Sprintf(" (want %s, most free %s)", s.class.demand.Scalars[c.scalar], c.most)
		case insufficient:
			parts[i] += fmt.Sprintf(" (want %s, most free %s)", Amount(c.scalar, s.class.requests[c.scalar]), Amount(c.scalar, c.spare))
		case revocableShort:
			parts[i] += fmt.Sprintf(" (want %s, most free %s)", s.class.asks.revocable, c.most)
		case portsShort:
			parts[i] += fmt.Sprintf(" (want %d, most free %d)", len(s.class.asks.wildcards), c.most)
		}
	}
	if s.class.key.node != "" {
		return fmt.Sprintf("node %s that it is bound to cannot run it: %s", s.class.key.node, strings.Join(parts, ", "))
	}
	return fmt.Sprintf("0/%d agents can run it: %s", s.agents, strings.Join(parts, ", "))
}
