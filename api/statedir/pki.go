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

	"github.com/gofrs/flock"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/logs"
)

// Leaf names a certificate that one of the authorities signed.
type Leaf string

// The certificates below the state directory; https://kubernetes.io/docs/setup/best-practices/certificates/ says which
// ones a control plane needs.
const (
	// APIServer is the kube-apiserver's serving certificate.
	APIServer Leaf = "apiserver"
	// KubeletClient is the kube-apiserver's client certificate for kubelets.
	KubeletClient Leaf = "apiserver-kubelet-client"
	// FrontProxyClient is the kube-apiserver's client certificate for aggregated API servers.
	FrontProxyClient Leaf = "front-proxy-client"
	// EtcdServer is the embedded etcd's serving certificate.
	EtcdServer Leaf = "etcd-server"
	// APIServerEtcdClient is the kube-apiserver's client certificate for the embedded etcd.
	APIServerEtcdClient Leaf = "apiserver-etcd-client"
	// SchedulerEtcdClient is the scheduler's client certificate for the embedded etcd.
	SchedulerEtcdClient Leaf = "scheduler-etcd-client"
	// MetricsEtcdClient is the metrics server's client certificate for the embedded etcd.
	MetricsEtcdClient Leaf = "metrics-etcd-client"
	// MetricsClient is the metrics server's client certificate for what it reads; MetricsKubeconfig has it, too.
	MetricsClient Leaf = "metrics"
	// SchedulerServer is the certificate with which a scheduler serves its status.
	SchedulerServer Leaf = "scheduler-server"
	// DNSServer is the certificate with which the cluster's DNS servers serve their metrics.
	DNSServer Leaf = "dns-server"
	// MetricsServer is the certificate with which the metrics servers serve API servers.
	MetricsServer Leaf = "metrics-server"
	// LogsServer is the certificate with which the log stores serve API servers and minions.
	LogsServer Leaf = "logs-server"
)

// DNSServerName is the name in the DNSServer certificate, likewise.
const DNSServerName = "dns.k8sm.io"

// SchedulerServerName is the name in the SchedulerServer certificate, besides those of loopback. Clients on other machines expect
// this name, whatever the scheduler's address: schedulers come and go without new certificates.
const SchedulerServerName = "scheduler.k8sm.io"

// MetricsServerName is the name in the MetricsServer certificate: that of the service, which API servers expect.
const MetricsServerName = api.MetricsServiceName + "." + api.MetricsServiceNamespace + ".svc"

const (
	clusterAuthority    = "ca"
	frontProxyAuthority = "front-proxy-ca"
	etcdAuthority       = "etcd-ca"
	etcdClient          = "etcd-client"

	kubeletServingAuthority = "kubelet-serving-ca"

	// Clocks of other machines may be behind ours by this, or less if the certificate lasts less than a day; see skew.
	clockSkew = time.Hour
	// For this long, the API server also accepts serving certificates that kubelets got from the cluster's CA, before kubelets had a
	// CA of their own: time enough to replace all minions.
	servingTransition = 30 * 24 * time.Hour
)

// Spec is the input for the certificates and kubeconfigs of a cluster.
type Spec struct {
	// Now is the time for expiry checks and for the validity of new certificates.
	Now time.Time
	// ServerURL is the API server's URL for the kubeconfigs.
	ServerURL string
	// PublicURL is the URL of all API servers together, for the administrator's kubeconfig; empty means ServerURL.
	PublicURL string
	// ServerNames are the host names and IP addresses in the API server's certificate.
	ServerNames []string
	// EtcdNames are those in the embedded etcd's certificate.
	EtcdNames []string
	// Lives are those of new certificates.
	Lives Lives
}

// Prepare creates the CAs, certificates, the service account key and the kubeconfigs, or keeps existing ones: a CA as long as it is
// valid, a certificate for two thirds of its life or until its names change. A file that cannot be read is an error; it is never
// overwritten. Prepare may run again and again while programs use the files: they are replaced one by one, each whole. A new
// certificate has the key of the old one, so that a program which reads both files never gets two that do not belong together.
func (d Dir) Prepare(spec Spec) error {
	_, err := d.Renew(spec)
	return err
}

