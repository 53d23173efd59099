package controlplane

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/nodeslices"
)

// policies returns what this cluster refuses besides what stock Kubernetes refuses.
func (c Config) policies() []object {
	policies := []admissionPolicy{nodeKeys(), nodeSelf(), nodeSlices()}
	if len(c.ServiceExternalIPs) > 0 {
		policies = append(policies, externalIPs(c.ServiceExternalIPs))
	}
	var all []object
	policies = append(policies, c.memberLimits("k8sm-dns", "the DNS servers", api.DNSMembership())...)
	if c.Metrics {
		policies = append(policies, c.memberLimits("k8sm-metrics", "the metrics servers", api.MetricsMembership())...)
	}
	if c.Logs {
		policies = append(policies, c.memberLimits("k8sm-logs", "the log stores", api.LogsMembership())...)
	}
	for _, p := range slices.Concat(policies, schedulerLimits(), templateKeys(), commitPolicies(), []admissionPolicy{bindingKeys(), podKeys()}) {
		all = append(all, p.objects()...)
	}
	return all
}

// nodeKeys lets only the scheduler write our annotations and labels on nodes, because other nodes and the scheduler trust them. A
// node writes a few of its own, and who may update "nodes/rollout" writes a few, too: administrators may.
func nodeKeys() admissionPolicy {
	return admissionPolicy{
		name: "k8sm-node-keys",
		on:   []admissionv1.NamedRuleWithOperations{to("", writing, "nodes", "nodes/status")},
		of:   notBy(api.SchedulerUser),
		let: slices.Concat(changes("annotations", "metadata.?annotations"), changes("labels", "metadata.?labels"), []admissionv1.Variable{
			variable("own", fmt.Sprintf("request.userInfo.username == '%s' + object.metadata.name ? %s : []", api.NodeUserPrefix, literal(api.NodeOwnAnnotations()))),
			variable("ourAnnotations", fmt.Sprintf("variables.annotations.filter(k, k.startsWith('%s') && !(k in variables.own))", api.KeyPrefix)),
			variable("ourLabels", fmt.Sprintf("variables.labels.filter(k, k.startsWith('%s'))", api.KeyPrefix)),
		}),
		must: []admissionv1.Validation{mustName(
			fmt.Sprintf("variables.ourLabels.size() == 0 && variables.ourAnnotations.all(k, k in %s && "+
				"authorizer.group('').resource('nodes').subresource('rollout').name(object.metadata.name).check('update').allowed())", literal(api.NodeOperatorAnnotations())),
			"(variables.ourAnnotations + variables.ourLabels).join(', ') + ' may only be written by the scheduler'")},
	}
}

// nodeSelf is for what NodeRestriction leaves to nodes
// (https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction): their creation, with any range of
// addresses and any agent's id; their spec; and labels that come from Mesos. A stock kubelet that may not create its node goes on with
// the one that it finds.
func nodeSelf() admissionPolicy {
	fromMesos := []string{
		corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
	}
	return admissionPolicy{
		name: "k8sm-node-self",
		on:   []admissionv1.NamedRuleWithOperations{to("", writing, "nodes", "nodes/status")},
		of:   byNodes,
		let:  changes("labels", "metadata.?labels"),
		must: []admissionv1.Validation{
			must("request.operation != 'CREATE'", "the scheduler creates nodes"),
			must("oldObject == null || object.spec == oldObject.spec", "a node may not change its spec"),
			must("oldObject == null || "+sameField("metadata.?finalizers"), "a node may not change its finalizers"),
			mustName(fmt.Sprintf("!variables.labels.exists(k, k in %s)", literal(fromMesos)),
				"'a node may not change labels that come from its Mesos agent: ' + variables.labels.join(', ')"),
			must(fmt.Sprintf("!('%s' in variables.labels) || variables.labelsAfter[?'%[1]s'].orValue('') == object.metadata.name", corev1.LabelHostname),
				"a node may not have another hostname than its name"),
		},
	}
}

// nodeSlices lets only the scheduler write the slices of nodes, because nodes route packets to where they say. The controller that puts a
// CA into each namespace writes there, too. Who may delete ConfigMaps deletes them: the scheduler writes them again.
func nodeSlices() admissionPolicy {
	return admissionPolicy{
		name: "k8sm-node-slices",
		on:   []admissionv1.NamedRuleWithOperations{to("", writing, "configmaps")},
		of:   notBy(api.SchedulerUser),
		when: fmt.Sprintf("request.namespace == '%s'", nodeslices.Namespace),
		must: []admissionv1.Validation{must(
			fmt.Sprintf("!('%s' in %s || '%[1]s' in %[3]s)", api.LabelNodeSlices, mapOf("object", "metadata.?labels"), mapOf("oldObject", "metadata.?labels")),
			"the slices of nodes may only be written by the scheduler")},
	}
}

