package minion

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/certificate"
	"k8s.io/client-go/util/certificate/csr"
	"k8s.io/client-go/util/keyutil"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/minion/supervise"
)

const (
	// authoritySpread is how long a node waits at most before it takes over CAs: all nodes learn of them at once.
	authoritySpread = 10 * time.Second
	// authorityAgain is how often a node looks whether its certificates are from the CA that issues now.
	authorityAgain = time.Minute
	// requestTimeout bounds a request for a certificate.
	requestTimeout = time.Minute
)

// trusted returns the CAs by which the node believes API servers.
func (n *node) trusted() (*x509.CertPool, error) { return n.trust.Load(), nil }

// believe makes the node believe API servers by these CAs, in PEM.
func (n *node) believe(cas []byte) error {
	pool, err := certutil.NewPoolFromBytes(cas)
	if err != nil {
		return fmt.Errorf("cannot use the cluster's CA: %w", err)
	}
	n.trust.Store(pool)
	return nil
}

// believeEarlier makes the node believe the CA of its executor, and those that an earlier minion knew: the executor may be older than the
// cluster's CA. The cluster's configuration then says which it is.
func (n *node) believeEarlier() error {
	n.givenCA = n.boot.CA
	if usual, err := n.usualFiles(); err == nil {
		if earlier, err := os.ReadFile(usual.ca()); err == nil && len(earlier) > 0 {
			n.boot.CA = append(append(bytes.Clone(n.givenCA), '\n'), earlier...)
		}
	}
	return n.believe(n.boot.CA)
}

// believeCluster makes the node believe the CAs that the cluster's configuration names, or only that of its executor if it names none.
func (n *node) believeCluster() error {
	n.boot.CA = n.cluster.CA
	if len(n.boot.CA) == 0 {
		n.boot.CA = n.givenCA
	}
	return n.believe(n.boot.CA)
}

// followAuthorities takes CAs over that replace others, until ctx ends. restart starts the kubelet again.
func (n *node) followAuthorities(ctx context.Context, client kubernetes.Interface, restart func()) error {
	latest := make(chan *corev1.ConfigMap, 1)
	stop, err := watchMinionConfig(ctx, client, func(object *corev1.ConfigMap) {
		select {
		case <-latest: // which is older
		default:
		}
		latest <- object
	})
	if err != nil {
		return err
	}
	defer stop()
	tick := time.NewTicker(authorityAgain)
	defer tick.Stop()
	known, first := n.cluster, true
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case object := <-latest:
			if known, err = api.ReadMinionConfig(object.Data); err != nil {
				return err
			}
			if !first {
				_ = supervise.Sleep(ctx, mathrand.N(authoritySpread))
			}
			first = false
		}
		if err := n.takeAuthorities(ctx, client, known, restart); err != nil {
			return err
		}
	}
}

// watchMinionConfig calls do with the ConfigMap as it is, and at each change. Only one goroutine calls it.
func watchMinionConfig(ctx context.Context, client kubernetes.Interface, do func(*corev1.ConfigMap)) (stop func(), err error) {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(api.MinionConfigNamespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, api.MinionConfigName).String()
		}))
	take := func(object any) {
		if config, ok := object.(*corev1.ConfigMap); ok {
			do(config)
		}
	}
	_, err = factory.Core().V1().ConfigMaps().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: take, UpdateFunc: func(_, object any) { take(object) },
	})
	if err != nil {
		return nil, fmt.Errorf("cannot watch the minions' configuration: %w", err)
	}
	watching, cancel := context.WithCancel(ctx)
	factory.Start(watching.Done())
	return func() { cancel(); factory.Shutdown() }, nil
}

// takeAuthorities writes the CAs that the cluster's configuration names, and gets certificates of those that issue now. The kubelet reads
// both at its start.
func (n *node) takeAuthorities(ctx context.Context, client kubernetes.Interface, cluster api.MinionConfig, restart func()) error {
	if len(cluster.CA) == 0 || len(cluster.KubeletServingCA) == 0 { // a control plane of an older version
		return nil
	}
	changed, err := n.writeTrusted(cluster.CA)
	if err != nil {
		return err
	}
	for _, p := range []pairOfNode{
		{file: n.files.certificate(), prefix: "kubelet-client", signer: certificatesv1.KubeAPIServerClientKubeletSignerName, usage: certificatesv1.UsageClientAuth, ca: cluster.CA},
		{file: n.files.servingCertificate(), prefix: "kubelet-server", signer: certificatesv1.KubeletServingSignerName, usage: certificatesv1.UsageServerAuth,
			ca: cluster.KubeletServingCA, chain: cluster.KubeletServingChain},
	} {
		renewed, err := n.files.renew(ctx, client, p)
		if err != nil {
			return err
		}
		changed = changed || renewed
	}
	n.serving.Store(&cluster.KubeletServingCA)
	if changed {
		n.log.Info("the cluster's CA is replaced: starting the kubelet again")
		restart()
	}
	return n.tellAuthorities(ctx, client)
}

