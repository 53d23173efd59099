package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	certutil "k8s.io/client-go/util/cert"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/etcd"
	"github.com/k8sm/k8sm/api/statedir"
)

// CARotation replaces CAs in three steps while everything runs (https://kubernetes.io/docs/tasks/tls/manual-rotation-of-ca-certificates/).
// The later steps check that API servers, nodes and what pods trust have followed the one before, and change nothing otherwise. A step
// may be called again.
type CARotation struct {
	// Force skips these checks.
	Force bool

	dir   statedir.Dir
	names []string
	cas   map[string]statedir.Rotation // by name
	admin *rest.Config
	// client is any API server's, and servers are each one's address.
	client  kubernetes.Interface
	servers []string
	said    map[string]map[string]caReport // what control planes say of each CA, by their addresses and its name
}

// NewCARotation connects to the API servers but those at the addresses without, HOST:PORT, which are gone for good. One of them must run.
// The names are of statedir.AuthorityNames; none means all.
func NewCARotation(ctx context.Context, dir statedir.Dir, without []string, names ...string) (*CARotation, error) {
	all, err := dir.Rotations(names...)
	if err != nil {
		return nil, err
	}
	r := &CARotation{dir: dir, cas: map[string]statedir.Rotation{}}
	for _, ca := range all {
		r.names = append(r.names, ca.Authority)
		r.cas[ca.Authority] = ca
	}
	if r.admin, err = dir.Admin(); err != nil {
		return nil, err
	}
	if r.client, err = kubernetes.NewForConfig(r.admin); err != nil {
		return nil, fmt.Errorf("cannot create a client for the API server: %w", err)
	}
	return r, r.findServers(ctx, without)
}

// findServers finds the API servers that run or died, and what their control planes have said.
func (r *CARotation) findServers(ctx context.Context, without []string) error {
	access, err := r.dir.Etcd()
	if err != nil {
		return err
	}
	client, err := etcd.Dial(access)
	if err != nil {
		return err
	}
	defer client.Close()
	servers, err := allServers(ctx, client, r.admin, without)
	if err != nil {
		return err
	}
	r.servers = slices.Sorted(maps.Keys(servers))
	r.said, err = readCAReports(ctx, client)
	return err
}

// Begin makes the next CAs, and has them trusted. lives are theirs.
func (r *CARotation) Begin(now time.Time, lives statedir.Lives) error {
	return r.dir.BeginRotation(now, lives, r.names...)
}

// Issue makes the next CAs issue certificates. All must trust them.
func (r *CARotation) Issue(ctx context.Context, now time.Time) error {
	if err := r.check(ctx, "issue certificates by the next CA", r.distrusting); err != nil {
		return err
	}
	return r.dir.IssueRotation(now, r.moving()...)
}

// Abort goes one step back. Nobody may need the next CAs if they are to go.
func (r *CARotation) Abort(ctx context.Context, now time.Time) error {
	if !slices.ContainsFunc(r.names, func(name string) bool { return r.cas[name].Phase == statedir.Issued }) {
		if err := r.check(ctx, "end the trust in the next CA", r.needing); err != nil {
			return err
		}
	}
	return r.dir.AbortRotation(now, r.moving()...)
}

// Finish ends the trust in the former CAs, when nobody needs them.
func (r *CARotation) Finish(ctx context.Context, now time.Time) error {
	if err := r.check(ctx, "finish", r.needing); err != nil {
		return err
	}
	if wait := r.settles(now); wait > 0 && !r.Force {
		return fmt.Errorf("cannot finish for %s more: clients use connections with their former certificates for a while", wait.Round(time.Second))
	}
	return r.dir.FinishRotation(now, r.moving()...)
}

// settling is twice as long as client-go uses a connection whose certificate was replaced.
const settling = 20 * time.Second

// settles is for how long clients may use certificates of the former CAs still.
func (r *CARotation) settles(now time.Time) (wait time.Duration) {
	for _, ca := range r.cas {
		if ca.Phase == statedir.Issued {
			wait = max(wait, settling-now.Sub(ca.Since))
		}
	}
	return wait
}

// moving are the CAs that are being replaced, or all if none is.
func (r *CARotation) moving() []string {
	moving := slices.DeleteFunc(slices.Clone(r.names), func(name string) bool { return r.cas[name].Phase == statedir.Steady })
	if len(moving) == 0 {
		return r.names
	}
	return moving
}

// check returns an error that names who is not ready for a step.
func (r *CARotation) check(ctx context.Context, step string, late func(context.Context) ([]string, error)) error {
	if r.Force {
		return nil
	}
	who, err := late(ctx)
	if err != nil {
		return fmt.Errorf("cannot %s: %w", step, err)
	}
	if len(who) == 0 {
		return nil
	}
	const shown = 10
	more := ""
	if len(who) > shown {
		more = fmt.Sprintf("; and %d more", len(who)-shown)
	}
	return fmt.Errorf("cannot %s: %s%s; wait a minute and try again, or give --force", step, strings.Join(who[:min(len(who), shown)], "; "), more)
}

