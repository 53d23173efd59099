package statedir

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// Reissue issues certificates again, whether they are due or not: those of the names, or all but CAs. They keep their keys, subjects,
// names and lives. It returns the names of those that it issued.
func (d Dir) Reissue(now time.Time, names ...string) (issued []string, err error) {
	all, err := d.Certificates()
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, d.NoCluster()
	}
	if err := renewable(all, names); err != nil {
		return nil, err
	}
	unlock, err := d.lockPKI()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	for _, c := range all {
		if c.Authority || len(names) > 0 && !slices.Contains(names, c.Name) {
			continue
		}
		if err := d.reissue(c, now); err != nil {
			return issued, err
		}
		issued = append(issued, c.Name)
	}
	return issued, nil
}

// renewable returns an error if one of the names is none of a certificate that can be renewed.
func renewable(all []Certificate, names []string) error {
	for _, name := range names {
		i := slices.IndexFunc(all, func(c Certificate) bool { return c.Name == name })
		if i < 0 {
			return fmt.Errorf("cannot renew %q: there is no such certificate; there are %s", name, strings.Join(leafNamesOf(all), ", "))
		}
		if all[i].Authority {
			return fmt.Errorf("cannot renew %q: it is a CA's, and nodes and programs trust the one that they know; replace it by km certs rotate-ca", name)
		}
	}
	return nil
}

func leafNamesOf(all []Certificate) (names []string) {
	for _, c := range all {
		if !c.Authority {
			names = append(names, c.Name)
		}
	}
	return names
}

func (d Dir) reissue(c Certificate, now time.Time) error {
	ca, err := d.loadAuthority(d.authorityOf(c.Name), now)
	if err != nil {
		return err
	}
	key, err := readKey(d.key(c.Name))
	if err != nil {
		return err
	}
	life := lifeOf(c.Certificate)
	template := &x509.Certificate{
		Subject: c.Subject, DNSNames: c.DNSNames, IPAddresses: c.IPAddresses, KeyUsage: c.KeyUsage, ExtKeyUsage: c.ExtKeyUsage,
		NotBefore: now.Add(-skew(life)), NotAfter: now.Add(life),
	}
	if ca.cert.NotAfter.Before(template.NotAfter) {
		template.NotAfter = ca.cert.NotAfter
	}
	cert, err := sign(template, &ca.pair, key.Public())
	if err != nil {
		return err
	}
	fresh := &pair{cert: cert, key: key, chain: ca.chain}
	if err := writeCerts(d.cert(c.Name), fresh.shown()...); err != nil || c.Name != adminName {
		return err
	}
	return d.embedAgain(ca.trusted, fresh)
}

// embedAgain puts the cluster's CAs and the administrator's certificate into the kubeconfig that is there.
func (d Dir) embedAgain(trusted []*x509.Certificate, admin *pair) error {
	config, err := clientcmd.LoadFromFile(d.AdminKubeconfig())
	if err != nil {
		return fmt.Errorf("cannot read the administrator's kubeconfig: %w", err)
	}
	if err := embed(config, trusted, admin); err != nil {
		return fmt.Errorf("cannot encode the administrator's kubeconfig: %w", err)
	}
	data, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("cannot encode the administrator's kubeconfig: %w", err)
	}
	return writeChanged(d.AdminKubeconfig(), data)
}

// authorityOf is the name of the CA of a certificate.
func (d Dir) authorityOf(name string) string {
	for _, l := range slices.Concat(leaves(Spec{}), memberLeaves(nil)) {
		if l.name == name {
			return l.authority
		}
	}
	return clusterAuthority
}

// lifeOf is for how long a certificate was made.
func lifeOf(cert *x509.Certificate) time.Duration {
	whole := cert.NotAfter.Sub(cert.NotBefore)
	if life := whole - clockSkew; life >= 24*clockSkew {
		return life
	}
	return whole * 24 / 25
}
