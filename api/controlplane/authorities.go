package controlplane

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api/state"
)

// authoritiesPoll is how often the CAs' files are read: they change when an operator replaces a CA.
const authoritiesPoll = 2 * time.Second

// authorities returns a hash of the CAs and of which of them issues.
func (c Config) authorities() (known [sha256.Size]byte, err error) {
	hash := sha256.New()
	d := c.StateDir
	for _, file := range []string{d.CA(), d.CAIssuer(), d.KubeletServingCA(), d.KubeletServingIssuer()} {
		text, err := os.ReadFile(file)
		if err != nil {
			return known, fmt.Errorf("cannot read the cluster's CAs: %w", err)
		}
		hash.Write(text)
	}
	return [sha256.Size]byte(hash.Sum(nil)), nil
}

// awaitOtherAuthorities returns nil when the CAs are others than those that are known, and an error when ctx ends.
func (c Config) awaitOtherAuthorities(ctx context.Context, known [sha256.Size]byte) error {
	tick := time.NewTicker(authoritiesPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if now, err := c.authorities(); err == nil && now != known {
			return nil
		}
	}
}

// followAuthorities tells the cluster of CAs that are replaced, until ctx ends: minions, API servers that forward to others, and etcd.
func (c Config) followAuthorities(ctx context.Context, admin clients) {
	var dropping sync.WaitGroup
	defer dropping.Wait()
	// A step may have come while this control plane was down.
	dropping.Go(func() { c.dropFormerCAs(ctx, admin.typed) })
	known, err := c.authorities()
	for ctx.Err() == nil {
		if err != nil {
			logrus.WithError(err).Error("cannot tell the cluster of a CA that is replaced: trying again")
		}
		if c.awaitOtherAuthorities(ctx, known) != nil {
			return
		}
		var now [sha256.Size]byte
		if now, err = c.authorities(); err == nil {
			err = c.tellAuthorities(ctx, admin)
		}
		if err == nil {
			known = now
			logrus.Info("a CA is replaced: the cluster is told")
			dropping.Go(func() { c.dropFormerCAs(ctx, admin.typed) })
		}
	}
}

// tellAuthorities tells etcd first: what minions are told shows that etcd knows, and no rotation goes on before.
func (c Config) tellAuthorities(ctx context.Context, admin clients) error {
	if err := c.tellEtcd(ctx); err != nil {
		return err
	}
	addOns, err := c.addOns()
	if err != nil {
		return err
	}
	apis, err := c.aggregatedAPIs()
	if err != nil {
		return err
	}
	for _, o := range apis { // those that servers have offered
		_, err := resourceOf(admin.objects, o.GetObjectKind().GroupVersionKind()).Get(ctx, o.GetName(), metav1.GetOptions{})
		if err == nil {
			addOns = append(addOns, o)
		} else if !apierrors.IsNotFound(err) {
			return fmt.Errorf("cannot read the API %s: %w", o.GetName(), err)
		}
	}
	return applyAll(ctx, admin.objects, addOns)
}

// tellEtcd makes etcd that of the CAs here. One that was replaced counts as a stranger's from then on.
func (c Config) tellEtcd(ctx context.Context) error {
	access, err := c.StateDir.Etcd()
	if err != nil {
		return err
	}
	ca, err := c.StateDir.CACertificates()
	if err != nil {
		return err
	}
	return c.withState(ctx, access, func(s *state.Store) error {
		if len(ca) > 1 {
			return s.Claim(ctx, state.AuthoritiesOf(ca))
		}
		return s.ClaimAlone(ctx, state.AuthoritiesOf(ca))
	})
}
