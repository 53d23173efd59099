package statedir

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// Phase says how far a CA is replaced (https://kubernetes.io/docs/tasks/tls/manual-rotation-of-ca-certificates/).
type Phase string

// The phases.
const (
	// Steady: there is one CA.
	Steady Phase = "steady"
	// Begun: the next CA is trusted beside the one that issues certificates.
	Begun Phase = "begun"
	// Issued: the next CA issues certificates, and the former one is still trusted.
	Issued Phase = "issued"
)

// Rotation is how far one CA is replaced.
type Rotation struct {
	// Authority is the CA's name: that of its files, without an ending.
	Authority string
	Phase     Phase
	// Issuer is the certificate of the CA that issues certificates now. Other is that of the next or the former CA; nil if Steady.
	Issuer, Other *x509.Certificate
	// Since is when the CA that issues began to.
	Since time.Time
}

// AuthorityNames are the names of all CAs: that of the API's servers and clients first.
func AuthorityNames() []string { return slices.Clone(authorityNames) }

// The files of a CA that is replaced. Its certificate's file has both certificates, the former one first. The key's file has the key of
// the one that issues: so replacing that file, which is one step, makes the next one issue, and every other file follows from these two.
// issuer has the certificate that belongs to the key, for programs that take one only. crossed has certificates in which a former CA
// vouches for the next one. Programs show them with their own certificates: who knows only the former CA believes these, too.
func (d Dir) issuer(name string) string  { return d.cert(name + "-issuer") }
func (d Dir) crossed(name string) string { return d.cert(name + "-crossed") }
func (d Dir) nextKey(name string) string { return d.key(name + "-next") }
func (d Dir) oldKey(name string) string  { return d.key(name + "-old") }

// CAKeys are CAKey, and the key of the next or the former CA while that is replaced.
func (d Dir) CAKeys() (files []string) {
	for _, file := range []string{d.CAKey(), d.nextKey(clusterAuthority), d.oldKey(clusterAuthority)} {
		if _, err := os.Stat(file); err == nil {
			files = append(files, file)
		}
	}
	return files
}

// loadAuthority reads a CA. Its certificate is the one that belongs to the key.
func (d Dir) loadAuthority(name string, now time.Time) (*authority, error) {
	certs, err := certutil.CertsFromFile(d.cert(name))
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate %s: %w", d.cert(name), err)
	}
	key, err := readKey(d.key(name))
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(certs, func(c *x509.Certificate) bool { return sameKey(c.PublicKey, key.Public()) })
	if i < 0 {
		return nil, fmt.Errorf("cannot use the CA in %s: the key in %s is that of another", d.cert(name), d.key(name))
	}
	crossed, err := certutil.CertsFromFile(d.crossed(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read the certificate %s: %w", d.crossed(name), err)
	}
	crossed = slices.DeleteFunc(crossed, func(c *x509.Certificate) bool { return now.After(c.NotAfter) })
	if len(crossed) > 0 && !sameKey(crossed[0].PublicKey, certs[i].PublicKey) {
		crossed = nil
	}
	return &authority{pair{cert: certs[i], key: key, chain: crossed}, certs}, nil
}

func sameKey(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}

func (a *authority) rotation(name string) Rotation {
	r := Rotation{Authority: name, Phase: Steady, Issuer: a.cert}
	switch {
	case len(a.trusted) == 1:
	case a.cert == a.trusted[0]:
		r.Phase, r.Other = Begun, a.trusted[1]
	default:
		r.Phase, r.Other = Issued, a.trusted[0]
	}
	return r
}

// rotation tells how far a CA is replaced, also on a machine without its key, as far as that can be told there.
func (d Dir) rotation(name string) (Rotation, error) {
	ca, err := d.loadAuthority(name, time.Now())
	if err == nil {
		return ca.rotation(name), nil
	}
	certs, problem := certutil.CertsFromFile(d.cert(name))
	if problem != nil {
		return Rotation{}, err
	}
	if len(certs) == 1 {
		return Rotation{Authority: name, Phase: Steady, Issuer: certs[0]}, nil
	}
	return Rotation{Authority: name, Phase: Begun, Issuer: certs[0], Other: certs[1]}, nil
}

