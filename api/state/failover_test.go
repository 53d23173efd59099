package state

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/k8sm/k8sm/api/state/etcdtest"
	"github.com/k8sm/k8sm/contrib/test/cable"
)

// takeover is how long a cluster may be without a leader after one has vanished.
const takeover = 5 * time.Second

// TestMain lets this binary be another scheduler's process, or etcd's.
func TestMain(m *testing.M) {
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "lead":
		err = leadUntilKilled(context.Background(), os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "etcd":
		err = serveEtcd(os.Args[2])
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// serveEtcd runs an etcd with data in dir until it is killed, and says where.
func serveEtcd(dir string) error {
	e, err := etcdtest.Serve(dir)
	if err != nil {
		return err
	}
	fmt.Println(e.Clients[0].Addr())
	return <-e.Err()
}

// leadUntilKilled says that it leads, and then writes whenever it is told to, and says what came of it.
func leadUntilKilled(ctx context.Context, endpoint string) error {
	s, err := Open(ctx, Config{Endpoints: []string{endpoint}, Name: "a"})
	if err != nil {
		return err
	}
	if _, err := s.Lead(ctx, "child"); err != nil {
		return err
	}
	fmt.Println("leads")
	for told := bufio.NewScanner(os.Stdin); told.Scan(); {
		err := s.PutExecutor(ctx, "s0", []byte("by the child"))
		fmt.Printf("not leader: %t; %v\n", errors.Is(err, ErrNotLeader), err)
	}
	return s.Close()
}

// child is a process that leads, or an etcd.
type child struct {
	*exec.Cmd
	told io.Writer
	says *bufio.Scanner
}

func newChild(t *testing.T, endpoint string) *child {
	t.Helper()
	c := startChild(t, "lead", endpoint)
	c.expect(t, "leads")
	return c
}

// etcdProcess starts an etcd that can be stopped, and returns its URL.
func etcdProcess(t *testing.T) (server *child, endpoint string) {
	t.Helper()
	server = startChild(t, "etcd", t.TempDir())
	server.expect(t, "127.0.0.1:")
	return server, "http://" + server.says.Text()
}

func startChild(t *testing.T, args ...string) *child {
	t.Helper()
	c := &child{Cmd: exec.Command(os.Args[0], args...)}
	told, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	says, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.told, c.says = told, bufio.NewScanner(says)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	return c
}

func (c *child) expect(t *testing.T, want string) {
	t.Helper()
	if !c.says.Scan() || !strings.HasPrefix(c.says.Text(), want) {
		t.Fatalf("the child says %q, %v, want %q", c.says.Text(), c.says.Err(), want)
	}
}

func (c *child) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := c.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// standBy lets a store wait for the leadership. The channel gets when it was won.
func standBy(t *testing.T, s *Store) <-chan time.Time {
	t.Helper()
	won := make(chan time.Time, 1)
	go func() {
		if _, err := s.Lead(t.Context(), "next"); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
		won <- time.Now()
	}()
	// It stands in line when there are two keys.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		candidates, err := s.client.Get(ctx, s.prefix+"/leader/", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		if len(candidates.Kvs) == 2 {
			return won
		}
		select {
		case <-ctx.Done():
			t.Fatal("it does not stand in line")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// wonWithin checks the time from the loss of a leader to the next.
func wonWithin(t *testing.T, won <-chan time.Time, from time.Time) {
	t.Helper()
	select {
	case at := <-won:
		t.Logf("another leads after %s", at.Sub(from).Round(time.Millisecond))
		if at.Sub(from) > takeover {
			t.Errorf("that is more than %s", takeover)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("nobody leads")
	}
}

func TestKilledLeaderIsFollowedWithinFiveSeconds(t *testing.T) {
	endpoint := etcd(t)
	leader := newChild(t, endpoint)
	next := open(t, endpoint, "a")
	won := standBy(t, next)
	leader.signal(t, syscall.SIGKILL)
	wonWithin(t, won, time.Now())
	if err := next.PutExecutor(t.Context(), "s0", []byte("by the next")); err != nil {
		t.Error(err)
	}
}

func TestLeaderThatStoodStillCanDoNoHarm(t *testing.T) {
	endpoint := etcd(t)
	leader := newChild(t, endpoint)
	if _, err := fmt.Fprintln(leader.told, "write"); err != nil {
		t.Fatal(err)
	}
	leader.expect(t, "not leader: false; <nil>")
	next := open(t, endpoint, "a")
	won := standBy(t, next)
	leader.signal(t, syscall.SIGSTOP)
	wonWithin(t, won, time.Now())
	if err := next.PutExecutor(t.Context(), "s0", []byte("by the next")); err != nil {
		t.Error(err)
	}
	leader.signal(t, syscall.SIGCONT)
	if _, err := fmt.Fprintln(leader.told, "write"); err != nil {
		t.Fatal(err)
	}
	leader.expect(t, "not leader: true; ")
	if got, err := next.Executor(t.Context(), "s0"); err != nil || string(got) != "by the next" {
		t.Errorf("the executor was written %s, %v", got, err)
	}
}

func TestLeaderThatIsCutOffKnowsBeforeAnotherLeads(t *testing.T) {
	endpoint := etcd(t)
	cable, err := cable.New(strings.TrimPrefix(endpoint, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cable.Cut)
	leader, next := open(t, "http://"+cable.Addr(), "a"), open(t, endpoint, "a")
	lost := lead(t, leader, "leader")
	won := standBy(t, next)
	cable.Cut()
	from := time.Now()
	select {
	case <-lost:
		t.Logf("the leader stops after %s", time.Since(from).Round(time.Millisecond))
	case <-won:
		t.Fatal("two lead at once")
	}
	wonWithin(t, won, from)
}

// stands lets etcd stand still for the time, or until the leadership is lost, whatever is later.
func stands(t *testing.T, server *child, still time.Duration, lost <-chan struct{}) (lostAfter time.Duration) {
	t.Helper()
	server.signal(t, syscall.SIGSTOP)
	defer server.signal(t, syscall.SIGCONT)
	from := time.Now()
	over := time.After(still)
	for {
		select {
		case <-lost:
			lost, lostAfter = nil, time.Since(from)
		case <-over:
			return lostAfter
		}
	}
}

func TestEtcdThatStandsStillForThreeSecondsCostsNoLeadership(t *testing.T) {
	server, endpoint := etcdProcess(t)
	leader, next := open(t, endpoint, "a"), open(t, endpoint, "a")
	lost := lead(t, leader, "leader")
	won := standBy(t, next)
	for range 2 {
		if after := stands(t, server, 3*time.Second, lost); after != 0 {
			t.Fatalf("the leadership was lost after %s", after)
		}
		if err := leader.PutExecutor(t.Context(), "s0", []byte("by the leader")); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-won:
		t.Error("two lead at once")
	case <-lost:
		t.Error("the leadership was lost when etcd went on")
	case <-time.After(2 * time.Second): // in which etcd looks for leases that have ended, four times
	}
}

func TestLeaderLeadsAgainAfterEtcdStoodStill(t *testing.T) {
	server, endpoint := etcdProcess(t)
	leader := open(t, endpoint, "a")
	lost := lead(t, leader, "leader")
	again := make(chan time.Time, 1)
	go func() {
		<-lost
		if _, err := leader.Lead(t.Context(), "leader"); err != nil {
			t.Error(err)
		}
		again <- time.Now()
	}()
	after := stands(t, server, 6*time.Second, lost)
	if after == 0 || after > leaseSeconds*time.Second {
		t.Errorf("the leader acts for %s without etcd (0: to the end)", after)
	}
	wonWithin(t, again, time.Now())
	if err := leader.PutExecutor(t.Context(), "s0", []byte("again")); err != nil {
		t.Error(err)
	}
}

func TestSchedulerInLineOutlivesAnEtcdThatStandsStill(t *testing.T) {
	server, endpoint := etcdProcess(t)
	cable, err := cable.New(strings.TrimPrefix(endpoint, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cable.Cut)
	first, second := open(t, "http://"+cable.Addr(), "a"), open(t, endpoint, "a")
	lost := lead(t, first, "first")
	won := standBy(t, second)
	stands(t, server, 5*time.Second, lost) // both leases are over
	cable.Cut()                            // the first never comes back
	wonWithin(t, won, time.Now())
	if err := second.PutExecutor(t.Context(), "s0", []byte("by the second")); err != nil {
		t.Error(err)
	}
}

func TestSchedulerWhoseLeaseRanOutInLineLeadsWhenItsTurnComes(t *testing.T) {
	endpoint := etcd(t)
	first, second := open(t, endpoint, "a"), open(t, endpoint, "a")
	lead(t, first, "first")
	won := standBy(t, second)
	line, err := second.client.Get(t.Context(), second.prefix+"/leader/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range line.Kvs {
		if string(kv.Value) == "next" {
			if _, err := first.client.Revoke(t.Context(), clientv3.LeaseID(kv.Lease)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	wonWithin(t, won, time.Now())
	if err := second.PutExecutor(t.Context(), "s0", []byte("by the second")); err != nil {
		t.Error(err)
	}
}
