package minion

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/nodeslices"
	"github.com/k8sm/k8sm/minion/network"
	"github.com/k8sm/k8sm/minion/status"
)

// recordedMesh is a pod network that keeps all that it is told.
type recordedMesh struct {
	mu    sync.Mutex // guards peers and told
	peers []network.Peer
	told  []string // after each change, the names
}

func (m *recordedMesh) Reach(peers []network.Peer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.peers, m.told = peers, append(m.told, namesOf(peers))
}

func (m *recordedMesh) Peers() []network.Peer {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.peers)
}

func namesOf(peers []network.Peer) string {
	var names []string
	for _, peer := range peers {
		names = append(names, peer.Node)
	}
	return strings.Join(names, " ")
}

// neighborhood is a cluster with a minion that watches its other nodes, in a bubble of synctest.
type neighborhood struct {
	t      *testing.T
	client *fake.Clientset
	mesh   *recordedMesh
	away   atomic.Bool // no API server can be reached
	node   *node
	stop   func()
}

// newNeighborhood has these nodes, and a scheduler that has written slices of those in sliced. The minion knows the peers of before.
func newNeighborhood(t *testing.T, nodes, sliced string, before ...network.Peer) *neighborhood {
	t.Helper()
	h := &neighborhood{t: t, client: fake.NewClientset(), mesh: &recordedMesh{peers: before}}
	for name := range strings.FieldsSeq(nodes) {
		h.add(name)
	}
	if sliced != "" {
		h.write(sliced)
	}
	return h
}

// watch starts the minion.
func (h *neighborhood) watch() {
	h.node = &node{boot: api.Bootstrap{Node: "self"}, namedServer: "https://192.0.2.100:6443", log: logrus.WithField("node", "self"), metrics: status.NewMetrics("", "")}
	ctx, cancel := context.WithCancel(h.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		reachable := func() error {
			if h.away.Load() {
				return errors.New("no API server answers")
			}
			return nil
		}
		if err := h.node.watchPeers(ctx, h.client, h.mesh, reachable); !errors.Is(err, context.Canceled) {
			h.t.Error(err)
		}
	}()
	h.stop = func() { cancel(); <-ended }
	time.Sleep(time.Second) // informers look every 100 ms whether they know all
}

func sliceNode(name string) *corev1.Node {
	i := int(name[0])
	return networkNode(name, fmt.Sprintf("192.0.2.%d", i), fmt.Sprintf("10.244.%d.0/24", i), "")
}

func peerNamed(name string) network.Peer {
	peers, _ := peersOf([]nodeslices.Node{nodeslices.Of(sliceNode(name))}, "", surroundings{})
	return peers[0]
}

func (h *neighborhood) add(name string) {
	h.t.Helper()
	if err := h.client.Tracker().Add(sliceNode(name)); err != nil {
		h.t.Fatal(err)
	}
}

var configMaps = corev1.SchemeGroupVersion.WithResource("configmaps")

// write writes slices of these nodes and their summary, as a scheduler does.
func (h *neighborhood) write(names string) {
	h.t.Helper()
	have := nodeslices.TextsOf(h.objects())
	var nodes []nodeslices.Node
	for name := range strings.FieldsSeq(names) {
		nodes = append(nodes, nodeslices.Of(sliceNode(name)))
	}
	want, err := nodeslices.Plan(have, nodes)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, name := range nodeslices.Changes(have, want) {
		if text, stays := want[name]; stays {
			h.put(nodeslices.Object(name, text))
		} else {
			h.remove(name)
		}
	}
	h.put(nodeslices.SummaryObject(want, len(nodes), time.Now()))
}

func (h *neighborhood) objects() (objects []*corev1.ConfigMap) {
	h.t.Helper()
	list, err := h.client.Tracker().List(configMaps, corev1.SchemeGroupVersion.WithKind("ConfigMap"), nodeslices.Namespace)
	if err != nil {
		h.t.Fatal(err)
	}
	for i := range list.(*corev1.ConfigMapList).Items {
		objects = append(objects, &list.(*corev1.ConfigMapList).Items[i])
	}
	return objects
}

