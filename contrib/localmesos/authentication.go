package localmesos

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
)

// schedulerRealm is the realm in which Mesos authenticates schedulers.
const schedulerRealm = "mesos-master-scheduler"

// credentials maps principals to secrets. Nil turns authentication off.
type credentials map[string]string

// readCredentials reads a file in either format of Mesos
// (https://mesos.apache.org/documentation/latest/authentication/#credentials-file): JSON, or lines of "principal secret".
func readCredentials(path string) (credentials, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var document struct {
		Credentials []struct{ Principal, Secret string }
	}
	if json.Unmarshal(data, &document) != nil {
		for line := range strings.Lines(string(data)) {
			if fields := strings.Fields(line); len(fields) == 2 {
				document.Credentials = append(document.Credentials, struct{ Principal, Secret string }{fields[0], fields[1]})
			}
		}
	}
	known := credentials{}
	for _, c := range document.Credentials {
		if c.Principal == "" || c.Secret == "" {
			return nil, errors.New("a credential has no principal or no secret")
		}
		known[c.Principal] = c.Secret
	}
	if len(known) == 0 {
		return nil, errors.New(`the file has no credentials; write {"credentials": [{"principal": "NAME", "secret": "SECRET"}]} or lines of "NAME SECRET"`)
	}
	return known, nil
}

// credentials returns the credentials of schedulers; nil if authentication is off.
func (c Config) credentials() (credentials, error) {
	if !c.AuthenticateHTTPFrameworks {
		return nil, nil
	}
	if c.Credentials == "" {
		return nil, errors.New("--authenticate-http-frameworks needs --credentials")
	}
	known, err := readCredentials(c.Credentials)
	if err != nil {
		return nil, fmt.Errorf("cannot read --credentials: %w", err)
	}
	return known, nil
}

type principalKey struct{}

// principalOf returns the authenticated principal of a request; "" if authentication is off.
func principalOf(r *http.Request) string {
	name, _ := r.Context().Value(principalKey{}).(string)
	return name
}

// guard requires HTTP basic authentication
// (https://mesos.apache.org/documentation/latest/authentication/#http-authentication).
func (c credentials) guard(realm string, next http.Handler) http.Handler {
	if c == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, secret, _ := r.BasicAuth()
		want, known := c[name]
		if !known || subtle.ConstantTimeCompare([]byte(secret), []byte(want)) != 1 {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf("Basic realm=%q", realm))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), principalKey{}, name)))
	})
}
