package metrics

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"github.com/k8sm/k8sm/api"
)

// HistoryPath is where API servers serve Prometheus' HTTP API: the URL of a data source in Grafana, without the API server's.
const HistoryPath = "/apis/" + api.MetricsGroup + "/" + api.MetricsVersion + "/" + api.MetricsResource

// The kinds of answers, which are Prometheus' and no objects of Kubernetes.
const prometheusKind, usageKind = "Prometheus", "PodUsage"

// historyVersion is the API version of stored metrics.
var historyVersion = schema.GroupVersion{Group: api.MetricsGroup, Version: api.MetricsVersion}

// installHistory adds the API of stored metrics to the server, which has found out who calls and asked the cluster's API server
// whether he may. For RBAC, a query is a get or, by POST, a create of prometheus/v1. There are no namespaces in it: who may query reads
// the metrics of all. See usage for those of one namespace.
func installHistory(server *genericapiserver.GenericAPIServer, history http.Handler) {
	group := metav1.APIGroup{Name: historyVersion.Group, Versions: []metav1.GroupVersionForDiscovery{
		{GroupVersion: historyVersion.String(), Version: historyVersion.Version},
	}}
	group.PreferredVersion = group.Versions[0]
	server.DiscoveryGroupManager.AddGroup(group)
	server.AggregatedDiscoveryGroupManager.AddGroupVersion(group.Name, apidiscoveryv2.APIVersionDiscovery{
		Version: historyVersion.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent, Resources: aggregatedResources(),
	})
	mux := server.Handler.NonGoRestfulMux
	mux.Handle("/apis/"+group.Name, discovery.NewAPIGroupHandler(server.Serializer, group))
	mux.Handle("/apis/"+group.Name+"/"+historyVersion.Version, discovery.NewAPIVersionHandler(server.Serializer, historyVersion, discovery.APIResourceListerFunc(resources)))
	mux.HandlePrefix(HistoryPath+"/", http.StripPrefix(HistoryPath, history))
	mux.HandlePrefix(usagePath, usage{history})
}

// resources are what the API has, in the older form of discovery.
func resources() []metav1.APIResource {
	all := []metav1.APIResource{{Name: api.MetricsResource, SingularName: api.MetricsResource, Kind: prometheusKind, Verbs: []string{"get", "create"}}}
	for _, what := range slices.Sorted(maps.Keys(usageQueries)) {
		all = append(all, metav1.APIResource{Name: usageOf + "/" + what, Namespaced: true, Kind: usageKind, Verbs: []string{"get"}})
	}
	return all
}

// aggregatedResources are resources in the newer form.
func aggregatedResources() []apidiscoveryv2.APIResourceDiscovery {
	kind := func(name string) *metav1.GroupVersionKind {
		return &metav1.GroupVersionKind{Group: historyVersion.Group, Version: historyVersion.Version, Kind: name}
	}
	pods := apidiscoveryv2.APIResourceDiscovery{Resource: usageOf, Scope: apidiscoveryv2.ScopeNamespace}
	all := []apidiscoveryv2.APIResourceDiscovery{}
	for _, r := range resources() {
		if _, what, below := strings.Cut(r.Name, "/"); below {
			pods.Subresources = append(pods.Subresources, apidiscoveryv2.APISubresourceDiscovery{Subresource: what, ResponseKind: kind(r.Kind), Verbs: r.Verbs})
			continue
		}
		all = append(all, apidiscoveryv2.APIResourceDiscovery{
			Resource: r.Name, SingularResource: r.SingularName, Scope: apidiscoveryv2.ScopeCluster, ResponseKind: kind(r.Kind), Verbs: r.Verbs,
		})
	}
	return append(all, pods)
}
