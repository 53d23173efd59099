// Package callers knows the callers of an HTTPS server by their client certificates. Start reading at Only.
package callers

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/k8sm/k8sm/api"
)

// Only lets administrators and these users pass, by the organization and the common name of their verified certificates. The server
// must verify client certificates that it is given.
func Only(next http.Handler, users ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.VerifiedChains) == 0 {
			http.Error(w, "a client certificate from the cluster's CA is required", http.StatusUnauthorized)
			return
		}
		caller := r.TLS.VerifiedChains[0][0].Subject
		if !slices.Contains(caller.Organization, api.AdminGroup) && !slices.Contains(users, caller.CommonName) {
			http.Error(w, fmt.Sprintf("user %q may not read this: it is for %s", caller.CommonName, strings.Join(append([]string{"group " + api.AdminGroup}, users...), " and ")),
				http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