func (h *neighborhood) put(object *corev1.ConfigMap) {
	h.t.Helper()
	err := h.client.Tracker().Update(configMaps, object, nodeslices.Namespace)
	if apierrors.IsNotFound(err) {
		err = h.client.Tracker().Add(object)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *neighborhood) remove(name string) {
	h.t.Helper()
	if err := h.client.Tracker().Delete(configMaps, nodeslices.Namespace, name); err != nil {
		h.t.Fatal(err)
	}
}

// renew has the scheduler renew the slices for a time.
func (h *neighborhood) renew(names string, during time.Duration) {
	h.t.Helper()
	for range during / nodeslices.RenewEvery {
		time.Sleep(nodeslices.RenewEvery)
		h.write(names)
	}
}

// knows fails unless the minion routes to exactly these nodes, and never lost one of the nodes in always.
func (h *neighborhood) knows(when, want string, source status.PeerSource, always string) {
	h.t.Helper()
	synctest.Wait()
	if got := namesOf(h.mesh.Peers()); got != want {
		h.t.Errorf("%s: the minion knows %q, want %q", when, got, want)
	}
	if got := h.source(); got != source {
		h.t.Errorf("%s: it knows them from %s, want %s", when, got, source)
	}
	h.mesh.mu.Lock()
	defer h.mesh.mu.Unlock()
	for _, told := range h.mesh.told {
		for name := range strings.FieldsSeq(always) {
			if !slices.Contains(strings.Fields(told), name) {
				h.t.Errorf("%s: it lost node %s: %q", when, name, h.mesh.told)
			}
		}
	}
}

// source is what the metric says.
func (h *neighborhood) source() status.PeerSource {
	families, err := h.node.metrics.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == "k8sm_minion_peers" {
				return status.PeerSource(m.GetLabel()[0].GetValue())
			}
		}
	}
	return ""
}

// listsNodes reports whether the minion has listed or watched all nodes since the last call.
func (h *neighborhood) listsNodes() bool {
	synctest.Wait()
	defer h.client.ClearActions()
	return slices.ContainsFunc(h.client.Actions(), func(a k8stesting.Action) bool { return a.GetResource().Resource == "nodes" })
}

func TestMinionKnowsNodesFromSlicesAndWatchesNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newNeighborhood(t, "self a b", "self a b")
		h.watch()
		defer h.stop()
		h.knows("at once", "a b", status.Slices, "a b")
		h.renew("self a b", time.Minute)
		h.write("self a b c")
		h.knows("when a node has come", "a b c", status.Slices, "a b")
		h.renew("self a b c", time.Minute)
		h.write("self b c")
		h.knows("when a node has gone", "b c", status.Slices, "b")
		h.renew("self b c", 10*time.Minute)
		if h.listsNodes() {
			t.Error("it watches nodes")
		}
	})
}

func TestMinionWatchesNodesWhereNoSchedulerKeepsSlices(t *testing.T) {
	for name, prepare := range map[string]func(*fake.Clientset){
		"an older scheduler": func(*fake.Clientset) {},
		"an older control plane": func(client *fake.Clientset) {
			forbid := func(a k8stesting.Action) (bool, error) {
				return a.GetNamespace() == nodeslices.Namespace, apierrors.NewForbidden(corev1.Resource("configmaps"), "", errors.New("no role"))
			}
			client.PrependReactor("list", "configmaps", func(a k8stesting.Action) (bool, runtime.Object, error) {
				is, err := forbid(a)
				return is, nil, err
			})
			client.PrependWatchReactor("configmaps", func(a k8stesting.Action) (bool, watch.Interface, error) {
				is, err := forbid(a)
				return is, nil, err
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newNeighborhood(t, "self a b", "")
				prepare(h.client)
				h.watch()
				defer h.stop()
				time.Sleep(3 * time.Second)
				h.knows("soon", "a b", status.Nodes, "a b")
				h.add("c")
				h.knows("when a node has come", "a b c", status.Nodes, "a b")
			})
		})
	}
}

