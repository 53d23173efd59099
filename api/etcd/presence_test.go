package etcd

import (
	"context"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/k8sm/k8sm/api/state/etcdtest"
)

func TestPresenceComesBackWhenItsLeaseWasLost(t *testing.T) {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + etcdtest.Start(t)}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	p := Presence{Client: client, Key: "/here", Seconds: 2}
	lease, err := p.Grant(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(t.Context(), p.Key, "", clientv3.WithLease(lease)); err != nil {
		t.Fatal(err)
	}
	ctx, die := context.WithCancel(t.Context())
	ended := make(chan clientv3.LeaseID, 1)
	go func() { ended <- p.Keep(ctx, lease) }()
	await := func(there int64, other clientv3.LeaseID) {
		t.Helper()
		var problem string
		for begin := time.Now(); time.Since(begin) < 20*time.Second; <-time.After(50 * time.Millisecond) {
			got, err := client.Get(t.Context(), p.Key)
			if err == nil && got.Count == there && (there == 0 || clientv3.LeaseID(got.Kvs[0].Lease) != other) {
				return
			}
			problem = fmt.Sprintf("%v, %v", got, err)
		}
		t.Fatalf("want %d keys, without the lease %x: %s", there, other, problem)
	}
	if _, err := client.Revoke(t.Context(), lease); err != nil { // as time does while etcd does not answer
		t.Fatal(err)
	}
	await(1, lease)
	die()
	if last := <-ended; last == lease {
		t.Error("the lease is the one that was lost")
	}
	await(0, 0)
}
