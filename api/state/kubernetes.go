package state

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/k8sm/k8sm/api/skew"
)

// KubernetesKey returns the etcd key of the newest version of Kubernetes whose API servers wrote to the etcd of the cluster with this name.
func KubernetesKey(name string) string { return prefixOf(name) + "/kubernetes" }

// TakeOver records that an API server of this version is about to write to etcd. The error says why it must not, and nothing is recorded
// then; the warning says what may be lost. The newest version stays recorded.
func (s *Store) TakeOver(ctx context.Context, version string) (warning string, err error) {
	key := s.prefix + "/kubernetes"
	for {
		r, err := s.client.Get(ctx, key)
		if err != nil {
			return "", fmt.Errorf("cannot read which version of Kubernetes wrote to etcd: %w", err)
		}
		newest, revision := valueOf(r.Kvs), int64(0)
		if len(r.Kvs) > 0 {
			revision = r.Kvs[0].ModRevision
		}
		if warning, err = skew.Step(version, newest); err != nil {
			return "", err
		}
		if by, ok := skew.Behind(newest, version); ok && by <= 0 {
			return warning, nil // it is not older
		}
		written, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).Then(clientv3.OpPut(key, version)).Commit()
		if err != nil {
			return "", fmt.Errorf("cannot record which version of Kubernetes writes to etcd: %w", err)
		}
		if written.Succeeded {
			return warning, nil
		}
	}
}
