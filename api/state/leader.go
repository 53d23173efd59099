package state

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

const (
	// leaseSeconds is how long a leader that has vanished keeps the others waiting; etcd adds up to half a second, in
	// which it looks for leases that have run out. A lease cannot be shorter than one and a half of etcd's election
	// timeouts, which is 2 s by default, and a leader must survive the loss of some renewals.
	leaseSeconds = 3
	// renewEvery and renewAgain are the pauses after a renewal that was granted and after one that failed.
	renewEvery = leaseSeconds * time.Second / 4
	renewAgain = 100 * time.Millisecond
	// renewPatience is how long one renewal may take.
	renewPatience = time.Second
)

// errLeaseOver says that a lease had run out before its holder's turn to lead came.
var errLeaseOver = errors.New("the lease to lead by has run out")

// leadership is the proof that this store leads: a key that exists, unchanged, for as long as it does
// (https://etcd.io/docs/v3.6/learning/why/#notes-on-the-usage-of-lock-and-lease).
type leadership struct {
	session  *concurrency.Session
	key      string
	revision int64     // at which the key was created
	until    time.Time // the lease cannot run out before
}

// Lead returns when this store leads among all that call Lead for the same cluster name; id is what others see of it.
// The channel is closed when leadership is lost, by whatever cause, and before another can lead, unless this process
// stood still at that time; from the moment that another may lead, etcd refuses this store's writes with ErrNotLeader.
// A leader that vanishes is followed by another within four seconds if etcd itself is well. Lead may be called again
// after a loss. Close ends leadership.
func (s *Store) Lead(ctx context.Context, id string) (lost <-chan struct{}, err error) {
	l, err := s.campaign(ctx, id)
	for errors.Is(err, errLeaseOver) && ctx.Err() == nil {
		l, err = s.campaign(ctx, id) // etcd was away for longer than the lease: stand in line again
	}
	if err != nil {
		return nil, err
	}
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

// Leader returns the id of the one that leads, or "" when none does. Whoever asks need not stand in line.
func (s *Store) Leader(ctx context.Context) (id string, err error) {
	r, err := s.client.Get(ctx, s.leaderPrefix()+"/", clientv3.WithFirstCreate()...)
	if err != nil {
		return "", fmt.Errorf("cannot read who leads: %w", err)
	}
	return valueOf(r.Kvs), nil
}

// leaderPrefix is above the keys of those who lead or stand in line; the oldest key is the leader's.
func (s *Store) leaderPrefix() string { return s.prefix + "/leader" }

// campaign stands in line with a lease of its own until this store leads. The error is errLeaseOver when the lease did
// not last that long.
func (s *Store) campaign(ctx context.Context, id string) (*leadership, error) {
	lease, err := s.client.Grant(ctx, leaseSeconds)
	if err != nil {
		return nil, fmt.Errorf("cannot get a lease to lead by: %w", err)
	}
	session, err := concurrency.NewSession(s.client, concurrency.WithTTL(leaseSeconds), concurrency.WithLease(lease.ID))
	if err != nil {
		return nil, fmt.Errorf("cannot keep the lease to lead by: %w", err)
	}
	inLine, leave := context.WithCancel(ctx)
	defer leave()
	defer context.AfterFunc(session.Ctx(), leave)()
	election := concurrency.NewElection(session, s.leaderPrefix())
	if err = election.Campaign(inLine, id); err == nil {
		// The key may have been gone when the turn came: a lease that can be renewed proves that it is there.
		l := &leadership{session: session, key: election.Key(), revision: election.Rev()}
		if err = l.renew(inLine, s.client); err == nil {
			return l, nil
		}
	}
	switch {
	case ctx.Err() != nil:
		err = ctx.Err() // which the client may have told as an error of gRPC's
	case session.Ctx().Err() != nil:
		err = errLeaseOver
	}
	_ = session.Close() // a lease that cannot be revoked runs out
	return nil, fmt.Errorf("cannot become the leader: %w", err)
}

// untilLost returns when the lease can have run out, the key is gone, or the session was closed.
func (l *leadership) untilLost(client *clientv3.Client) {
	ctx, cancel := context.WithCancel(l.session.Ctx())
	defer cancel()
	var watchers sync.WaitGroup
	watchers.Go(func() { defer cancel(); l.keep(ctx, client) })
	watchers.Go(func() { defer cancel(); l.untilDeleted(ctx, client) })
	watchers.Wait()
	l.session.Orphan()
}

// keep renews the lease and returns when it can have run out. The session renews it too, but goes by the time at which
// etcd's answer came, and that is later than the time from which etcd counts.
func (l *leadership) keep(ctx context.Context, client *clientv3.Client) {
	for ctx.Err() == nil && time.Now().Before(l.until) {
		attempt, cancel := context.WithTimeout(ctx, min(renewPatience, time.Until(l.until)))
		pause := renewEvery
		if l.renew(attempt, client) != nil {
			pause = renewAgain
		}
		cancel()
		select {
		case <-ctx.Done():
		case <-time.After(min(pause, time.Until(l.until))):
		}
	}
}

// renew renews the lease once; its new time counts from before etcd was asked. The client's own KeepAliveOnce would try
// again without a pause while there is no connection.
func (l *leadership) renew(ctx context.Context, client *clientv3.Client) error {
	asked := time.Now()
	stream, err := pb.NewLeaseClient(client.ActiveConnection()).LeaseKeepAlive(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(l.session.Lease())}); err != nil {
		return err
	}
	lease, err := stream.Recv()
	if err != nil {
		return err
	}
	if lease.TTL <= 0 {
		return errLeaseOver
	}
	l.until = asked.Add(time.Duration(lease.TTL) * time.Second)
	return nil
}

// untilDeleted returns when the key is gone.
func (l *leadership) untilDeleted(ctx context.Context, client *clientv3.Client) {
	for r := range client.Watch(ctx, l.key, clientv3.WithRev(l.revision+1)) {
		for _, e := range r.Events {
			if e.Type == mvccpb.DELETE {
				return
			}
		}
	}
	<-ctx.Done() // a watch that broke is no proof of anything: the lease decides
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