// writeTrusted writes the CAs that the node and its kubelet trust, unless they are there already.
func (n *node) writeTrusted(cas []byte) (changed bool, err error) {
	if old, err := os.ReadFile(n.files.ca()); err == nil && bytes.Equal(old, cas) {
		return false, nil
	}
	if err := n.believe(cas); err != nil {
		return false, err
	}
	fresh := n.files.ca() + ".new"
	if err := os.WriteFile(fresh, cas, 0o600); err != nil {
		return false, fmt.Errorf("cannot write the cluster's CA: %w", err)
	}
	if err := os.Rename(fresh, n.files.ca()); err != nil {
		return false, fmt.Errorf("cannot write the cluster's CA: %w", err)
	}
	return true, nil
}

// pairOfNode is a certificate of the kubelet, and where it comes from.
type pairOfNode struct {
	file, prefix string
	signer       string
	usage        certificatesv1.KeyUsage
	// ca has the CA that signs first; chain is shown with the certificate.
	ca, chain []byte
}

// renew requests the certificate anew, with another key, if the CA that signs now has not signed it. One that is missing is the
// kubelet's to request.
func (l layout) renew(ctx context.Context, client kubernetes.Interface, p pairOfNode) (renewed bool, err error) {
	cas, err := certutil.ParseCertsPEM(p.ca)
	if err != nil {
		return false, fmt.Errorf("cannot use the cluster's CA: %w", err)
	}
	old, err := readCertificate(p.file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot read the node's certificate: %w", err)
	}
	if old.CheckSignatureFrom(cas[0]) == nil {
		return false, nil
	}
	cert, key, err := request(ctx, client, p, old)
	if err != nil {
		return false, fmt.Errorf("cannot get a certificate of the cluster's next CA: %w", err)
	}
	if got, err := certutil.ParseCertsPEM(cert); err != nil || got[0].CheckSignatureFrom(cas[0]) != nil {
		return false, errors.Join(errors.New("cannot get a certificate of the cluster's next CA: it does not sign yet"), err)
	}
	store, err := certificate.NewFileStore(p.prefix, l.pki(), l.pki(), "", "")
	if err == nil {
		_, err = store.Update(append(cert, p.chain...), key)
	}
	if err != nil {
		return false, fmt.Errorf("cannot write the node's certificate: %w", err)
	}
	return true, nil
}

// request requests a certificate like the old one, as the kubelet would
// (https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#kubernetes-signers).
func request(ctx context.Context, client kubernetes.Interface, p pairOfNode, old *x509.Certificate) (cert, key []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if key, err = keyutil.MarshalPrivateKeyToPEM(private); err != nil {
		return nil, nil, err
	}
	template := &x509.CertificateRequest{Subject: old.Subject, DNSNames: old.DNSNames, IPAddresses: old.IPAddresses}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, private)
	if err != nil {
		return nil, nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	usages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, p.usage}
	name, uid, err := csr.RequestCertificateWithContext(ctx, client, text, "", p.signer, nil, usages, private)
	if err != nil {
		return nil, nil, err
	}
	cert, err = csr.WaitForCertificate(ctx, client, name, uid)
	return cert, key, err
}

// authorities are the CAs that the node knows.
func (n *node) authorities() api.Authorities {
	var known api.Authorities
	trusted, _ := certutil.CertsFromFile(n.files.ca()) // none are told as such
	for _, ca := range trusted {
		known.Trusts = append(known.Trusts, api.AuthorityID(ca))
	}
	known.Client = signerOf(n.files.certificate(), trusted)
	if pem := n.serving.Load(); pem != nil {
		serving, _ := certutil.ParseCertsPEM(*pem)
		known.Serving = signerOf(n.files.servingCertificate(), serving)
	}
	return known
}

// signerOf is the id of the CA that signed the certificate in a file.
func signerOf(file string, cas []*x509.Certificate) string {
	cert, err := readCertificate(file)
	for _, ca := range cas {
		if err == nil && cert.CheckSignatureFrom(ca) == nil {
			return api.AuthorityID(ca)
		}
	}
	return ""
}

// annotation is how the node tells of its CAs.
func (n *node) authoritiesAnnotation() map[string]string {
	text, err := json.Marshal(n.authorities())
	if err != nil {
		return nil
	}
	return map[string]string{api.AnnotationAuthorities: string(text)}
}

// tellAuthorities writes the annotation at once. The report writes it again.
func (n *node) tellAuthorities(ctx context.Context, client kubernetes.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	object, err := client.CoreV1().Nodes().Get(ctx, n.boot.Node, metav1.GetOptions{})
	if err == nil {
		err = annotate(ctx, client, object, n.authoritiesAnnotation())
	}
	if err != nil {
		return fmt.Errorf("cannot write the node's CAs to the node: %w", err)
	}
	return nil
}

// restartable runs something that can be started again from elsewhere.
type restartable struct {
	run func(context.Context) error
	now chan struct{} // of size 1
}

func newRestartable(run func(context.Context) error) *restartable {
	return &restartable{run, make(chan struct{}, 1)}
}

// Restart starts it again, soon.
func (r *restartable) Restart() {
	select {
	case r.now <- struct{}{}:
	default:
	}
}

// Run runs it until ctx ends, or it ends by itself.
func (r *restartable) Run(ctx context.Context) error {
	for {
		once, stop := context.WithCancel(ctx)
		asked := make(chan bool, 1)
		go func() {
			select {
			case <-once.Done():
				asked <- false
			case <-r.now:
				stop()
				asked <- true
			}
		}()
		err := r.run(once)
		stop()
		if !<-asked || ctx.Err() != nil {
			return err
		}
	}
}
