// Package certfile serves TLS with certificates in files that are replaced while the program runs: each handshake gets the newest. It
// also tells how long certificates in files last, as metrics. It knows nothing of who makes them.
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
	clients := &clients{file: caFile, settings: settings}
	if _, err := clients.get(nil); err != nil {
		return nil, err
	}
	outer := settings.Clone()
	outer.GetConfigForClient = clients.get
	return outer, nil
}

// clients are the settings for clients of the CAs in a file.
type clients struct {
	file     string
	settings *tls.Config // without CAs

	mu     sync.Mutex // guards all below
	of     [2]os.FileInfo
	config *tls.Config // the same for all connections, so that sessions can be resumed
	told   problem
}

func (c *clients) get(*tls.ClientHelloInfo) (*tls.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of, err := statAll(c.file, c.file)
	if err == nil && c.config != nil && same(of, c.of) {
		return c.config, nil
	}
	var pool *x509.CertPool
	if err == nil {
		pool, err = certutil.NewPool(c.file)
	}
	if err != nil && c.config != nil {
		c.told.tell(err, c.file, "cannot read the CAs of clients again: the former ones stay in use")
		return c.config, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use the CAs in %s: %w", c.file, err)
	}
	c.config, c.of, c.told = c.settings.Clone(), of, ""
	c.config.ClientCAs = pool
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
