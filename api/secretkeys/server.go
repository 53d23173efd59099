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
	// Alone says that no other control plane can reach this etcd: what there is of others is older than a snapshot.
	Alone bool
	// Loaded reports whether the API server uses a file with this content.
	Loaded func(file []byte) bool

	every time.Duration // in tests
}

func (s *Server) store() store { return store{client: s.Client} }

// Begin says that this control plane starts, and then takes the keys over that others use. In this order: who replaces a key waits for all
// who have said so, and one who says it later finds the new key.
func (s *Server) Begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if s.Alone {
		if _, err := s.Client.Delete(ctx, servers, clientv3.WithPrefix()); err != nil {
			return fmt.Errorf("cannot forget other control planes: %w", err)
		}
	}
	if err := s.store().say(ctx, s.Address, report{Problem: "its API server starts"}); err != nil {
		return err
	}
	r, revision, err := s.store().read(ctx)
	if err != nil || revision == 0 {
		return err
	}
	_, err = s.take(r)
	return err
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
	r, revision, err := s.store().read(ctx)
	if err != nil {
		return false, err
	}
	now := report{}
	if revision > 0 {
		if _, err := s.take(r); err != nil {
			logrus.WithError(err).Error("cannot take over the keys of secrets")
			now.Problem = err.Error()
		}
	}
	before, err := s.Client.Get(ctx, servers+s.Address)
	if err != nil {
		return false, fmt.Errorf("cannot read what this control plane has said: %w", err)
	}
	keys, err := Read(s.Dir)
	if err != nil {
		return false, err
	}
	if now.Names = names(keys); len(before.Kvs) > 0 {
		if value, err := json.Marshal(now); err == nil && string(value) == string(before.Kvs[0].Value) {
			return false, nil
		}
	}
	file, err := os.ReadFile(s.Dir.EncryptionConfig())
	if err != nil || !s.Loaded(file) {
		return err == nil, err
	}
	return false, s.store().say(ctx, s.Address, now)
}

// End says that the API server has stopped. It reads and writes no secret until the next Begin.
func (s *Server) End(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	return s.store().leave(ctx, s.Address)
}
