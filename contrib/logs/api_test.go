package logs

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/k8sm/k8sm/contrib/logs/read"
	"github.com/k8sm/k8sm/contrib/logs/store"
)

// ask finds out what a request reads, and which right the cluster is asked for.
func ask(t *testing.T, caller user.Info, method, path string) (allowed authorizer.Decision, asked authorizer.Attributes, scope read.Scope, rest string, ok bool) {
	t.Helper()
	r := httptest.NewRequest(method, "/", nil)
	r.URL.Path = path
	info, err := (&request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}).NewRequestInfo(r)
	if err != nil {
		t.Fatal(err)
	}
	r = r.WithContext(request.WithUser(request.WithRequestInfo(r.Context(), info), caller))
	cluster := authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		asked = a
		return authorizer.DecisionNoOpinion, "", nil
	})
	attributes, err := filters.GetAuthorizerAttributes(r.Context())
	if err != nil {
		t.Fatal(err)
	}
	allowed, _, err = rights{cluster}.Authorize(r.Context(), attributes)
	if err != nil {
		t.Fatal(err)
	}
	scope, rest, err = scopeOf(r)
	return allowed, asked, scope, rest, err == nil
}

func TestWhatIsReadIsWhatTheCallerMayReadByTheAPIServer(t *testing.T) {
	const base = "/apis/logs.k8sm.io/v1"
	for _, c := range []struct {
		path      string
		namespace string // of the right to get pods/log
		name      string
		scope     read.Scope
		rest      string
	}{
		{base + "/namespaces/shop/pods/*/log", "shop", "", read.Scope{Namespace: "shop"}, ""},
		{base + "/namespaces/shop/pods/web-0/log", "shop", "web-0", read.Scope{Namespace: "shop", Pod: "web-0"}, ""},
		{base + "/namespaces/shop/pods/*/log/select/logsql/query", "shop", "", read.Scope{Namespace: "shop"}, "/select/logsql/query"},
		{base + "/namespaces/shop/pods/*/log/select/vmui/", "shop", "", read.Scope{Namespace: "shop"}, "/select/vmui/"},
		{base + "/pods/*/log", "", "", read.Scope{}, ""},
		{base + "/namespaces//pods/*/log", "", "", read.Scope{}, ""},
		{base + "/namespaces/a b/pods/*/log", "a b", "", read.Scope{Namespace: "a b"}, ""},
	} {
		_, asked, scope, rest, ok := ask(t, &user.DefaultInfo{Name: "jane"}, http.MethodPost, c.path)
		if !ok || rest != c.rest {
			t.Errorf("%s: %v %q", c.path, ok, rest)
		}
		if diff := cmp.Diff(c.scope, scope); diff != "" {
			t.Errorf("%s: %s", c.path, diff)
		}
		want := [...]string{"get", c.namespace, "", "pods", "log", c.name}
		got := [...]string{asked.GetVerb(), asked.GetNamespace(), asked.GetAPIGroup(), asked.GetResource(), asked.GetSubresource(), asked.GetName()}
		if got != want || asked.GetUser().GetName() != "jane" {
			t.Errorf("%s: asked for %q, want %q", c.path, got, want)
		}
	}
}

func TestOtherLogsAreForWhoMayGetThemAsSuch(t *testing.T) {
	for path, tenant := range map[string]store.Tenant{"components": store.Components, "frameworks": store.Frameworks} {
		_, asked, scope, _, ok := ask(t, &user.DefaultInfo{Name: "jane"}, http.MethodGet, "/apis/logs.k8sm.io/v1/"+path+"/*/log")
		if !ok || scope.Tenant != tenant || asked.GetAPIGroup() != "logs.k8sm.io" || asked.GetResource() != path || asked.GetSubresource() != "log" {
			t.Errorf("%s: %v %+v %+v", path, ok, scope, asked)
		}
	}
}

func TestPathsThatAreNoLogsReadNothing(t *testing.T) {
	for _, path := range []string{
		"/apis/logs.k8sm.io/v1", "/apis/logs.k8sm.io/v1/pods", "/apis/logs.k8sm.io/v1/namespaces/shop/pods/*", "/apis/logs.k8sm.io/v1/namespaces/shop/log",
		"/apis/logs.k8sm.io/v1/namespaces/shop/pods/*/status", "/apis/logs.k8sm.io/v1/secrets/*/log", "/apis/logs.k8sm.io/v1/components/x/log",
		"/apis/logs.k8sm.io/v1/namespaces/shop/components/*/log", "/apis/logs.k8sm.io/v1/namespaces/shop/..;/pods/*/log", "/apis/logs.k8sm.io/v1/namespaces/shop/../pods/*/log",
		"/apis/logs.k8sm.io/v1/namespaces/shop/../secret/pods/*/log", "/apis/logs.k8sm.io/v1/proxy/namespaces/shop/pods/*/log", "/apis/logs.k8sm.io/v1/watch/namespaces/shop/secrets/*/log",
		"/apis/logs.k8sm.io/v1/namespaces/shop%2fpods%2f*%2flog", "/apis/logs.k8sm.io/v1/namespaces/*/log", "/apis//logs.k8sm.io/v1/pods/*/log",
		"/apis/logs.k8sm.io/v1/components/..;/log", "/apis/logs.k8sm.io/V1/pods/*/log", "/apis/logs.k8sm.io/v1;x/pods/*/log", "/apis/logs.k8sm.io/v2/pods/*/log", "/apis/other/v1/pods/*/log", "/api/v1/namespaces/shop/pods/web/log",
	} {
		if _, _, scope, rest, ok := ask(t, &user.DefaultInfo{Name: "jane"}, http.MethodGet, path); ok {
			t.Errorf("%s reads %+v %s", path, scope, rest)
		}
	}
}

func TestOnlyNodesShip(t *testing.T) {
	for _, c := range []struct {
		name, group, path string
		want              authorizer.Decision
		node              string
	}{
		{"system:node:a", "system:nodes", "/ship/v1/sessions", authorizer.DecisionAllow, "a"},
		{"system:node:a", "system:nodes", "/ship/v1/sessions/x/batches/1", authorizer.DecisionAllow, "a"},
		{"system:node:a", "", "/ship/v1/sessions", authorizer.DecisionDeny, ""},
		{"system:node:", "system:nodes", "/ship/v1/sessions", authorizer.DecisionDeny, ""},
		{"jane", "system:nodes", "/ship/v1/sessions", authorizer.DecisionDeny, ""},
		{"jane", "system:masters", "/ship/v1/sessions", authorizer.DecisionDeny, ""},
		{"system:node:a", "system:nodes", "/ship/v1/sessionsx", authorizer.DecisionNoOpinion, "a"},
		{"system:node:a", "system:nodes", "/metrics", authorizer.DecisionNoOpinion, "a"},
	} {
		caller := &user.DefaultInfo{Name: c.name, Groups: []string{c.group}}
		if got, _, _, _, _ := ask(t, caller, http.MethodPost, c.path); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
		if node, _ := nodeOf(caller); node != c.node {
			t.Errorf("%+v is node %q", c, node)
		}
	}
}

func TestStoreIsClosedWhenNobodyUsesIt(t *testing.T) {
	in := &inside{}
	began, ended := make(chan struct{}), make(chan struct{})
	h := in.guard(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
		time.Sleep(10 * time.Millisecond)
		close(ended)
	}))
	go h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	<-began
	in.close()
	select {
	case <-ended:
	default:
		t.Error("a request still uses the store")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("after the end: %d", w.Code)
	}
}
