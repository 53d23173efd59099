package controlplane

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api/etcd"
	"github.com/k8sm/k8sm/api/secretkeys"
	"github.com/k8sm/k8sm/api/statedir"
)

// TokenKeyRotation replaces the key that signs the tokens of service accounts, in three steps with starts of the control planes between
// them. Each step checks that all API servers are where it needs them, and changes nothing otherwise. Control planes take the keys over
// when they start. A step may be called again, on any of their machines.
type TokenKeyRotation struct {
	dir  statedir.Dir
	keys statedir.TokenKeys
	// servers are clients of the API servers, by URL.
	servers map[string]kubernetes.Interface
	etcd    *clientv3.Client
	// shared is what etcd has, at this revision.
	shared   sharedTokens
	revision int64
}

// NewTokenKeyRotation connects to the API servers but those at these addresses, HOST:PORT, which are gone for good. One of them must run.
// The caller calls Close.
func NewTokenKeyRotation(ctx context.Context, dir statedir.Dir, without ...string) (r *TokenKeyRotation, err error) {
	r = &TokenKeyRotation{dir: dir}
	if _, err = dir.TokenKeys(); err != nil {
		return nil, err
	}
	access, err := dir.Etcd()
	if err != nil {
		return nil, err
	}
	if r.etcd, err = etcd.Dial(access); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if r.shared, r.revision, err = takeTokens(ctx, r.etcd, dir); err != nil {
		return nil, err
	}
	if r.keys, err = dir.TokenKeys(); err != nil {
		return nil, err
	}
	admin, err := dir.Admin()
	if err != nil {
		return nil, err
	}
	r.servers, err = allServers(ctx, r.etcd, admin, without)
	return r, err
}

// Close ends the connections.
func (r *TokenKeyRotation) Close() { _ = r.etcd.Close() }

// allServers are clients of the API servers that run or died, by URL: one that died may only hang. Those at the addresses without are gone
// for good.
func allServers(ctx context.Context, etcd *clientv3.Client, admin *rest.Config, without []string) (map[string]kubernetes.Interface, error) {
	if len(without) > 0 {
		serving, err := runningServers(ctx, etcd)
		if err != nil {
			return nil, err
		}
		if err := secretkeys.Forget(ctx, etcd, without, serving); err != nil {
			return nil, err
		}
	}
	servers, err := apiServers(ctx, admin)
	if err != nil {
		return nil, err
	}
	all, err := secretkeys.Addresses(ctx, etcd)
	if err != nil {
		return nil, err
	}
	for _, address := range all {
		if err := addServer(servers, admin, address); err != nil {
			return nil, err
		}
	}
	for _, address := range without { // a lease of its API server may last a moment longer
		delete(servers, "https://"+address)
	}
	return servers, nil
}

// addServer adds a client of the API server at the address, unless there is one.
func addServer(all map[string]kubernetes.Interface, admin *rest.Config, address string) error {
	url := "https://" + address
	if all[url] != nil {
		return nil
	}
	client, err := kubernetes.NewForConfig(serverAt(admin, url))
	if err != nil {
		return fmt.Errorf("cannot create a client for the API server: %w", err)
	}
	all[url] = client
	return nil
}

// serverName is in the certificate of every API server.
const serverName = "kubernetes.default.svc"

// serverAt is how to reach the API server at the URL as the administrator.
func serverAt(admin *rest.Config, url string) *rest.Config {
	config := rest.CopyConfig(admin)
	config.Host, config.ServerName = url, serverName
	return config
}

// share gives the keys of the directory to the other control planes.
func (r *TokenKeyRotation) share(ctx context.Context, change func() error) error {
	if err := change(); err != nil {
		return err
	}
	return shareTokens(ctx, r.etcd, r.dir, r.shared, r.revision)
}

// apiServers are clients of each API server of the cluster. They are in the EndpointSlice that API servers keep; one that listens on
// loopback is not.
func apiServers(ctx context.Context, admin *rest.Config) (map[string]kubernetes.Interface, error) {
	client, err := kubernetes.NewForConfig(admin)
	if err != nil {
		return nil, fmt.Errorf("cannot create a client for the API server: %w", err)
	}
	slicesOf, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kubernetes"})
	if err != nil {
		return nil, fmt.Errorf("cannot find the API servers: %w", err)
	}
	all := map[string]kubernetes.Interface{}
	for _, slice := range slicesOf.Items {
		for _, endpoint := range slice.Endpoints {
			for _, address := range endpoint.Addresses {
				if len(slice.Ports) == 0 || slice.Ports[0].Port == nil {
					continue
				}
				if err := addServer(all, admin, net.JoinHostPort(address, strconv.Itoa(int(*slice.Ports[0].Port)))); err != nil {
					return nil, err
				}
			}
		}
	}
	if len(all) == 0 {
		all[admin.Host] = client
	}
	return all, nil
}

