package match

import (
	"fmt"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// refusal is why an agent does not get a pod. Only a Summary formats it, because most refusals are never shown.
type refusal struct {
	reason   reason
	index    int          // index of the insufficient resource, in ScalarNames or RequestNames
	free     offers.Milli // the free amount, or number of ports
	taint    *v1.Taint
	ports    []uint64       // the missing ports
	executor api.ExecutorID // the other executor
	spare    int64          // how much of the resource the kubelet still admits
	what     string         // the topology key, claim, volume or resource, or the number of pods
	reserve  bool           // the pod fits once the executor is prepared: reserve the place
}

// reason is a kind of refusal.
type reason int

// The reasons, in an order that nearestRefusal ranks them by.
const (
	fits reason = iota
	beingPrepared
	otherNode
	selectorMismatch
	affinityMismatch
	cordoned
	maintenance
	draining
	rollingOut
	notReady
	tainted
	failing
	rejecting
	tooManyPods
	affinityUnmet
	antiAffinityUnmet
	existingAntiAffinity
	topologyMissing
	skewed
	claimMissing
	claimDeleting
	claimLost
	claimNotForPod
	claimInUse
	claimUnbound
	volumeMissing
	volumeElsewhere
	claimElsewhere
	noVolume
	offersShort
	agentShort
	kubeletShort
	extendedShort
	portsMissing
	portsShort
	otherRole
	revocableShort
	executorMixes
	minionShort
	nominated
	kubeletNewer
	installing
	offersNothing
	otherExecutor
	noExecutor
	unreachable

	numReasons
)

func (r refusal) ok() bool { return r.reason == fits }

// kubernetesNames are the names of the scalars in Kubernetes.
var kubernetesNames = [NumScalars]v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage, GPUResource}

// words returns the phrase that follows the number of nodes. It is kube-scheduler's if there is one, so that people find it.
func (r refusal) words(c *Class, roles string) string {
	for _, words := range [...]func(*Class, string) string{r.wordsOfNode, r.wordsOfPods, r.wordsOfVolumes, r.wordsOfResources} {
		if text := words(c, roles); text != "" {
			return text
		}
	}
	return r.wordsOfAgent(roles)
}

// wordsOfNode returns the phrase if the reason is the node itself; else "".
func (r refusal) wordsOfNode(c *Class, _ string) string {
	switch r.reason {
	case otherNode:
		return "node(s) didn't match the requested node name " + c.key.node
	case selectorMismatch:
		return "node(s) didn't match Pod's node affinity/selector (" + labels.FormatLabels(c.obj.Spec.NodeSelector) + ")"
	case affinityMismatch:
		return "node(s) didn't match Pod's node affinity/selector"
	case cordoned:
		return "node(s) were unschedulable"
	case maintenance:
		return "node(s) were unschedulable (maintenance is planned)"
	case draining:
		return "node(s) were unschedulable (Mesos drains the agent)"
	case rollingOut:
		return "node(s) were unschedulable (the minion is replaced)"
	case notReady:
		return "node(s) were not ready"
	case tainted:
		return fmt.Sprintf("node(s) had untolerated taint {%s: %s}", r.taint.Key, r.taint.Value)
	case failing:
		return "node(s) failed tasks before they ran (see the events of the node)"
	case rejecting:
		return r.what
	}
	return ""
}

// wordsOfPods returns the phrase if the reason is other pods; else "".
func (r refusal) wordsOfPods(*Class, string) string {
	switch r.reason {
	case tooManyPods:
		return "Too many pods (" + r.what + " of " + r.what + ")"
	case affinityUnmet:
		return "node(s) didn't match pod affinity rules (" + r.what + ")"
	case antiAffinityUnmet:
		return "node(s) didn't match pod anti-affinity rules (" + r.what + ")"
	case existingAntiAffinity:
		return "node(s) didn't satisfy existing pods anti-affinity rules (" + r.what + ")"
	case topologyMissing:
		return "node(s) didn't match pod topology spread constraints (missing required label " + r.what + ")"
	case skewed:
		return "node(s) didn't match pod topology spread constraints (" + r.what + ")"
	}
	return ""
}

// wordsOfVolumes returns the phrase if the reason is a claim or volume; else "".
func (r refusal) wordsOfVolumes(*Class, string) string {
	claim := fmt.Sprintf("persistentvolumeclaim %q", r.what)
	switch r.reason {
	case claimMissing:
		return claim + " not found"
	case claimDeleting:
		return claim + " is being deleted"
	case claimLost:
		return claim + " has lost its persistentvolume"
	case claimNotForPod:
		return claim + " was not created for the pod"
	case claimInUse:
		return claim + " has ReadWriteOncePod access mode and is already in-use by another pod"
	case claimUnbound:
		return "pod has unbound immediate PersistentVolumeClaims (" + r.what + ")"
	case volumeMissing:
		return fmt.Sprintf("a persistentvolumeclaim is bound to non-existent persistentvolume %q", r.what)
	case volumeElsewhere:
		return "node(s) didn't match PersistentVolume's node affinity (" + r.what + ")"
	case claimElsewhere:
		return "node(s) were not the one that was selected for " + claim
	case noVolume:
		return "node(s) didn't find available persistent volumes to bind (" + r.what + ")"
	}
	return ""
}

