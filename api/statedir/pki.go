package statedir

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"

	"github.com/k8sm/k8sm/api"
)

// Leaf names a certificate that one of the authorities signed.
type Leaf string

// The certificates below the state directory; https://kubernetes.io/docs/setup/best-practices/certificates/ says which
// ones a control plane needs.
const (
	// APIServer is what the kube-apiserver serves with.
	APIServer Leaf = "apiserver"
	// KubeletClient is what the kube-apiserver calls kubelets with.
	KubeletClient Leaf = "apiserver-kubelet-client"
	// FrontProxyClient is what the kube-apiserver calls aggregated API servers with.
	FrontProxyClient Leaf = "front-proxy-client"
	// EtcdServer is what the embedded etcd serves with.
	EtcdServer Leaf = "etcd-server"
	// APIServerEtcdClient is what the kube-apiserver calls the embedded etcd with.
	APIServerEtcdClient Leaf = "apiserver-etcd-client"
	// SchedulerServer is what a scheduler serves its status with.
	SchedulerServer Leaf = "scheduler-server"
	// DNSServer is what the cluster's DNS servers serve their metrics with.
	DNSServer Leaf = "dns-server"
)

// DNSServerName is the name that the DNSServer certificate is for, in the same way.
const DNSServerName = "dns.k8sm.io"

// SchedulerServerName is the name that the SchedulerServer certificate is for, besides those of loopback. Clients of a
// scheduler on another machine expect this name, whatever its address: schedulers come and go without new certificates.
const SchedulerServerName = "scheduler.k8sm.io"

const (
	clusterAuthority    = "ca"
	frontProxyAuthority = "front-proxy-ca"
	etcdAuthority       = "etcd-ca"
	etcdClient          = "etcd-client"

	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 365 * 24 * time.Hour
	// A certificate that has less than this left is issued again at the next start.
	renewBefore = 90 * 24 * time.Hour
	// Clocks of other machines may be behind ours.
	clockSkew = time.Hour
)

// Spec is what the certificates and kubeconfigs of a cluster depend on.
type Spec struct {
	// Now decides what has expired and how long new certificates last.
	Now time.Time
	// ServerURL is the API server's address as written into the kubeconfigs.
	ServerURL string
	// ServerNames are the host names and IP addresses that the API server's certificate is for.
	ServerNames []string
	// EtcdNames are those of the embedded etcd's certificate.
	EtcdNames []string
}

// Prepare makes the authorities, certificates, the service account key and the kubeconfigs, or keeps those that are
// there: an authority as long as it is valid, a certificate until it comes near its end or is for other names than
// wanted. A file that cannot be read is an error; it is never overwritten.
func (d Dir) Prepare(spec Spec) error {
	authorities := map[string]*pair{}
	for _, a := range []struct{ name, commonName string }{
		{clusterAuthority, "k8sm"},
		{frontProxyAuthority, "k8sm-front-proxy"},
		{etcdAuthority, "k8sm-etcd"},
	} {
		ca, err := d.authority(a.name, a.commonName, spec.Now)
		if err != nil {
			return err
		}
		authorities[a.name] = ca
	}
	for _, l := range leaves(spec) {
		if _, err := d.leaf(l, authorities[l.authority], spec.Now); err != nil {
			return err
		}
	}
	if _, err := d.privateKey(d.ServiceAccountKey()); err != nil {
		return err
	}
	return d.kubeconfigs(spec, authorities[clusterAuthority])
}

// leaf is what a certificate has to be like.
type leaf struct {
	name      string
	authority string
	user      string
	group     string
	hosts     []string // DNS names and IP addresses; none for a certificate that is only a client's
}

func leaves(spec Spec) []leaf {
	return []leaf{
		{name: string(APIServer), authority: clusterAuthority, user: "kube-apiserver", hosts: spec.ServerNames},
		{name: string(KubeletClient), authority: clusterAuthority, user: KubeletClientUser},
		{name: string(FrontProxyClient), authority: frontProxyAuthority, user: FrontProxyUser},
		{name: string(EtcdServer), authority: etcdAuthority, user: "etcd", hosts: spec.EtcdNames},
		{name: string(APIServerEtcdClient), authority: etcdAuthority, user: "kube-apiserver"},
		{name: string(SchedulerServer), authority: clusterAuthority, user: "k8sm-scheduler-server",
			hosts: []string{SchedulerServerName, "localhost", "127.0.0.1", "::1"}},
		{name: string(DNSServer), authority: clusterAuthority, user: "k8sm-dns-server",
			hosts: []string{DNSServerName, "localhost", "127.0.0.1", "::1"}},
		{name: etcdClient, authority: etcdAuthority, user: "k8sm"},
	}
}

// Names of users in certificates that others must know: who may call kubelets, and who may say on whose behalf it calls.
const (
	KubeletClientUser = "system:k8sm-kubelet-client"
	FrontProxyUser    = "front-proxy-client"
)

// users are the identities that have a kubeconfig.
func (d Dir) users() map[string]leaf {
	return map[string]leaf{
		d.AdminKubeconfig():             {name: "admin", user: "kubernetes-admin", group: "system:masters"},
		d.SchedulerKubeconfig():         {name: "scheduler", user: api.SchedulerUser},
		d.DNSKubeconfig():               {name: "dns", user: api.DNSUser},
		d.ControllerManagerKubeconfig(): {name: "controller-manager", user: "system:kube-controller-manager"},
	}
}