// Begin makes the next key.
func (r *TokenKeyRotation) Begin(ctx context.Context) error {
	if r.keys.Old != "" {
		return fmt.Errorf("cannot begin: the key before this one, which was replaced on %s, is still trusted: finish that first", r.keys.Replaced.Format(time.DateOnly))
	}
	return r.share(ctx, r.dir.AddTokenKey)
}

// Issue makes the next key sign tokens. All API servers must trust it.
func (r *TokenKeyRotation) Issue(ctx context.Context) error {
	if r.keys.Next == "" {
		return fmt.Errorf("cannot issue tokens by another key: there is none; begin first")
	}
	for host, server := range r.servers {
		trusted, err := trustedKeys(ctx, server)
		if err != nil {
			return fmt.Errorf("cannot ask the API server at %s: %w; start it, or name it by --without if it is gone for good", host, err)
		}
		if !slices.Contains(trusted, r.keys.Next) {
			return fmt.Errorf("cannot issue tokens by the next key: the API server at %s does not trust it yet; restart its km apiserver", host)
		}
	}
	return r.share(ctx, r.dir.UseTokenKey)
}

// Finish ends the trust in the former key, when nothing needs it: each API server signs with the new one, the key was replaced longer
// ago than tokens last, and no secret has a token by it.
func (r *TokenKeyRotation) Finish(ctx context.Context, now time.Time, tokensLast time.Duration) error {
	if r.keys.Old == "" {
		return fmt.Errorf("cannot finish: no former key is trusted")
	}
	if wait := tokensLast - now.Sub(r.keys.Replaced); wait > 0 {
		return fmt.Errorf("cannot finish for %s more: tokens by the former key may last %s, and it was replaced on %s", wait.Round(time.Minute), tokensLast, r.keys.Replaced.Format(time.DateTime))
	}
	for host, server := range r.servers {
		token, err := server.CoreV1().ServiceAccounts(metav1.NamespaceDefault).CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("cannot get a token of the API server at %s: %w; start it, or name it by --without if it is gone for good", host, err)
		}
		if keyOf(token.Status.Token) != r.keys.Current {
			return fmt.Errorf("cannot finish: the API server at %s signs with the former key still; restart its km apiserver", host)
		}
	}
	for _, server := range r.servers {
		if err := r.noSecretNeeds(ctx, server); err != nil {
			return err
		}
		break
	}
	return r.share(ctx, r.dir.ForgetTokenKey)
}

// noSecretNeeds returns an error if a secret has a token by the former key.
func (r *TokenKeyRotation) noSecretNeeds(ctx context.Context, server kubernetes.Interface) error {
	secrets, err := server.CoreV1().Secrets("").List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeServiceAccountToken)})
	if err != nil {
		return fmt.Errorf("cannot list the secrets with tokens: %w", err)
	}
	var old []string
	for _, s := range secrets.Items {
		if keyOf(string(s.Data[corev1.ServiceAccountTokenKey])) == r.keys.Old {
			old = append(old, s.Namespace+"/"+s.Name)
		}
	}
	if len(old) > 0 {
		return fmt.Errorf("cannot finish: tokens by the former key are in the secrets %s; remove the field token of each, and the controller manager writes a new one", strings.Join(old, ", "))
	}
	return nil
}

// trustedKeys are the ids of the keys by which the API server verifies tokens
// (https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/#service-account-issuer-discovery).
func trustedKeys(ctx context.Context, server kubernetes.Interface) (ids []string, err error) {
	text, err := server.Discovery().RESTClient().Get().AbsPath("/openid/v1/jwks").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	var set struct {
		Keys []struct {
			ID string `json:"kid"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, err
	}
	for _, key := range set.Keys {
		ids = append(ids, key.ID)
	}
	return ids, nil
}

// keyOf is the id of the key that signed a token; "" if it says none.
func keyOf(token string) string {
	head, _, _ := strings.Cut(token, ".")
	text, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return ""
	}
	var header struct {
		ID string `json:"kid"`
	}
	_ = json.Unmarshal(text, &header) // what is no header has no key
	return header.ID
}
