package etcd

import (
	"context"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Presence is a key that etcd has while a process runs, and for some seconds after it died: Grant, then write the key with the lease, then Keep.
type Presence struct {
	Client  *clientv3.Client
	Key     string
	Seconds int64
}

// Grant returns a lease for the key.
func (p Presence) Grant(ctx context.Context) (clientv3.LeaseID, error) {
	lease, err := p.Client.Grant(ctx, p.Seconds)
	if err != nil {
		return 0, fmt.Errorf("cannot get a lease for this process from etcd: %w", err)
	}
	return lease.ID, nil
}

// Keep renews the lease until ctx ends. If it is lost, because etcd did not answer for longer than it lasts, the key is written again with
// another one. The key and the lease that Keep returns are left.
func (p Presence) Keep(ctx context.Context, lease clientv3.LeaseID) clientv3.LeaseID {
	for {
		if renewals, err := p.Client.KeepAlive(ctx, lease); err == nil {
			for range renewals { // until the lease is lost, or ctx ends
			}
		}
		next, err := p.again(ctx)
		if err == nil {
			lease = next
			continue
		}
		if ctx.Err() == nil {
			logrus.WithError(err).Warn("etcd does not know that this process runs: trying again")
		}
		select {
		case <-ctx.Done():
			return lease
		case <-time.After(time.Second):
		}
	}
}

// again writes the key with another lease.
func (p Presence) again(ctx context.Context) (clientv3.LeaseID, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	lease, err := p.Grant(ctx)
	if err != nil {
		return 0, err
	}
	if _, err := p.Client.Put(ctx, p.Key, "", clientv3.WithLease(lease)); err != nil {
		return 0, fmt.Errorf("cannot write %s to etcd: %w", p.Key, err)
	}
	return lease, nil
}