// Renew is Prepare, and returns the names of the certificates that it issued.
func (d Dir) Renew(spec Spec) (issued []string, err error) {
	unlock, err := d.lockPKI()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	r := renewal{dir: d, spec: spec}
	err = r.all()
	return r.issued, err
}

// lockPKI waits until no other process changes certificates, such as km certs beside a control plane.
func (d Dir) lockPKI() (unlock func() error, err error) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return nil, fmt.Errorf("cannot create the state directory: %w", err)
	}
	file := flock.New(d.path("pki.lock"), flock.SetPermissions(0o600))
	if err := file.Lock(); err != nil {
		return nil, fmt.Errorf("cannot lock the certificates: %w", err)
	}
	return file.Close, nil
}

// renewal is one run of Renew.
type renewal struct {
	dir    Dir
	spec   Spec
	issued []string
}

func (r *renewal) all() error {
	d, spec := r.dir, r.spec
	authorities := map[string]*authority{}
	for _, name := range authorityNames {
		ca, err := r.authority(name)
		if err != nil {
			return err
		}
		if err := errors.Join(d.tidyKeys(name, ca), writeCerts(d.issuer(name), ca.cert)); err != nil {
			return err
		}
		authorities[name] = ca
	}
	for _, l := range leaves(spec) {
		if _, err := r.leaf(l, authorities[l.authority]); err != nil {
			return err
		}
	}
	if err := d.writeTokenKeys(); err != nil {
		return err
	}
	if err := d.kubeletTrust(authorities[kubeletServingAuthority], authorities[clusterAuthority], spec.Now); err != nil {
		return err
	}
	return r.kubeconfigs(authorities[clusterAuthority])
}

// kubeletTrust writes KubeletTrust. The cluster's CA belongs to it for a while if it is clearly older than the kubelets' CA.
func (d Dir) kubeletTrust(serving, cluster *authority, now time.Time) error {
	trusted, first := slices.Clone(serving.trusted), serving.trusted[0]
	if first.NotBefore.Sub(cluster.trusted[0].NotBefore) > clockSkew && now.Before(first.NotBefore.Add(clockSkew+servingTransition)) {
		trusted = append(trusted, cluster.trusted...)
	}
	return writeCerts(d.KubeletTrust(), trusted...)
}

// leaf specifies a certificate.
type leaf struct {
	name      string
	authority string
	user      string
	group     string
	hosts     []string // DNS names and IP addresses; none for a client certificate
}

func leaves(spec Spec) []leaf {
	return []leaf{
		{name: string(APIServer), authority: clusterAuthority, user: "kube-apiserver", hosts: spec.ServerNames},
		{name: string(KubeletClient), authority: clusterAuthority, user: KubeletClientUser},
		{name: string(FrontProxyClient), authority: frontProxyAuthority, user: FrontProxyUser},
		{name: string(EtcdServer), authority: etcdAuthority, user: "etcd", hosts: spec.EtcdNames},
		{name: string(APIServerEtcdClient), authority: etcdAuthority, user: APIServerEtcdUser},
		{name: string(SchedulerEtcdClient), authority: etcdAuthority, user: SchedulerEtcdUser},
		{name: string(MetricsEtcdClient), authority: etcdAuthority, user: MetricsEtcdUser},
		{name: string(SchedulerServer), authority: clusterAuthority, user: "k8sm-scheduler-server",
			hosts: []string{SchedulerServerName, "localhost", "127.0.0.1", "::1"}},
		{name: string(DNSServer), authority: clusterAuthority, user: "k8sm-dns-server",
			hosts: []string{DNSServerName, "localhost", "127.0.0.1", "::1"}},
		{name: string(MetricsServer), authority: clusterAuthority, user: "k8sm-metrics-server", hosts: []string{MetricsServerName}},
		{name: string(LogsServer), authority: clusterAuthority, user: "k8sm-logs-server", hosts: []string{logs.ServerName}},
		{name: etcdClient, authority: etcdAuthority, user: EtcdRoot},
	}
}

