package localmesos

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"
)

// SSL configures TLS of the master and the agents. The fields are named after Mesos' LIBPROCESS_SSL_ variables
// (https://mesos.apache.org/documentation/latest/ssl/). As with Mesos, executors do not get them: set
// ExecutorEnvironmentVariables.
type SSL struct {
	// CertFile and KeyFile, if set, make all listeners accept only TLS.
	CertFile string
	KeyFile  string
	// CAFile has the CAs that verify client certificates.
	CAFile string
	// RequireClientCert requires a client certificate.
	RequireClientCert bool
	// Ciphers are the cipher suites by their OpenSSL names.
	Ciphers string
	// EnableTLS13 accepts TLS 1.3 too; Ciphers does not apply to it. By default Mesos accepts only TLS 1.2.
	EnableTLS13 bool
}

// defaultCiphers are those of Mesos (3rdparty/libprocess/src/openssl.cpp).
const defaultCiphers = "AES128-SHA:AES256-SHA:RC4-SHA:DHE-RSA-AES128-SHA:DHE-DSS-AES128-SHA:DHE-RSA-AES256-SHA:DHE-DSS-AES256-SHA"

// cipherSuites are the suites that Go supports, by their OpenSSL names. RC4 (not in today's OpenSSL) and DHE (not in Go) are
// ignored.
var cipherSuites = map[string]uint16{
	"AES128-SHA": tls.TLS_RSA_WITH_AES_128_CBC_SHA, "AES256-SHA": tls.TLS_RSA_WITH_AES_256_CBC_SHA,
	"AES128-SHA256": tls.TLS_RSA_WITH_AES_128_CBC_SHA256, "AES128-GCM-SHA256": tls.TLS_RSA_WITH_AES_128_GCM_SHA256,
	"AES256-GCM-SHA384": tls.TLS_RSA_WITH_AES_256_GCM_SHA384, "ECDHE-RSA-AES128-SHA": tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
	"ECDHE-RSA-AES256-SHA": tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA, "ECDHE-ECDSA-AES128-SHA": tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA,
	"ECDHE-ECDSA-AES256-SHA": tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, "ECDHE-RSA-AES128-GCM-SHA256": tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-RSA-AES256-GCM-SHA384":   tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-ECDSA-AES128-GCM-SHA256": tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-ECDSA-AES256-GCM-SHA384": tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-RSA-CHACHA20-POLY1305":   tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	"ECDHE-ECDSA-CHACHA20-POLY1305": tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
}

func (s *SSL) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&s.CertFile, "ssl-cert-file", "", "`file` with the PEM certificate of the master and the agents; with it, they accept only TLS")
	flags.StringVar(&s.KeyFile, "ssl-key-file", "", "`file` with the key of --ssl-cert-file")
	flags.StringVar(&s.CAFile, "ssl-ca-file", "", "`file` with the CAs that verify client certificates")
	flags.BoolVar(&s.RequireClientCert, "ssl-require-client-cert", false, "require a client certificate")
	flags.StringVar(&s.Ciphers, "ssl-ciphers", defaultCiphers, "cipher suites by their OpenSSL names; RC4 and DHE are ignored")
	flags.BoolVar(&s.EnableTLS13, "ssl-enable-tls-v1-3", false, "accept TLS 1.3, in addition to TLS 1.2")
}

// config returns the TLS configuration of listeners; nil is plain HTTP.
func (s SSL) config() (*tls.Config, error) {
	switch {
	case s.CertFile == "" && s.KeyFile == "":
		if s.RequireClientCert || s.CAFile != "" {
			return nil, errors.New("--ssl-require-client-cert and --ssl-ca-file need --ssl-cert-file and --ssl-key-file")
		}
		return nil, nil
	case s.CertFile == "" || s.KeyFile == "":
		return nil, errors.New("--ssl-cert-file and --ssl-key-file go together")
	case s.RequireClientCert && s.CAFile == "":
		return nil, errors.New("--ssl-require-client-cert needs --ssl-ca-file")
	}
	pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read --ssl-cert-file and --ssl-key-file: %w", err)
	}
	suites, err := parseCiphers(s.Ciphers)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12, CipherSuites: suites}
	if s.EnableTLS13 {
		config.MaxVersion = tls.VersionTLS13
	}
	if s.RequireClientCert {
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	config.ClientCAs, err = s.authorities()
	return config, err
}

func (s SSL) authorities() (*x509.CertPool, error) {
	if s.CAFile == "" {
		return nil, nil
	}
	data, err := os.ReadFile(s.CAFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read --ssl-ca-file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("--ssl-ca-file=%s holds no certificate in PEM", s.CAFile)
	}
	return pool, nil
}

func parseCiphers(text string) ([]uint16, error) {
	var suites []uint16
	for _, name := range strings.Split(text, ":") {
		suite, known := cipherSuites[name]
		switch {
		case known:
			suites = append(suites, suite)
		case strings.HasPrefix(name, "DHE-") || strings.HasPrefix(name, "RC4-"):
		default:
			return nil, fmt.Errorf("--ssl-ciphers names %q, which is not known here; give names as 'openssl ciphers' lists them", name)
		}
	}
	if len(suites) == 0 {
		return nil, fmt.Errorf("--ssl-ciphers=%s has nothing that Go can serve; add one such as ECDHE-RSA-AES128-GCM-SHA256", text)
	}
	return suites, nil
}

// handshakes logs failed connections of the HTTP server, such as failed handshakes.
type handshakes struct{}

func (handshakes) Write(line []byte) (int, error) {
	log.Debug(strings.TrimSpace(string(line)))
	return len(line), nil
}