// distrusting names those that do not trust the next CAs yet.
func (r *CARotation) distrusting(ctx context.Context) (who []string, err error) {
	cluster, moving := r.cas[clusterCA]
	if who, err = r.serversThat(ctx, r.serverDistrusts); err != nil {
		return nil, err
	}
	if moving && cluster.Phase == statedir.Begun {
		namespaces, err := r.untrustingNamespaces(ctx, cluster.Other)
		if err != nil {
			return nil, err
		}
		untold, err := r.untold(ctx, cluster.Other)
		if err != nil {
			return nil, err
		}
		who = slices.Concat(who, namespaces, untold)
	}
	nodes, err := r.nodesThat(ctx, func(known api.Authorities) string {
		if moving && cluster.Phase == statedir.Begun && !slices.Contains(known.Trusts, api.AuthorityID(cluster.Other)) {
			return "does not trust the next CA yet"
		}
		return ""
	})
	return slices.Concat(who, nodes), err
}

// needing names those that need the CA that is to go: the former one, or the next one of a rotation that goes back.
func (r *CARotation) needing(ctx context.Context) (who []string, err error) {
	cluster, moving := r.cas[clusterCA]
	moving = moving && cluster.Phase != statedir.Steady
	if who, err = r.serversThat(ctx, r.serverNeeds); err != nil {
		return nil, err
	}
	if moving {
		namespaces, err := r.untrustingNamespaces(ctx, cluster.Issuer)
		if err != nil {
			return nil, err
		}
		who = slices.Concat(who, namespaces)
	}
	serving := r.cas[kubeletServingCA]
	nodes, err := r.nodesThat(ctx, func(known api.Authorities) string {
		switch {
		case moving && known.Client != api.AuthorityID(cluster.Issuer):
			return "calls with a certificate of the CA that is to go"
		case serving.Phase != "" && serving.Phase != statedir.Steady && known.Serving != api.AuthorityID(serving.Issuer):
			return "serves with a certificate of the CA that is to go"
		}
		return ""
	})
	return slices.Concat(who, nodes), err
}

// Names of CAs whose users are known.
const (
	clusterCA        = "ca"
	kubeletServingCA = "kubelet-serving-ca"
)

// serversThat returns what the check says of each API server.
func (r *CARotation) serversThat(ctx context.Context, check func(ctx context.Context, host string) (problem string, err error)) (who []string, err error) {
	for _, host := range r.servers {
		problem, err := check(ctx, host)
		if err != nil {
			return nil, fmt.Errorf("cannot ask the API server at %s: %w; start it, or name it by --without if it is gone for good", host, err)
		}
		if problem != "" {
			who = append(who, fmt.Sprintf("the API server at %s %s", host, problem))
		}
	}
	return who, nil
}

// bringIt is what to do about a control plane that is late.
const bringIt = ": bring it the authorities by km pki export and import"

// serverDistrusts tells whether a control plane does not trust the next CAs yet.
func (r *CARotation) serverDistrusts(ctx context.Context, host string) (problem string, err error) {
	if cluster := r.cas[clusterCA]; cluster.Phase == statedir.Begun {
		if problem, err := r.serverTrusts(ctx, host); err != nil || problem != "" {
			return problem, err
		}
	}
	return r.saysOf(host, func(ca statedir.Rotation, said caReport) string {
		if ca.Phase == statedir.Begun && !slices.Contains(said.Trusts, api.AuthorityID(ca.Other)) {
			return "does not trust the next " + ca.Authority + " yet" + bringIt
		}
		return ""
	}), nil
}

// serverNeeds tells whether a control plane needs CAs that are to go.
func (r *CARotation) serverNeeds(ctx context.Context, host string) (problem string, err error) {
	if cluster := r.cas[clusterCA]; cluster.Phase != "" && cluster.Phase != statedir.Steady {
		if problem, err := r.serverShows(ctx, host, cluster.Issuer); err != nil || problem != "" {
			return problem, err
		}
	}
	return r.saysOf(host, func(ca statedir.Rotation, said caReport) string {
		switch {
		case said.Issuer != api.AuthorityID(ca.Issuer):
			return "issues certificates by the " + ca.Authority + " that is to go" + bringIt
		case !said.Settled:
			return fmt.Sprintf("has issued certificates by this %s for less than %s: its clients use connections with their former ones for a while", ca.Authority, settling)
		}
		return ""
	}), nil
}

