package minion

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/protobuf"
	"github.com/k8sm/k8sm/minion/supervise"
)

// apiTimeout bounds one call to the API server.
const apiTimeout = 10 * time.Second

// kubeconfig returns a configuration for calls to the API server with the given credentials
// (https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/). caFile has the API server's CAs, which
// client-go reads again; "" means those of the node's start.
func kubeconfig(boot api.Bootstrap, caFile string, who *clientcmdapi.AuthInfo) clientcmdapi.Config {
	cluster := &clientcmdapi.Cluster{Server: boot.APIServer, CertificateAuthority: caFile}
	if caFile == "" {
		cluster.CertificateAuthorityData = boot.CA
	}
	return clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"k8sm": cluster},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"node": who},
		Contexts:       map[string]*clientcmdapi.Context{"k8sm": {Cluster: "k8sm", AuthInfo: "node"}},
		CurrentContext: "k8sm",
	}
}

// tokenAuth identifies a node that has no certificate yet.
func tokenAuth(boot api.Bootstrap) *clientcmdapi.AuthInfo {
	return &clientcmdapi.AuthInfo{Token: boot.Token}
}

// rejection notices an API server that keeps rejecting credentials. One that has just started may not have read the tokens yet.
type rejection struct{ since time.Time }

const rejectionPatience = 30 * time.Second

// lasts takes the result of a call, and reports whether all have been rejected for too long.
func (r *rejection) lasts(now time.Time, err error) bool {
	if !apierrors.IsUnauthorized(err) {
		r.since = time.Time{}
		return false
	}
	if r.since.IsZero() {
		r.since = now
	}
	return now.Sub(r.since) >= rejectionPatience
}

// nodeAuth identifies the node by the certificate that the kubelet requests and renews.
func (l layout) nodeAuth() *clientcmdapi.AuthInfo {
	return &clientcmdapi.AuthInfo{ClientCertificate: l.certificate(), ClientKey: l.certificate()}
}

// checkIdentity returns nil if the node's certificate is valid in this cluster at the given time.
func (l layout) checkIdentity(boot api.Bootstrap, now time.Time) error {
	certificate, err := readCertificate(l.certificate())
	if err != nil {
		return fmt.Errorf("cannot read the node's certificate: %w", err)
	}
	if name := api.NodeUserPrefix + boot.Node; certificate.Subject.CommonName != name {
		return fmt.Errorf("the certificate is for %q, not for %q", certificate.Subject.CommonName, name)
	}
	if err := verify(certificate, boot.CA, now, x509.ExtKeyUsageClientAuth); err != nil {
		return fmt.Errorf("the node's certificate is no longer valid: %w", err)
	}
	return nil
}

// verify returns nil if the CA signed the certificate for this usage and it is valid at the given time.
func verify(certificate *x509.Certificate, ca []byte, now time.Time, usage x509.ExtKeyUsage) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	_, err := certificate.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

// readCertificate returns the first certificate in a file.
func readCertificate(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for block, left := pem.Decode(data); block != nil; block, left = pem.Decode(left) {
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
	}
	return nil, errors.New("the file contains no certificate")
}

// verifyPair returns nil if the certificate is of the CA that the cluster has for such certificates.
func verifyPair(certificate *x509.Certificate, boot api.Bootstrap, servingCA []byte, now time.Time) error {
	if slices.Contains(certificate.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		return verify(certificate, servingCA, now, x509.ExtKeyUsageServerAuth)
	}
	return verify(certificate, boot.CA, now, x509.ExtKeyUsageClientAuth)
}

