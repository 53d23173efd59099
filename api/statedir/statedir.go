// Package statedir knows the files in a cluster's state directory: certificates and keys, kubeconfigs, etcd's data, and the record
// of etcd's address. It creates them, keeps them across restarts, and finds them for client programs. It must never import
// k8s.io/kubernetes: small clients use it.
//
// Start reading at Dir (which files there are) and Dir.Prepare (which certificates there are, and their purposes).
package statedir

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/gofrs/flock"
	certutil "k8s.io/client-go/util/cert"
)

// Dir is the path of a cluster's state directory. Its methods return paths of files in it, which may not exist. Only the owner may
// read the files, because most contain keys.
type Dir string

func (d Dir) path(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}

// AdminKubeconfig is for people and for `km kubectl`: group system:masters.
func (d Dir) AdminKubeconfig() string { return d.path("admin.kubeconfig") }

// SchedulerKubeconfig is for `km scheduler`: user api.SchedulerUser.
func (d Dir) SchedulerKubeconfig() string { return d.path("scheduler.kubeconfig") }

// DNSKubeconfig is for `km dns`: user api.DNSUser.
func (d Dir) DNSKubeconfig() string { return d.path("dns.kubeconfig") }

// MetricsKubeconfig is for `km metrics`: user api.MetricsUser.
func (d Dir) MetricsKubeconfig() string { return d.path("metrics.kubeconfig") }

// LogsKubeconfig is for `km logstore`: user api.LogsUser.
func (d Dir) LogsKubeconfig() string { return d.path("logs.kubeconfig") }

// APIServers is where programs on this machine remember which API servers the cluster has.
func (d Dir) APIServers() string { return d.path("api-servers.json") }

// Logs is where the log store keeps logs.
func (d Dir) Logs() string { return d.path("logs") }

// ControllerManagerKubeconfig is for the kube-controller-manager: user system:kube-controller-manager.
func (d Dir) ControllerManagerKubeconfig() string { return d.path("controller-manager.kubeconfig") }

// EtcdData is where the embedded etcd keeps its data.
func (d Dir) EtcdData() string { return d.path("etcd") }

// AuthenticationConfig is the API server's AuthenticationConfiguration file.
func (d Dir) AuthenticationConfig() string { return d.path("authentication.json") }

// WriteAuthenticationConfig replaces that file.
func (d Dir) WriteAuthenticationConfig(data []byte) error {
	return writeFile(d.AuthenticationConfig(), data)
}

// AuditPolicy is the API server's audit policy, unless the operator gives another.
func (d Dir) AuditPolicy() string { return d.path("audit-policy.json") }

// WriteAuditPolicy replaces that file.
func (d Dir) WriteAuditPolicy(data []byte) error { return writeFile(d.AuditPolicy(), data) }

// TracingConfig is the API server's TracingConfiguration, if it sends traces.
func (d Dir) TracingConfig() string { return d.path("tracing.json") }

// WriteTracingConfig replaces that file.
func (d Dir) WriteTracingConfig(data []byte) error { return writeFile(d.TracingConfig(), data) }

// EncryptionConfig is the API server's EncryptionConfiguration file with the key that the cluster's secrets are encrypted with,
// unless the operator gives another.
func (d Dir) EncryptionConfig() string { return d.path("encryption.json") }

// WriteEncryptionConfig replaces that file.
func (d Dir) WriteEncryptionConfig(data []byte) error { return writeFile(d.EncryptionConfig(), data) }

// EncryptionUnfinished is a file that exists while etcd may hold secrets which were written before there was a key.
func (d Dir) EncryptionUnfinished() string { return d.path("encryption.unfinished") }

// WriteEncryptionUnfinished makes that file.
func (d Dir) WriteEncryptionUnfinished() error { return writeFile(d.EncryptionUnfinished(), nil) }

// Metrics is where the metrics server keeps stored metrics.
func (d Dir) Metrics() string { return d.path("metrics") }

// MetricsConfig is the metrics server's file of flags.
func (d Dir) MetricsConfig() string { return d.path("metrics.yaml") }

// WriteMetricsConfig replaces that file.
func (d Dir) WriteMetricsConfig(data []byte) error { return writeFile(d.MetricsConfig(), data) }

// In makes a path that is relative to the directory absolute.
func (d Dir) In(file string) string {
	if filepath.IsAbs(file) {
		return file
	}
	return d.path(file)
}

// CA is the certificate of the CA for servers and clients of the Kubernetes API; it has two while one replaces another.
func (d Dir) CA() string { return d.cert(clusterAuthority) }

// CACertificates returns the certificates in CA: several while one replaces another. The error is fs.ErrNotExist if there is no such file.
func (d Dir) CACertificates() ([]*x509.Certificate, error) {
	certs, err := certutil.CertsFromFile(d.CA())
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate %s: %w", d.CA(), err)
	}
	return certs, nil
}

// CAKey is the private key of the CA that signs, which CAIssuer is the certificate of.
func (d Dir) CAKey() string { return d.key(clusterAuthority) }

// CAIssuer is the one certificate in CA that belongs to CAKey. Prepare writes it.
func (d Dir) CAIssuer() string { return d.issuer(clusterAuthority) }

