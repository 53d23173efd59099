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

// SSL has the TLS settings for the agent, from the environment variables that all Mesos programs read
// (https://mesos.apache.org/documentation/latest/ssl/). An agent does not pass on its own; it sets those in its flag
// --executor_environment_variables (executorEnvironment in src/slave/slave.cpp).
type SSL struct {
	// Enabled is nil if the environment does not set it: then each connection tries TLS first. MESOS_AGENT_ENDPOINT has no scheme.
	Enabled *bool
	// CAFile and CADir have the CAs for agents' certificates; both empty for the system's.
	CAFile, CADir string
	// CertFile and KeyFile are the client certificate for an agent that requires one; both empty for none.
	CertFile, KeyFile string
	// VerifyServer verifies the agent's certificate. As in Mesos, the default is not to.
	VerifyServer bool
	// RequireClient is for servers, but for a client it means that the agent's certificate must have a name.
	RequireClient bool
	// ByAddress requires that the certificate is for the agent's address; otherwise the address's DNS name will do, too.
	ByAddress bool
}

// sslFromEnv reads the variables. Of the older names without LIBPROCESS_ (before Mesos 1.0) it reads only SSL_ENABLED: for Go and
// OpenSSL, SSL_CERT_FILE is the file of the system's CAs (MESOS-5863).
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
			wrong = append(wrong, fmt.Errorf("LIBPROCESS_SSL_%s is %q: must be true or false", name, value))
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

// dialer connects to the agent, over TLS if the agent has it.
type dialer struct {
	ssl    SSL
	tls    *mesoshttp.TLS
	warned sync.Once
	plain  atomic.Bool // TLS was tried, and the agent does not have it
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

// dial is for http.Transport.DialContext. If the environment does not say whether the agent has TLS, it tries TLS first. An agent
// without TLS closes such a connection at once and logs a warning (receive in 3rdparty/libprocess/src/process.cpp), so dial
// remembers that until forget. An attacker on the path who can make TLS fail could read the plain connection; set
// LIBPROCESS_SSL_ENABLED to prevent that.
func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	plain := &net.Dialer{Timeout: 5 * time.Second}
	conn, err := plain.DialContext(ctx, network, address)
	if err != nil || d.ssl.Enabled != nil && !*d.ssl.Enabled || d.plain.Load() {
		return conn, err
	}
	secured, err := d.tls.Handshake(ctx, conn, address)
	if err != nil {
		_ = conn.Close() // the handshake's error matters
		if d.ssl.Enabled == nil && errors.Is(err, mesoshttp.ErrNotTLS) {
			d.plain.Store(true)
			return plain.DialContext(ctx, network, address)
		}
		return nil, fmt.Errorf("%w; executors get these variables from the agent's --executor_environment_variables", err)
	}
	if !d.ssl.VerifyServer {
		d.warned.Do(func() {
			log.Warn("the agent's certificate is not verified: start the agent with --executor_environment_variables that set " +
				"LIBPROCESS_SSL_CA_FILE and LIBPROCESS_SSL_VERIFY_SERVER_CERT=true")
		})
	}
	return secured, nil
}

// forget makes the next connection try TLS again: the agent may have been restarted with it.
func (d *dialer) forget() { d.plain.Store(false) }

// verifyName checks that a certificate belongs to the agent, of which the executor knows only the address. It accepts what
// libprocess accepts (verify in 3rdparty/libprocess/src/openssl.cpp): the address's first DNS name, as an alternative name or the
// common name; and any certificate if the address has no name and no client certificates are required. It accepts a certificate for
// the address even without LIBPROCESS_SSL_VERIFY_IPADD, because that proves more than a name does.
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
