package controlplane

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/nodeslices"
	"github.com/k8sm/k8sm/api/statedir"
)

// Names of the stock roles that are bound here
// (https://kubernetes.io/docs/reference/access-authn-authz/rbac/#default-roles-and-role-bindings).
const (
	nodeBootstrapper = "system:node-bootstrapper"
	nodeProxier      = "system:node-proxier"
	kubeletAPIAdmin  = "system:kubelet-api-admin"
	renewOwnCert     = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"
	authDelegator    = "system:auth-delegator"
)

// rbac returns the roles and bindings beyond those of stock Kubernetes.
func rbac(minion api.MinionConfig) []object {
	scheduler := rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: api.SchedulerUser}
	apiServer := rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: statedir.KubeletClientUser}
	bootstrap := rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: api.BootstrapGroup}
	dnsMembers := api.DNSMembership()
	dns := rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: dnsMembers.User}
	stores := rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: api.LogsUser}
	nodes := rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: api.NodesGroup}
	return slices.Concat(
		clusterGrant("k8sm:scheduler", schedulerRules(), scheduler),
		grant(corev1.NamespaceNodeLease, "k8sm:scheduler", schedulerLeaseRules(), scheduler),
		grant(metav1.NamespaceSystem, "k8sm:scheduler", schedulerTokenRules(), scheduler),
		clusterGrant("k8sm:network-policy", networkPolicyRules(minion), nodes),
		clusterGrant("k8sm:pod-network", podNetworkRules(), nodes),
		grant(api.MinionConfigNamespace, "k8sm:minion-config", minionConfigRules(), nodes, bootstrap, dns, scheduler),
		grant(api.AddressPoolsNamespace, "k8sm:address-pools", oneConfigMap(api.AddressPoolsName, "get", "list", "watch"), nodes),
		grant(api.AddressPoolsNamespace, "k8sm:publish-address-pools", oneConfigMap(api.AddressPoolsName, "get", "update", "patch"), scheduler),
		grant(nodeslices.Namespace, "k8sm:node-slices", []rbacv1.PolicyRule{rule("", []string{"configmaps"}, "get", "list", "watch")}, nodes),
		grant(nodeslices.Namespace, "k8sm:keep-node-slices", []rbacv1.PolicyRule{rule("", []string{"configmaps"}, "list", "create", "update", "delete")}, scheduler),
		grant(metav1.NamespaceDefault, "k8sm:api-servers", apiServersRules(), scheduler, stores),
		clusterGrant("k8sm:dns", dnsRules(), dns),
		memberGrants("k8sm:dns", dnsMembers),
		[]object{
			clusterBinding("k8sm:kubelet-client", kubeletAPIAdmin, apiServer),
			clusterBinding("k8sm:node-bootstrapper", nodeBootstrapper, bootstrap),
			clusterBinding("k8sm:node-cert-renewal", renewOwnCert, nodes),
			clusterBinding("k8sm:node-proxier", nodeProxier, nodes),
			clusterBinding("k8sm:scheduler-auth-delegator", authDelegator, scheduler), // for callers of its status server
			clusterRole("k8sm:mesos-viewer", mesosViewerRules()),
		},
	)
}

// schedulerRules are the verbs that the scheduler uses. schedulerLimits say which fields it may write.
func schedulerRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule("", []string{"pods"}, "get", "list", "watch", "delete", "patch"),
		rule("", []string{"pods/binding", "pods/eviction"}, "create"),
		rule("", []string{"pods/status", "nodes/status"}, "patch"),
		rule("", []string{"nodes"}, "get", "list", "watch", "create", "patch", "delete"),
		rule("", []string{"events"}, "create", "patch"),
		rule("", []string{"namespaces"}, "list", "watch"),
		rule("", []string{"persistentvolumes", "persistentvolumeclaims"}, "list", "watch", "update"),
		rule("policy", []string{"poddisruptionbudgets"}, "list", "watch"),
		rule("storage.k8s.io", []string{"storageclasses"}, "list", "watch"),
	}
}

// mesosViewerRules let people see in the scheduler's status what its pages about Mesos show: they name agents, frameworks and pods of all
// namespaces, so only administrators have them by default.
func mesosViewerRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{
		"/mesos/state", "/debug/offers", "/debug/offers/ended", "/debug/tasks", "/debug/queue", "/debug/queue/reasons", "/debug/nodes",
	}}}
}