func TestMinionWatchesNodesWhileTheSchedulerIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newNeighborhood(t, "self a b", "self a b")
		h.watch()
		defer h.stop()
		h.renew("self a b", time.Minute)
		h.add("c") // which somebody makes by hand
		time.Sleep(slicePatience - 2*time.Second)
		h.knows("while the scheduler may only be slow", "a b", status.Slices, "a b")
		if h.listsNodes() {
			t.Error("it watches nodes already")
		}
		time.Sleep(sliceSpread + overdueEvery + 2*time.Second)
		h.knows("when the scheduler has been down for long", "a b c", status.Nodes, "a b")
		h.write("self a b c")
		h.knows("when a scheduler leads again", "a b c", status.Slices, "a b")
		h.client.ClearActions()
		h.renew("self a b c", time.Minute)
		if h.listsNodes() {
			t.Error("it still watches nodes")
		}
	})
}

func TestSchedulerThatLeadsButCannotWriteIsAsOneThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newNeighborhood(t, "self a b", "self a b")
		h.watch()
		defer h.stop()
		h.renew("self a b", time.Minute)
		h.add("c")
		h.remove("nodes-0")
		for i := range 8 { // their summary is another's
			h.put(nodeslices.SummaryObject(nodeslices.Texts{"nodes-0": ""}, i, time.Now()))
			time.Sleep(nodeslices.RenewEvery)
		}
		h.knows("after two minutes", "a b c", status.Nodes, "a b")
	})
}

func TestRoutesStayWhileSlicesAreMissingOrHalfWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newNeighborhood(t, "self a b c", "self a b c")
		h.watch()
		defer h.stop()
		h.renew("self a b c", time.Minute)
		h.remove("nodes-0")
		h.knows("somebody has deleted a slice", "a b c", status.Slices, "a b c")
		h.write("self a b c")
		h.remove(nodeslices.Summary)
		h.knows("somebody has deleted the summary", "a b c", status.Slices, "a b c")
		h.write("self a b c")
		text, err := nodeslices.Encode([]nodeslices.Node{nodeslices.Of(sliceNode("a")), nodeslices.Of(sliceNode("d"))})
		if err != nil {
			t.Fatal(err)
		}
		h.put(nodeslices.Object("nodes-0", text))
		h.knows("a slice is written, the summary not yet", "a b c d", status.Slices, "a b c")
		h.put(nodeslices.Object("nodes-0", "{"))
		h.knows("a slice cannot be read", "a b c d", status.Slices, "a b c")
		h.write("self a d")
		h.knows("all is written", "a d", status.Slices, "a")
	})
}

func TestMinionThatStartsForgetsNoNodeForStaleSlices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newNeighborhood(t, "self a b c", "self a d", peerNamed("a"), peerNamed("b"))
		h.watch()
		defer h.stop()
		h.knows("while it may be right", "a b d", status.Slices, "a b")
		time.Sleep(slicePatience + sliceSpread + overdueEvery)
		h.knows("when the summary has stood still", "a b c", status.Nodes, "a b")
	})
	synctest.Test(t, func(t *testing.T) {
		h := newNeighborhood(t, "self a b c", "self a d", peerNamed("a"), peerNamed("b"))
		h.watch()
		defer h.stop()
		h.renew("self a d", nodeslices.RenewEvery)
		h.knows("when the summary has moved", "a d", status.Slices, "a")
	})
}

func TestMinionWatchesNoNodesBecauseTheAPIServerIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newNeighborhood(t, "self a b", "self a b")
		h.watch()
		defer h.stop()
		h.renew("self a b", time.Minute)
		h.away.Store(true)
		time.Sleep(10 * time.Minute)
		h.away.Store(false)
		time.Sleep(slicePatience - 2*overdueEvery) // so long may the scheduler take
		h.write("self a b")
		h.renew("self a b", time.Minute)
		h.knows("after an outage", "a b", status.Slices, "a b")
		if h.listsNodes() {
			t.Error("it has listed all nodes")
		}
	})
}

func TestRestoredSnapshotIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newNeighborhood(t, "self a b", "self a b")
		old := h.objects()
		h.watch()
		defer h.stop()
		h.renew("self a b c", time.Minute)
		h.knows("before", "a b c", status.Slices, "a b")
		for _, object := range old { // and no scheduler runs yet
			h.put(object)
		}
		h.knows("as the snapshot has it", "a b", status.Slices, "a b")
		time.Sleep(slicePatience + sliceSpread + overdueEvery)
		h.knows("without a scheduler", "a b", status.Nodes, "a b")
		h.renew("self a b c", time.Minute)
		h.knows("with one", "a b c", status.Slices, "a b")
	})
}
