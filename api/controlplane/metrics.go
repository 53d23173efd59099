package controlplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	resourcemetrics "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/k8sm/k8sm/api"
)

// metrics returns the service of the metrics servers and the rights that there are for metrics; nothing without metrics.
func (c Config) metrics() []object {
	if !c.Metrics {
		return nil
	}
	members := api.MetricsMembership()
	return append([]object{leaseNamespace(members), metricsService(members)}, metricsRBAC(members)...)
}

// metricsAPIs returns the APIs that API servers forward to the metrics servers. Without metrics there are none: an API that leads
// nowhere keeps namespaces from being deleted.
func (c Config) metricsAPIs() ([]object, error) {
	if !c.Metrics {
		return nil, nil
	}
	ca, err := os.ReadFile(c.StateDir.CA())
	if err != nil {
		return nil, fmt.Errorf("cannot read the cluster's CA: %w", err)
	}
	return []object{
		apiService(resourcemetrics.SchemeGroupVersion, ca),
		apiService(schema.GroupVersion{Group: api.MetricsGroup, Version: api.MetricsVersion}, ca),
	}, nil
}

// offerMetrics applies the metrics servers' APIs as soon as there is a server.
func offerMetrics(ctx context.Context, admin clients, apis []object) error {
	if len(apis) == 0 {
		return nil
	}
	m := api.MetricsMembership()
	err := untilDone(ctx, func(ctx context.Context) error {
		servers, err := admin.typed.DiscoveryV1().EndpointSlices(m.Namespace).List(ctx, metav1.ListOptions{LabelSelector: m.Label})
		if err == nil && len(servers.Items) == 0 {
			err = errors.New("there is no metrics server")
		}
		return err
	})
	if err != nil {
		return err
	}
	return applyAll(ctx, admin.objects, apis)
}

// metricsService has no address: only API servers use it, and they connect to its endpoints.
func metricsService(m api.Membership) object {
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Service},
		Spec: corev1.ServiceSpec{
			ClusterIP: corev1.ClusterIPNone,
			Ports:     []corev1.ServicePort{{Name: api.MetricsPortName, Port: 443, Protocol: corev1.ProtocolTCP}},
		},
	}
}

// apiService makes API servers forward an API to the metrics servers
// (https://kubernetes.io/docs/tasks/extend-kubernetes/setup-extension-api-server/).
func apiService(gv schema.GroupVersion, ca []byte) object {
	m, port := api.MetricsMembership(), int32(443)
	return &apiregistrationv1.APIService{
		TypeMeta:   metav1.TypeMeta{APIVersion: apiregistrationv1.SchemeGroupVersion.String(), Kind: "APIService"},
		ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: 100, VersionPriority: 100, CABundle: ca,
			Service: &apiregistrationv1.ServiceReference{Namespace: m.Namespace, Name: m.Service, Port: &port},
		},
	}
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
			resourceMetricsReader(),
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

// resourceMetricsReader adds metrics.k8s.io to the stock roles view, edit and admin, as every metrics-server does.
func resourceMetricsReader() object {
	labels := map[string]string{}
	for _, role := range []string{"view", "edit", "admin"} {
		labels["rbac.authorization.k8s.io/aggregate-to-"+role] = "true"
	}
	return &rbacv1.ClusterRole{
		TypeMeta: rbacType("ClusterRole"), ObjectMeta: metav1.ObjectMeta{Name: "system:aggregated-metrics-reader", Labels: labels},
		Rules: []rbacv1.PolicyRule{rule(resourcemetrics.GroupName, []string{"pods", "nodes"}, "get", "list", "watch")},
	}
}

// forgetMetricsServers removes what metrics servers of earlier starts have left, if there are to be none.
func (c Config) forgetMetricsServers(ctx context.Context, client dynamic.Interface) error {
	if c.Metrics {
		return nil
	}
	m := api.MetricsMembership()
	for namespace, kind := range map[string]schema.GroupVersionKind{
		m.Namespace:      discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"),
		m.LeaseNamespace: coordinationv1.SchemeGroupVersion.WithKind("Lease"),
	} {
		err := untilDone(ctx, func(ctx context.Context) error {
			return resourceOf(client, kind).Namespace(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: m.Label})
		})
		if err != nil {
			return fmt.Errorf("cannot remove what metrics servers have left: %w", err)
		}
	}
	return nil
}
