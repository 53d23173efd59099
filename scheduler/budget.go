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
	allowed   int32 // less what was preempted since its status was read
	disrupted map[string]metav1.Time
}

func (pm *preempting) budgetSeen(obj *policyv1.PodDisruptionBudget) {
	selector, err := metav1.LabelSelectorAsSelector(obj.Spec.Selector)
	if err != nil || selector.Empty() { // as in kube-scheduler, it is about no pod
		delete(pm.budgets, obj.UID)
		return
	}
	pm.budgets[obj.UID] = &budget{
		namespace: obj.Namespace, selector: selector,
		allowed: obj.Status.DisruptionsAllowed, disrupted: obj.Status.DisruptedPods,
	}
}

// guards tells whether the end of the pod counts against the budget. It does not once the API server has counted it.
func (b *budget) guards(pod *v1.Pod) bool {
	if _, counted := b.disrupted[pod.Name]; counted || pod.Namespace != b.namespace || len(pod.Labels) == 0 {
		return false
	}
	return b.selector.Matches(labels.Set(pod.Labels))
}

// violations tells of each occupant whether a budget would be violated if it and those before it were preempted.
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

// spend counts a pod that is being preempted, until the budget's status shows it.
func (pm *preempting) spend(pod *v1.Pod) {
	for _, b := range pm.budgets {
		if b.guards(pod) {
			b.allowed--
		}
	}
}