// pair is a certificate with its private key.
type pair struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// authority returns the authority of this name, made anew if there is none. An expired one, or one whose key is lost, is
// an error: all that it signed is worthless with it, and only an operator can tell the nodes about another.
func (d Dir) authority(name, commonName string, now time.Time) (*pair, error) {
	if _, err := os.Stat(d.cert(name)); errors.Is(err, fs.ErrNotExist) {
		return d.newAuthority(name, commonName, now)
	}
	ca, err := d.load(name)
	if err != nil {
		return nil, err
	}
	if now.After(ca.cert.NotAfter) {
		return nil, fmt.Errorf("cannot use the authority in %s: it expired on %s; remove %s to give the cluster a new one",
			d.cert(name), ca.cert.NotAfter.Format(time.DateOnly), d.path("pki"))
	}
	return ca, nil
}

func (d Dir) newAuthority(name, commonName string, now time.Time) (*pair, error) {
	key, err := d.privateKey(d.key(name))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	cert, err := sign(template, &pair{cert: template, key: key}, key.Public())
	if err != nil {
		return nil, err
	}
	return &pair{cert: cert, key: key}, writeCert(d.cert(name), cert)
}

// leaf returns the certificate, issued anew unless the one that is there will do.
func (d Dir) leaf(l leaf, ca *pair, now time.Time) (*pair, error) {
	old, err := d.load(l.name)
	if err == nil && l.acceptable(old.cert, ca.cert, now) {
		return old, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := d.privateKey(d.key(l.name))
	if err != nil {
		return nil, err
	}
	cert, err := sign(l.template(ca.cert, now), ca, key.Public())
	if err != nil {
		return nil, err
	}
	return &pair{cert: cert, key: key}, writeCert(d.cert(l.name), cert)
}

func (l leaf) template(ca *x509.Certificate, now time.Time) *x509.Certificate {
	t := &x509.Certificate{
		Subject:   pkix.Name{CommonName: l.user},
		NotBefore: now.Add(-clockSkew),
		NotAfter:  now.Add(leafLife),
		KeyUsage:  x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	if ca.NotAfter.Before(t.NotAfter) {
		t.NotAfter = ca.NotAfter
	}
	if l.group != "" {
		t.Subject.Organization = []string{l.group}
	}
	// etcd calls itself with its serving certificate, so a server's certificate is also a client's.
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(l.hosts) > 0 {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	t.DNSNames, t.IPAddresses = splitHosts(l.hosts)
	return t
}

// acceptable reports whether the certificate can go on being used for l.
func (l leaf) acceptable(cert, ca *x509.Certificate, now time.Time) bool {
	want := l.template(ca, now)
	return cert.CheckSignatureFrom(ca) == nil &&
		now.Add(renewBefore).Before(cert.NotAfter) &&
		cert.Subject.CommonName == want.Subject.CommonName &&
		slices.Equal(cert.Subject.Organization, want.Subject.Organization) &&
		slices.Equal(cert.DNSNames, want.DNSNames) &&
		slices.EqualFunc(cert.IPAddresses, want.IPAddresses, net.IP.Equal)
}

// splitHosts sorts the hosts into names and addresses, each once.
func splitHosts(hosts []string) (names []string, addresses []net.IP) {
	for _, host := range slices.Compact(slices.Sorted(slices.Values(hosts))) {
		if ip := net.ParseIP(host); ip != nil {
			addresses = append(addresses, ip)
		} else {
			names = append(names, host)
		}
	}
	return names, addresses
}

// load reads a certificate and its key. The error is fs.ErrNotExist when either is missing.
func (d Dir) load(name string) (*pair, error) {
	certs, err := certutil.CertsFromFile(d.cert(name))
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate %s: %w", d.cert(name), err)
	}
	key, err := readKey(d.key(name))
	if err != nil {
		return nil, err
	}
	return &pair{cert: certs[0], key: key}, nil
}

// privateKey returns the key in the file, made anew if there is none.
func (d Dir) privateKey(file string) (crypto.Signer, error) {
	key, err := readKey(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	fresh, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make the key %s: %w", filepath.Base(file), err)
	}
	data, err := keyutil.MarshalPrivateKeyToPEM(fresh)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the key %s: %w", filepath.Base(file), err)
	}
	return fresh, writeFile(file, data)
}

func readKey(file string) (crypto.Signer, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the key %s: %w", file, err)
	}
	key, err := keyutil.ParsePrivateKeyPEM(data)
	if err != nil {
		return nil, fmt.Errorf("cannot read the key %s: %w", file, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("cannot use the key %s: it cannot sign", file)
	}
	return signer, nil
}

// sign issues a certificate after the template, with a random serial number.
func sign(template *x509.Certificate, ca *pair, public crypto.PublicKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("cannot draw a serial number: %w", err)
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, public, ca.key)
	if err != nil {
		return nil, fmt.Errorf("cannot sign the certificate of %s: %w", template.Subject, err)
	}
	return x509.ParseCertificate(der)
}

func writeCert(file string, cert *x509.Certificate) error {
	data, err := certutil.EncodeCertificates(cert)
	if err != nil {
		return fmt.Errorf("cannot encode the certificate %s: %w", file, err)
	}
	return writeFile(file, data)
}
