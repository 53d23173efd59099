package controlplane

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	cliflag "k8s.io/component-base/cli/flag"

	"github.com/k8sm/k8sm/api"
)

// TLS says what the servers of a cluster accept: API server, kubelets and etcd.
type TLS struct {
	// CipherSuites are names of https://pkg.go.dev/crypto/tls#pkg-constants, for TLS 1.2.
	CipherSuites []string
	// MinVersion is VersionTLS12 or VersionTLS13.
	MinVersion string
}

// AddFlags adds the flags and sets the defaults.
func (t *TLS) AddFlags(fs *pflag.FlagSet) {
	fs.StringSliceVar(&t.CipherSuites, "tls-cipher-suites", api.CipherSuites(), "cipher suites that API server, kubelets and etcd accept in TLS 1.2; TLS 1.3 has its own")
	fs.StringVar(&t.MinVersion, "tls-min-version", "VersionTLS12", "lowest version of TLS that API server, kubelets and etcd accept: VersionTLS12 or VersionTLS13")
}

// Validate finds wrong flags.
func (t TLS) Validate() error {
	if !slices.Contains([]string{"VersionTLS12", "VersionTLS13"}, t.MinVersion) {
		return fmt.Errorf("cannot use --tls-min-version=%s: use VersionTLS12 or VersionTLS13", t.MinVersion)
	}
	if _, err := cliflag.TLSCipherSuites(t.CipherSuites); err != nil {
		return fmt.Errorf("cannot use --tls-cipher-suites: %w; use some of %s", err, strings.Join(cliflag.PreferredTLSCipherNames(), ", "))
	}
	return nil
}

// suites returns the cipher suites that matter: TLS 1.3 has none to choose.
func (t TLS) suites() []string {
	if t.MinVersion == "VersionTLS13" {
		return nil
	}
	return t.CipherSuites
}

// Etcd returns the cipher suites and the lowest version in etcd's words.
func (t TLS) Etcd() (suites []string, version string) {
	return t.suites(), map[string]string{"VersionTLS12": "TLS1.2", "VersionTLS13": "TLS1.3"}[t.MinVersion]
}
