package state

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// leaseSeconds is how long other schedulers wait for a leader that has vanished. A leader whose renewals fail stops by itself when
	// they stop waiting, so this is also for how long etcd may stand still at no cost. A leader cannot tell an etcd that stands still
	// from a cable that is cut, behind which another scheduler already waits for its lease to end. So both times are one number:
	// as long as a takeover within five seconds allows, as etcd adds up to half a second, its interval for checking leases.
	leaseSeconds = 4
	// renewEvery is the pause after a successful renewal, renewAgain after a failed one. What renewEvery takes of the lease is lost
	// when etcd stands still.
	renewEvery = leaseSeconds * time.Second / 8
	renewAgain = 100 * time.Millisecond
	// renewPatience is the timeout of one renewal.
	renewPatience = time.Second
	// stopEarly is how long before the end of its lease a leader stops: timers are late on a busy machine.
	stopEarly = 100 * time.Millisecond
	// resignPatience is the timeout for giving back a lease that was lost.
	resignPatience = time.Second
)

// errLeaseOver says that the lease expired before its holder became the leader.
var errLeaseOver = errors.New("the leader lease has expired")

// leadership is the proof that this store leads: a key that exists, unchanged, as long as it leads
// (https://etcd.io/docs/v3.6/learning/why/#notes-on-the-usage-of-lock-and-lease).
type leadership struct {
	session  *concurrency.Session
	key      string
	revision int64     // at which the key was created
	until    time.Time // the lease cannot expire before
}

// Lead blocks until this store leads among all that call Lead for the same cluster name; others see it under id. lost is closed when
// leadership ends for any reason, and before another store can lead, unless this process was suspended at that time. From the moment
// that another store may lead, etcd rejects this store's writes with ErrNotLeader. If the leader vanishes, another one follows
// within five seconds, provided that etcd is well. Lead waits for an etcd that does not answer. It may be called again after a loss:
// then no other store need lead in between. Close ends leadership.
func (s *Store) Lead(ctx context.Context, id string) (lost <-chan struct{}, err error) {
	s.resign(ctx)
	l, err := s.campaign(ctx, id)
	if passes(err) && ctx.Err() == nil {
		logrus.WithError(err).Warn("etcd does not answer, trying again until it does")
	}
	for passes(err) && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(renewAgain):
			l, err = s.campaign(ctx, id)
		}
	}
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("cannot become the leader: %w", ctx.Err()) // whatever etcd answered in that moment
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

// resign gives back the lease of an earlier leadership: this store would stand in line behind its own key, which etcd keeps when it
// has stood still, or had lost its leader.
func (s *Store) resign(ctx context.Context) {
	l := s.leading()
	if l == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, resignPatience)
	defer cancel()
	_, _ = s.client.Revoke(ctx, l.session.Lease()) // a lease that cannot be revoked expires
}

// passes reports whether the error of a campaign is only that etcd did not answer for a while.
func passes(err error) bool {
	var answer rpctypes.EtcdError
	if errors.As(err, &answer) {
		return answer.Code() == codes.Unavailable
	}
	code := status.Code(err)
	return errors.Is(err, errLeaseOver) || errors.Is(err, context.DeadlineExceeded) || code == codes.Unavailable || code == codes.DeadlineExceeded
}

// Leader returns the leader's id, or "" if there is none. The caller need not campaign.
func (s *Store) Leader(ctx context.Context) (id string, err error) {
	r, err := s.client.Get(ctx, s.leaderPrefix()+"/", clientv3.WithFirstCreate()...)
	if err != nil {
		return "", fmt.Errorf("cannot read the leader: %w", err)
	}
	return valueOf(r.Kvs), nil
}

// leaderPrefix is the prefix of the candidates' keys; the oldest key is the leader's.
func (s *Store) leaderPrefix() string { return s.prefix + "/leader" }

// LeaderPrefix begins the keys that ReadLeader reads.
func LeaderPrefix(name string) string { return prefixOf(name) + "/leader/" }

// ReadLeader returns the id of the cluster's leader, or "" if there is none. It connects to etcd for this, and needs the right to read
// the keys that begin with LeaderPrefix only.
func ReadLeader(ctx context.Context, c Config) (id string, err error) {
	client, _, err := c.connect()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	r, err := client.Get(ctx, LeaderPrefix(c.Name), clientv3.WithFirstCreate()...)
	if err != nil {
		return "", fmt.Errorf("cannot read the leader: %w", err)
	}
	return valueOf(r.Kvs), nil
}

// campaign waits, with a lease of its own, until this store leads. The error is errLeaseOver if the lease expired before.
func (s *Store) campaign(ctx context.Context, id string) (*leadership, error) {
	asking, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	lease, err := s.client.Grant(asking, leaseSeconds)
	if err != nil {
		return nil, fmt.Errorf("cannot get a leader lease: %w", err)
	}
	session, err := concurrency.NewSession(s.client, concurrency.WithTTL(leaseSeconds), concurrency.WithLease(lease.ID))
	if err != nil {
		return nil, fmt.Errorf("cannot renew the leader lease: %w", err)
	}
	inLine, leave := context.WithCancel(ctx)
	defer leave()
	defer context.AfterFunc(session.Ctx(), leave)()
	election := concurrency.NewElection(session, s.leaderPrefix())
	if err = election.Campaign(inLine, id); err == nil {
		// The key may have been gone when this store became the leader: a lease that can be renewed proves that it exists.
		l := &leadership{session: session, key: election.Key(), revision: election.Rev()}
		if err = l.renew(inLine, s.client); err == nil {
			return l, nil
		}
	}
	if session.Ctx().Err() != nil {
		err = errLeaseOver
	}
	_ = session.Close() // a lease that cannot be revoked expires
	return nil, fmt.Errorf("cannot become the leader: %w", err)
}

// untilLost returns when the lease may have expired, the key is gone, or the session was closed.
func (l *leadership) untilLost(client *clientv3.Client) {
	ctx, cancel := context.WithCancel(l.session.Ctx())
	defer cancel()
	var watchers sync.WaitGroup
	watchers.Go(func() { defer cancel(); l.keep(ctx, client) })
	watchers.Go(func() { defer cancel(); l.untilDeleted(ctx, client) })
	watchers.Wait()
	l.session.Orphan()
}

// keep renews the lease, and returns when it may have expired. The session renews it, too, but counts from the arrival of etcd's
// answer, which is later than the time from which etcd counts.
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

// renew renews the lease once. The new term counts from before the request. The client's own KeepAliveOnce would retry without a
// pause while there is no connection.
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
	l.until = asked.Add(time.Duration(lease.TTL)*time.Second - stopEarly)
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
	<-ctx.Done() // a broken watch proves nothing: the lease decides
}

func (s *Store) leading() *leadership {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leader
}

// guard is the condition of all writes of a store that has led: that it still leads. A store that never led, such as a tool's, has
// none.
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
