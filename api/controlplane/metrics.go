package controlplane

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	resourcemetrics "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/k8sm/k8sm/api"
)

// metricsServers are the servers of the cluster's metrics, and their APIs.
func metricsServers() aggregated {
	return aggregated{
		Membership: api.MetricsMembership(), what: "metrics servers", port: api.MetricsPortName,
		versions: []schema.GroupVersion{resourcemetrics.SchemeGroupVersion, {Group: api.MetricsGroup, Version: api.MetricsVersion}},
	}
}

// metrics returns the service of the metrics servers and the rights that there are for metrics; nothing without metrics.
func (c Config) metrics() []object {
	if !c.Metrics {
		return nil
	}
	return append(metricsServers().objects(), metricsRBAC(api.MetricsMembership())...)
}

// metricsRBAC lets the metrics servers do their work, and others read metrics.
func metricsRBAC(m api.Membership) []object {
	user := rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: m.User}
	return slices.Concat(
		clusterGrant("k8sm:metrics", metricsRules(), user),
		memberGrants("k8sm:metrics", m),
		grant(metav1.NamespaceDefault, "k8sm:metrics", []rbacv1.PolicyRule{rule("discovery.k8s.io", []string{"endpointslices"}, "list", "watch")}, user),
		grant(corev1.NamespaceNodeLease, "k8sm:metrics", []rbacv1.PolicyRule{rule("coordination.k8s.io", []string{"leases"}, "list")}, user),
		[]object{
			clusterBinding("k8sm:metrics-auth-delegator", "system:auth-delegator", user),
			roleBinding(metav1.NamespaceSystem, "k8sm:metrics-auth-reader", "extension-apiserver-authentication-reader", user),
			forViewers("system:aggregated-metrics-reader", rule(resourcemetrics.GroupName, []string{"pods", "nodes"}, "get", "list", "watch")),
			forViewers("k8sm:pod-usage-reader", rule(api.MetricsGroup, []string{
				"pods/" + api.UsageCPU, "pods/" + api.UsageMemory, "pods/" + api.UsageReceived, "pods/" + api.UsageSent,
			}, "get")),
			&rbacv1.ClusterRole{ // for whoever is to see the metrics of all namespaces, such as a Grafana
				TypeMeta: rbacType("ClusterRole"), ObjectMeta: metav1.ObjectMeta{Name: "k8sm:prometheus-reader"},
				Rules: []rbacv1.PolicyRule{rule(api.MetricsGroup, []string{api.MetricsResource + "/v1"}, "get", "create")},
			},
		},
	)
}

// metricsRules let the metrics servers find what they read, and read it.
func metricsRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule("", []string{"nodes", "pods"}, "get", "list", "watch"),
		rule("", []string{"nodes/metrics"}, "get"),
		{NonResourceURLs: []string{"/metrics", "/metrics/history"}, Verbs: []string{"get"}},
	}
}

// forViewers adds a rule to the stock roles view, edit and admin, as every metrics-server does with metrics.k8s.io.
func forViewers(name string, r rbacv1.PolicyRule) object {
	labels := map[string]string{}
	for _, role := range []string{"view", "edit", "admin"} {
		labels["rbac.authorization.k8s.io/aggregate-to-"+role] = "true"
	}
	return &rbacv1.ClusterRole{
		TypeMeta: rbacType("ClusterRole"), ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Rules: []rbacv1.PolicyRule{r},
	}
}
