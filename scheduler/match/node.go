package match

import (
	"cmp"
	"math"
	"strconv"

	v1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// Node is a node with the pods on it.
type Node struct {
	name string
	obj  *v1.Node // nil while it does not exist
	pods []*occupant
	// limit is the maximum number of pods, and limitText the same as text.
	limit     int
	limitText string
	// extended is what the pods use of the node's extended resources.
	extended Extended
	// untracked is what the pods without a task use. Mesos does not know them, but the kubelet refuses a pod that does not fit
	// beside them.
	untracked [NumScalars]offers.Milli
	// admits is what the kubelet admits, and requested the sum of the requests of the pods on the node.
	admits     admission
	requested  Requests
	refusedPod bool // a pod was refused because of its requests
}

// nodeFor returns the node with this name, which need not exist yet.
func (x *Index) nodeFor(name string) *Node {
	n := x.nodes[name]
	if n == nil {
		n = &Node{name: name, limit: math.MaxInt}
		x.nodes[name] = n
	}
	return n
}

// agent returns the agent of the node; nil if the node does not exist, or its agent is unknown.
func (n *Node) agent(x *Index) *Agent {
	if n.obj == nil {
		return nil
	}
	id, _ := api.AgentOfProviderID(n.obj.Spec.ProviderID)
	return x.byID[id]
}

// full tells whether the node has its maximum number of pods. Without allocatable pods there is no maximum.
func (n *Node) full() bool { return n != nil && len(n.pods) >= n.limit }

// setObject stores the current object of the node.
func (n *Node) setObject(obj *v1.Node) {
	n.obj, n.limit, n.limitText, n.admits = obj, math.MaxInt, "", admission{}
	if obj == nil {
		return
	}
	n.admits = admissionOf(obj)
	if pods, found := obj.Status.Allocatable[v1.ResourcePods]; found {
		n.limit = int(pods.Value())
		n.limitText = strconv.Itoa(n.limit)
	}
}

// checkNode checks node name, selector, affinity, cordon and health
// (https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/)
func (v *View) checkNode(c *Class) refusal {
	if v.obj == nil {
		return refusal{reason: beingPrepared}
	}
	if c.key.node != "" {
		if c.key.node != v.obj.Name {
			return refusal{reason: otherNode}
		}
		return refusal{}
	}
	if c.affinity != nil {
		if match, err := c.affinity.Match(v.obj); err != nil || !match {
			for key, value := range c.obj.Spec.NodeSelector {
				if have, found := v.obj.Labels[key]; !found || have != value {
					return refusal{reason: selectorMismatch}
				}
			}
			return refusal{reason: affinityMismatch}
		}
	}
	if (v.obj.Spec.Unschedulable || v.closed != "") && !c.toleratesCordon {
		switch cmp.Or(v.closed, v.obj.Annotations[api.AnnotationCordoned]) {
		case "":
			return refusal{reason: cordoned}
		case api.CordonedForRollout:
			return refusal{reason: rollingOut}
		case api.CordonedForDraining:
			return refusal{reason: draining}
		}
		return refusal{reason: maintenance}
	}
	return v.checkHealth(c)
}

// checkHealth checks that the node is ready, that tasks do not fail there, and that the pod tolerates the node's taints.
func (v *View) checkHealth(c *Class) refusal {
	ready := api.NodeReady(v.obj)
	unfit := !ready && Unfit(v.obj) // then the Guard decides when to retry the agent
	if !ready && !c.toleratesNotReady && !unfit {
		return refusal{reason: notReady}
	}
	if guard := v.Agent.Guard; guard != nil {
		if guard.Fails() {
			return refusal{reason: failing}
		}
		if why := guard.Rejects(&c.requests, c.extended); why != "" {
			return refusal{reason: rejecting, what: why}
		}
	}
	if len(v.obj.Spec.Taints) == 0 {
		return refusal{}
	}
	taint, found := corev1helpers.FindMatchingUntoleratedTaint(klog.Logger{}, v.obj.Spec.Taints, c.obj.Spec.Tolerations, func(taint *v1.Taint) bool {
		return doNotSchedule(taint) && (!unfit || taint.Key != v1.TaintNodeNotReady)
	}, false)
	if found {
		return refusal{reason: tainted, taint: &taint}
	}
	return refusal{}
}

// doNotSchedule tells whether the taint keeps pods off. It skips the taint of a failing agent, for which the Guard decides.
func doNotSchedule(taint *v1.Taint) bool {
	return (taint.Effect == v1.TaintEffectNoSchedule || taint.Effect == v1.TaintEffectNoExecute) && taint.Key != api.TaintAgentFailing
}

func tolerates(pod *v1.Pod, key string) bool {
	taint := v1.Taint{Key: key, Effect: v1.TaintEffectNoSchedule}
	return corev1helpers.TolerationsTolerateTaint(klog.Logger{}, pod.Spec.Tolerations, &taint, false)
}

// UnfitReason is the reason in the Ready condition of a node whose minion cannot run pods.
const UnfitReason = "AgentCannotRunPods"

// Unfit tells whether the last minion on the node could not run pods.
func Unfit(node *v1.Node) bool {
	ready := api.ReadyCondition(node)
	return ready.Status == v1.ConditionFalse && ready.Reason == UnfitReason
}
