// Package callers knows the callers of an HTTPS server. Only knows them by their client certificates alone; Access by certificates or
// tokens, and asks the API server about them. Start reading there.
package callers

import (
	"crypto/x509/pkix"
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
		caller := verified(r)
		if caller == nil {
			http.Error(w, "a client certificate from the cluster's CA is required", http.StatusUnauthorized)
			return
		}
		if !trusts(caller, users) {
			http.Error(w, fmt.Sprintf("user %q may not read this: it is for %s", caller.CommonName, strings.Join(append([]string{"group " + api.AdminGroup}, users...), " and ")),
				http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// verified returns whom a verified certificate names; nil if there is none.
func verified(r *http.Request) *pkix.Name {
	if len(r.TLS.VerifiedChains) == 0 {
		return nil
	}
	return &r.TLS.VerifiedChains[0][0].Subject
}

// trusts reports whether the caller is an administrator or one of the users.
func trusts(caller *pkix.Name, users []string) bool {
	return slices.Contains(caller.Organization, api.AdminGroup) || slices.Contains(users, caller.CommonName)
}