// saysOf returns what the check finds in what the control plane of an API server has said of the CAs.
func (r *CARotation) saysOf(host string, check func(statedir.Rotation, caReport) string) (problem string) {
	said, has := r.said[strings.TrimPrefix(host, "https://")]
	for _, name := range r.names {
		switch ca := r.cas[name]; {
		case ca.Phase == statedir.Steady:
		case !has:
			return "does not say which CAs it has: its km is too old, or has just started"
		default:
			if problem := check(ca, said[name]); problem != "" {
				return problem
			}
		}
	}
	return ""
}

// serverTrusts asks an API server as somebody with a certificate of the next CA.
func (r *CARotation) serverTrusts(ctx context.Context, host string) (problem string, err error) {
	const user = "k8sm-ca-rotation"
	config := serverAt(r.admin, host)
	config.CertFile, config.KeyFile = "", ""
	if config.CertData, config.KeyData, err = r.dir.NextIdentity(time.Now(), user); err != nil {
		return "", err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return "", err
	}
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if apierrors.IsUnauthorized(err) || err == nil && review.Status.UserInfo.Username != user {
		return "does not trust the next CA yet" + bringIt, nil
	}
	return "", err
}

// serverShows looks whether an API server shows a certificate of the CA.
func (r *CARotation) serverShows(ctx context.Context, host string, ca *x509.Certificate) (problem string, err error) {
	roots, err := certutil.NewPool(r.dir.CA())
	if err != nil {
		return "", err
	}
	u, err := url.Parse(host)
	if err != nil {
		return "", err
	}
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: serverName}}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return "", err
	}
	shown := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
	if shown.CheckSignatureFrom(ca) != nil {
		problem = "shows a certificate of the CA that is to go" + bringIt
	}
	return problem, conn.Close()
}

// untrustingNamespaces are those whose pods get CAs without this one.
func (r *CARotation) untrustingNamespaces(ctx context.Context, ca *x509.Certificate) (who []string, err error) {
	maps, err := r.client.CoreV1().ConfigMaps("").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=kube-root-ca.crt"})
	if err != nil {
		return nil, fmt.Errorf("cannot list what pods trust: %w", err)
	}
	for _, m := range maps.Items {
		certs, err := certutil.ParseCertsPEM([]byte(m.Data["ca.crt"]))
		if err != nil || !slices.ContainsFunc(certs, ca.Equal) {
			who = append(who, fmt.Sprintf("pods in the namespace %s do not get the CA yet that is to stay (ConfigMap kube-root-ca.crt)", m.Namespace))
		}
	}
	return who, nil
}

// untold says so if the control plane has not told minions of a CA yet, and so perhaps not etcd either: see Config.tellAuthorities.
func (r *CARotation) untold(ctx context.Context, ca *x509.Certificate) (who []string, err error) {
	config, err := r.client.CoreV1().ConfigMaps(api.MinionConfigNamespace).Get(ctx, api.MinionConfigName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot read what minions are told: %w", err)
	}
	minions, err := api.ReadMinionConfig(config.Data)
	if err != nil {
		return nil, err
	}
	if certs, err := certutil.ParseCertsPEM(minions.CA); err != nil || !slices.ContainsFunc(certs, ca.Equal) {
		who = append(who, fmt.Sprintf("minions are not told of the next CA yet (ConfigMap %s/%s)", api.MinionConfigNamespace, api.MinionConfigName))
	}
	return who, nil
}

// nodesThat returns what the check says of each node with a kubelet.
func (r *CARotation) nodesThat(ctx context.Context, check func(api.Authorities) string) (who []string, err error) {
	nodes, err := r.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot list the nodes: %w", err)
	}
	for _, node := range nodes.Items {
		if !hasKubelet(&node) {
			continue // the next one gets new certificates
		}
		var known api.Authorities
		problem := "does not say which CAs it knows: its km is too old, or has just started"
		if json.Unmarshal([]byte(node.Annotations[api.AnnotationAuthorities]), &known) == nil {
			problem = check(known)
		}
		if problem != "" {
			who = append(who, fmt.Sprintf("node %s %s", node.Name, problem))
		}
	}
	return who, nil
}

// hasKubelet reports whether a kubelet has written the node's condition, or has just stopped to.
func hasKubelet(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && (strings.HasPrefix(c.Reason, "Kubelet") || strings.HasPrefix(c.Reason, "NodeStatus"))
	})
}

// State tells how far the CAs are replaced, and who is not ready for the next step.
func (r *CARotation) State(ctx context.Context) (cas []statedir.Rotation, late []string, err error) {
	for _, name := range r.names {
		cas = append(cas, r.cas[name])
	}
	if slices.ContainsFunc(cas, func(c statedir.Rotation) bool { return c.Phase == statedir.Begun }) {
		late, err = r.distrusting(ctx)
		return cas, late, err
	}
	if slices.ContainsFunc(cas, func(c statedir.Rotation) bool { return c.Phase == statedir.Issued }) {
		late, err = r.needing(ctx)
	}
	return cas, late, err
}
