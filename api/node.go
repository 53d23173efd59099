package api

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AnnotationAgentAddress, on a node, is the "ip:port" of its agent. An agent that returns at the same address with a new id has lost
// its state and takes over the node's name.
const AnnotationAgentAddress = "k8sm.io/agent-address"

// Annotations, on a node, about the operators' plans for its agent.
const (
	// AnnotationMaintenance is the planned maintenance, as "start/end" in RFC 3339; without a planned end, "start/..".
	AnnotationMaintenance = "k8sm.io/maintenance"
	// AnnotationCordoned says that the scheduler has cordoned the node, and for what: one of CordonedForMaintenance,
	// CordonedForRollout and CordonedForDraining. It takes back no other cordon.
	AnnotationCordoned = "k8sm.io/cordoned-for"
)

// Values of AnnotationCordoned.
const (
	CordonedForMaintenance = "maintenance" // an operator has planned maintenance of the agent
	CordonedForRollout     = "rollout"     // the minion is replaced
	CordonedForDraining    = "draining"    // an operator drains the agent
)

// Annotations, on a node, that its minion writes when it starts, and writes again should they be lost. They stay when the
// minion ends.
const (
	// AnnotationKMVersion is the version of the minion's km.
	AnnotationKMVersion = "k8sm.io/km-version"
	// AnnotationMinionStarted is the minion's start time in RFC 3339: another time means another minion.
	AnnotationMinionStarted = "k8sm.io/minion-started"
	// AnnotationSettings is the MinionConfig.Settings that the minion has taken.
	AnnotationSettings = "k8sm.io/minion-settings"
	// AnnotationStatusPort is the port at which the minion serves its metrics, at the node's first InternalIP. A scraper that trusts it
	// trusts no more than the node: it has to check the certificate for the node's name or address.
	AnnotationStatusPort = "k8sm.io/status-port"
	// AnnotationAuthorities is Authorities as JSON: which CAs the minion and its kubelet know.
	AnnotationAuthorities = "k8sm.io/authorities"
)

// NodeOwnAnnotations are those with KeyPrefix that a node may write on its own Node object. All others, and all such labels, are the
// scheduler's: other nodes trust them.
func NodeOwnAnnotations() []string {
	return []string{AnnotationKMVersion, AnnotationMinionStarted, AnnotationSettings, AnnotationStatusPort, AnnotationAuthorities}
}

// NodeOperatorAnnotations are those that operators may write, too.
func NodeOperatorAnnotations() []string { return []string{AnnotationRollout} }

// TaintAgentFailing, with the effect NoSchedule, is on a node whose Mesos agent has failed several tasks in a row before they
// ran: it cannot fetch or start the minion, or the kubelet does not start. The scheduler itself tries a pod there now and then,
// and takes the taint away when one runs.
const TaintAgentFailing = "k8sm.io/agent-failing"

// ReadyCondition returns a copy of the node's condition Ready, the zero value if it has none
// (https://kubernetes.io/docs/reference/node/node-status/#condition). Its writer is the kubelet, or the scheduler where none has
// run yet.
func ReadyCondition(node *v1.Node) v1.NodeCondition {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == v1.NodeReady {
			return node.Status.Conditions[i]
		}
	}
	return v1.NodeCondition{}
}

// NodeReady tells whether the node's condition Ready is true.
func NodeReady(node *v1.Node) bool { return ReadyCondition(node).Status == v1.ConditionTrue }

// AnnotationSchedulerRenewed, on a node's lease, is the LeaseTime of the scheduler's last renewal.
const AnnotationSchedulerRenewed = "k8sm.io/scheduler-renewed"

// LeaseTime formats the time of a renewal.
func LeaseTime(t metav1.MicroTime) string { return t.UTC().Format(metav1.RFC3339Micro) }

// KubeletRenewed reports whether a kubelet has renewed the node's lease last, and not the scheduler: it keeps the scheduler's annotation
// and the holder.
func KubeletRenewed(lease *coordinationv1.Lease) bool {
	renewed := lease.Spec.RenewTime
	return renewed != nil && lease.Annotations[AnnotationSchedulerRenewed] != LeaseTime(*renewed)
}