// namedCertificate is a certificate of a CA with its name for people.
type namedCertificate struct {
	name string
	*x509.Certificate
}

func (r Rotation) named() []namedCertificate {
	list := []namedCertificate{{r.Authority, r.Issuer}}
	switch r.Phase {
	case Begun:
		list = append(list, namedCertificate{r.Authority + "-next", r.Other})
	case Issued:
		list = append(list, namedCertificate{r.Authority + "-old", r.Other})
	}
	return list
}

// Rotations tells how far the CAs of the names are replaced; without names, all that are in the directory.
func (d Dir) Rotations(names ...string) (list []Rotation, err error) {
	for _, name := range names {
		if !slices.Contains(authorityNames, name) {
			return nil, fmt.Errorf("cannot replace %q: there is no such CA; there are %s", name, strings.Join(authorityNames, ", "))
		}
	}
	for _, name := range authorityNames {
		if len(names) > 0 && !slices.Contains(names, name) {
			continue
		}
		if _, err := os.Stat(d.cert(name)); errors.Is(err, fs.ErrNotExist) && len(names) == 0 {
			continue
		}
		ca, err := d.loadAuthority(name, time.Now())
		if err != nil {
			return nil, err
		}
		info, err := os.Stat(d.key(name))
		if err != nil {
			return nil, fmt.Errorf("cannot read the key of the CA: %w", err)
		}
		r := ca.rotation(name)
		r.Since = info.ModTime()
		list = append(list, r)
	}
	if len(list) == 0 {
		return nil, d.NoCluster()
	}
	return list, nil
}

// ForNodes is what nodes know of the CAs, as PEM. The certificate of the CA that issues comes first.
type ForNodes struct {
	CA, KubeletServingCA []byte
	// KubeletServingChain is what kubelets show with their serving certificates.
	KubeletServingChain []byte
}

// ForNodes reads what nodes are to know now.
func (d Dir) ForNodes() (n ForNodes, err error) {
	if n.CA, _, err = d.issuerFirst(clusterAuthority); err != nil {
		return n, err
	}
	n.KubeletServingCA, n.KubeletServingChain, err = d.issuerFirst(kubeletServingAuthority)
	return n, err
}

func (d Dir) issuerFirst(name string) (trusted, chain []byte, err error) {
	ca, err := d.loadAuthority(name, time.Now())
	if err != nil {
		return nil, nil, err
	}
	certs := []*x509.Certificate{ca.cert}
	if other := ca.rotation(name).Other; other != nil {
		certs = append(certs, other)
	}
	if trusted, err = certutil.EncodeCertificates(certs...); err != nil {
		return nil, nil, fmt.Errorf("cannot encode the CA in %s: %w", d.cert(name), err)
	}
	if chain, err = certutil.EncodeCertificates(ca.chain...); err != nil {
		return nil, nil, fmt.Errorf("cannot encode the certificates in %s: %w", d.crossed(name), err)
	}
	return trusted, chain, nil
}

// NextIdentity returns a client certificate of the next CA, or of the one that has replaced another, and its key, as PEM: who knows the
// user trusts that CA. It lasts a quarter of an hour.
func (d Dir) NextIdentity(now time.Time, user string) (cert, key []byte, err error) {
	ca, err := d.loadAuthority(clusterAuthority, now)
	if err != nil {
		return nil, nil, err
	}
	signer := ca.pair
	if r := ca.rotation(clusterAuthority); r.Phase == Begun {
		signer.cert = r.Other
		if signer.key, err = readKey(d.nextKey(clusterAuthority)); err != nil {
			return nil, nil, err
		}
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot generate a key: %w", err)
	}
	l := leaf{user: user}
	fresh, err := sign(l.template(signer.cert, Spec{Now: now, Lives: Lives{Leaf: 15 * time.Minute}}), &signer, private.Public())
	if err != nil {
		return nil, nil, err
	}
	if key, err = keyutil.MarshalPrivateKeyToPEM(private); err != nil {
		return nil, nil, fmt.Errorf("cannot encode a key: %w", err)
	}
	cert, err = certutil.EncodeCertificates(fresh)
	return cert, key, err
}

