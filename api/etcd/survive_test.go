package etcd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
)

// survivor reads the machine's member, which does not run.
func survivor(t *testing.T, m *machine) *Survivor {
	t.Helper()
	s, err := FindSurvivor(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// mustFail checks that an error says something.
func mustFail(t *testing.T, err error, says string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("got %v, want %q", err, says)
	}
}

// threeMembers run, and have what an embedded etcd had before.
func threeMembers(t *testing.T) (a, b, c *machine) {
	t.Helper()
	a = newMachine(t, "a", nil)
	_, err := FindSurvivor(a.Dir)
	mustFail(t, err, "no member of etcd has its data in")
	a.beginEmbedded(t)
	a.start()
	a.awaitMembers(t, "a")
	b, c = newMachine(t, "b", a), newMachine(t, "c", a)
	b.start(a.clientURL())
	a.awaitMembers(t, "a", "b")
	c.start(a.clientURL())
	a.awaitMembers(t, "a", "b", "c")
	return a, b, c
}

func TestMemberGoesOnAloneWhenTheOthersAreGone(t *testing.T) {
	a, b, c := threeMembers(t)
	if err := b.end(t); err != nil {
		t.Fatal(err)
	}
	s := survivor(t, b)
	if s.Name != "b" || strings.Join(s.Others, " ") != "a c" {
		t.Fatalf("%s survives, and %v are lost", s.Name, s.Others)
	}
	mustFail(t, s.GoOn(t.Context()), "a at "+a.clientURL())
	for _, m := range []*machine{a, c} {
		if err := m.end(t); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("while something is at another's address, it does not", func(t *testing.T) {
		l, err := net.Listen("tcp", strings.TrimPrefix(c.peerURL(), "https://")) // as a process has it that hangs
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		mustFail(t, s.GoOn(t.Context()), "other members answer: c at "+c.peerURL())
	})
	if err := errors.Join(os.Rename(a.Dir.EtcdData(), a.Dir.EtcdData()+".lost"), os.RemoveAll(c.Dir.EtcdData())); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a call that was interrupted is repeated
		if err := survivor(t, b).GoOn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := recorded(b, b); err != nil {
		t.Error(err)
	}
	b.start()
	b.awaitMembers(t, "b")
	if got, err := b.client(t).Get(t.Context(), "kept"); err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "from before" {
		t.Errorf("it has %v, %v", got, err)
	}
	_, err := FindSurvivor(b.Dir)
	mustFail(t, err, "the member must not run")
	t.Run("others join again", func(t *testing.T) {
		c.start(b.clientURL())
		b.awaitMembers(t, "b", "c")
	})
	t.Run("a lost member that comes back learns that it is none", func(t *testing.T) {
		if err := os.Rename(a.Dir.EtcdData()+".lost", a.Dir.EtcdData()); err != nil {
			t.Fatal(err)
		}
		a.start()
		mustFail(t, a.await(t), "if it was removed from its cluster, remove "+a.Dir.EtcdData()+" and join again")
		b.awaitMembers(t, "b", "c")
	})
}

// recorded returns an error unless programs on the machine find these members and no others.
func recorded(m *machine, members ...*machine) error {
	e, err := m.Dir.Etcd()
	if err != nil {
		return err
	}
	if len(e.Endpoints) != len(members) {
		return fmt.Errorf("recorded %v, not %d members", e.Endpoints, len(members))
	}
	for _, other := range members {
		if !strings.Contains(strings.Join(e.Endpoints, " "), other.clientURL()) {
			return fmt.Errorf("recorded %v, without %s", e.Endpoints, other.Name)
		}
	}
	return nil
}
