package state

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// ErrOtherCluster says that etcd has the objects of a cluster with another CA.
var ErrOtherCluster = errors.New("it belongs to a cluster with another CA")

// Authority is a CA for the Kubernetes API: it identifies a cluster.
type Authority struct {
	// SHA256 is the fingerprint of the certificate, in hexadecimal digits.
	SHA256 string `json:"sha256"`
	// NotAfter is when the certificate ends: then another CA may take its place.
	NotAfter time.Time `json:"notAfter"`
}

// AuthoritiesOf returns what identifies the cluster with these CAs.
func AuthoritiesOf(cas []*x509.Certificate) (list []Authority) {
	for _, ca := range cas {
		sum := sha256.Sum256(ca.Raw)
		list = append(list, Authority{SHA256: hex.EncodeToString(sum[:]), NotAfter: ca.NotAfter.UTC()})
	}
	return list
}

// identity is what etcd knows about the cluster that it belongs to. It has several authorities while one replaces another.
type identity struct {
	Authorities []Authority `json:"authorities"`
}

// IdentityKey returns the etcd key of the identity of the cluster with this name.
func IdentityKey(name string) string { return prefixOf(name) + "/identity" }

func (s *Store) identityKey() string { return s.prefix + "/identity" }

// CheckOwner returns ErrOtherCluster if the cluster whose objects etcd has is known and has none of these CAs. Without a claim all is
// well.
func (s *Store) CheckOwner(ctx context.Context, here []Authority) error {
	stored, err := s.get(ctx, s.identityKey())
	if err != nil {
		return fmt.Errorf("cannot read whose etcd it is: %w", err)
	}
	_, err = claimed(stored, here, time.Now())
	return err
}

// Claim makes etcd that of the cluster with these CAs, unless it is already. A CA that is new beside one that is known becomes known,
// too. The error is ErrOtherCluster if etcd is another's. Of several that claim at once, one wins.
func (s *Store) Claim(ctx context.Context, here []Authority) error {
	return s.identify(ctx, here, func(known identity) identity { return known })
}

// ClaimAlone is Claim, and forgets all other CAs: they have been replaced.
func (s *Store) ClaimAlone(ctx context.Context, here []Authority) error {
	return s.identify(ctx, here, func(identity) identity { return identity{here} })
}

// identify records what change makes of the identity after a claim.
func (s *Store) identify(ctx context.Context, here []Authority, change func(identity) identity) error {
	for {
		stored, err := s.get(ctx, s.identityKey())
		if err != nil {
			return fmt.Errorf("cannot read whose etcd it is: %w", err)
		}
		next, err := claimed(stored, here, time.Now())
		if err != nil {
			return err
		}
		value, err := json.Marshal(change(next))
		if err != nil || bytes.Equal(value, stored) {
			return err
		}
		unchanged := clientv3.Compare(clientv3.CreateRevision(s.identityKey()), "=", 0)
		if stored != nil {
			unchanged = clientv3.Compare(clientv3.Value(s.identityKey()), "=", string(stored))
		}
		r, err := s.client.Txn(ctx).If(unchanged).Then(clientv3.OpPut(s.identityKey(), string(value))).Commit()
		if err != nil {
			return fmt.Errorf("cannot record whose etcd it is: %w", err)
		}
		if r.Succeeded {
			return nil
		}
	}
}

// claimed returns the identity that etcd has after a cluster with these CAs has claimed it. The error is ErrOtherCluster if it is
// another's: none of the CAs there, unless all have ended, is one of these.
func claimed(stored []byte, here []Authority, now time.Time) (identity, error) {
	var known identity
	if len(stored) > 0 {
		if err := json.Unmarshal(stored, &known); err != nil {
			return known, fmt.Errorf("cannot read whose etcd it is: %w", err)
		}
	}
	same := func(a Authority) func(Authority) bool {
		return func(b Authority) bool { return a.SHA256 == b.SHA256 }
	}
	ours := slices.ContainsFunc(known.Authorities, func(a Authority) bool { return slices.ContainsFunc(here, same(a)) })
	known.Authorities = slices.DeleteFunc(known.Authorities, func(a Authority) bool { return now.After(a.NotAfter) })
	if !ours && len(known.Authorities) > 0 {
		return known, fmt.Errorf("%w: its SHA-256 is %s, that of the CA here is %s", ErrOtherCluster, fingerprints(known.Authorities), fingerprints(here))
	}
	for _, a := range here {
		if !slices.ContainsFunc(known.Authorities, same(a)) {
			known.Authorities = append(known.Authorities, a)
		}
	}
	return known, nil
}

func fingerprints(list []Authority) string {
	if len(list) == 0 {
		return "unknown, because there is none"
	}
	var all []string
	for _, a := range list {
		all = append(all, a.SHA256)
	}
	return strings.Join(all, " or ")
}

// CheckEndpoints returns an error for a URL of etcd that is not https, unless insecure says that plain http is meant.
func CheckEndpoints(endpoints []string, insecure bool) error {
	for _, endpoint := range endpoints {
		u, err := url.Parse(endpoint)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
			return fmt.Errorf("cannot use --etcd-servers=%s: give URLs such as https://10.0.0.5:2379", endpoint)
		case u.Scheme == "http" && !insecure:
			return fmt.Errorf("cannot use --etcd-servers=%s: whoever sees or changes that traffic has the whole cluster, secrets too. "+
				"Make etcd serve https and give https://%s, or set --insecure-etcd", endpoint, u.Host)
		}
	}
	return nil
}
