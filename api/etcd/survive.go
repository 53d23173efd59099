package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"

	"github.com/k8sm/k8sm/api/statedir"
)

// Survivor is the member of this machine, whose cluster has lost too many others to go on.
type Survivor struct {
	// Name is the member's, and Others are the names of the other members.
	Name   string
	Others []string

	dir  statedir.Dir
	self membership.Member
	lost []membership.Member
}

// survivePatience bounds how long a member may take to become a cluster of its own: it reads all of its data.
const survivePatience = 5 * time.Minute

// FindSurvivor reads who is in the member's cluster from its data. The member must not run.
func FindSurvivor(dir statedir.Dir) (*Survivor, error) {
	if has, err := (&Member{Dir: dir}).started(); err != nil || !has {
		return nil, errors.Join(fmt.Errorf("no member of etcd has its data in %s", dir.EtcdData()), err)
	}
	id, err := ownID(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read whose data is in %s: %w", dir.EtcdData(), err)
	}
	all, err := storedMembers(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read the members from %s: %w; the member must not run", dir.EtcdData(), err)
	}
	s := &Survivor{dir: dir}
	for _, m := range all {
		if m.ID == id {
			s.Name, s.self = m.Name, m
			continue
		}
		s.lost = append(s.lost, m)
		s.Others = append(s.Others, nameOf(m))
	}
	switch {
	case s.Name == "":
		return nil, fmt.Errorf("the member in %s has never served its cluster: it cannot go on alone", dir.EtcdData())
	case s.self.IsLearner:
		return nil, fmt.Errorf("%s cannot go on alone: it is a learner, which may lack data; use a member that voted", s.Name)
	}
	return s, nil
}

func nameOf(m membership.Member) string {
	if m.Name == "" {
		return m.ID.String()
	}
	return m.Name
}

// ownID is the member's id, which is in the log.
func ownID(dir statedir.Dir) (id types.ID, err error) {
	log, logs := zap.NewNop(), filepath.Join(dir.EtcdData(), "member", "wal")
	valid, err := wal.ValidSnapshotEntries(log, logs)
	if err != nil {
		return 0, err
	}
	newest, err := snap.New(log, filepath.Join(dir.EtcdData(), "member", "snap")).LoadNewestAvailable(valid)
	if err != nil && !errors.Is(err, snap.ErrNoSnapshot) {
		return 0, err
	}
	var from walpb.Snapshot
	if newest != nil {
		from.Index, from.Term = newest.Metadata.Index, newest.Metadata.Term
	}
	w, err := wal.OpenForRead(log, logs, from)
	if err != nil {
		return 0, err
	}
	defer func() { _ = w.Close() }() // which fails for a log that is only read
	text, _, _, err := w.ReadAll()
	if err != nil {
		return 0, err
	}
	var meta etcdserverpb.Metadata
	err = meta.Unmarshal(text)
	return types.ID(meta.NodeID), err
}

// storedMembers are those in the member's database, sorted by name.
func storedMembers(dir statedir.Dir) (all []membership.Member, err error) {
	db, err := bolt.Open(filepath.Join(dir.EtcdData(), "member", "snap", "db"), 0o400, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.View(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(schema.Members.Name())
		if bucket == nil {
			return errors.New("there are none")
		}
		return bucket.ForEach(func(_, value []byte) error {
			var m membership.Member
			err := json.Unmarshal(value, &m)
			all = append(all, m)
			return err
		})
	})
	slices.SortFunc(all, func(a, b membership.Member) int { return strings.Compare(nameOf(a), nameOf(b)) })
	return all, err
}

// GoOn makes this member the only one of its cluster, for good, with all data that it has: etcd's --force-new-cluster
// (https://etcd.io/docs/v3.6/op-guide/recovery/#restarting-a-cluster-from-membership-reconfiguration-or-backup). It refuses while anything
// answers at the address of another member. If it is interrupted, it can be called again. The member does not run afterwards.
func (s *Survivor) GoOn(ctx context.Context) (err error) {
	unlock, err := s.dir.Lock("etcd")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if up := s.answering(ctx); len(up) > 0 {
		return fmt.Errorf("other members answer: %s. If they are enough for a quorum, start the others that can run; else end them for good, and remove their data: only one member can go on",
			strings.Join(up, ", "))
	}
	ctx, cancel := context.WithTimeout(ctx, survivePatience)
	defer cancel()
	logged := zap.NewAtomicLevelAt(zap.ErrorLevel)
	config, err := s.config(Logger(logged))
	if err != nil {
		return err
	}
	e, err := embed.StartEtcd(config)
	if err != nil {
		return fmt.Errorf("cannot start etcd in %s: %w", s.dir.EtcdData(), err)
	}
	err = s.alone(ctx, e)
	logged.SetLevel(zap.FatalLevel) // it logs each listener that it closes
	e.Close()
	if err != nil {
		return fmt.Errorf("cannot make %s a cluster of its own: %w", s.Name, err)
	}
	access, err := s.dir.Etcd()
	if err != nil || !access.Managed {
		return nil // km etcd records it when it starts
	}
	access.Endpoints = s.self.ClientURLs
	return s.dir.WriteEtcd(access)
}

// answering returns the other members at one of whose addresses something takes connections, and where.
func (s *Survivor) answering(ctx context.Context) (up []string) {
	var mu sync.Mutex // guards up
	var asked sync.WaitGroup
	for _, m := range s.lost {
		for _, at := range slices.Concat(m.ClientURLs, m.PeerURLs) {
			asked.Go(func() {
				u, err := url.Parse(at)
				if err != nil {
					return
				}
				conn, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", u.Host)
				if err != nil {
					return
				}
				_ = conn.Close()
				mu.Lock()
				defer mu.Unlock()
				up = append(up, nameOf(m)+" at "+at)
			})
		}
	}
	asked.Wait()
	slices.Sort(up)
	return up
}

// config runs the member for a moment: no other member can reach it, and clients only on a free port of loopback.
func (s *Survivor) config(log *zap.Logger) (*embed.Config, error) {
	c := embed.NewConfig()
	c.Name, c.Dir = s.Name, s.dir.EtcdData()
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.ForceNewCluster = true
	c.ListenPeerUrls = nil
	c.ListenClientUrls = []url.URL{{Scheme: "https", Host: "127.0.0.1:0"}}
	c.AdvertiseClientUrls = nil
	for _, at := range s.self.ClientURLs {
		u, err := url.Parse(at)
		if err != nil {
			return nil, fmt.Errorf("cannot use the member's address: %w", err)
		}
		c.AdvertiseClientUrls = append(c.AdvertiseClientUrls, *u)
	}
	c.EnableGRPCGateway = false
	c.QuotaBackendBytes = DefaultQuota
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	cert, key := s.dir.Pair(statedir.EtcdMember)
	c.ClientTLSInfo = transport.TLSInfo{CertFile: cert, KeyFile: key, TrustedCAFile: s.dir.EtcdCA(), ClientCertAuth: true}
	return c, nil
}

// alone waits until the member leads a cluster that has no other.
func (s *Survivor) alone(ctx context.Context, e *embed.Etcd) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if len(e.Server.Cluster().Members()) == 1 && e.Server.Leader() == e.Server.MemberID() {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case err := <-e.Err():
			return err
		case <-e.Server.StopNotify():
			return errors.New("etcd stopped by itself")
		}
	}
}