// wordsOfResources returns the phrase if the reason is insufficient resources; else "". It says whether the offers, the whole
// agent or the kubelet has too little.
func (r refusal) wordsOfResources(_ *Class, roles string) string {
	switch r.reason {
	case offersShort:
		return fmt.Sprintf("Insufficient %s in offers", kubernetesNames[r.index]) + suffix(" for ", roles)
	case agentShort:
		return fmt.Sprintf("Insufficient %s on the agent", kubernetesNames[r.index]) + suffix(" for ", roles)
	case kubeletShort:
		return "Insufficient " + string(RequestNames[r.index])
	case extendedShort:
		return "Insufficient " + r.what
	case portsMissing:
		return fmt.Sprintf("node(s) didn't have free ports for the requested pod ports (%s)", strings.Trim(fmt.Sprint(r.ports), "[]"))
	case portsShort:
		return "node(s) didn't have enough free ports in offers" + suffix(" for ", roles)
	case revocableShort:
		return "Insufficient revocable cpus in offers" + suffix(" for ", roles)
	case minionShort:
		return "Insufficient resources for a minion"
	}
	return ""
}

// wordsOfAgent returns the phrase if the reason is the Mesos agent or its executor, or something that will be over soon.
func (r refusal) wordsOfAgent(roles string) string {
	switch r.reason {
	case executorMixes:
		return "agent(s) run an executor that was given cpus, beside which Mesos allows no revocable ones: it has to end first"
	case otherRole:
		return "agent(s) offer nothing now" + suffix(" to ", roles)
	case nominated:
		return "node(s) are nominated for pods of equal or higher priority"
	case kubeletNewer:
		return "node(s) need a kubelet that is newer than an API server (upgrade the API servers first)"
	case installing:
		return "agent(s) wait until others have fetched km (--max-concurrent-installs)"
	case offersNothing:
		return "agent(s) have enough but offer nothing now" + suffix(" to ", roles)
	case otherExecutor:
		return fmt.Sprintf("agent(s) run another version of our executor (%s)", r.executor)
	case noExecutor:
		return "agent(s) cannot be given an executor yet"
	case unreachable:
		return "agent(s) cannot be reached by Mesos"
	}
	return "node(s) are being prepared"
}

// suffix returns between and words; "" if words is "".
func suffix(between, words string) string {
	if words == "" {
		return ""
	}
	return between + words
}

// ofPod tells whether the reason is the same on every agent.
func (r reason) ofPod() bool { return r >= claimMissing && r <= volumeMissing }

// Summary says why all agents refuse a pod. It counts the refusals with the same phrase, and keeps the most that any agent has.
type Summary struct {
	class     *Class
	roles     string // the roles that the pod may use, as text
	agents    int
	preparing int // agents that may take the pod in a moment
	counts    []count
}

// count is the number of agents that refuse a pod with the same phrase.
type count struct {
	refusal
	agents int
	words  string
}

func (s *Summary) add(r refusal) {
	s.agents++
	if r.reason == beingPrepared {
		s.preparing++
		return
	}
	words := r.words(s.class, s.roles)
	for i := range s.counts {
		if c := &s.counts[i]; c.words == words {
			c.agents++
			c.free, c.spare = max(c.free, r.free), max(c.spare, r.spare)
			return
		}
	}
	s.counts = append(s.counts, count{r, 1, words})
}

// String formats the summary as kube-scheduler does.
func (s *Summary) String() string {
	if s.class.asks.Wrong() {
		return s.class.asks.problem
	}
	if s.agents == 0 {
		return "0/0 nodes are available: no Mesos agent has made an offer yet"
	}
	counts := s.counts
	if s.preparing > 0 {
		r := refusal{reason: beingPrepared}
		counts = append(counts, count{r, s.preparing, r.words(s.class, s.roles)})
	}
	parts := make([]string, len(counts))
	for i, c := range counts {
		parts[i] = fmt.Sprintf("%d %s", c.agents, c.words)
		if c.reason.ofPod() || s.class.key.node != "" {
			parts[i] = c.words
		}
		parts[i] += s.numbers(c)
	}
	if s.class.key.node != "" {
		return fmt.Sprintf("node %s, which the pod is bound to, is not available: %s", s.class.key.node, strings.Join(parts, ", "))
	}
	return fmt.Sprintf("0/%d nodes are available: %s", s.agents, strings.Join(parts, ", "))
}

// numbers returns the requested amount and the most that an agent has; "" if the reason has no amount.
func (s *Summary) numbers(c count) string {
	var want, most string
	switch c.reason {
	case offersShort, agentShort:
		want, most = s.class.demand.Scalars[c.index].String(), c.free.String()
	case kubeletShort:
		want, most = Amount(c.index, s.class.requests[c.index]), Amount(c.index, c.spare)
	case revocableShort:
		want, most = s.class.asks.revocable.String(), c.free.String()
	case portsShort:
		want, most = strconv.Itoa(len(s.class.asks.wildcards)), strconv.Itoa(int(c.free))
	default:
		return ""
	}
	return fmt.Sprintf(" (requested %s, most free %s)", want, most)
}
