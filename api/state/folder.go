package state

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
)

// Folder gives access to the keys below /k8sm/<cluster name>/<folder>/, which are named without that, for those who keep
// state of a kind of their own. Its transactions fail, as if a condition of theirs did not hold, when this store led once
// and does not any more; give all writes as transactions with If.
func (s *Store) Folder(folder string) clientv3.KV {
	return namespace.NewKV(guardedKV{s.client.KV, s}, s.prefix+"/"+folder+"/")
}

// guardedKV adds the store's guard to all transactions.
type guardedKV struct {
	clientv3.KV
	store *Store
}

func (kv guardedKV) Txn(ctx context.Context) clientv3.Txn {
	return guardedTxn{kv.KV.Txn(ctx), kv.store}
}

type guardedTxn struct {
	clientv3.Txn
	store *Store
}

func (t guardedTxn) If(conditions ...clientv3.Cmp) clientv3.Txn {
	return t.Txn.If(append(t.store.guard(), conditions...)...)
}
