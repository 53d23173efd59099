package places

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/k8sm/k8sm/contrib/logs/receive"
)

const retention = 7 * 24 * time.Hour

// cluster is an API server with pods, whose watch the test feeds.
type cluster struct {
	*fake.Clientset
	changes *watch.FakeWatcher
	expired bool
	down    bool
	since   []string // resource versions of watches
}

func newCluster(pods ...runtime.Object) *cluster {
	c := &cluster{Clientset: fake.NewClientset(pods...)}
	c.PrependWatchReactor("pods", func(a clienttesting.Action) (bool, watch.Interface, error) {
		c.since = append(c.since, a.(clienttesting.WatchActionImpl).ListOptions.ResourceVersion)
		if c.expired {
			c.expired = false
			return true, nil, apierrors.NewResourceExpired("too old")
		}
		c.changes = watch.NewFakeWithChanSize(100, false)
		return true, c.changes, nil
	})
	c.PrependReactor("get", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		return c.down, nil, apierrors.NewInternalError(os.ErrDeadlineExceeded)
	})
	c.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		all := &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "100"}}
		objects, err := c.Tracker().List(corev1.SchemeGroupVersion.WithResource("pods"), corev1.SchemeGroupVersion.WithKind("Pod"), "")
		if err == nil {
			all.Items = objects.(*corev1.PodList).Items
		}
		return true, all, err
	})
	return c
}

func newPod(name, node, version string) *corev1.Pod {
	yes := true
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: name, UID: types.UID("uid-" + name), ResourceVersion: version, Labels: map[string]string{"app": "web"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-1", Controller: &yes}},
		},
		Spec: corev1.PodSpec{NodeName: node},
	}
}

// run runs places with the journal in dir until the returned function is called.
func run(t *testing.T, c *cluster, dir string) (*Places, func()) {
	t.Helper()
	p, err := Open(c, filepath.Join(dir, "places.jsonl"), retention)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	time.Sleep(3 * retry)
	synctest.Wait()
	return p, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// verdict is Places.Place's for node a.
func verdict(t *testing.T, p *Places, name string) receive.Place {
	t.Helper()
	return p.Place(t.Context(), "a", "shop", name, "uid-"+name)
}

func TestPodIsKnownWhileItIsThereAndAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c := newCluster(newPod("old", "a", "1"))
		p, stop := run(t, c, dir)
		c.changes.Add(newPod("new", "", "101"))
		c.changes.Modify(newPod("new", "a", "102"))
		c.changes.Add(newPod("other", "b", "103"))
		c.changes.Delete(newPod("new", "a", "104"))
		synctest.Wait()
		check := func(p *Places) {
			t.Helper()
			for name, want := range map[string]receive.Verdict{"old": receive.Taken, "new": receive.Taken, "other": receive.Refused, "never": receive.Deferred} {
				if got := verdict(t, p, name); got.Verdict != want {
					t.Errorf("pod %s: %+v", name, got)
				}
			}
			if got := verdict(t, p, "new"); got.Labels["app"] != "web" || got.Owner != "ReplicaSet/web-1" || got.Unchecked {
				t.Errorf("%+v", got)
			}
			if got := p.Place(t.Context(), "a", "kube-system", "old", "uid-old"); got.Verdict != receive.Refused || !strings.Contains(got.Why, "shop/old") {
				t.Errorf("a pod of another namespace: %+v", got)
			}
		}
		check(p)
		stop()
		p, stop = run(t, c, dir)
		check(p)
		stop()
		if last := c.since[len(c.since)-1]; last != "104" {
			t.Errorf("after the restart, the watch begins at %s", last)
		}
	})
}

func TestUnknownPodIsRefusedAfterAWhileUnlessNobodyLooked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c := newCluster(newPod("old", "a", "1"))
		// A first start with an empty journal: pods may have been there before.
		p, stop := run(t, c, dir)
		if got := verdict(t, p, "never"); got.Verdict != receive.Deferred {
			t.Errorf("at first: %+v", got)
		}
		time.Sleep(settle)
		if got := verdict(t, p, "never"); got.Verdict != receive.Taken || !got.Unchecked {
			t.Errorf("while nobody knows: %+v", got)
		}
		time.Sleep(25 * time.Hour)
		verdict(t, p, "never")
		if got := verdict(t, p, "never"); got.Verdict != receive.Refused || !strings.Contains(got.Why, "no pod shop/never") {
			t.Errorf("a day later: %+v", got)
		}
		stop()
		c.expired = true // the API server does not know any more what changed
		p, stop = run(t, c, dir)
		verdict(t, p, "never")
		time.Sleep(settle)
		if got := verdict(t, p, "never"); got.Verdict != receive.Taken || !got.Unchecked {
			t.Errorf("after a gap: %+v", got)
		}
		stop()
	})
}

func TestNewClusterHasNoPodsThatNobodyKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, stop := run(t, newCluster(), t.TempDir())
		verdict(t, p, "forged")
		time.Sleep(settle)
		if got := verdict(t, p, "forged"); got.Verdict != receive.Refused {
			t.Errorf("%+v", got)
		}
		stop()
	})
}

