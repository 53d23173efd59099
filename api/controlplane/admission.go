package controlplane

import (
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
)

// assignedAddresses lets only the scheduler write a pod's assigned pool address, because the pod's node uses whatever it says
// (https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/).
func assignedAddresses() []object {
	meta := metav1.ObjectMeta{Name: "k8sm-assigned-addresses"}
	kind := func(kind string) metav1.TypeMeta {
		return metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: kind}
	}
	value := func(object string) string {
		return fmt.Sprintf("(%s != null && has(%[1]s.metadata.annotations) && '%s' in %[1]s.metadata.annotations ? %[1]s.metadata.annotations['%[2]s'] : '')",
			object, api.AnnotationIPAssigned)
	}
	exact := admissionv1.Exact
	rule := func(operations []admissionv1.OperationType, resource string) admissionv1.NamedRuleWithOperations {
		return admissionv1.NamedRuleWithOperations{RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: operations,
			Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{resource}},
		}}
	}
	return []object{
		&admissionv1.ValidatingAdmissionPolicy{
			TypeMeta: kind("ValidatingAdmissionPolicy"), ObjectMeta: meta,
			Spec: admissionv1.ValidatingAdmissionPolicySpec{
				MatchConstraints: &admissionv1.MatchResources{MatchPolicy: &exact, ResourceRules: []admissionv1.NamedRuleWithOperations{
					rule([]admissionv1.OperationType{admissionv1.Create, admissionv1.Update}, "pods"),
					rule([]admissionv1.OperationType{admissionv1.Create}, "pods/binding"),
				}},
				MatchConditions: []admissionv1.MatchCondition{
					{Name: "not-the-scheduler", Expression: fmt.Sprintf("request.userInfo.username != '%s'", api.SchedulerUser)},
				},
				Validations: []admissionv1.Validation{{
					Expression: value("object") + " == " + value("oldObject"),
					Message:    "annotation " + api.AnnotationIPAssigned + " may only be written by the scheduler: request an address with " + api.AnnotationIPPool,
				}},
			},
		},
		&admissionv1.ValidatingAdmissionPolicyBinding{
			TypeMeta: kind("ValidatingAdmissionPolicyBinding"), ObjectMeta: meta,
			Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
				PolicyName: meta.Name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
			},
		},
	}
}