// User names in certificates that others must know: for calls to kubelets, for the front proxy, and those of etcd. EtcdRoot is etcd's
// name for the user that may do everything (https://etcd.io/docs/v3.6/op-guide/authentication/rbac/).
const (
	EtcdRoot          = "root"
	APIServerEtcdUser = "kube-apiserver"
	SchedulerEtcdUser = "k8sm-scheduler"
	MetricsEtcdUser   = "k8sm-metrics"
	KubeletClientUser = "system:k8sm-kubelet-client"
	FrontProxyUser    = "front-proxy-client"
)

// users are the identities that have a kubeconfig.
func (d Dir) users() map[string]leaf {
	return map[string]leaf{
		d.AdminKubeconfig():             {name: adminName, user: "kubernetes-admin", group: api.AdminGroup},
		d.SchedulerKubeconfig():         {name: "scheduler", user: api.SchedulerUser},
		d.DNSKubeconfig():               {name: "dns", user: api.DNSUser},
		d.MetricsKubeconfig():           {name: string(MetricsClient), user: api.MetricsUser},
		d.LogsKubeconfig():              {name: "logs", user: api.LogsUser},
		d.ControllerManagerKubeconfig(): {name: "controller-manager", user: "system:kube-controller-manager"},
	}
}

// pair is a certificate with its private key. chain is what a program shows with it.
type pair struct {
	cert  *x509.Certificate
	key   crypto.Signer
	chain []*x509.Certificate
}

// authority is a CA: the pair that signs, and all certificates that are trusted for it. There are two while one replaces another. The
// chain is for the certificates that it signs.
type authority struct {
	pair
	trusted []*x509.Certificate
}

// authority returns the CA of this name, and creates it if it is missing. An expired CA, or one without its key, is an error: all
// its certificates are worthless then, and only an operator can distribute a new one to the nodes.
func (r *renewal) authority(name string) (*authority, error) {
	d, now := r.dir, r.spec.Now
	if _, err := os.Stat(d.cert(name)); errors.Is(err, fs.ErrNotExist) {
		return r.firstAuthority(name)
	}
	ca, err := d.loadAuthority(name, now)
	if err != nil {
		return nil, err
	}
	switch {
	case now.After(ca.cert.NotAfter):
		return nil, fmt.Errorf("cannot use the CA in %s: it expired on %s, and this machine's clock says %s; set the clock if it is wrong, else remove %s to create a new one",
			d.cert(name), ca.cert.NotAfter.Format(time.DateOnly), now.Format(time.DateOnly), d.path("pki"))
	case now.Before(ca.cert.NotBefore):
		return nil, fmt.Errorf("cannot use the CA in %s: it is valid from %s, and this machine's clock says %s; set the clock",
			d.cert(name), ca.cert.NotBefore.Format(time.RFC3339), now.Format(time.RFC3339))
	}
	return ca, nil
}

func (r *renewal) firstAuthority(name string) (*authority, error) {
	key, err := r.dir.privateKey(r.dir.key(name))
	if err != nil {
		return nil, err
	}
	cert, err := newAuthority(commonNames[name], key, r.spec.Now, r.spec.Lives)
	if err != nil {
		return nil, err
	}
	r.issued = append(r.issued, name)
	return &authority{pair{cert: cert, key: key}, []*x509.Certificate{cert}}, writeCerts(r.dir.cert(name), cert)
}

// newAuthority returns the certificate of a CA with this key.
func newAuthority(commonName string, key crypto.Signer, now time.Time, lives Lives) (*x509.Certificate, error) {
	life := lives.authority()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             now.Add(-skew(life)),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	return sign(template, &pair{cert: template, key: key}, key.Public())
}

