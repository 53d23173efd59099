package ui

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
)

// mayOperate answers reviews: only these users may get paths.
func mayOperate(t *testing.T, rights map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var review authorizationv1.SelfSubjectAccessReview
		if r.URL.Path != "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" || json.NewDecoder(r.Body).Decode(&review) != nil {
			http.Error(w, "unexpected", http.StatusTeapot)
			return
		}
		asked := review.Spec.NonResourceAttributes
		user := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer token-of-")
		begins, may := rights[user]
		review.Status.Allowed = may && asked.Verb == "get" && strings.HasPrefix(asked.Path, begins)
		writeJSON(w, review)
	}
}

// Metrics and profiles are for those whom the API server lets get the path: neither a session of the page, nor any other user.
func TestMetricsAndProfilesAreForAdministrators(t *testing.T) {
	a := newAPI(t, mayOperate(t, map[string]string{"root": "/", "prometheus": "/metrics"}))
	b := loggedIn(t, a, Config{}, "root")
	for _, test := range []struct {
		path, user string
		want       int
	}{
		{"/metrics", "root", http.StatusOK}, {"/metrics", "prometheus", http.StatusOK}, {"/metrics", "ann", http.StatusForbidden}, {"/metrics", "", http.StatusUnauthorized},
		{"/debug/pprof/", "root", http.StatusOK}, {"/debug/pprof/heap", "root", http.StatusOK}, {"/debug/pprof/heap", "prometheus", http.StatusForbidden},
		{"/debug/pprof/heap", "ann", http.StatusForbidden}, {"/debug/pprof/goroutine?debug=2", "", http.StatusUnauthorized},
	} {
		var headers []string
		if test.user != "" {
			headers = []string{"Authorization", "Bearer token-of-" + test.user}
		}
		answer, said := b.get(test.path, headers...)
		if answer.StatusCode != test.want || test.want != http.StatusOK && (strings.Contains(said, "goroutine") || strings.Contains(said, "k8sm_ui")) {
			t.Errorf("%q gets %s: %s %.200s", test.user, test.path, answer.Status, said)
		}
	}
	// What a browser asks for when somebody opens the page's own path.
	if answer, said := b.get("/metrics", "Accept", "text/html,application/xhtml+xml,*/*;q=0.8"); answer.StatusCode != http.StatusOK || !strings.Contains(said, "<script") {
		t.Errorf("a browser gets %s %.200s", answer.Status, said)
	}
	if code, _ := b.do("POST", "/auth/token", `{"secret": "nonsense"}`); code != http.StatusUnauthorized {
		t.Errorf("a wrong token logs in: %d", code)
	}
	_, shown := b.get("/metrics", "Authorization", "Bearer token-of-prometheus")
	for _, series := range []string{
		`k8sm_ui_logins_total{result="ok"} 1`, `k8sm_ui_logins_total{result="refused"} 1`, "k8sm_ui_sessions 1", "k8sm_ui_build_info{",
		`k8sm_ui_request_duration_seconds_count{code="403",what="operate"} 3`, "go_goroutines ",
	} {
		if !strings.Contains(shown, "\n"+series) {
			t.Errorf("no %s in the metrics", series)
		}
	}
	a.Close()
	if answer, said := b.get("/metrics", "Authorization", "Bearer token-of-root"); answer.StatusCode != http.StatusBadGateway {
		t.Errorf("without an API server: %s %s", answer.Status, said)
	}
}
