package metrics

import (
	"net/http"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"github.com/k8sm/k8sm/api"
)

// HistoryPath is where API servers serve Prometheus' HTTP API: the URL of a data source in Grafana, without the API server's.
const HistoryPath = "/apis/" + api.MetricsGroup + "/" + api.MetricsVersion + "/" + api.MetricsResource

// historyVersion is the API version of stored metrics.
var historyVersion = schema.GroupVersion{Group: api.MetricsGroup, Version: api.MetricsVersion}

// installHistory adds the API of stored metrics to the server, which has found out who calls and asked the cluster's API server
// whether he may. For RBAC, a query is a get or, by POST, a create of prometheus/v1. There are no namespaces in it: who may query reads
// the metrics of all.
func installHistory(server *genericapiserver.GenericAPIServer, history http.Handler) {
	group := metav1.APIGroup{Name: historyVersion.Group, Versions: []metav1.GroupVersionForDiscovery{
		{GroupVersion: historyVersion.String(), Version: historyVersion.Version},
	}}
	group.PreferredVersion = group.Versions[0]
	kind := metav1.GroupVersionKind{Group: historyVersion.Group, Version: historyVersion.Version, Kind: "Prometheus"}
	verbs := []string{"get", "create"}
	server.DiscoveryGroupManager.AddGroup(group)
	server.AggregatedDiscoveryGroupManager.AddGroupVersion(group.Name, apidiscoveryv2.APIVersionDiscovery{
		Version: historyVersion.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent,
		Resources: []apidiscoveryv2.APIResourceDiscovery{{
			Resource: api.MetricsResource, SingularResource: api.MetricsResource, Scope: apidiscoveryv2.ScopeCluster, ResponseKind: &kind, Verbs: verbs,
		}},
	})
	resources := discovery.APIResourceListerFunc(func() []metav1.APIResource {
		return []metav1.APIResource{{Name: api.MetricsResource, SingularName: api.MetricsResource, Kind: kind.Kind, Verbs: verbs}}
	})
	mux := server.Handler.NonGoRestfulMux
	mux.Handle("/apis/"+group.Name, discovery.NewAPIGroupHandler(server.Serializer, group))
	mux.Handle("/apis/"+group.Name+"/"+historyVersion.Version, discovery.NewAPIVersionHandler(server.Serializer, historyVersion, resources))
	mux.HandlePrefix(HistoryPath+"/", http.StripPrefix(HistoryPath, history))
}
