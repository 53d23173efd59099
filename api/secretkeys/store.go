package secretkeys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// What is in etcd. The scheduler may write what is below state.Prefix, and must not write here.
const (
	ringKey = "/k8sm-keys/ring"
	servers = "/k8sm-keys/servers/"
)

// store is where the control planes of one etcd meet. The client is that of etcd's administrator.
type store struct{ client *clientv3.Client }

// read returns the ring and its revision, which is 0 if there is none.
func (s store) read(ctx context.Context) (r ring, revision int64, err error) {
	got, err := s.client.Get(ctx, ringKey)
	if err != nil {
		return r, 0, fmt.Errorf("cannot read the keys of secrets in etcd: %w", err)
	}
	if len(got.Kvs) == 0 {
		return r, 0, nil
	}
	if err := json.Unmarshal(got.Kvs[0].Value, &r); err != nil || len(r.Names) == 0 {
		return r, 0, fmt.Errorf("cannot read the keys of secrets in etcd: %s is not as km wrote it", ringKey)
	}
	return r, got.Kvs[0].ModRevision, nil
}

// errRace says that another rotation has changed the ring.
var errRace = errors.New("another km secrets rotate-key is at work: let it finish")

// write replaces the ring of this revision, and returns the next revision.
func (s store) write(ctx context.Context, r ring, revision int64) (int64, error) {
	value, err := json.Marshal(r)
	if err != nil {
		return 0, fmt.Errorf("cannot encode the keys: %w", err)
	}
	done, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(ringKey), "=", revision)).Then(clientv3.OpPut(ringKey, string(value))).Commit()
	if err != nil {
		return 0, fmt.Errorf("cannot write the keys of secrets to etcd: %w", err)
	}
	if !done.Succeeded {
		return 0, errRace
	}
	return done.Header.Revision, nil
}

// report is what a control plane says of itself. It stays when the control plane dies, until it runs again.
type report struct {
	// Names are those of the keys that its API server uses.
	Names []string `json:"names,omitempty"`
	// Problem says why it does not use the ring's.
	Problem string `json:"problem,omitempty"`
}

func (s store) say(ctx context.Context, server string, r report) error {
	value, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("cannot encode a report: %w", err)
	}
	if _, err := s.client.Put(ctx, servers+server, string(value)); err != nil {
		return fmt.Errorf("cannot tell the other control planes which keys this one uses: %w", err)
	}
	return nil
}

func (s store) leave(ctx context.Context, server string) error {
	if _, err := s.client.Delete(ctx, servers+server); err != nil {
		return fmt.Errorf("cannot tell the other control planes that %s has gone: %w", server, err)
	}
	return nil
}

// Addresses returns those of all control planes that take keys over and run, or died.
func Addresses(ctx context.Context, client *clientv3.Client) ([]string, error) {
	all, err := store{client: client}.reports(ctx)
	return slices.Sorted(maps.Keys(all)), err
}

// reports returns those of all control planes that run, or died, by their addresses.
func (s store) reports(ctx context.Context) (map[string]report, error) {
	got, err := s.client.Get(ctx, servers, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("cannot list the control planes: %w", err)
	}
	all := map[string]report{}
	for _, kv := range got.Kvs {
		var r report
		if err := json.Unmarshal(kv.Value, &r); err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", kv.Key, err)
		}
		all[strings.TrimPrefix(string(kv.Key), servers)] = r
	}
	return all, nil
}
