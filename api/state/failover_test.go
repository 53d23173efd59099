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

	"github.com/k8sm/k8sm/contrib/test/cable"
)

// takeover is how long a cluster may be without a leader after one has vanished.
const takeover = 5 * time.Second

// TestMain lets this binary be another scheduler's process.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "lead" {
		if err := leadUntilKilled(context.Background(), os.Args[2]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
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

// child is a process that leads.
type child struct {
	*exec.Cmd
	told io.Writer
	says *bufio.Scanner
}

func newChild(t *testing.T, endpoint string) *child {
	t.Helper()
	c := &child{Cmd: exec.Command(os.Args[0], "lead", endpoint)}
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
	c.expect(t, "leads")
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
		if _, err := s.Lead(t.Context(), "next"); err != nil {
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
