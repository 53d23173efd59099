package minion

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/coreos/go-iptables/iptables"
	"github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/executor"
)

// claimant is a node whose files are in a directory of the test's.
func claimant(t *testing.T, cluster, name string) *node {
	t.Helper()
	n := &node{boot: api.Bootstrap{Cluster: cluster, Node: name}, files: layout{filepath.Join(t.TempDir(), cluster, name)}, log: logrus.WithField("node", name)}
	if err := n.files.make(); err != nil {
		t.Fatal(err)
	}
	return n
}

// claimNow claims without waiting.
func claimNow(t *testing.T, here claims, n *node) error {
	return here.take(t.Context(), n.boot.Cluster, n.boot.Node, n.files.leftovers(), mark(t, n))
}

// mark makes what a minion that starts makes first.
func mark(t *testing.T, n *node) func() {
	return func() {
		if err := os.WriteFile(n.files.leftovers(), []byte("{}"), 0o600); err != nil {
			t.Error(err)
		}
	}
}

func TestSecondClusterWaitsUntilTheFirstHasLeftTheMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here := claims{filepath.Join(t.TempDir(), "claims")}
		first, second := claimant(t, "one", "agent-1"), claimant(t, "two", "agent-1")
		if err := claimNow(t, here, first); err != nil {
			t.Fatal(err)
		}
		told := make(chan string, 2)
		second.claims = here
		done := make(chan error, 1)
		go func() {
			done <- second.claimMachine(t.Context(), func(ev executor.Event) { told <- ev.(executor.Unfit).Reason }, mark(t, second))
		}()
		if reason := <-told; !strings.Contains(reason, "cluster one has this machine's network, with node agent-1") {
			t.Fatalf("the second cluster's tasks are told %q", reason)
		}
		if _, err := os.Stat(second.files.leftovers()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the second cluster's minion leaves something to remove: %v", err)
		}
		// The first cluster's minion is killed. Only its warden says, minutes later, that its rules are gone: by removing the marker.
		if err := claimNow(t, here, second); !errors.As(err, &errOthers{}) {
			t.Errorf("before the clean-up: %v", err)
		}
		if err := os.Remove(first.files.leftovers()); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if reason := <-told; reason != "" {
			t.Errorf("after the clean-up the tasks are told %q", reason)
		}
	})
}

func TestNodesOfOneClusterShareAMachine(t *testing.T) {
	here := claims{filepath.Join(t.TempDir(), "claims")}
	one, other, foreign := claimant(t, "one", "agent-1"), claimant(t, "one", "agent-1-5052"), claimant(t, "two", "agent-1")
	for _, n := range []*node{one, other, one} { // the last is a minion that was started again
		if err := claimNow(t, here, n); err != nil {
			t.Fatal(err)
		}
	}
	leave := func(n *node) {
		t.Helper()
		if err := errors.Join(os.Remove(n.files.leftovers()), here.release(n.boot.Cluster, n.boot.Node)); err != nil {
			t.Fatal(err)
		}
	}
	leave(one)
	if err := claimNow(t, here, foreign); !errors.As(err, &errOthers{}) {
		t.Errorf("another cluster while a node is left: %v", err)
	}
	leave(other)
	if err := claimNow(t, here, foreign); err != nil {
		t.Errorf("another cluster when no node is left: %v", err)
	}
	if err := claimNow(t, here, one); !errors.As(err, &errOthers{}) {
		t.Errorf("the first cluster after that: %v", err)
	}
	if err := here.release("one", "agent-1"); err != nil { // it has none
		t.Error(err)
	}
}

func TestMachinesOfSeveralNamespacesAreClaimedEachForItself(t *testing.T) {
	machineOf := func() (here claims) {
		done := make(chan struct{})
		go func() { // its thread ends with it
			defer close(done)
			inMachine(t)
			var err error
			if here, err = claimsHere(); err != nil {
				t.Error(err)
			}
		}()
		<-done
		return here
	}
	if one, other := machineOf(), machineOf(); one == other {
		t.Errorf("both have the claims in %s", one.dir)
	}
}

func TestKubeProxyOfAnotherKubernetesIsAProblem(t *testing.T) {
	inMachine(t)
	ipt, err := iptables.New()
	if err != nil {
		t.Fatal(err)
	}
	problems := func(n *node) int {
		t.Helper()
		if err := n.noteForeignProxy(); err != nil {
			t.Fatal(err)
		}
		return len(n.foreign)
	}
	fresh := func() *node { return &node{first: true, log: logrus.WithField("node", "x")} }
	if problems(fresh()) != 0 {
		t.Error("a problem without any rules")
	}
	if err := ipt.NewChain("nat", "KUBE-SERVICES"); err != nil {
		t.Fatal(err)
	}
	if problems(fresh()) != 1 {
		t.Error("no problem with another Kubernetes")
	}
	if problems(&node{log: logrus.WithField("node", "x")}) != 0 {
		t.Error("a problem with the rules of this node's own earlier minion")
	}
	shared, err := shareThisMachine()
	if err != nil {
		t.Fatal(err)
	}
	defer shared.Close()
	if problems(fresh()) != 0 {
		t.Error("a problem with the rules of a minion that runs")
	}
}
