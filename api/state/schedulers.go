package state

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Schedulers returns the identities of the schedulers that run: the one that leads first, then those that stand by for it.
func (s *Store) Schedulers(ctx context.Context) (identities []string, err error) {
	r, err := s.client.Get(ctx, s.leaderPrefix()+"/", clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend))
	if err != nil {
		return nil, fmt.Errorf("cannot list the schedulers: %w", err)
	}
	for _, kv := range r.Kvs {
		identities = append(identities, string(kv.Value))
	}
	return identities, nil
}
