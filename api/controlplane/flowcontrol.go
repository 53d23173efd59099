package controlplane

import (
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
)

// flowLevel is the priority level of our programs. Kubernetes' own suggestions know kube-scheduler, not ours: it would share a level
// with all tenants.
const flowLevel = "k8sm"

// flowControl gives the scheduler, the DNS servers, the metrics servers and the log stores a part of the API server's concurrency that no tenant can use up
// (https://kubernetes.io/docs/concepts/cluster-administration/flow-control/). The leases of nodes without a kubelet, which the
// scheduler renews, do not wait behind a burst of its bindings. Those of kubelets have the stock level node-high.
func flowControl() []object {
	all := []string{"*"}
	everything := flowcontrolv1.ResourcePolicyRule{Verbs: all, APIGroups: all, Resources: all, Namespaces: all, ClusterScope: true}
	leases := flowcontrolv1.ResourcePolicyRule{
		Verbs: all, APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Namespaces: []string{corev1.NamespaceNodeLease},
	}
	return []object{
		priorityLevel(),
		flowSchema("k8sm-node-leases", 400, api.SchedulerUser, leases),
		flowSchema("k8sm-scheduler", 800, api.SchedulerUser, everything),
		flowSchema("k8sm-dns", 800, api.DNSUser, everything),
		flowSchema("k8sm-metrics", 800, api.MetricsUser, everything),
		flowSchema("k8sm-logs", 800, api.LogsUser, everything),
	}
}

// priorityLevel has as large a part as that of kube-controller-manager, and lends as much of it while it is idle.
func priorityLevel() object {
	shares, lendable := int32(40), int32(50)
	return &flowcontrolv1.PriorityLevelConfiguration{
		TypeMeta: flowType("PriorityLevelConfiguration"), ObjectMeta: metav1.ObjectMeta{Name: flowLevel},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
			Type: flowcontrolv1.PriorityLevelEnablementLimited,
			Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
				NominalConcurrencyShares: &shares, LendablePercent: &lendable,
				LimitResponse: flowcontrolv1.LimitResponse{
					Type:    flowcontrolv1.LimitResponseTypeQueue,
					Queuing: &flowcontrolv1.QueuingConfiguration{Queues: 16, HandSize: 4, QueueLengthLimit: 50},
				},
			},
		},
	}
}

func flowSchema(name string, precedence int32, user string, rule flowcontrolv1.ResourcePolicyRule) object {
	return &flowcontrolv1.FlowSchema{
		TypeMeta: flowType("FlowSchema"), ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: flowLevel},
			MatchingPrecedence:         precedence,
			Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
				Subjects:      []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: user}}},
				ResourceRules: []flowcontrolv1.ResourcePolicyRule{rule},
			}},
		},
	}
}

func flowType(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: flowcontrolv1.SchemeGroupVersion.String(), Kind: kind}
}
