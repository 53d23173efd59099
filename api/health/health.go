// Package health answers who asks a program how it is, in the way of Kubernetes' own programs
// (https://kubernetes.io/docs/reference/using-api/health-checks/). Alive means that it does not hang: a supervisor starts one again that is
// not. Ready means that it can do its work now. It decides neither.
package health

import (
	"context"
	"fmt"
	"net/http"
)

// Check returns what is wrong, soon. It may be called concurrently.
type Check func(context.Context) error

// Handle serves /healthz and /livez, which say whether the program is alive, and /readyz.
func Handle(mux *http.ServeMux, alive, ready Check) {
	for path, check := range map[string]Check{"/healthz": alive, "/livez": alive, "/readyz": ready} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) { Answer(w, check(r.Context())) })
	}
}

// Answer says what is wrong, or "ok".
func Answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}
