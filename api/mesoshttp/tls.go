package mesoshttp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	log "github.com/sirupsen/logrus"
)

const (
	dialTimeout      = 5 * time.Second
	handshakeTimeout = 5 * time.Second
)

// TLS configures the TLS client. Its files are read for each connection, so that renewed ones take effect at once. The zero value
// verifies with the system's CAs and has no client certificate.
type TLS struct {
	// Peer describes the server, such as "Mesos master". Settings name the operator's flags or variables. Both are for errors and
	// logs.
	Peer     string
	Settings Settings
	// CAFile and CADir have the CAs in PEM; both empty for the system's.
	CAFile, CADir string
	// CertFile and KeyFile are the client certificate, in PEM; both empty for none.
	CertFile, KeyFile string
	// Unverified accepts any certificate.
	Unverified bool
	// VerifyName checks that a certificate signed by the CAs belongs to the host; nil for the usual rules.
	VerifyName func(ctx context.Context, host string, certificate *x509.Certificate) error

	warned sync.Once
}

// ErrNotTLS says that the server answers a TLS handshake with something else, or not at all.
var ErrNotTLS = errors.New("does not speak TLS")

// Settings are the names of the flags or variables that configure a TLS.
type Settings struct{ CA, Cert, Key string }

// Check reads all files. The error names the wrong one.
func (t *TLS) Check() error {
	_, err := t.config("")
	return err
}

// Dial connects to an address. Use it as http.Transport.DialTLSContext.
func (t *TLS) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	secured, err := t.Handshake(ctx, conn, address)
	if err != nil {
		_ = conn.Close() // the handshake's error matters
		return nil, err
	}
	return secured, nil
}

// Handshake performs the TLS handshake on a connection. The caller closes conn if it fails.
func (t *TLS) Handshake(ctx context.Context, conn net.Conn, address string) (*tls.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to %s: %w", address, err)
	}
	cfg, err := t.config(host)
	if err != nil {
		return nil, err
	}
	asked := false
	show := cfg.GetClientCertificate
	cfg.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked = true
		return show(info)
	}
	cfg.VerifyConnection = func(state tls.ConnectionState) error { return t.verify(ctx, cfg, host, state) }
	limited, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	secured := tls.Client(conn, cfg)
	if err := secured.HandshakeContext(limited); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, t.explain(err, asked)
	}
	if suite := secured.ConnectionState().CipherSuite; slices.Contains(keyExchangeRSA, suite) {
		t.warned.Do(func() {
			log.WithField("address", address).Warnf("the %s accepts no cipher with forward secrecy, so %s is used: an attacker who gets its key can decrypt "+
				"recorded traffic. Start it with LIBPROCESS_SSL_CIPHERS=ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384, with LIBPROCESS_SSL_ECDH_CURVES=auto",
				t.Peer, tls.CipherSuiteName(suite))
		})
	}
	return secured, nil
}

// keyExchangeRSA are Go's equivalents of Mesos' default ciphers, AES128-SHA and AES256-SHA (LIBPROCESS_SSL_CIPHERS in
// https://mesos.apache.org/documentation/latest/ssl/). Go offers them only on request.
var keyExchangeRSA = []uint16{
	tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_256_CBC_SHA,
}

// suites are the ciphers that are offered below TLS 1.3. Go orders them: those with forward secrecy come first.
func suites() []uint16 {
	var ids []uint16
	for _, suite := range tls.CipherSuites() {
		ids = append(ids, suite.ID)
	}
	return append(ids, keyExchangeRSA...)
}

// config reads the files. The configuration itself verifies nothing: see verify.
func (t *TLS) config(host string) (*tls.Config, error) {
	roots, err := t.roots()
	if err != nil {
		return nil, err
	}
	var certificate tls.Certificate // empty if none is configured
	if (t.CertFile == "") != (t.KeyFile == "") {
		return nil, fmt.Errorf("%s and %s must be set together", t.Settings.Cert, t.Settings.Key)
	}
	if t.CertFile != "" {
		if certificate, err = tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err != nil {
			return nil, fmt.Errorf("cannot use the certificate %s (%s) with the key %s (%s): %w",
				t.CertFile, t.Settings.Cert, t.KeyFile, t.Settings.Key, err)
		}
	}
	return &tls.Config{
		ServerName: host, RootCAs: roots, MinVersion: tls.VersionTLS12, CipherSuites: suites(), InsecureSkipVerify: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil },
	}, nil
}

// roots returns the CAs; nil for the system's.
func (t *TLS) roots() (*x509.CertPool, error) {
	if t.CAFile == "" && t.CADir == "" {
		return nil, nil
	}
	files := []string{t.CAFile}
	if t.CAFile == "" {
		files = nil
	}
	if t.CADir != "" {
		entries, err := os.ReadDir(t.CADir)
		if err != nil {
			return nil, fmt.Errorf("cannot read the CAs for the %s (%s): %w", t.Peer, t.Settings.CA, err)
		}
		for _, entry := range entries {
			files = append(files, filepath.Join(t.CADir, entry.Name()))
		}
	}
	pool, found := x509.NewCertPool(), false
	for _, file := range files {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("cannot read the CA for the %s (%s): %w", t.Peer, t.Settings.CA, err)
		}
		found = pool.AppendCertsFromPEM(pem) || found
	}
	if !found {
		return nil, fmt.Errorf("%s %s contains no certificate", t.Settings.CA, t.CAFile+t.CADir)
	}
	return pool, nil
}

// verify does what crypto/tls does by default, but with our check of names.
func (t *TLS) verify(ctx context.Context, cfg *tls.Config, host string, state tls.ConnectionState) error {
	if t.Unverified {
		return nil
	}
	leaf := state.PeerCertificates[0] // a server always has one: anonymous ciphers are not offered
	options := x509.VerifyOptions{Roots: cfg.RootCAs, Intermediates: x509.NewCertPool()}
	for _, certificate := range state.PeerCertificates[1:] {
		options.Intermediates.AddCert(certificate)
	}
	if _, err := leaf.Verify(options); err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
	}
	if t.VerifyName != nil {
		return t.VerifyName(ctx, host, leaf)
	}
	return leaf.VerifyHostname(host)
}

// explain says what an operator can do about a failed handshake; asked says that the server requested a certificate.
func (t *TLS) explain(err error, asked bool) error {
	var unknown x509.UnknownAuthorityError
	var remote *net.OpError
	var header tls.RecordHeaderError
	refused := errors.As(err, &remote) && remote.Op == "remote error"
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("the certificate of the %s is not signed by the CA in %s: %w", t.Peer, t.Settings.CA, err)
	case errors.As(err, &header), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the %s %w: %w", t.Peer, ErrNotTLS, err)
	case refused && asked && t.CertFile == "":
		return fmt.Errorf("the %s requires a client certificate (LIBPROCESS_SSL_REQUIRE_CLIENT_CERT): set %s and %s: %w",
			t.Peer, t.Settings.Cert, t.Settings.Key, err)
	case refused && asked:
		return fmt.Errorf("the %s rejects the certificate of %s: its LIBPROCESS_SSL_CA_FILE must contain the CA of that certificate: %w",
			t.Peer, t.Settings.Cert, err)
	case refused:
		return fmt.Errorf("the %s accepts no cipher or TLS version that is offered: start it with "+
			"LIBPROCESS_SSL_CIPHERS=ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384 and LIBPROCESS_SSL_ENABLE_TLS_V1_2=true: %w", t.Peer, err)
	}
	return err
}
