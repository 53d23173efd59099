package state

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// leaseSeconds is how long a leader that has vanished keeps the others waiting.
const leaseSeconds = 10

// leadership is the proof that this store leads: a key that exists, unchanged, for as long as it does
// (https://etcd.io/docs/v3.6/learning/why/#notes-on-the-usage-of-lock-and-lease).
type leadership struct {
	session  *concurrency.Session
	key      string
	revision int64 // at which the key was created
}

// Lead returns when this store leads among all that call Lead for the same cluster name; id is what others see of it.
// The channel is closed when leadership is lost, by whatever cause; from the moment that another may lead, etcd refuses
// this store's writes with ErrNotLeader. Lead may be called again after that. Close ends leadership.
func (s *Store) Lead(ctx context.Context, id string) (lost <-chan struct{}, err error) {
	session, err := concurrency.NewSession(s.client, concurrency.WithTTL(leaseSeconds))
	if err != nil {
		return nil, fmt.Errorf("cannot get a lease to lead by: %w", err)
	}
	election := concurrency.NewElection(session, s.prefix+"/leader")
	if err := election.Campaign(ctx, id); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot become the leader: %w", err), session.Close())
	}
	l := &leadership{session: session, key: election.Key(), revision: election.Rev()}
	s.mu.Lock()
	s.leader = l
	s.mu.Unlock()
	gone := make(chan struct{})
	s.watchers.Go(func() {
		defer close(gone)
		l.untilLost(s.client)
	})
	return gone, nil
}

// untilLost returns when the lease has run out or the key is gone.
func (l *leadership) untilLost(client *clientv3.Client) {
	ctx, cancel := context.WithCancel(client.Ctx())
	defer cancel()
	changes := client.Watch(ctx, l.key, clientv3.WithRev(l.revision+1))
	for {
		select {
		case <-l.session.Done():
			return
		case r, ok := <-changes:
			if !ok || r.Err() != nil {
				// Not knowing is no proof of anything: the lease decides.
				changes = nil
				continue
			}
			for _, e := range r.Events {
				if e.Type == mvccpb.DELETE {
					l.session.Orphan()
					return
				}
			}
		}
	}
}

func (s *Store) leading() *leadership {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leader
}

// guard is the condition on all writes of a store that has led: that it still does. One that never led, such as a
// tool's, is bound by nothing.
func (s *Store) guard() []clientv3.Cmp {
	l := s.leading()
	if l == nil {
		return nil
	}
	return []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(l.key), "=", l.revision)}
}

func valueOf(kvs []*mvccpb.KeyValue) string {
	if len(kvs) == 0 {
		return ""
	}
	return string(kvs[0].Value)
}
