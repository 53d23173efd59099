package secretkeys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// What is in etcd. The scheduler may write what is below state.Prefix, and must not write here.
const (
	ringKey = "/k8sm-keys/ring"
	servers = "/k8sm-keys/servers/"
	// running is where each control plane has a key while it runs, and for some seconds after it died.
	running = "/k8sm-keys/running/"
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
	// Cluster is etcd's id of itself: that of an etcd that was restored is another one.
	Cluster uint64 `json:"cluster,omitempty"`
	// Embeds says that etcd runs in it.
	Embeds bool `json:"embeds,omitempty"`
	// Gone says that somebody has named it as gone for good.
	Gone bool `json:"gone,omitempty"`
}

func (r report) put(server string) (clientv3.Op, error) {
	value, err := json.Marshal(r)
	if err != nil {
		return clientv3.Op{}, fmt.Errorf("cannot encode a report: %w", err)
	}
	return clientv3.OpPut(servers+server, string(value)), nil
}

// say writes a report, and whatever else, at once.
func (s store) say(ctx context.Context, server string, r report, and ...clientv3.Op) error {
	put, err := r.put(server)
	if err != nil {
		return err
	}
	if _, err := s.client.Txn(ctx).Then(append(and, put)...).Commit(); err != nil {
		return fmt.Errorf("cannot tell the other control planes which keys this one uses: %w", err)
	}
	return nil
}

func (s store) leave(ctx context.Context, server string) error {
	if _, err := s.client.Txn(ctx).Then(clientv3.OpDelete(servers+server), clientv3.OpDelete(running+server)).Commit(); err != nil {
		return fmt.Errorf("cannot tell the other control planes that %s has gone: %w", server, err)
	}
	return nil
}

// forgetEarlier removes the reports of control planes that cannot use this etcd any more, which runs in a control plane: those from before
// a snapshot was restored, and those of the one that ran etcd, whatever its address was.
func (s store) forgetEarlier(ctx context.Context) error {
	all, cluster, err := s.reports(ctx)
	if err != nil {
		return err
	}
	for server, r := range all {
		if r.Embeds || r.Cluster != cluster {
			if err := s.leave(ctx, server); err != nil {
				return err
			}
		}
	}
	return nil
}

// Forget marks the control planes at these addresses as gone for good, until they start again. One that runs is not gone. serving are the
// hosts of API servers that run, among them such as don't say so here.
func Forget(ctx context.Context, client *clientv3.Client, addresses, serving []string) error {
	s := store{client: client}
	for _, address := range addresses {
		all, _, err := s.reports(ctx)
		if err != nil {
			return err
		}
		r, known := all[address]
		if !known {
			return fmt.Errorf("no control plane has said that it is at %s: there are %s", address, strings.Join(slices.Sorted(maps.Keys(all)), ", "))
		}
		gone, err := s.bury(ctx, address, r, serving)
		if err != nil {
			return err
		}
		if !gone {
			return fmt.Errorf("the API server at %s runs, or ran some seconds ago: it is not gone", address)
		}
	}
	return nil
}

// bury marks a control plane as gone unless it runs.
func (s store) bury(ctx context.Context, address string, r report, serving []string) (gone bool, err error) {
	host, _, _ := net.SplitHostPort(address)
	there, err := s.client.Get(ctx, running+net.JoinHostPort(host, ""), clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return false, fmt.Errorf("cannot list the control planes: %w", err)
	}
	if there.Count == 0 && slices.Contains(serving, host) { // another one there may be the one that serves
		return false, nil
	}
	r.Gone = true
	put, err := r.put(address)
	if err != nil {
		return false, err
	}
	done, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(running+address), "=", 0)).Then(put).Commit()
	if err != nil {
		return false, fmt.Errorf("cannot forget the control plane at %s: %w", address, err)
	}
	return done.Succeeded, nil
}

// Addresses returns those of all control planes that run, or died and are not gone for good.
func Addresses(ctx context.Context, client *clientv3.Client) (addresses []string, err error) {
	all, _, err := store{client: client}.reports(ctx)
	for _, address := range slices.Sorted(maps.Keys(all)) {
		if !all[address].Gone {
			addresses = append(addresses, address)
		}
	}
	return addresses, err
}

// reports returns those of all control planes that run, or died, by their addresses, and etcd's id.
func (s store) reports(ctx context.Context) (all map[string]report, cluster uint64, err error) {
	got, err := s.client.Get(ctx, servers, clientv3.WithPrefix())
	if err != nil {
		return nil, 0, fmt.Errorf("cannot list the control planes: %w", err)
	}
	all = map[string]report{}
	for _, kv := range got.Kvs {
		var r report
		if err := json.Unmarshal(kv.Value, &r); err != nil {
			return nil, 0, fmt.Errorf("cannot read %s: %w", kv.Key, err)
		}
		all[strings.TrimPrefix(string(kv.Key), servers)] = r
	}
	return all, got.Header.ClusterId, nil
}
