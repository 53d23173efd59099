package mesos

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	log "github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api/mesoshttp"
)

// SSL is what the environment says of TLS to the agent, in the variables that all programs of Mesos read
// (https://mesos.apache.org/documentation/latest/ssl/). An agent hands on none of its own: they come from its flag
// --executor_environment_variables (executorEnvironment in src/slave/slave.cpp).
type SSL struct {
	// Enabled is nil if the environment does not say: then each connection tries TLS first. MESOS_AGENT_ENDPOINT does not tell.
	Enabled *bool
	// CAFile and CADir have the authorities of agents' certificates; both empty for the system's.
	CAFile, CADir string
	// CertFile and KeyFile are the certificate to show to an agent that wants one; both empty for none.
	CertFile, KeyFile string
	// VerifyServer has the agent's certificate verified; Mesos does not unless it is told to.
	VerifyServer bool
	// RequireClient is for servers, but says of clients that no agent without a name is taken.
	RequireClient bool
	// ByAddress has the certificate made out to the agent's address; otherwise a name that the DNS has for it does, too.
	ByAddress bool
}

// sslFromEnv reads the variables. Of those without LIBPROCESS_, as they were before Mesos 1.0, SSL_ENABLED alone: to Go and
// OpenSSL, SSL_CERT_FILE is where the system's authorities are (MESOS-5863).
func sslFromEnv() (SSL, error) {
	lookup := func(name string) (string, bool) {
		value, said := os.LookupEnv("LIBPROCESS_SSL_" + name)
		if !said && name == "ENABLED" {
			value, said = os.LookupEnv("SSL_ENABLED")
		}
		return value, said
	}
	text := func(name string) string { value, _ := lookup(name); return value }
	var wrong []error
	truth := func(name string) (truth, said bool) {
		value, said := lookup(name)
		switch value {
		case "true", "1":
			return true, true
		case "false", "0":
			return false, true
		}
		if said {
			wrong = append(wrong, fmt.Errorf("LIBPROCESS_SSL_%s is %q, neither true nor false", name, value))
		}
		return false, false
	}
	either := func(name, legacy string) bool {
		value, _ := truth(name)
		old, _ := truth(legacy)
		return value || old
	}
	ssl := SSL{
		CAFile: text("CA_FILE"), CADir: text("CA_DIR"), CertFile: text("CERT_FILE"), KeyFile: text("KEY_FILE"),
		VerifyServer:  either("VERIFY_SERVER_CERT", "VERIFY_CERT"),
		RequireClient: either("REQUIRE_CLIENT_CERT", "REQUIRE_CERT"),
		ByAddress:     text("HOSTNAME_VALIDATION_SCHEME") == "openssl",
	}
	ssl.VerifyServer = ssl.VerifyServer || ssl.RequireClient
	if enabled, said := truth("ENABLED"); said {
		ssl.Enabled = &enabled
	}
	if len(wrong) == 0 && ssl.Enabled != nil && *ssl.Enabled {
		wrong = append(wrong, newDialer(ssl).tls.Check())
	}
	return ssl, errors.Join(wrong...)
}

// dialer connects to the agent, by TLS where it is spoken.
type dialer struct {
	ssl    SSL
	tls    *mesoshttp.TLS
	warned sync.Once
	plain  atomic.Bool // TLS was tried, and is not spoken
}

func newDialer(ssl SSL) *dialer {
	d := &dialer{ssl: ssl}
	d.tls = &mesoshttp.TLS{
		Peer:     "Mesos agent",
		Settings: mesoshttp.Settings{CA: "LIBPROCESS_SSL_CA_FILE", Cert: "LIBPROCESS_SSL_CERT_FILE", Key: "LIBPROCESS_SSL_KEY_FILE"},
		CAFile:   ssl.CAFile, CADir: ssl.CADir, CertFile: ssl.CertFile, KeyFile: ssl.KeyFile,
		Unverified: !ssl.VerifyServer, VerifyName: d.verifyName,
	}
	return d
}

// dial is for http.Transport.DialContext. Where nobody says whether the agent speaks TLS, it is tried first: an agent without
// it ends such a connection at once, with a warning in its log (receive in 3rdparty/libprocess/src/process.cpp), so that is not
// done again until forget. Whoever could make TLS fail on the way could as well read what is said without it: who fears that
// sets LIBPROCESS_SSL_ENABLED.
func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	plain := &net.Dialer{Timeout: 5 * time.Second}
	conn, err := plain.DialContext(ctx, network, address)
	if err != nil || d.ssl.Enabled != nil && !*d.ssl.Enabled || d.plain.Load() {
		return conn, err
	}
	secured, err := d.tls.Handshake(ctx, conn, address)
	if err != nil {
		_ = conn.Close() // the handshake's error is the one to tell
		if d.ssl.Enabled == nil && errors.Is(err, mesoshttp.ErrNotTLS) {
			d.plain.Store(true)
			return plain.DialContext(ctx, network, address)
		}
		return nil, fmt.Errorf("%w; executors have these variables from the agent's --executor_environment_variables", err)
	}
	if !d.ssl.VerifyServer {
		d.warned.Do(func() {
			log.Warn("the agent's certificate is not verified: give the agent --executor_environment_variables with " +
				"LIBPROCESS_SSL_CA_FILE and LIBPROCESS_SSL_VERIFY_SERVER_CERT=true")
		})
	}
	return secured, nil
}

// forget has the next connection try TLS again: the agent may have been started anew with it.
func (d *dialer) forget() { d.plain.Store(false) }

// verifyName checks that a certificate is the agent's, of whom the executor knows the address only. It takes what libprocess
// takes (verify in 3rdparty/libprocess/src/openssl.cpp): the first name that the address has, as an alternative name or the
// common name, and any certificate if it has none and no client certificates are required. A certificate for the address is
// taken without LIBPROCESS_SSL_VERIFY_IPADD too: it proves more than a name does.
func (d *dialer) verifyName(ctx context.Context, host string, certificate *x509.Certificate) error {
	err := certificate.VerifyHostname(host)
	if err == nil || d.ssl.ByAddress {
		return err
	}
	names, lookup := net.DefaultResolver.LookupAddr(ctx, host)
	if lookup != nil || len(names) == 0 {
		if d.ssl.RequireClient {
			return errors.Join(err, lookup)
		}
		return nil
	}
	name := strings.TrimSuffix(names[0], ".")
	if slices.Contains(certificate.DNSNames, name) || certificate.Subject.CommonName == name {
		return nil
	}
	return fmt.Errorf("%w, nor for %s, the name of that address", err, name)
}
