package kube

import (
	"errors"
	"fmt"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/k8sm/k8sm/scheduler"
)

// leaseTest is a Cluster whose API gives each lease that is written a new resource version and refuses to replace
// another one than the writer has seen, as a real one does.
type leaseTest struct {
	*testing.T
	cluster *Cluster
	client  *fake.Clientset
	now     time.Time
	version int
}

func newLeaseTest(t *testing.T) *leaseTest {
	l := &leaseTest{T: t, now: start}
	l.cluster, l.client = newTest()
	l.cluster.now = func() time.Time { return l.now }
	l.client.PrependReactor("*", "leases", func(action k8stesting.Action) (bool, runtime.Object, error) {
		write, ok := action.(interface{ GetObject() runtime.Object })
		if !ok {
			return false, nil, nil
		}
		lease := write.GetObject().(*coordinationv1.Lease)
		before, err := l.client.Tracker().Get(action.GetResource(), action.GetNamespace(), lease.Name)
		if err == nil && action.GetVerb() == "update" && before.(*coordinationv1.Lease).ResourceVersion != lease.ResourceVersion {
			return true, nil, apierrors.NewConflict(coordinationv1.Resource("leases"), lease.Name, errors.New("it was changed"))
		}
		l.version++
		lease.ResourceVersion = fmt.Sprint(l.version)
		return false, nil, nil
	})
	return l
}

// renew renews the lease this long after the start, and returns what the API has then.
func (l *leaseTest) renew(after time.Duration) *coordinationv1.Lease {
	l.Helper()
	return l.renewBeside(false, after)
}

// renewBeside is renew while a minion runs there or not.
func (l *leaseTest) renewBeside(minion bool, after time.Duration) *coordinationv1.Lease {
	l.Helper()
	l.now = start.Add(after)
	if err := l.cluster.renewLease(l.Context(), scheduler.RenewLease{Name: "n1", Minion: minion}); err != nil {
		l.Fatal(err)
	}
	return l.lease()
}

func (l *leaseTest) lease() *coordinationv1.Lease {
	l.Helper()
	lease, err := l.client.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(l.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		l.Fatal(err)
	}
	return lease
}

// kubelet renews the lease as a kubelet does, which changes nothing but the time.
func (l *leaseTest) kubelet(after time.Duration) {
	l.Helper()
	lease, renewed := l.lease(), metav1.NewMicroTime(start.Add(after))
	lease.Spec.RenewTime = &renewed
	if _, err := l.client.CoordinationV1().Leases(v1.NamespaceNodeLease).Update(l.Context(), lease, metav1.UpdateOptions{}); err != nil {
		l.Fatal(err)
	}
}

func (l *leaseTest) expectRenewed(lease *coordinationv1.Lease, at time.Duration, why string) {
	l.Helper()
	if got := lease.Spec.RenewTime.Sub(start); got != at {
		l.Errorf("%s: the lease was renewed last after %s, want %s", why, got, at)
	}
}

func TestLeaseIsLeftToAKubeletThatRenewsIt(t *testing.T) {
	l := newLeaseTest(t)
	l.renew(0)
	l.expectRenewed(l.renew(10*time.Second), 10*time.Second, "our own")
	l.kubelet(15 * time.Second)
	l.expectRenewed(l.renew(20*time.Second), 15*time.Second, "the kubelet has taken it over")
	l.expectRenewed(l.renew(50*time.Second), 15*time.Second, "the kubelet renews it")
	l.expectRenewed(l.renew(55*time.Second), 55*time.Second, "the kubelet has left it")
	l.expectRenewed(l.renew(65*time.Second), 65*time.Second, "our own again")
}

func TestLeaseOfAKubeletThatFallsSilentBesideItsMinionIsLeftToExpire(t *testing.T) {
	l := newLeaseTest(t)
	l.expectRenewed(l.renewBeside(true, 10*time.Second), 10*time.Second, "the kubelet has not started yet")
	l.kubelet(15 * time.Second)
	l.expectRenewed(l.renewBeside(true, 100*time.Second), 15*time.Second, "the kubelet is silent")
	l.expectRenewed(l.renewBeside(false, 110*time.Second), 110*time.Second, "the minion has gone")
}

func TestRenewalOfOurOwnLeaseIsOneWrite(t *testing.T) {
	l := newLeaseTest(t)
	if err := l.cluster.firstLease(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	l.client.ClearActions()
	for _, after := range []time.Duration{10 * time.Second, 20 * time.Second} {
		l.now = start.Add(after)
		if err := l.cluster.renewLease(t.Context(), scheduler.RenewLease{Name: "n1"}); err != nil {
			t.Fatal(err)
		}
	}
	l.expectCalls("[update update]", "two renewals")
}

// expectCalls compares what was asked of the API since the last time.
func (l *leaseTest) expectCalls(want, when string) {
	l.Helper()
	var verbs []string
	for _, action := range l.client.Actions() {
		verbs = append(verbs, action.GetVerb())
	}
	l.client.ClearActions()
	if got := fmt.Sprint(verbs); got != want {
		l.Errorf("%s: the API was asked to %s, want %s", when, got, want)
	}
}

func TestLeaseOfAKubeletBesideItsMinionTakesNoCalls(t *testing.T) {
	l := newLeaseTest(t)
	renew := func(minion bool, after time.Duration) {
		t.Helper()
		l.now = start.Add(after)
		if err := l.cluster.renewLease(t.Context(), scheduler.RenewLease{Name: "n1", Minion: minion}); err != nil {
			t.Fatal(err)
		}
	}
	renew(false, 0)
	l.kubelet(5 * time.Second)
	l.client.ClearActions()
	renew(true, 10*time.Second)
	l.expectCalls("[update get]", "the kubelet has taken it over")
	renew(true, 20*time.Second)
	renew(true, 30*time.Second)
	l.expectCalls("[]", "the kubelet renews it")
	renew(false, 60*time.Second)
	l.expectCalls("[get update]", "the minion has gone")
	l.kubelet(65 * time.Second)
	renew(true, 70*time.Second)
	if err := l.cluster.firstLease(t.Context(), "n1"); err != nil { // of another node with this name
		t.Fatal(err)
	}
	l.client.ClearActions()
	renew(true, 80*time.Second)
	l.expectCalls("[get]", "the node was made again")
}

func TestLeaseThatSomebodyDeletedIsMadeAgain(t *testing.T) {
	l := newLeaseTest(t)
	l.renew(0)
	if err := l.client.CoordinationV1().Leases(v1.NamespaceNodeLease).Delete(t.Context(), "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	l.expectRenewed(l.renew(10*time.Second), 10*time.Second, "made again")
}

func TestLeaseOfAnEarlierNodeIsRenewedForTheNewOne(t *testing.T) {
	l := newLeaseTest(t)
	l.renew(0)
	l.cluster.leases.take("n1") // another scheduler wrote it
	l.now = start.Add(10 * time.Second)
	if err := l.cluster.firstLease(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	l.expectRenewed(l.lease(), 10*time.Second, "left over")
}
