// Package statedir knows the files that one cluster keeps below its state directory: certificates and keys, kubeconfigs,
// the place of etcd's data and the note that says where etcd answers. It makes them, keeps them across restarts and finds
// them again for the programs that are only clients. It must never import k8s.io/kubernetes: small clients use it.
//
// Start reading at Dir (what lies where) and Dir.Prepare (which certificates there are and what each is for).
package statedir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/gofrs/flock"
)

// Dir is the path of a cluster's state directory. Its methods name the files below it; that a file is named does not
// mean that it exists. All files are readable by their owner only, because most of them hold keys.
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

// CA is the certificate of the authority that signs what serves and what calls the Kubernetes API.
func (d Dir) CA() string { return d.cert(clusterAuthority) }

// CAKey is the private key to CA.
func (d Dir) CAKey() string { return d.key(clusterAuthority) }

// FrontProxyCA is the authority of the API server's identity when it forwards requests to aggregated API servers
// (https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/).
func (d Dir) FrontProxyCA() string { return d.cert(frontProxyAuthority) }

// EtcdCA is the authority of the embedded etcd's server and client certificates.
func (d Dir) EtcdCA() string { return d.cert(etcdAuthority) }

// EtcdClientCert, with EtcdClientKey, is the identity of etcd's clients other than the API server.
func (d Dir) EtcdClientCert() string { return d.cert(etcdClient) }

// EtcdClientKey is the private key to EtcdClientCert.
func (d Dir) EtcdClientKey() string { return d.key(etcdClient) }

// ServiceAccountKey signs the tokens of service accounts.
func (d Dir) ServiceAccountKey() string { return d.path("pki", "sa.key") }

// Pair returns the files of the certificate with the given name and of its key.
func (d Dir) Pair(name Leaf) (certFile, keyFile string) {
	return d.cert(string(name)), d.key(string(name))
}

func (d Dir) cert(name string) string { return d.path("pki", name+".crt") }
func (d Dir) key(name string) string  { return d.path("pki", name+".key") }

// ErrNoCluster says that nothing has ever run with this state directory.
var ErrNoCluster = errors.New("no cluster")

// NoCluster is ErrNoCluster for somebody who wants to use the cluster, with what to do.
func (d Dir) NoCluster() error {
	return fmt.Errorf("%w in %s: start one with km up, or give --state-dir", ErrNoCluster, string(d))
}

// Etcd says where this cluster's etcd answers and with which files to prove who one is. The files are empty for an etcd
// that is reached without TLS.
type Etcd struct {
	Endpoints []string `json:"endpoints"`
	CAFile    string   `json:"caFile,omitempty"`
	CertFile  string   `json:"certFile,omitempty"`
	KeyFile   string   `json:"keyFile,omitempty"`
}

func (d Dir) etcdNote() string { return d.path("etcd.json") }

// WriteEtcd records where etcd answers, for Etcd to find.
func (d Dir) WriteEtcd(e Etcd) error {
	data, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode where etcd answers: %w", err)
	}
	return writeFile(d.etcdNote(), append(data, '\n'))
}

// Etcd returns what the control plane last recorded by WriteEtcd. The error is ErrNoCluster when there is no record.
func (d Dir) Etcd() (Etcd, error) {
	data, err := os.ReadFile(d.etcdNote())
	if errors.Is(err, fs.ErrNotExist) {
		return Etcd{}, fmt.Errorf("%w in %s", ErrNoCluster, string(d))
	}
	if err != nil {
		return Etcd{}, fmt.Errorf("cannot read where etcd answers: %w", err)
	}
	var e Etcd
	if err := json.Unmarshal(data, &e); err != nil {
		return Etcd{}, fmt.Errorf("cannot read where etcd answers from %s: %w", d.etcdNote(), err)
	}
	return e, nil
}

// Lock makes the directory and takes the role in it for this process until unlock is called or the process ends. It does
// not wait: a role that another process has is an error that names the process.
func (d Dir) Lock(role string) (unlock func() error, err error) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the state directory: %w", err)
	}
	file := flock.New(d.path(role + ".lock"))
	switch held, err := file.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("cannot lock the state directory: %w", err)
	case !held:
		owner, _ := os.ReadFile(file.Path())
		return nil, fmt.Errorf("cannot run %s in %s: process %s does already; stop that one first", role, string(d), owner)
	}
	if err := os.WriteFile(file.Path(), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot run %s in %s: %w", role, string(d), err), file.Close())
	}
	return file.Close, nil
}

// writeFile replaces the file at once, so that neither a reader nor a crash ever sees half of it.
func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cannot make the directory of %s: %w", path, err)
	}
	fresh := path + ".new"
	if err := os.WriteFile(fresh, data, 0o600); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return fmt.Errorf("cannot replace %s: %w", path, err)
	}
	return nil
}
