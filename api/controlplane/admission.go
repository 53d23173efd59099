package controlplane

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
)

// admissionPolicy is a ValidatingAdmissionPolicy with its binding, without what all of them have in common. Its expressions are CEL
// (https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/).
type admissionPolicy struct {
	name string
	on   []admissionv1.NamedRuleWithOperations
	// in limits the policy to namespaces; empty means all. Where its user has no rights elsewhere, this spares all others: the API server
	// prepares the objects of a request for each policy, before it looks at any condition.
	in []string
	// of limits the policy to some requests; empty means all.
	of string
	// when limits it to requests of which it may refuse some; empty means all. The API server prepares the objects once for the conditions,
	// and three times more for what must hold, so this is for what is requested often.
	when string
	// let are variables, in the order in which they depend on each other.
	let  []admissionv1.Variable
	must []admissionv1.Validation
}

// objects returns the policy as add-ons.
func (p admissionPolicy) objects() []object {
	kind := func(kind string) metav1.TypeMeta {
		return metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: kind}
	}
	name := metav1.ObjectMeta{Name: p.name}
	exact := admissionv1.Exact
	matches := &admissionv1.MatchResources{MatchPolicy: &exact, ResourceRules: p.on}
	if len(p.in) > 0 {
		matches.NamespaceSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpIn, Values: p.in},
		}}
	}
	var conditions []admissionv1.MatchCondition
	all := slices.DeleteFunc([]string{p.of, p.when}, func(c string) bool { return c == "" })
	if len(all) > 0 { // one condition, because the API server evaluates each, whatever the first says
		conditions = []admissionv1.MatchCondition{{Name: "of", Expression: strings.Join(all, " && ")}}
	}
	return []object{
		&admissionv1.ValidatingAdmissionPolicy{
			TypeMeta: kind("ValidatingAdmissionPolicy"), ObjectMeta: name,
			Spec: admissionv1.ValidatingAdmissionPolicySpec{
				MatchConstraints: matches,
				MatchConditions:  conditions,
				Variables:        p.let,
				Validations:      p.must,
			},
		},
		&admissionv1.ValidatingAdmissionPolicyBinding{
			TypeMeta: kind("ValidatingAdmissionPolicyBinding"), ObjectMeta: name,
			Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
				PolicyName: p.name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
			},
		},
	}
}

// to matches an operation on resources of a group.
func to(group string, operations []admissionv1.OperationType, resources ...string) admissionv1.NamedRuleWithOperations {
	return admissionv1.NamedRuleWithOperations{RuleWithOperations: admissionv1.RuleWithOperations{
		Operations: operations,
		Rule:       admissionv1.Rule{APIGroups: []string{group}, APIVersions: []string{"v1"}, Resources: resources},
	}}
}

var (
	creating = []admissionv1.OperationType{admissionv1.Create}
	updating = []admissionv1.OperationType{admissionv1.Update}
	writing  = []admissionv1.OperationType{admissionv1.Create, admissionv1.Update}
	changing = []admissionv1.OperationType{admissionv1.Create, admissionv1.Update, admissionv1.Delete}
)

// by matches the requests of a user, and notBy all others.
func by(user string) string    { return "request.userInfo.username == " + literal(user) }
func notBy(user string) string { return "request.userInfo.username != " + literal(user) }

// byNodes matches the requests of nodes.
const byNodes = "request.userInfo.groups.exists(g, g == '" + api.NodesGroup + "')"

func variable(name, expression string) admissionv1.Variable {
	return admissionv1.Variable{Name: name, Expression: expression}
}

// must refuses a request for which the expression does not hold, with a message.
func must(expression, message string) admissionv1.Validation {
	forbidden := metav1.StatusReasonForbidden
	return admissionv1.Validation{Expression: expression, Message: message, Reason: &forbidden}
}

// mustName is must with a message that is an expression, too.
func mustName(expression, message string) admissionv1.Validation {
	v := must(expression, "")
	v.MessageExpression = message
	return v
}

// literal returns a text, or a list of texts, as CEL. JSON's are CEL's.
func literal[T string | []string](value T) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // texts never fail
	}
	return string(text)
}

// mapOf returns a map of texts below an object, such as metadata.?annotations; empty if it, or the object, is not there.
func mapOf(object, path string) string {
	return fmt.Sprintf("(%s == null ? {} : %[1]s.?%s.orValue({}))", object, path)
}

// changes returns variables whose last one, named as given, lists the keys of the map that the request adds, removes or changes.
func changes(name, path string) []admissionv1.Variable {
	before, after := "variables."+name+"Before", "variables."+name+"After"
	return []admissionv1.Variable{
		variable(name+"Before", mapOf("oldObject", path)),
		variable(name+"After", mapOf("object", path)),
		variable(name, fmt.Sprintf("%s.filter(k, !(k in %s) || %[2]s[k] != %[1]s[k]) + %[2]s.filter(k, !(k in %[1]s))", after, before)),
	}
}

// changesAny returns an expression that holds if the request adds, removes or changes one of these keys of the map. Most requests change
// nothing there, which one comparison tells.
func changesAny(path string, keys []string) string {
	return fmt.Sprintf("(%[2]s != %[3]s && %[1]s.exists(k, %[2]s[?k] != %[3]s[?k]))", literal(keys), mapOf("oldObject", path), mapOf("object", path))
}

// onlyFields returns an expression that holds if the request changes no other fields below this path.
func onlyFields(path string, fields ...string) string {
	after, before := "dyn(object."+path+")", "dyn(oldObject."+path+")"
	return fmt.Sprintf("%s.all(k, k in %s || k in %s && %[1]s[k] == %[3]s[k]) && %[3]s.all(k, k in %[2]s || k in %[1]s)", after, literal(fields), before)
}

// sameField returns an expression that holds if the request changes nothing below this path.
func sameField(path string) string {
	return fmt.Sprintf("object.?%s == oldObject.?%[1]s", path)
}