func TestPodIsAskedForBeforeTheWatchTellsOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		p, stop := run(t, c, t.TempDir())
		if err := c.Tracker().Add(newPod("new", "a", "101")); err != nil {
			t.Fatal(err)
		}
		c.down = true
		if got := verdict(t, p, "new"); got.Verdict != receive.Deferred {
			t.Errorf("while the API server is down: %+v", got)
		}
		c.down = false
		time.Sleep(askAgain)
		if got := verdict(t, p, "new"); got.Verdict != receive.Taken || got.Unchecked {
			t.Errorf("%+v", got)
		}
		stop()
	})
}

func TestStaticPodIsKnownByTheUIDThatItsNodeKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		mirror := newPod("static-a", "a", "1")
		mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "hash"}
		c := newCluster(mirror)
		for range 2 {
			p, stop := run(t, c, dir)
			if got := p.Place(t.Context(), "a", "shop", "static-a", "hash"); got.Verdict != receive.Taken || got.Labels["app"] != "web" {
				t.Errorf("%+v", got)
			}
			if got := p.Place(t.Context(), "b", "shop", "static-a", "hash"); got.Verdict != receive.Refused {
				t.Errorf("from another node: %+v", got)
			}
			stop()
		}
	})
}

// Whoever may create pods says which static pod one is the mirror of. That takes no pod's lines away, and gives none to another node.
func TestPodThatSaysItIsTheMirrorOfAnotherTakesNothingFromIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		mirror := newPod("static-a", "a", "1")
		mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "hash"}
		c := newCluster(newPod("victim", "a", "1"), mirror)
		p, stop := run(t, c, dir)
		for i, of := range []string{"uid-victim", "hash"} {
			forged := newPod("forger-"+of, "b", strconv.Itoa(101+i))
			forged.Namespace, forged.Annotations = "evil", map[string]string{corev1.MirrorPodAnnotationKey: of}
			c.changes.Add(forged)
			synctest.Wait()
		}
		for range 2 {
			if got := verdict(t, p, "victim"); got.Verdict != receive.Taken || got.Unchecked {
				t.Errorf("the victim's node: %+v", got)
			}
			if got := p.Place(t.Context(), "a", "shop", "static-a", "hash"); got.Verdict != receive.Taken || got.Unchecked {
				t.Errorf("the static pod's node: %+v", got)
			}
			for _, other := range [][3]string{{"shop", "victim", "uid-victim"}, {"evil", "forger-uid-victim", "uid-victim"}, {"shop", "static-a", "hash"}} {
				if got := p.Place(t.Context(), "b", other[0], other[1], other[2]); got.Verdict != receive.Refused {
					t.Errorf("another node sends lines of %q: %+v", other, got)
				}
			}
			stop()
			p, stop = run(t, c, dir)
		}
		stop()
	})
}

// A pod that is made anew elsewhere has another UID: each node sends what ran there.
func TestPodThatHasMovedLeavesItsLinesToItsNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(newPod("web", "a", "1"))
		p, stop := run(t, c, t.TempDir())
		c.changes.Delete(newPod("web", "a", "101"))
		again := newPod("web", "b", "102")
		again.UID = "uid-again"
		c.changes.Add(again)
		synctest.Wait()
		for _, c := range []struct {
			node, namespace, uid string
			want                 receive.Verdict
		}{
			{"a", "shop", "uid-web", receive.Taken}, {"b", "shop", "uid-again", receive.Taken},
			{"b", "shop", "uid-web", receive.Refused}, {"a", "shop", "uid-again", receive.Refused},
			{"a", "kube-system", "uid-web", receive.Refused}, {"a", "", "uid-web", receive.Refused}, {"", "shop", "uid-web", receive.Refused},
			{"A", "shop", "uid-web", receive.Refused}, {"a ", "shop", "uid-web", receive.Refused}, {"a", "shop\x00", "uid-web", receive.Refused},
			{"a", "shop", "uid-web ", receive.Deferred}, {"a", "shop", "", receive.Deferred}, // as pods that nobody knows
		} {
			if got := p.Place(t.Context(), c.node, c.namespace, "web", c.uid); got.Verdict != c.want {
				t.Errorf("%+v: %+v", c, got)
			}
		}
		stop()
	})
}

func TestJournalForgetsPodsWhoseLinesAreGoneAndSurvivesDamage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c := newCluster(newPod("old", "a", "1"))
		p, stop := run(t, c, dir)
		c.changes.Delete(newPod("old", "a", "101"))
		synctest.Wait()
		if verdict(t, p, "old").Verdict != receive.Taken {
			t.Error("the pod is forgotten too early")
		}
		stop()
		if err := c.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), "shop", "old"); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "places.jsonl")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(text, []byte("\x00\x00\n{\"pod\":{\"uid\":\"half")...), 0o600); err != nil {
			t.Fatal(err)
		}
		p, stop = run(t, c, dir)
		if got := verdict(t, p, "old"); got.Verdict != receive.Taken || got.Unchecked {
			t.Errorf("what stands before the damage is lost: %+v", got)
		}
		stop()
		time.Sleep(retention + 25*time.Hour)
		p, stop = run(t, c, dir)
		if len(p.pods) > 0 {
			t.Errorf("%d pods are remembered", len(p.pods))
		}
		stop()
	})
}