// podKeys lets only the scheduler write a pod's task, ports and address, because the pod's node and the scheduler follow them.
func podKeys() admissionPolicy {
	return admissionPolicy{
		name: "k8sm-pod-keys",
		on:   []admissionv1.NamedRuleWithOperations{to("", writing, "pods"), to("", updating, "pods/status")},
		of:   notBy(api.SchedulerUser),
		when: changesAny("metadata.?annotations", api.PodSchedulerAnnotations()), // each pod's creation and each change of its status comes by here
		let:  answers("metadata.?annotations"),
		must: []admissionv1.Validation{mustName("variables.wrong.size() == 0", wrongAnswers)},
	}
}

// bindingKeys is podKeys for bindings, whose annotations become the pod's. The scheduler writes no others there, and no labels. It is one
// policy for all who bind, because each policy costs each binding.
func bindingKeys() admissionPolicy {
	own := fmt.Sprintf("(!has(object.metadata.labels) && %s.all(k, k in %s))", mapOf("object", "metadata.?annotations"), literal(api.PodSchedulerAnnotations()))
	wrong := fmt.Sprintf("(%s ? !%s : %s)", by(api.SchedulerUser), own, changesAny("metadata.?annotations", api.PodSchedulerAnnotations()))
	return admissionPolicy{
		name: "k8sm-binding-keys",
		on:   []admissionv1.NamedRuleWithOperations{to("", creating, "pods/binding", "bindings")},
		when: wrong,
		let:  answers("metadata.?annotations"),
		must: []admissionv1.Validation{
			must(notBy(api.SchedulerUser), ownAnnotations),
			mustName(by(api.SchedulerUser), wrongAnswers),
		},
	}
}

// ownAnnotations says what the scheduler may write of pods.
const ownAnnotations = "the scheduler may only change its own annotations of pods"

// templateKeys refuses templates with such annotations: no controller could create a pod from them.
func templateKeys() []admissionPolicy {
	template := func(name, path string, on ...admissionv1.NamedRuleWithOperations) admissionPolicy {
		return admissionPolicy{
			name: name, on: on, let: answers(path + ".?metadata.?annotations"),
			must: []admissionv1.Validation{mustName("variables.wrong.size() == 0", "'pod template: ' + "+wrongAnswers)},
		}
	}
	return []admissionPolicy{
		template("k8sm-template-keys", "spec.?template", to("", writing, "replicationcontrollers"), to("batch", writing, "jobs"),
			to("apps", writing, "deployments", "replicasets", "statefulsets", "daemonsets")),
		template("k8sm-cronjob-keys", "spec.?jobTemplate.?spec.?template", to("batch", writing, "cronjobs")),
	}
}

// answers returns variables of which "wrong" lists the scheduler's annotations that the request changes in a map.
func answers(path string) []admissionv1.Variable {
	return append(changes("annotations", path),
		variable("wrong", fmt.Sprintf("variables.annotations.filter(k, k in %s)", literal(api.PodSchedulerAnnotations()))))
}

const wrongAnswers = "'annotation ' + variables.wrong.join(', ') + ' may only be written by the scheduler: remove it; a pod requests ports with " +
	api.AnnotationPortMapping + " and an address with " + api.AnnotationIPPool + "'"

// schedulerLimits keep the scheduler to what it writes, where RBAC has no verb for that. What it may do by its nature is in
// docs/security.md.
func schedulerLimits() []admissionPolicy {
	limit := func(name string, on admissionv1.NamedRuleWithOperations, let []admissionv1.Variable, rules ...admissionv1.Validation) admissionPolicy {
		return admissionPolicy{name: "k8sm-scheduler-" + name, on: []admissionv1.NamedRuleWithOperations{on}, of: by(api.SchedulerUser), let: let, must: rules}
	}
	tokens := limit("tokens", to("", changing, "secrets"), nil, tokenRules()...)
	tokens.in = []string{metav1.NamespaceSystem}
	own := literal(api.PodSchedulerAnnotations())
	metadata := []string{sameField("metadata.?labels"), sameField("metadata.?finalizers"), sameField("metadata.?ownerReferences")}
	conditions := func(object string) string {
		return fmt.Sprintf("%s.?status.?conditions.orValue([]).filter(c, !(c.type in %s))", object,
			literal([]string{string(corev1.PodScheduled), string(corev1.DisruptionTarget)}))
	}
	return []admissionPolicy{
		limit("pods", to("", updating, "pods"), changes("annotations", "metadata.?annotations"), must(
			strings.Join(append(metadata, "object.spec == oldObject.spec", "variables.annotations.all(k, k in "+own+")"), " && "),
			ownAnnotations)),
		limit("pod-status", to("", updating, "pods/status"), nil, must(
			strings.Join(append(metadata, sameField("metadata.?annotations"), onlyFields("status", "conditions", "nominatedNodeName"),
				conditions("object")+" == "+conditions("oldObject")), " && "),
			"the scheduler may only change the conditions PodScheduled and DisruptionTarget and the nominated node of pods")),
		limit("volumes", to("", updating, "persistentvolumes"), nil, must(
			onlyFields("spec", "claimRef")+" && (!has(oldObject.spec.claimRef) || "+sameField("spec.?claimRef")+" || !has(oldObject.spec.claimRef.uid) && "+
				sameField("spec.?claimRef.?namespace")+" && "+sameField("spec.?claimRef.?name")+")",
			"the scheduler may only give volumes that are free to claims")),
		limit("claims", to("", updating, "persistentvolumeclaims"), nil,
			must("object.spec == oldObject.spec", "the scheduler may only annotate claims")),
		tokens,
	}
}