// KubeletServingCA is the certificate of the CA that signs kubelets' serving certificates, and nothing else. So no client of another
// server believes a kubelet.
func (d Dir) KubeletServingCA() string { return d.cert(kubeletServingAuthority) }

// KubeletServingCAKey is the private key of the CA that signs, which KubeletServingIssuer is the certificate of.
func (d Dir) KubeletServingCAKey() string { return d.key(kubeletServingAuthority) }

// KubeletServingIssuer is the one certificate in KubeletServingCA that belongs to KubeletServingCAKey. Prepare writes it.
func (d Dir) KubeletServingIssuer() string { return d.issuer(kubeletServingAuthority) }

// KubeletTrust has the CAs whose certificates the API server accepts from kubelets. Prepare writes it.
func (d Dir) KubeletTrust() string { return d.cert("kubelet-trust") }

// FrontProxyCA is the CA for the API server's client certificate when it forwards requests to aggregated API servers
// (https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/).
func (d Dir) FrontProxyCA() string { return d.cert(frontProxyAuthority) }

// EtcdCA is the CA of the embedded etcd's server and client certificates.
func (d Dir) EtcdCA() string { return d.cert(etcdAuthority) }

// EtcdClientCert, with EtcdClientKey, is the client certificate of the embedded etcd's administrator: EtcdRoot.
func (d Dir) EtcdClientCert() string { return d.cert(etcdClient) }

// EtcdClientKey is the private key to EtcdClientCert.
func (d Dir) EtcdClientKey() string { return d.key(etcdClient) }

// Pair returns the files of the named certificate and its key.
func (d Dir) Pair(name Leaf) (certFile, keyFile string) {
	return d.cert(string(name)), d.key(string(name))
}

func (d Dir) cert(name string) string { return d.path("pki", name+".crt") }
func (d Dir) key(name string) string  { return d.path("pki", name+".key") }

// ErrNoCluster says that no cluster has ever run with this state directory.
var ErrNoCluster = errors.New("no cluster")

// NoCluster is ErrNoCluster with the remedy, for programs that need a cluster.
func (d Dir) NoCluster() error {
	return fmt.Errorf("%w in %s: start one with km up, or set --state-dir", ErrNoCluster, string(d))
}

// Etcd is the address of the cluster's etcd, and the client's certificate files. The files are empty without TLS.
type Etcd struct {
	Endpoints []string `json:"endpoints"`
	CAFile    string   `json:"caFile,omitempty"`
	CertFile  string   `json:"certFile,omitempty"`
	KeyFile   string   `json:"keyFile,omitempty"`
	// Embedded says that the control plane runs this etcd itself, and gives each of its users a certificate.
	Embedded bool `json:"embedded,omitempty"`
	// Managed says that `km etcd` runs its members. Each of its users has a certificate in the state directory, too.
	Managed bool `json:"managed,omitempty"`
}

func (d Dir) etcdNote() string { return d.path("etcd.json") }

// SchedulerEtcd is Etcd with the scheduler's own certificate if the etcd is the embedded one or km etcd's.
func (d Dir) SchedulerEtcd() (Etcd, error) { return d.etcdFor(SchedulerEtcdClient) }

// MetricsEtcd is Etcd with the metrics server's own certificate if the etcd is the embedded one or km etcd's.
func (d Dir) MetricsEtcd() (Etcd, error) { return d.etcdFor(MetricsEtcdClient) }

func (d Dir) etcdFor(client Leaf) (Etcd, error) {
	e, err := d.Etcd()
	if err == nil && (e.Embedded || e.Managed) {
		e.CertFile, e.KeyFile = d.Pair(client)
	}
	return e, err
}

// WriteEtcd records etcd's address, for Etcd to read.
func (d Dir) WriteEtcd(e Etcd) error {
	data, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode etcd's address: %w", err)
	}
	return writeFile(d.etcdNote(), append(data, '\n'))
}

// Etcd returns what WriteEtcd last recorded. The error is ErrNoCluster if there is no record.
func (d Dir) Etcd() (Etcd, error) {
	data, err := os.ReadFile(d.etcdNote())
	if errors.Is(err, fs.ErrNotExist) {
		return Etcd{}, fmt.Errorf("%w in %s", ErrNoCluster, string(d))
	}
	if err != nil {
		return Etcd{}, fmt.Errorf("cannot read etcd's address: %w", err)
	}
	var e Etcd
	if err := json.Unmarshal(data, &e); err != nil {
		return Etcd{}, fmt.Errorf("cannot read etcd's address from %s: %w", d.etcdNote(), err)
	}
	return e, nil
}

// Lock creates the directory and takes a role in it for this process, until unlock is called or the process exits. It does not wait:
// if another process has the role, the error names that process.
func (d Dir) Lock(role string) (unlock func() error, err error) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return nil, fmt.Errorf("cannot create the state directory: %w", err)
	}
	file := flock.New(d.path(role + ".lock"))
	switch held, err := file.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("cannot lock the state directory: %w", err)
	case !held:
		owner, _ := os.ReadFile(file.Path())
		return nil, fmt.Errorf("cannot run %s in %s: process %s already does; stop it first", role, string(d), owner)
	}
	if err := os.WriteFile(file.Path(), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot run %s in %s: %w", role, string(d), err), file.Close())
	}
	return file.Close, nil
}
