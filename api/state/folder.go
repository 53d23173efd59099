package state

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
)

// Folder gives access to the keys below /k8sm/<cluster name>/<folder>/, by their names without that prefix, for programs with state
// of their own. Its transactions fail like one with a false condition if this store has lost leadership. Write only in transactions
// with If.
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
