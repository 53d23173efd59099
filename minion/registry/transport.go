package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// Certificates is the directory where every Docker Engine of a machine looks for the certificates of registries, each time that it
// connects to one: those of the registry HOST, which may have a port, are in the folder HOST
// (https://docs.docker.com/engine/security/certificates/).
const Certificates = "/etc/docker/certs.d"

// Transport returns a new transport for a registry, "host" or "host:port", that trusts what Docker Engine trusts: the authorities of the
// system and those in *.crt of the registry's folder. It authenticates itself by the pairs of *.cert and *.key there. It reads the
// files once. Engines can also have insecure registries; to this transport, none is.
func Transport(host string) (*http.Transport, error) {
	trust, err := readFolder(filepath.Join(Certificates, host))
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificates for registry %s: %w", host, err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = trust
	return transport, nil
}

// readFolder reads the certificates of a registry. There may be no folder.
func readFolder(dir string) (*tls.Config, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, err
	}
	trust := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return trust, nil
	}
	for _, file := range files {
		path := filepath.Join(dir, file.Name())
		switch filepath.Ext(path) {
		case ".crt":
			data, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			roots.AppendCertsFromPEM(data) // Docker Engine also ignores a file without certificates
		case ".cert":
			pair, err := tls.LoadX509KeyPair(path, strings.TrimSuffix(path, ".cert")+".key")
			if err != nil {
				return nil, err
			}
			trust.Certificates = append(trust.Certificates, pair)
		}
	}
	return trust, err
}