// discardForeign removes certificate and key pairs that have expired or that another CA has signed. The node's directory may outlive
// its control plane, and the kubelet serves with whatever pair it finds. Links such as kubelet-server-current.pem stay if they point
// to a valid pair.
func (l layout) discardForeign(boot api.Bootstrap, servingCA []byte, now time.Time) error {
	pairs, err := filepath.Glob(filepath.Join(l.pki(), "*.pem"))
	if err != nil {
		return fmt.Errorf("cannot find the node's certificates: %w", err)
	}
	for _, pair := range pairs {
		certificate, problem := readCertificate(pair)
		if problem == nil {
			problem = verifyPair(certificate, boot, servingCA, now)
		}
		if problem == nil {
			continue
		}
		logrus.WithFields(logrus.Fields{"node": boot.Node, "file": pair}).Infof("removing a certificate that is not valid in this cluster: %s", problem)
		if err := remove(pair); err != nil {
			return err
		}
	}
	return nil
}

// remove removes a file with credentials. A missing file is no error.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove old credentials: %w", err)
	}
	return nil
}

// prepareIdentity removes credentials of other clusters, and writes the kubelet's: a kubeconfig if the node has a valid certificate,
// else a bootstrap kubeconfig with the token to request one
// (https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/). servingCA signs kubelets' serving
// certificates.
func (l layout) prepareIdentity(boot api.Bootstrap, servingCA []byte, now time.Time) error {
	if err := os.WriteFile(l.ca(), boot.CA, 0o600); err != nil {
		return fmt.Errorf("cannot write the cluster's CA: %w", err)
	}
	problem := l.checkIdentity(boot, now)
	if err := l.discardForeign(boot, servingCA, now); err != nil {
		return err
	}
	if problem == nil {
		return writeKubeconfig(l.kubeconfig(), kubeconfig(boot, l.ca(), l.nodeAuth()))
	}
	logrus.WithField("node", boot.Node).Infof("requesting a certificate with the bootstrap token: %s", problem)
	for _, stale := range []string{l.kubeconfig(), l.certificate()} {
		if err := remove(stale); err != nil {
			return err
		}
	}
	return writeKubeconfig(l.bootstrapKubeconfig(), kubeconfig(boot, l.ca(), tokenAuth(boot)))
}

// awaitIdentity waits until the kubelet has the node's certificate, then removes the bootstrap token.
func (l layout) awaitIdentity(ctx context.Context, boot api.Bootstrap) error {
	for l.checkIdentity(boot, time.Now()) != nil {
		if err := supervise.Sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
	for { // the kubelet writes its kubeconfig right after the certificate
		if _, err := os.Stat(l.kubeconfig()); err == nil {
			break
		}
		if err := supervise.Sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return remove(l.bootstrapKubeconfig())
}

func writeKubeconfig(path string, cfg clientcmdapi.Config) error {
	if err := clientcmd.WriteToFile(cfg, path); err != nil { // with mode 0600
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

// restConfig returns how clients with the given credentials call. client-go reloads files that have changed; see kubeconfig.
func restConfig(boot api.Bootstrap, caFile string, who *clientcmdapi.AuthInfo) (*rest.Config, error) {
	cfg, err := clientcmd.NewDefaultClientConfig(kubeconfig(boot, caFile, who), nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("cannot use the credentials for %s: %w", boot.APIServer, err)
	}
	cfg.UserAgent = "km-minion/" + api.Version
	return cfg, nil
}

// newClient returns a client with the given credentials.
func newClient(boot api.Bootstrap, caFile string, who *clientcmdapi.AuthInfo) (kubernetes.Interface, error) {
	cfg, err := restConfig(boot, caFile, who)
	if err != nil {
		return nil, err
	}
	client, err := protobuf.NewClient(cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot use the credentials for %s: %w", boot.APIServer, err)
	}
	return client, nil
}

// fetchConfig reads the cluster's MinionConfig.
func fetchConfig(ctx context.Context, client kubernetes.Interface) (api.MinionConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	object, err := client.CoreV1().ConfigMaps(api.MinionConfigNamespace).Get(ctx, api.MinionConfigName, metav1.GetOptions{})
	if err != nil {
		return api.MinionConfig{}, fmt.Errorf("cannot get the minions' configuration, ConfigMap %s/%s: %w", api.MinionConfigNamespace, api.MinionConfigName, err)
	}
	return api.ReadMinionConfig(object.Data)
}
