package logs

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"github.com/k8sm/k8sm/api"
	protocol "github.com/k8sm/k8sm/api/logs"
	"github.com/k8sm/k8sm/contrib/logs/read"
	"github.com/k8sm/k8sm/contrib/logs/receive"
	"github.com/k8sm/k8sm/contrib/logs/store"
)

// version is the API version of logs.
var version = schema.GroupVersion{Group: api.LogsGroup, Version: api.LogsVersion}

const (
	pods = "pods"
	// log is the subresource of all logs. API servers bound no request for it in time.
	log = "log"
)

// tenants are those of the resources of the API.
var tenants = map[string]store.Tenant{pods: store.Pods, api.LogsComponents: store.Components, api.LogsFrameworks: store.Frameworks}

// rights are who may do what with the store.
type rights struct{ cluster authorizer.Authorizer }

// Authorize implements authorizer.Authorizer. Nodes ship logs. Who may read the logs of pods by the API server may read those in the store:
// the cluster's API server is asked whether he may get pods/log. All else is as the cluster says.
func (r rights) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	switch {
	case !a.IsResourceRequest() && isShipping(a.GetPath()):
		if _, ok := nodeOf(a.GetUser()); !ok {
			return authorizer.DecisionDeny, "only nodes ship logs", nil
		}
		return authorizer.DecisionAllow, "", nil
	case a.IsResourceRequest() && a.GetAPIGroup() == api.LogsGroup && a.GetResource() == pods && a.GetSubresource() == log:
		return r.cluster.Authorize(ctx, authorizer.AttributesRecord{
			User: a.GetUser(), Verb: "get", Namespace: a.GetNamespace(), APIVersion: "v1", Resource: pods, Subresource: log, Name: podName(a.GetName()),
			ResourceRequest: true,
		})
	}
	return r.cluster.Authorize(ctx, a)
}

// podName is the pod of a request, "" for all.
func podName(name string) string {
	if name == "*" {
		return ""
	}
	return name
}

func isShipping(path string) bool {
	return path == protocol.PathSessions || strings.HasPrefix(path, protocol.PathSessions+"/")
}

// nodeOf returns the node that a user is
// (https://kubernetes.io/docs/reference/access-authn-authz/node/).
func nodeOf(u user.Info) (string, bool) {
	if u == nil {
		return "", false
	}
	name, ok := strings.CutPrefix(u.GetName(), api.NodeUserPrefix)
	for _, group := range u.GetGroups() {
		if ok && name != "" && group == api.NodesGroup {
			return name, true
		}
	}
	return "", false
}

// install adds the paths of minions and of readers to a server that has asked who calls and whether he may. Each handler is guarded.
func install(server *genericapiserver.GenericAPIServer, guard func(http.Handler) http.Handler, receiver *receive.Server, reader *read.Handler) {
	mux := server.Handler.NonGoRestfulMux
	shipping := guard(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, _ := request.UserFrom(r.Context())
		node, ok := nodeOf(caller)
		if !ok {
			http.Error(w, "only nodes ship logs", http.StatusForbidden)
			return
		}
		receiver.Serve(w, r, node)
	}))
	mux.Handle(protocol.PathSessions, shipping)
	mux.HandlePrefix(protocol.PathSessions+"/", shipping)

	group := metav1.APIGroup{Name: version.Group, Versions: []metav1.GroupVersionForDiscovery{{GroupVersion: version.String(), Version: version.Version}}}
	group.PreferredVersion = group.Versions[0]
	resources, discovered := described()
	server.DiscoveryGroupManager.AddGroup(group)
	server.AggregatedDiscoveryGroupManager.AddGroupVersion(group.Name, apidiscoveryv2.APIVersionDiscovery{
		Version: version.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent, Resources: discovered,
	})
	mux.Handle("/apis/"+group.Name, discovery.NewAPIGroupHandler(server.Serializer, group))
	mux.Handle("/apis/"+version.String(), discovery.NewAPIVersionHandler(server.Serializer, version,
		discovery.APIResourceListerFunc(func() []metav1.APIResource { return resources })))
	// API servers collect these descriptions. Ours is in docs/logs.md.
	for path, text := range map[string]string{
		"/openapi/v2": `{"swagger":"2.0","info":{"title":"Logs of k8sm","version":"` + version.Version + `"},"paths":{}}`, "/openapi/v3": `{"paths":{}}`,
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, text)
		})
	}
	mux.HandlePrefix("/apis/"+version.String()+"/", guard(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scope, path, err := scopeOf(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		reader.Serve(w, r, scope, path)
	})))
}

// described describes the API's resources for those who discover it.
func described() (all []metav1.APIResource, discovered []apidiscoveryv2.APIResourceDiscovery) {
	verbs := metav1.Verbs{"get", "create"}
	for _, r := range []struct {
		name, kind string
		namespaced bool
	}{{pods, "PodLog", true}, {api.LogsComponents, "ComponentLog", false}, {api.LogsFrameworks, "FrameworkLog", false}} {
		scope := apidiscoveryv2.ScopeCluster
		if r.namespaced {
			scope = apidiscoveryv2.ScopeNamespace
		}
		kind := metav1.GroupVersionKind{Group: version.Group, Version: version.Version, Kind: r.kind}
		all = append(all, metav1.APIResource{Name: r.name + "/" + log, Kind: r.kind, Namespaced: r.namespaced, Verbs: verbs})
		discovered = append(discovered, apidiscoveryv2.APIResourceDiscovery{
			Resource: r.name, Scope: scope, Subresources: []apidiscoveryv2.APISubresourceDiscovery{{Subresource: log, ResponseKind: &kind, Verbs: verbs}},
		})
	}
	return all, discovered
}

// scopeOf returns what a request may read, and the rest of its path. Both come from what the request was authorized by.
func scopeOf(r *http.Request) (scope read.Scope, path string, err error) {
	info, ok := request.RequestInfoFrom(r.Context())
	if !ok || !info.IsResourceRequest || info.APIGroup != version.Group || info.APIVersion != version.Version || info.Subresource != log {
		return scope, "", errors.New("there is no such path: logs are at /apis/" + version.String() + "/namespaces/NAMESPACE/pods/*/log and /apis/" + version.String() + "/pods/*/log")
	}
	tenant, ok := tenants[info.Resource]
	if !ok || tenant != store.Pods && (info.Namespace != "" || info.Name != "*") {
		return scope, "", errors.New("there are no logs of " + info.Resource)
	}
	scope = read.Scope{Tenant: tenant, Namespace: info.Namespace}
	if tenant == store.Pods {
		scope.Pod = podName(info.Name)
	}
	if rest := info.Parts[min(len(info.Parts), 3):]; len(rest) > 0 {
		path = "/" + strings.Join(rest, "/")
		if strings.HasSuffix(r.URL.Path, "/") {
			path += "/"
		}
	}
	return scope, path, nil
}
