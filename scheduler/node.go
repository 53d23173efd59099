package scheduler

import (
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler/match"
)

// maxPods is what a kubelet takes by default
// (https://kubernetes.io/docs/setup/best-practices/cluster-large/).
const maxPods = 110

// newNode returns an agent's node object, until the kubelet takes over its status
// (https://kubernetes.io/docs/concepts/architecture/nodes/).
func (as *agents) newNode(a *agent) *v1.Node {
	capacity := a.Total.Scalars
	allocatable := capacity
	for i, amount := range as.minionOf(a).Scalars {
		allocatable[i] = max(0, allocatable[i]-amount)
	}
	return &v1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name:        a.Node,
			Labels:      agentLabels(a),
			Annotations: map[string]string{api.AnnotationAgentAddress: a.address},
		},
		Spec: v1.NodeSpec{ProviderID: api.ProviderID(a.ID)},
		Status: v1.NodeStatus{
			Capacity:    resourceList(capacity),
			Allocatable: resourceList(allocatable),
			Addresses:   addresses(a),
			Conditions:  []v1.NodeCondition{ReadyWithoutKubelet()},
		},
	}
}

// ReadyWithoutKubelet returns the condition Ready of a node whose agent offers resources and whose kubelet starts with the first
// pod. The caller sets its times.
func ReadyWithoutKubelet() v1.NodeCondition {
	return v1.NodeCondition{
		Type:    v1.NodeReady,
		Status:  v1.ConditionTrue,
		Reason:  "AgentOffersResources",
		Message: "The Mesos agent offers resources; the kubelet starts with the first pod.",
	}
}

// Condition returns the condition Ready to write. The caller sets its times.
func (a MarkReady) Condition() v1.NodeCondition {
	condition := ReadyWithoutKubelet()
	if a.Unfit != "" {
		condition.Status, condition.Reason = v1.ConditionFalse, match.UnfitReason
		condition.Message = a.Unfit + ". A pod is tried there now and then."
	}
	return condition
}

// resourceList converts an agent's resources to those of a node.
func resourceList(scalars [match.NumScalars]offers.Milli) v1.ResourceList {
	list := v1.ResourceList{
		v1.ResourceCPU:              *resource.NewMilliQuantity(int64(scalars[0]), resource.DecimalSI),
		v1.ResourceMemory:           *resource.NewQuantity(int64(scalars[1])<<20/1000, resource.BinarySI),
		v1.ResourceEphemeralStorage: *resource.NewQuantity(int64(scalars[2])<<20/1000, resource.BinarySI),
		v1.ResourcePods:             *resource.NewQuantity(maxPods, resource.DecimalSI),
	}
	if scalars[3] > 0 {
		list[match.GPUResource] = *resource.NewQuantity(int64(scalars[3])/1000, resource.DecimalSI)
	}
	return list
}

// addresses returns the addresses that the kubelet will report, as far as they are known: a kubelet requests its serving certificate
// for those in the status. The address of an agent on loopback is not known.
func addresses(a *agent) []v1.NodeAddress {
	list := []v1.NodeAddress{{Type: v1.NodeHostName, Address: a.Node}}
	if ip, err := netip.ParseAddr(a.last.IP); err == nil && !ip.IsLoopback() {
		list = append([]v1.NodeAddress{{Type: v1.NodeInternalIP, Address: a.last.IP}}, list...)
	}
	return list
}

// agentLabels returns the node's labels that come from the agent. Mesos does not know an agent's architecture: it is assumed to
// be ours until the kubelet corrects it.
func agentLabels(a *agent) map[string]string {
	labels := map[string]string{
		v1.LabelHostname:   api.LabelValue(a.Node),
		v1.LabelOSStable:   "linux",
		v1.LabelArchStable: runtime.GOARCH,
	}
	for _, attribute := range a.last.Attributes {
		labels[api.AttributeLabel(attribute.Name)] = api.LabelValue(attribute.Value)
	}
	if a.last.Region != "" {
		labels[v1.LabelTopologyRegion] = api.LabelValue(a.last.Region)
		labels[v1.LabelTopologyZone] = api.LabelValue(a.last.Zone)
	}
	return labels
}

// staleLabels returns the changes that give the node the labels of its agent; nil removes a label. It does not correct the values
// of labels that the kubelet writes.
func staleLabels(node *v1.Node, want map[string]string) map[string]*string {
	stale := map[string]*string{}
	for key := range node.Labels {
		if _, wanted := want[key]; !wanted && strings.HasPrefix(key, api.LabelAttributePrefix) {
			stale[key] = nil
		}
	}
	for key, value := range want {
		if have, found := node.Labels[key]; !found || have != value && strings.HasPrefix(key, api.LabelAttributePrefix) {
			wanted := value // a copy, so that other values stay off the heap
			stale[key] = &wanted
		}
	}
	return stale
}

// labelText describes changes of labels as kubectl label takes them.
func labelText(labels map[string]*string) string {
	parts := make([]string, 0, len(labels))
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if labels[key] == nil {
			parts = append(parts, "-"+key)
			continue
		}
		parts = append(parts, key+"="+*labels[key])
	}
	return strings.Join(parts, " ")
}