// tokenRules let the scheduler write the bootstrap tokens of its minions, and no other secret
// (https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/#bootstrap-token-secret-format).
func tokenRules() []admissionv1.Validation {
	text := func(value string) string { return literal(base64.StdEncoding.EncodeToString([]byte(value))) }
	token := func(object string) string {
		return fmt.Sprintf("(%[1]s == null || %[1]s.type == '%[2]s' && %[1]s.metadata.name.startsWith('%[3]s') && "+
			"dyn(%[1]s).?data[?'auth-extra-groups'].orValue('') == %[4]s)", object, corev1.SecretTypeBootstrapToken, api.BootstrapSecretPrefix, text(api.BootstrapGroup))
	}
	return []admissionv1.Validation{
		must(token("object")+" && "+token("oldObject"), "the scheduler may only write bootstrap tokens of minions"),
		must("object == null || dyn(object.data).all(k, !k.startsWith('usage-') || k == 'usage-bootstrap-authentication')",
			"the scheduler may create tokens for authentication only"),
		must("object == null || 'expiration' in dyn(object.data)", "the scheduler may create no token without an end"),
		must(fmt.Sprintf("object == null || '%s' in %s", api.LabelNode, mapOf("object", "metadata.?labels")), "the scheduler may create no token without a node"),
	}
}

// memberLimits keep the servers of a service to their own leases, and to their own endpoints of their own service. prefix begins the
// policies' names.
func (c Config) memberLimits(prefix, servers string, m api.Membership) []admissionPolicy {
	own := func(object string, labels ...string) string {
		rules := []string{fmt.Sprintf("%s.metadata.name == '%s' + %s[?'%s'].orValue('-')",
			object, m.ObjectPrefix(), mapOf(object, "metadata.?labels"), m.Label)}
		for _, label := range labels {
			rules = append(rules, fmt.Sprintf("%s.metadata.labels[?'%s'].orValue('') == '%s'", object, label, m.Service))
		}
		return "(" + object + " == null || " + strings.Join(rules, " && ") + ")"
	}
	both := func(labels ...string) string { return own("object", labels...) + " && " + own("oldObject", labels...) }
	limit := func(name, namespace string, on admissionv1.NamedRuleWithOperations, rules ...admissionv1.Validation) admissionPolicy {
		return admissionPolicy{name: name, on: []admissionv1.NamedRuleWithOperations{on}, in: []string{namespace}, of: by(m.User), must: rules}
	}
	return []admissionPolicy{
		limit(prefix+"-leases", m.LeaseNamespace, to("coordination.k8s.io", changing, "leases"),
			must(both(), servers+" may only write their own leases")),
		limit(prefix+"-slices", m.Namespace, to("discovery.k8s.io", changing, "endpointslices"),
			must(both(discoveryv1.LabelServiceName), servers+" may only write their own slices of service "+m.Service),
			must(fmt.Sprintf("object == null || object.endpoints.size() == 1 && object.endpoints[0].addresses.all(a, !%s)", within("a", c.ServiceCIDR)),
				servers+" may only write their own addresses: one, which is no service's")),
	}
}

// within returns an expression that holds if an address, itself an expression, is in one of the ranges.
func within(address, ranges string) string {
	return fmt.Sprintf("%s.exists(r, cidr(r).containsIP(%s))", literal(strings.Split(strings.ReplaceAll(ranges, " ", ""), ",")), address)
}

// externalIPs limits the externalIPs of services to these ranges. A service keeps those that it has.
func externalIPs(ranges []string) admissionPolicy {
	return admissionPolicy{
		name: "k8sm-service-external-ips",
		on:   []admissionv1.NamedRuleWithOperations{to("", writing, "services")},
		let:  []admissionv1.Variable{variable("before", "oldObject == null ? [] : oldObject.?spec.?externalIPs.orValue([])")},
		must: []admissionv1.Validation{must(
			"object.?spec.?externalIPs.orValue([]).all(a, a in variables.before || "+within("a", strings.Join(ranges, ","))+")",
			"external IPs are limited to "+strings.Join(ranges, ", "))},
	}
}
