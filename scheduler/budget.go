package scheduler

import (
	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// budget is what a PodDisruptionBudget allows
// (https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-budgets).
type budget struct {
	namespace string
	selector  labels.Selector
	allowed   int32 // minus the pods preempted since its status was read
	disrupted map[string]metav1.Time
}

// budgetSeen handles a PodDisruptionBudget that is new or changed.
func (pm *preempting) budgetSeen(obj *policyv1.PodDisruptionBudget) {
	selector, err := metav1.LabelSelectorAsSelector(obj.Spec.Selector)
	if err != nil || selector.Empty() { // as in kube-scheduler, it selects no pods
		delete(pm.budgets, obj.UID)
		return
	}
	pm.budgets[obj.UID] = &budget{
		namespace: obj.Namespace, selector: selector,
		allowed: obj.Status.DisruptionsAllowed, disrupted: obj.Status.DisruptedPods,
	}
}

// guards reports whether the pod's eviction counts against the budget. It does not if the API server has already counted it.
func (b *budget) guards(pod *v1.Pod) bool {
	if _, counted := b.disrupted[pod.Name]; counted || pod.Namespace != b.namespace || len(pod.Labels) == 0 {
		return false
	}
	return b.selector.Matches(labels.Set(pod.Labels))
}

// violations returns for each occupant whether preempting it, after those before it, would violate a budget.
func (pm *preempting) violations(occupants []occupant) []bool {
	violates := make([]bool, len(occupants))
	for _, b := range pm.budgets {
		left := b.allowed
		for i := range occupants {
			if !b.guards(occupants[i].pod.Obj) {
				continue
			}
			left--
			violates[i] = violates[i] || left < 0
		}
	}
	return violates
}

// spend counts a preempted pod against its budgets until their status shows it.
func (pm *preempting) spend(pod *v1.Pod) {
	for _, b := range pm.budgets {
		if b.guards(pod) {
			b.allowed--
		}
	}
}
