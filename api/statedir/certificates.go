package statedir

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	certutil "k8s.io/client-go/util/cert"
)

// Certificate is a certificate in the state directory.
type Certificate struct {
	// Name is that of its files, without an ending.
	Name string
	// File is its path.
	File string
	// Authority says that it is a CA's. One that replaces another has "-next" in its name until it issues certificates, and the other
	// "-old" from then on.
	Authority bool
	*x509.Certificate
}

var authorityNames = []string{clusterAuthority, kubeletServingAuthority, frontProxyAuthority, etcdAuthority}

// commonNames are the names in the first CAs' certificates. Those that replace them have the time in their names, too.
var commonNames = map[string]string{
	clusterAuthority: "k8sm", kubeletServingAuthority: "k8sm-kubelet-serving", frontProxyAuthority: "k8sm-front-proxy", etcdAuthority: "k8sm-etcd",
}

// Certificates returns the certificates in the directory, those of CAs first. A copy of the directory on another machine may have some
// of them only.
func (d Dir) Certificates() ([]Certificate, error) {
	var all []Certificate
	for _, name := range authorityNames {
		r, err := d.rotation(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, cert := range r.named() {
			all = append(all, Certificate{Name: cert.name, File: d.cert(name), Authority: true, Certificate: cert.Certificate})
		}
	}
	for _, name := range d.leafNames() {
		certs, err := certutil.CertsFromFile(d.cert(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the certificate %s: %w", d.cert(name), err)
		}
		all = append(all, Certificate{Name: name, File: d.cert(name), Certificate: certs[0]})
	}
	return all, nil
}

// leafNames are the names of all certificates but those of CAs, in order.
func (d Dir) leafNames() (names []string) {
	for _, l := range slices.Concat(leaves(Spec{}), memberLeaves(nil), slices.SortedFunc(maps.Values(d.users()), func(a, b leaf) int { return strings.Compare(a.name, b.name) })) {
		names = append(names, l.name)
	}
	return names
}

// CertFiles are the files of all certificates that a control plane makes, by name.
func (d Dir) CertFiles() map[string]string {
	files := map[string]string{}
	for _, name := range slices.Concat(authorityNames, d.leafNames()) {
		files[name] = d.cert(name)
	}
	return files
}
