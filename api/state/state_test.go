package state

import (
	"context"
	"errors"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/state/etcdtest"
)

// etcd starts a real etcd and returns its URL.
func etcd(t *testing.T) string {
	t.Helper()
	return "http://" + etcdtest.Start(t)
}

func open(t *testing.T, endpoint, name string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{Endpoints: []string{endpoint}, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // a second Close, after that of a test, is of no interest
	return s
}

func lead(t *testing.T, s *Store, id string) <-chan struct{} {
	t.Helper()
	lost, err := s.Lead(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return lost
}

func await(t *testing.T, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatalf("waited in vain for %s", what)
	}
}

func TestFrameworkIDIsReplacedOnlyIfItIsTheOneExpected(t *testing.T) {
	s := open(t, etcd(t), "a")
	for _, step := range []struct {
		old, new, then api.FrameworkID
		err            error
	}{
		{old: "x", new: "y", then: "", err: ErrConflict},
		{old: "", new: "f1", then: "f1"},
		{old: "", new: "f2", then: "f1", err: ErrConflict},
		{old: "f1", new: "f2", then: "f2"},
		{old: "f1", new: "", then: "f2", err: ErrConflict},
		{old: "f2", new: "", then: ""},
	} {
		if err := s.ReplaceFrameworkID(t.Context(), step.old, step.new); !errors.Is(err, step.err) {
			t.Errorf("replacing %q by %q: got %v, want %v", step.old, step.new, err, step.err)
		}
		if got, err := s.FrameworkID(t.Context()); err != nil || got != step.then {
			t.Errorf("after replacing %q by %q: got %q, %v, want %q", step.old, step.new, got, err, step.then)
		}
	}
}

func TestFrameworkIDCanBeForgottenByItsKey(t *testing.T) {
	s := open(t, etcd(t), "a")
	if err := s.ReplaceFrameworkID(t.Context(), "", "f1"); err != nil {
		t.Fatal(err)
	}
	if r, err := s.client.Delete(t.Context(), FrameworkKey("a")); err != nil || r.Deleted != 1 {
		t.Errorf("etcd deleted %d keys, %v", r.Deleted, err)
	}
	if got, err := s.FrameworkID(t.Context()); err != nil || got != "" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestExecutorsAreKeptPerAgentAndCluster(t *testing.T) {
	endpoint := etcd(t)
	a, b := open(t, endpoint, "a"), open(t, endpoint, "b")
	ctx := t.Context()
	for agent, executor := range map[api.AgentID]string{"agent-S0": "zero", "agent-S1": "one"} {
		if err := a.PutExecutor(ctx, agent, []byte(executor)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.DeleteExecutor(ctx, "agent-S1"); err != nil {
		t.Fatal(err)
	}
	if err := a.DeleteExecutor(ctx, "agent-S9"); err != nil {
		t.Errorf("forgetting an unknown executor: %v", err)
	}
	all, err := a.Executors(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[api.AgentID][]byte{"agent-S0": []byte("zero")}, all); diff != "" {
		t.Errorf("executors (-want +got):\n%s", diff)
	}
	if got, err := a.Executor(ctx, "agent-S1"); err != nil || got != nil {
		t.Errorf("a forgotten executor: got %q, %v", got, err)
	}
	if got, err := b.Executor(ctx, "agent-S0"); err != nil || got != nil {
		t.Errorf("another cluster's executor: got %q, %v", got, err)
	}
}

func TestWhoLeadsCanBeReadByEverybody(t *testing.T) {
	endpoint := etcd(t)
	first, second, reader, other := open(t, endpoint, "a"), open(t, endpoint, "a"), open(t, endpoint, "a"), open(t, endpoint, "b")
	is := func(s *Store, want string) {
		t.Helper()
		if got, err := s.Leader(t.Context()); err != nil || got != want {
			t.Errorf("%q leads, %v; want %q", got, err, want)
		}
		if got, err := ReadLeader(t.Context(), Config{Endpoints: []string{endpoint}, Name: path.Base(s.prefix)}); err != nil || got != want {
			t.Errorf("%q leads, %v; want %q", got, err, want)
		}
	}
	is(reader, "")
	lead(t, first, "first@here:1")
	leads := make(chan struct{})
	go func() {
		defer close(leads)
		if _, err := second.Lead(t.Context(), "second"); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	inLine := func() bool {
		r, err := reader.client.Get(ctx, reader.leaderPrefix(), clientv3.WithPrefix())
		return err != nil || r.Count == 2
	}
	for !inLine() {
	}
	is(reader, "first@here:1")
	is(other, "")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	await(t, leads, "the second to lead")
	is(reader, "second")
}

func TestSecondLeaderLeadsWhenTheFirstCloses(t *testing.T) {
	endpoint := etcd(t)
	first, second := open(t, endpoint, "a"), open(t, endpoint, "a")
	lost := lead(t, first, "first")
	leads := make(chan struct{})
	go func() {
		defer close(leads)
		if _, err := second.Lead(t.Context(), "second"); err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-leads:
		t.Fatal("two lead at once")
	case <-lost:
		t.Fatal("the first lost its leadership")
	default:
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	await(t, lost, "the first to know that it does not lead")
	await(t, leads, "the second to lead")
}

func TestCampaignEndsWithItsContext(t *testing.T) {
	endpoint := etcd(t)
	first, second := open(t, endpoint, "a"), open(t, endpoint, "a")
	lead(t, first, "first")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := second.Lead(ctx, "second"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	for _, patience := range []time.Duration{0, time.Millisecond, 3 * time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), patience) // wherever in its course it ends
		if _, err := second.Lead(ctx, "second"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %s: %v", patience, err)
		}
		cancel()
	}
}

func TestWritesOfAFormerLeaderAreRefused(t *testing.T) {
	endpoint := etcd(t)
	former, next := open(t, endpoint, "a"), open(t, endpoint, "a")
	lost := lead(t, former, "former")
	ctx := t.Context()
	if err := former.PutExecutor(ctx, "s0", []byte("by the former")); err != nil {
		t.Fatalf("a leader's write: %v", err)
	}
	// As if the lease had run out while this process was suspended.
	if _, err := next.client.Revoke(ctx, former.leading().session.Lease()); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"put":       former.PutExecutor(ctx, "s0", []byte("again")),
		"delete":    former.DeleteExecutor(ctx, "s0"),
		"framework": former.ReplaceFrameworkID(ctx, "", "f1"),
	} {
		if !errors.Is(err, ErrNotLeader) {
			t.Errorf("%s: got %v, want ErrNotLeader", what, err)
		}
	}
	await(t, lost, "the former leader to know")
	lead(t, next, "next")
	if err := next.PutExecutor(ctx, "s0", []byte("by the next")); err != nil {
		t.Errorf("the next leader's write: %v", err)
	}
}

func TestLeadershipCanBeWonAgain(t *testing.T) {
	s := open(t, etcd(t), "a")
	lost := lead(t, s, "s")
	if _, err := s.client.Delete(t.Context(), s.leading().key); err != nil {
		t.Fatal(err)
	}
	await(t, lost, "the loss")
	lead(t, s, "s")
	if err := s.PutExecutor(t.Context(), "s0", []byte("x")); err != nil {
		t.Error(err)
	}
}

func TestUnreachableEtcdIsAnErrorThatNamesIt(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := Open(ctx, Config{Endpoints: []string{"http://127.0.0.1:1"}, Name: "a"})
	if err == nil || !strings.Contains(err.Error(), "cannot reach etcd at http://127.0.0.1:1") {
		t.Errorf("got %v", err)
	}
}

func TestClusterNameMustBeOnePathElement(t *testing.T) {
	for _, name := range []string{"", "a/b"} {
		if _, err := Open(t.Context(), Config{Endpoints: []string{"http://127.0.0.1:1"}, Name: name}); err == nil {
			t.Errorf("name %q was taken", name)
		}
	}
}

func TestFolderIsBelowTheClustersStateAndItsLeaders(t *testing.T) {
	endpoint := etcd(t)
	s, other := open(t, endpoint, "a"), open(t, endpoint, "a")
	put := func() bool {
		t.Helper()
		r, err := s.Folder("f").Txn(t.Context()).If(clientv3.Compare(clientv3.CreateRevision("k/"), "<", 9).WithPrefix()).
			Then(clientv3.OpPut("k/1", "v")).Commit()
		if err != nil {
			t.Fatal(err)
		}
		return r.Succeeded
	}
	if !put() {
		t.Error("a store that never led may not write")
	}
	if r, err := other.client.Get(t.Context(), "/k8sm/a/f/k/1"); err != nil || valueOf(r.Kvs) != "v" {
		t.Errorf("the key has %q, %v", valueOf(r.Kvs), err)
	}
	lost := lead(t, s, "1")
	if !put() {
		t.Error("the leader may not write")
	}
	if _, err := other.client.Delete(t.Context(), s.leading().key); err != nil {
		t.Fatal(err)
	}
	await(t, lost, "the loss of the leadership")
	if put() {
		t.Error("one that leads no more wrote")
	}
}
