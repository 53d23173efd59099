// Package certfile serves TLS with certificates in files that are replaced while the program runs, and believes others by CAs in such files: each handshake
// gets the newest. It also tells how long certificates in files last, as metrics. It knows nothing of who makes them.
//
// Start reading at Server.
package certfile

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/sirupsen/logrus"
	certutil "k8s.io/client-go/util/cert"
)

// Pair is a certificate with its key, in files. Its methods may be called concurrently.
type Pair struct {
	certFile, keyFile string

	mu   sync.Mutex // guards all below
	of   [2]os.FileInfo
	pair *tls.Certificate
	told problem
}

// problem is what was logged last, so that many handshakes do not say the same.
type problem string

func (p *problem) tell(err error, file, consequence string) {
	if now := problem(err.Error()); now != *p {
		*p = now
		logrus.WithError(err).WithField("file", file).Warn(consequence)
	}
}

// NewPair returns the pair in the files, which may be one file with both. The files may come later.
func NewPair(certFile, keyFile string) *Pair { return &Pair{certFile: certFile, keyFile: keyFile} }

// FixedPair returns a pair that is in no file and stays as it is.
func FixedPair(pair *tls.Certificate) *Pair { return &Pair{pair: pair} }

// Get returns the pair as it is in the files now. If they cannot be used and could be before, it returns the former pair, and logs why.
func (p *Pair) Get() (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.certFile == "" {
		return p.pair, nil
	}
	of, err := statAll(p.certFile, p.keyFile)
	if err == nil && p.pair != nil && same(of, p.of) {
		return p.pair, nil
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.LoadX509KeyPair(p.certFile, p.keyFile)
	}
	if err != nil && p.pair != nil {
		p.told.tell(err, p.certFile, "cannot read a certificate again: the former one stays in use")
		return p.pair, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use the certificate in %s: %w", p.certFile, err)
	}
	p.pair, p.of, p.told = &pair, of, ""
	return p.pair, nil
}

// Leaf returns the certificate of Get.
func (p *Pair) Leaf() (*x509.Certificate, error) {
	pair, err := p.Get()
	if err != nil {
		return nil, err
	}
	return pair.Leaf, nil
}

// ForServer is Get as tls.Config has it in GetCertificate.
func (p *Pair) ForServer(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.Get() }

// Authorities are CAs in a file. Its methods may be called concurrently.
type Authorities struct {
	file string

	mu   sync.Mutex // guards all below
	of   [2]os.FileInfo
	pool *x509.CertPool
	told problem
}

// NewAuthorities returns the CAs in the file. An error says why they cannot be used now.
func NewAuthorities(file string) (*Authorities, error) {
	a := &Authorities{file: file}
	_, err := a.Pool()
	return a, err
}

// Pool returns the CAs as they are in the file now, the same pool until they change. If the file cannot be used and could be before, it
// returns the former CAs, and logs why.
func (a *Authorities) Pool() (*x509.CertPool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	of, err := statAll(a.file, a.file)
	if err == nil && a.pool != nil && same(of, a.of) {
		return a.pool, nil
	}
	var pool *x509.CertPool
	if err == nil {
		pool, err = certutil.NewPool(a.file)
	}
	if err != nil && a.pool != nil {
		a.told.tell(err, a.file, "cannot read CAs again: the former ones stay in use")
		return a.pool, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use the CAs in %s: %w", a.file, err)
	}
	a.pool, a.of, a.told = pool, of, ""
	return pool, nil
}

// Client returns the settings of a client that believes servers by the CAs that pool returns at each connection. The settings must have
// the server's name.
func Client(settings *tls.Config, pool func() (*x509.CertPool, error)) *tls.Config {
	settings = settings.Clone()
	name := settings.ServerName
	settings.InsecureSkipVerify = true // VerifyConnection does it
	settings.VerifyConnection = func(state tls.ConnectionState) error {
		roots, err := pool()
		if err != nil {
			return err
		}
		options := x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: x509.NewCertPool()}
		for _, c := range state.PeerCertificates[1:] {
			options.Intermediates.AddCert(c)
		}
		if _, err := state.PeerCertificates[0].Verify(options); err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
		}
		return nil
	}
	return settings
}

// Server returns the settings of a server with this pair. caFile has the CAs of clients, and is read again when it changes, too; "" is
// for a server that does not verify clients by itself. An error says what cannot be used now.
func Server(settings *tls.Config, pair *Pair, caFile string) (*tls.Config, error) {
	if _, err := pair.Get(); err != nil {
		return nil, err
	}
	settings = settings.Clone()
	settings.GetCertificate = pair.ForServer
	if caFile == "" {
		return settings, nil
	}
	authorities, err := NewAuthorities(caFile)
	if err != nil {
		return nil, err
	}
	clients := &clients{authorities: authorities, settings: settings}
	outer := settings.Clone()
	outer.GetConfigForClient = clients.get
	return outer, nil
}

// clients are the settings for clients of the CAs in a file.
type clients struct {
	authorities *Authorities
	settings    *tls.Config // without CAs

	mu     sync.Mutex  // guards the rest
	config *tls.Config // the same for all connections, so that sessions can be resumed
}

func (c *clients) get(*tls.ClientHelloInfo) (*tls.Config, error) {
	pool, err := c.authorities.Pool()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.config == nil || c.config.ClientCAs != pool {
		c.config = c.settings.Clone()
		c.config.ClientCAs = pool
	}
	return c.config, nil
}

func statAll(files ...string) (of [2]os.FileInfo, err error) {
	for i, file := range files {
		var problem error
		of[i], problem = os.Stat(file)
		err = errors.Join(err, problem)
	}
	return of, err
}

// same tells whether the files are still the same ones with the same contents.
func same(a, b [2]os.FileInfo) bool {
	for i := range a {
		if !os.SameFile(a[i], b[i]) || !a[i].ModTime().Equal(b[i].ModTime()) || a[i].Size() != b[i].Size() {
			return false
		}
	}
	return true
}
