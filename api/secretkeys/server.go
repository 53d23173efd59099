package secretkeys

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/k8sm/k8sm/api/etcd"
	"github.com/k8sm/k8sm/api/statedir"
)

const (
	// followEvery is how often a control plane looks for other keys.
	followEvery = 2 * time.Second
	// callTimeout bounds a call of etcd.
	callTimeout = 15 * time.Second
)

// Server is a control plane that takes keys over: Begin, then its API server starts, then Follow until it stops, then End.
type Server struct {
	Client *clientv3.Client
	Dir    statedir.Dir
	// Address is where the API server is reached, HOST:PORT: no other control plane has it.
	Address string
	// Embeds says that this control plane runs etcd itself. Another one beside it may use that.
	Embeds bool
	// Foreign says that the keys are not km's: the control plane only says that it is there.
	Foreign bool
	// Loaded reports whether the API server uses a file with this content.
	Loaded func(file []byte) bool

	// cluster is etcd's id. stop ends what keeps the key that says that this control plane runs.
	cluster uint64
	stop    func()

	every   time.Duration // in tests
	seconds int64         // in tests
}

// presenceSeconds is how long a control plane that died counts as one that runs.
const presenceSeconds = 15

func (s *Server) store() store { return store{client: s.Client} }

// Begin says that this control plane starts, and then takes the keys over that others use. In this order: who replaces a key waits for all
// who have said so, and one who says it later finds the new key.
func (s *Server) Begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if s.Embeds {
		if err := s.store().forgetEarlier(ctx); err != nil {
			return err
		}
	}
	if err := s.appear(ctx); err != nil || s.Foreign {
		return err
	}
	r, revision, err := s.store().read(ctx)
	if err == nil && revision > 0 {
		_, err = s.take(r)
	}
	if err != nil {
		s.stop()
	}
	return err
}

// appear says that this control plane starts, and from then on that it runs.
func (s *Server) appear(ctx context.Context) error {
	_, cluster, err := s.store().reports(ctx)
	if err != nil {
		return err
	}
	s.cluster = cluster
	here := etcd.Presence{Client: s.Client, Key: running + s.Address, Seconds: cmp.Or(s.seconds, presenceSeconds)}
	lease, err := here.Grant(ctx)
	if err != nil {
		return err
	}
	first := s.report()
	if first.Problem == "" {
		first.Problem = "its API server starts"
	}
	if err := s.store().say(ctx, s.Address, first, clientv3.OpPut(here.Key, "", clientv3.WithLease(lease))); err != nil {
		return err
	}
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		here.Keep(keeping, lease)
		close(ended)
	}()
	s.stop = func() { stop(); <-ended }
	return nil
}

// report is what there is to say while nothing is known of keys.
func (s *Server) report() report {
	r := report{Cluster: s.cluster, Embeds: s.Embeds}
	if s.Foreign {
		r.Problem = "its keys are not km's"
	}
	return r
}

// take makes the ring's keys those of the state directory.
func (s *Server) take(r ring) (keys []Key, err error) {
	here, err := Read(s.Dir)
	if err != nil {
		return nil, err
	}
	var sealed []Key
	if !r.has(here) {
		if sealed, err = r.open(s.Dir); err != nil {
			return nil, err
		}
	}
	if keys, err = r.over(here, sealed); err != nil || slices.Equal(names(keys), names(here)) {
		return keys, err
	}
	logrus.WithField("keys", names(keys)).Info("the API server gets other keys of secrets")
	return keys, Write(s.Dir, keys)
}

// Follow takes the keys over that come, and says so when the API server uses them, until ctx ends.
func (s *Server) Follow(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		next := cmp.Or(s.every, followEvery)
		switch soon, err := s.look(ctx); {
		case err != nil && ctx.Err() == nil:
			logrus.WithError(err).Warn("cannot see whether there is a new key of secrets: trying again")
		case soon:
			next /= 10 // a rotation waits for what this one says
		}
		timer.Reset(next)
	}
}

// look says what is true now, unless that is what it said before. It reports whether the API server is about to read the file.
func (s *Server) look(ctx context.Context) (soon bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	now := s.report()
	if !s.Foreign {
		if now.Names, now.Problem, err = s.use(ctx); err != nil {
			return false, err
		}
	}
	before, err := s.Client.Get(ctx, servers+s.Address)
	if err != nil {
		return false, fmt.Errorf("cannot read what this control plane has said: %w", err)
	}
	if value, err := json.Marshal(now); err == nil && len(before.Kvs) > 0 && string(value) == string(before.Kvs[0].Value) {
		return false, nil
	}
	if !s.Foreign {
		file, err := os.ReadFile(s.Dir.EncryptionConfig())
		if err != nil || !s.Loaded(file) {
			return err == nil, err
		}
	}
	return false, s.store().say(ctx, s.Address, now)
}

// use takes the ring's keys over, and returns the names of those that are here then, and why they are not the ring's.
func (s *Server) use(ctx context.Context) (used []string, problem string, err error) {
	r, revision, err := s.store().read(ctx)
	if err != nil {
		return nil, "", err
	}
	if revision > 0 {
		if _, err := s.take(r); err != nil {
			logrus.WithError(err).Error("cannot take over the keys of secrets")
			problem = err.Error()
		}
	}
	keys, err := Read(s.Dir)
	return names(keys), problem, err
}

// End says that the API server has stopped. It reads and writes no secret until the next Begin.
func (s *Server) End(ctx context.Context) error {
	s.stop()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	return s.store().leave(ctx, s.Address)
}