// schedulerLeaseRules let the scheduler renew a node's lease until the node has a kubelet.
func schedulerLeaseRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{rule("coordination.k8s.io", []string{"leases"}, "get", "create", "update", "delete")}
}

// schedulerTokenRules let the scheduler write bootstrap tokens; tokenRules refuses other secrets. It cannot read any, because
// admission does not see who reads.
func schedulerTokenRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{rule("", []string{"secrets"}, "create", "update", "delete")}
}

// networkPolicyRules let nodes read what network policies depend on. The API has no separate permission for pods' labels and
// addresses. So a node's identity can read all pods' specs, but no Secret or ConfigMap that they refer to. Minions that enforce no
// policies do not get this permission.
func networkPolicyRules(minion api.MinionConfig) []rbacv1.PolicyRule {
	if !minion.EnforcesNetworkPolicies() {
		return []rbacv1.PolicyRule{}
	}
	return []rbacv1.PolicyRule{
		rule("", []string{"pods", "namespaces"}, "get", "list", "watch"),
		rule("networking.k8s.io", []string{"networkpolicies"}, "get", "list", "watch"),
	}
}

// podNetworkRules let a minion list the other nodes, to route packets to their pods while no scheduler keeps their slices.
func podNetworkRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{rule("", []string{"nodes"}, "list", "watch")}
}

// dnsRules let the DNS servers read what they resolve, and whom they answer: pods and nodes.
func dnsRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule("", []string{"services", "namespaces", "pods", "nodes"}, "list", "watch"),
		rule("discovery.k8s.io", []string{"endpointslices"}, "list", "watch"),
	}
}

// apiServersRules let programs find all API servers. Nodes, the DNS servers and the metrics servers may list all EndpointSlices there.
func apiServersRules() []rbacv1.PolicyRule {
	r := rule("discovery.k8s.io", []string{"endpointslices"}, "get", "list", "watch")
	r.ResourceNames = []string{"kubernetes"}
	return []rbacv1.PolicyRule{r}
}

// memberGrants let the servers of a service add themselves to it, renew their leases, and remove dead ones. memberLimits say which
// objects they may write.
func memberGrants(name string, m api.Membership) []object {
	user := rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: m.User}
	return slices.Concat(
		grant(m.Namespace, name, []rbacv1.PolicyRule{rule("discovery.k8s.io", []string{"endpointslices"}, "list", "create", "patch", "delete")}, user),
		grant(m.LeaseNamespace, name, []rbacv1.PolicyRule{rule("coordination.k8s.io", []string{"leases"}, "list", "create", "patch", "delete")}, user),
	)
}

func minionConfigRules() []rbacv1.PolicyRule {
	return oneConfigMap(api.MinionConfigName, "get", "list", "watch")
}

// oneConfigMap permits the verbs on the ConfigMap with this name.
func oneConfigMap(name string, verbs ...string) []rbacv1.PolicyRule {
	r := rule("", []string{"configmaps"}, verbs...)
	r.ResourceNames = []string{name}
	return []rbacv1.PolicyRule{r}
}

func rule(group string, resources []string, verbs ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources, Verbs: verbs}
}

// clusterGrant returns a ClusterRole and its binding.
func clusterGrant(name string, rules []rbacv1.PolicyRule, to ...rbacv1.Subject) []object {
	return []object{clusterRole(name, rules), clusterBinding(name, name, to...)}
}

func clusterRole(name string, rules []rbacv1.PolicyRule) object {
	return &rbacv1.ClusterRole{TypeMeta: rbacType("ClusterRole"), ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
}

func clusterBinding(name, role string, to ...rbacv1.Subject) object {
	return &rbacv1.ClusterRoleBinding{
		TypeMeta:   rbacType("ClusterRoleBinding"),
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Subjects:   to,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
	}
}

// grant returns a Role in one namespace and its binding.
func grant(namespace, name string, rules []rbacv1.PolicyRule, to ...rbacv1.Subject) []object {
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name}
	return []object{
		&rbacv1.Role{TypeMeta: rbacType("Role"), ObjectMeta: meta, Rules: rules},
		roleBinding(namespace, name, name, to...),
	}
}

func roleBinding(namespace, name, role string, to ...rbacv1.Subject) object {
	return &rbacv1.RoleBinding{
		TypeMeta:   rbacType("RoleBinding"),
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Subjects:   to,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
	}
}

func rbacType(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: kind}
}