// Newest is the CA that is to stay: the next one, or the only one.
func (r Rotation) Newest() *x509.Certificate {
	if r.Phase == Begun {
		return r.Other
	}
	return r.Issuer
}

// BeginRotation makes the next CA for each of the names, and has it trusted beside the one there is. One that has begun stays. A process
// that dies in the middle of this or of the steps below leaves files with which everything works, and the step can be called again.
func (d Dir) BeginRotation(now time.Time, lives Lives, names ...string) error {
	return d.rotate(now, names, func(name string, ca *authority) error {
		switch ca.rotation(name).Phase {
		case Begun:
			return nil
		case Issued:
			return fmt.Errorf("cannot begin: the CA before %s is still trusted; finish that first", d.cert(name))
		}
		key, err := d.privateKey(d.nextKey(name))
		if err != nil {
			return err
		}
		next, err := newAuthority(commonNames[name]+now.UTC().Format("-20060102-150405"), key, now, lives)
		if err != nil {
			return err
		}
		if err := d.vouch(name, ca, next); err != nil {
			return err
		}
		return writeCerts(d.cert(name), ca.cert, next)
	})
}

// vouch lets the CA sign the next one.
func (d Dir) vouch(name string, ca *authority, next *x509.Certificate) error {
	template := &x509.Certificate{
		Subject: next.Subject, SubjectKeyId: next.SubjectKeyId, NotBefore: next.NotBefore, NotAfter: next.NotAfter,
		KeyUsage: next.KeyUsage, BasicConstraintsValid: true, IsCA: true,
	}
	if ca.cert.NotAfter.Before(template.NotAfter) {
		template.NotAfter = ca.cert.NotAfter
	}
	crossed, err := sign(template, &ca.pair, next.PublicKey)
	if err != nil {
		return err
	}
	return writeCerts(d.crossed(name), append([]*x509.Certificate{crossed}, ca.chain...)...)
}

// IssueRotation makes the next CA issue certificates, and issues all in the directory anew.
func (d Dir) IssueRotation(now time.Time, names ...string) error {
	return d.rotate(now, names, func(name string, ca *authority) error {
		switch ca.rotation(name).Phase {
		case Steady:
			return fmt.Errorf("cannot issue certificates by another CA than that in %s: there is none; begin first", d.cert(name))
		case Issued:
			return nil
		}
		return d.swapKeys(name, d.nextKey(name), d.oldKey(name))
	})
}

// AbortRotation goes back one step: the former CAs issue certificates again or, if all of the names do, the next ones are trusted no
// more.
func (d Dir) AbortRotation(now time.Time, names ...string) error {
	all, err := d.Rotations(names...)
	if err != nil {
		return err
	}
	from := Begun
	if slices.ContainsFunc(all, in(Issued)) {
		from = Issued
	}
	if !slices.ContainsFunc(all, in(from)) {
		return fmt.Errorf("cannot go back: no other CA than that in %s is trusted", d.cert(all[0].Authority))
	}
	return d.rotate(now, names, func(name string, ca *authority) error {
		switch r := ca.rotation(name); {
		case r.Phase != from: // it was here before a process died
			return nil
		case r.Phase == Begun:
			return d.distrust(name, ca, r.Other)
		}
		return d.swapKeys(name, d.oldKey(name), d.nextKey(name))
	})
}