// leaf returns the certificate, and issues it again unless the existing one is acceptable.
func (r *renewal) leaf(l leaf, ca *authority) (*pair, error) {
	d := r.dir
	old, err := d.load(l.name)
	if err == nil && l.acceptable(old.cert, ca.cert, r.spec) {
		return old, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := d.privateKey(d.key(l.name))
	if err != nil {
		return nil, err
	}
	cert, err := sign(l.template(ca.cert, r.spec), &ca.pair, key.Public())
	if err != nil {
		return nil, err
	}
	r.issued = append(r.issued, l.name)
	fresh := &pair{cert: cert, key: key, chain: ca.chain}
	return fresh, writeCerts(d.cert(l.name), fresh.shown()...)
}

// shown is what a program shows of the pair.
func (p *pair) shown() []*x509.Certificate { return append([]*x509.Certificate{p.cert}, p.chain...) }

func (l leaf) template(ca *x509.Certificate, spec Spec) *x509.Certificate {
	life := spec.Lives.leaf()
	t := &x509.Certificate{
		Subject:   pkix.Name{CommonName: l.user},
		NotBefore: spec.Now.Add(-skew(life)),
		NotAfter:  spec.Now.Add(life),
		KeyUsage:  x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	if ca.NotAfter.Before(t.NotAfter) {
		t.NotAfter = ca.NotAfter
	}
	if l.group != "" {
		t.Subject.Organization = []string{l.group}
	}
	// etcd calls itself with its serving certificate, so server certificates are client certificates, too.
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(l.hosts) > 0 {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	t.DNSNames, t.IPAddresses = splitHosts(l.hosts)
	return t
}

// acceptable reports whether an existing certificate can be kept. One that ends later than a new one would is from when certificates
// lasted longer, or from when this machine's clock was in the future.
func (l leaf) acceptable(cert, ca *x509.Certificate, spec Spec) bool {
	want := l.template(ca, spec)
	return cert.CheckSignatureFrom(ca) == nil &&
		spec.Now.Before(RenewedAt(cert)) && !spec.Now.Before(cert.NotBefore) &&
		!cert.NotAfter.After(want.NotAfter.Add(skew(spec.Lives.leaf()))) &&
		cert.Subject.CommonName == want.Subject.CommonName &&
		slices.Equal(cert.Subject.Organization, want.Subject.Organization) &&
		slices.Equal(cert.DNSNames, want.DNSNames) &&
		slices.EqualFunc(cert.IPAddresses, want.IPAddresses, net.IP.Equal)
}

// splitHosts sorts the hosts into unique names and addresses.
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

// load reads a certificate and its key. The error is fs.ErrNotExist if either is missing.
func (d Dir) load(name string) (*pair, error) {
	certs, err := certutil.CertsFromFile(d.cert(name))
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate %s: %w", d.cert(name), err)
	}
	key, err := readKey(d.key(name))
	if err != nil {
		return nil, err
	}
	return &pair{cert: certs[0], key: key, chain: certs[1:]}, nil
}

// privateKey returns the key in the file, and creates it if it is missing.
func (d Dir) privateKey(file string) (crypto.Signer, error) {
	key, err := readKey(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	fresh, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot generate the key %s: %w", filepath.Base(file), err)
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

// sign issues a certificate from the template, with a random serial number.
func sign(template *x509.Certificate, ca *pair, public crypto.PublicKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("cannot generate a serial number: %w", err)
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, public, ca.key)
	if err != nil {
		return nil, fmt.Errorf("cannot sign the certificate of %s: %w", template.Subject, err)
	}
	return x509.ParseCertificate(der)
}

func writeCerts(file string, certs ...*x509.Certificate) error {
	data, err := certutil.EncodeCertificates(certs...)
	if err != nil {
		return fmt.Errorf("cannot encode the certificate %s: %w", file, err)
	}
	return writeChanged(file, data)
}
