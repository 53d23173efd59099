package callers

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/api/certfile"
)

// The API server's answers are cached as long as a kubelet caches them by default
// (https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/).
const (
	tokenTTL, allowedTTL, deniedTTL = 2 * time.Minute, 5 * time.Minute, 30 * time.Second
	// reviewTimeout bounds a question to the API server.
	reviewTimeout = 5 * time.Second
)

// Access says who calls, and decides what they may read.
type Access struct {
	Authenticator authenticator.Request
	Authorizer    authorizer.Authorizer
}

// Delegate returns an Access that asks the API server. It knows callers by client certificates of the CAs in a file, as they are at each
// call, or by tokens. The client must be used for nothing else: its rate limit bounds what strangers with invented tokens can make the
// API server do.
func Delegate(client kubernetes.Interface, caFile string) (Access, error) {
	clients, err := certfile.NewAuthorities(caFile)
	if err != nil {
		return Access{}, err
	}
	ca := authorities{clients}
	again := &wait.Backoff{Duration: 500 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 3}
	who, _, err := authenticatorfactory.DelegatingAuthenticatorConfig{
		Anonymous: &apiserver.AnonymousAuthConfig{}, ClientCertificateCAContentProvider: ca,
		TokenAccessReviewClient: client.AuthenticationV1(), TokenAccessReviewTimeout: reviewTimeout, CacheTTL: tokenTTL, WebhookRetryBackoff: again,
	}.New()
	if err != nil {
		return Access{}, fmt.Errorf("cannot ask the API server who calls: %w", err)
	}
	may, err := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: client.AuthorizationV1(), AllowCacheTTL: allowedTTL, DenyCacheTTL: deniedTTL, WebhookRetryBackoff: again,
	}.New()
	if err != nil {
		return Access{}, fmt.Errorf("cannot ask the API server what callers may read: %w", err)
	}
	return Access{who, may}, nil
}

// authorities are the CAs in a file in Kubernetes' words. It has nobody to notify: it looks when it is asked.
type authorities struct{ in *certfile.Authorities }

// Name implements dynamiccertificates.CAContentProvider.
func (authorities) Name() string { return "the cluster's CA" }

// CurrentCABundleContent implements dynamiccertificates.CAContentProvider. Only servers ask for it that say which CAs they know.
func (authorities) CurrentCABundleContent() []byte { return nil }

// AddListener implements dynamiccertificates.CAContentProvider.
func (authorities) AddListener(dynamiccertificates.Listener) {}

// VerifyOptions implements dynamiccertificates.CAContentProvider.
func (a authorities) VerifyOptions() (x509.VerifyOptions, bool) {
	pool, err := a.in.Pool()
	return x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, err == nil
}

// Right is what a caller needs for a request.
type Right func(user.Info, *http.Request) authorizer.AttributesRecord

// ReadsPath is the right to read the path, as a non-resource URL
// (https://kubernetes.io/docs/reference/access-authn-authz/authorization/#determine-whether-a-request-is-allowed-or-denied).
func ReadsPath(caller user.Info, r *http.Request) authorizer.AttributesRecord {
	return authorizer.AttributesRecord{User: caller, Verb: strings.ToLower(r.Method), Path: r.URL.Path}
}

// Guard lets callers with the right pass. If the server verifies client certificates, administrators and the trusted users pass by
// their certificates, as in Only, whatever the API server says, and also while it is down.
func (a Access) Guard(needed Right, trusted ...string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if subject := verified(r); subject != nil && trusts(subject, trusted) {
				next.ServeHTTP(w, r)
				return
			}
			caller, known, err := a.Authenticator.AuthenticateRequest(r)
			if err != nil {
				logrus.WithError(err).WithField("path", r.URL.Path).Debug("a caller is not known")
			}
			if err != nil || !known {
				http.Error(w, "a client certificate from the cluster's CA, or a token of the cluster, is required", http.StatusUnauthorized)
				return
			}
			if code, why := a.refusal(r.Context(), needed(caller.User, r)); code != 0 {
				http.Error(w, why, code)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// refusal says why the caller may not read that; the code is 0 for one that may.
func (a Access) refusal(ctx context.Context, wanted authorizer.AttributesRecord) (code int, why string) {
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	decision, _, err := a.Authorizer.Authorize(ctx, wanted)
	switch {
	case err != nil:
		return http.StatusServiceUnavailable, "cannot ask the API server what you may read: " + err.Error()
	case decision == authorizer.DecisionAllow:
		return 0, ""
	case wanted.ResourceRequest:
		what := wanted.Resource
		if wanted.Subresource != "" {
			what += "/" + wanted.Subresource
		}
		of := wanted.Name
		if wanted.Namespace != "" {
			of = wanted.Namespace + "/" + wanted.Name
		}
		return http.StatusForbidden, fmt.Sprintf("user %q may not %s %s of %s", wanted.User.GetName(), wanted.Verb, what, of)
	}
	return http.StatusForbidden, fmt.Sprintf("user %q may not %s %s", wanted.User.GetName(), wanted.Verb, wanted.Path)
}