// FinishRotation ends the trust in the former CAs.
func (d Dir) FinishRotation(now time.Time, names ...string) error {
	all, err := d.Rotations(names...)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(all, in(Begun)); i >= 0 || !slices.ContainsFunc(all, in(Issued)) {
		return fmt.Errorf("cannot finish: there is no former CA in %s", d.cert(all[max(i, 0)].Authority))
	}
	return d.rotate(now, names, func(name string, ca *authority) error {
		if r := ca.rotation(name); r.Phase == Issued {
			return d.distrust(name, ca, r.Other)
		}
		return nil
	})
}

func in(phase Phase) func(Rotation) bool { return func(r Rotation) bool { return r.Phase == phase } }

// rotate changes each CA, and then all that follows from it.
func (d Dir) rotate(now time.Time, names []string, change func(name string, ca *authority) error) (err error) {
	unlock, err := d.lockPKI()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	for _, name := range names {
		ca, err := d.loadAuthority(name, now)
		if err != nil {
			return err
		}
		if err := change(name, ca); err != nil {
			return err
		}
	}
	return d.followAuthorities(now)
}

// swapKeys makes the key in a file the one that signs, and keeps the one that did in another file.
func (d Dir) swapKeys(name, from, to string) error {
	former, err := os.ReadFile(d.key(name))
	if err != nil {
		return fmt.Errorf("cannot read the key of the CA: %w", err)
	}
	next, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("cannot read the key of the other CA: %w", err)
	}
	if err := writeFile(to, former); err != nil {
		return err
	}
	return writeFile(d.key(name), next)
}

// distrust ends the trust in one of two CAs.
func (d Dir) distrust(name string, ca *authority, gone *x509.Certificate) error {
	if err := writeCerts(d.cert(name), ca.cert); err != nil {
		return err
	}
	crossed, err := certutil.CertsFromFile(d.crossed(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot read the certificate %s: %w", d.crossed(name), err)
	}
	crossed = slices.DeleteFunc(crossed, func(c *x509.Certificate) bool { return sameKey(c.PublicKey, gone.PublicKey) })
	if len(crossed) == 0 {
		return discard(d.crossed(name))
	}
	return writeCerts(d.crossed(name), crossed...)
}

// tidyKeys removes keys that are not needed: after the last step, and after a process that died.
func (d Dir) tidyKeys(name string, ca *authority) error {
	switch ca.rotation(name).Phase {
	case Begun:
		return discard(d.oldKey(name))
	case Issued:
		return discard(d.nextKey(name))
	}
	return errors.Join(discard(d.nextKey(name)), discard(d.oldKey(name)))
}

// followAuthorities writes what follows from the CAs' files: so does a control plane, but it looks once a minute.
func (d Dir) followAuthorities(now time.Time) error {
	cas := map[string]*authority{}
	for _, name := range authorityNames {
		ca, err := d.loadAuthority(name, now)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(d.tidyKeys(name, ca), writeCerts(d.issuer(name), ca.cert)); err != nil {
			return err
		}
		cas[name] = ca
	}
	cluster, serving := cas[clusterAuthority], cas[kubeletServingAuthority]
	if cluster != nil && serving != nil {
		if err := d.kubeletTrust(serving, cluster, now); err != nil {
			return err
		}
	}
	all, err := d.Certificates()
	if err != nil {
		return err
	}
	for _, c := range all {
		if ca := cas[d.authorityOf(c.Name)]; c.Authority || ca == nil || c.CheckSignatureFrom(ca.cert) == nil {
			continue
		}
		if err := d.reissue(c, now); err != nil {
			return err
		}
	}
	return d.embedAuthorities(cluster)
}

// embedAuthorities writes the cluster's CAs to the administrator's kubeconfig, if there is one.
func (d Dir) embedAuthorities(cluster *authority) error {
	if _, err := os.Stat(d.AdminKubeconfig()); cluster == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	admin, err := d.load(adminName)
	if err != nil {
		return err
	}
	return d.embedAgain(cluster.trusted, admin)
}
