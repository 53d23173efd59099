package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler"
)

// jsonCodec encodes records as JSON.
type jsonCodec struct{}

func (jsonCodec) EncodeExecutor(e Executor) ([]byte, error) { return json.Marshal(e) }

func (jsonCodec) DecodeExecutor(record []byte) (e Executor, err error) {
	err = json.Unmarshal(record, &e)
	return e, err
}

// tokens says of each token that was issued whether it is still valid.
type tokens map[string]bool

func (t tokens) Issue(_ context.Context, node string) (string, error) {
	token := fmt.Sprintf("%d.%s", len(t), node)
	t[token] = true
	return token, nil
}

func (t tokens) Revoke(_ context.Context, token string) error {
	t[token] = false
	return nil
}

// records is a Store whose scheduler becomes the leader at once.
type records struct {
	byAgent   map[api.AgentID][]byte
	puts      int
	lost      chan struct{}
	framework api.FrameworkID // the stored id
	turns     chan chan struct{}
}

// Lead waits for a turn, if there are turns.
func (r *records) Lead(ctx context.Context, _ string) (<-chan struct{}, error) {
	if r.turns == nil {
		return r.lost, nil
	}
	select {
	case lost := <-r.turns:
		return lost, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *records) FrameworkID(context.Context) (api.FrameworkID, error) { return r.framework, nil }

func (r *records) Executor(_ context.Context, agent api.AgentID) ([]byte, error) {
	return r.byAgent[agent], nil
}

func (r *records) ReplaceFrameworkID(context.Context, api.FrameworkID, api.FrameworkID) error {
	return errors.New("another scheduler has stored its id")
}

func (r *records) PutExecutor(_ context.Context, agent api.AgentID, record []byte) error {
	r.byAgent[agent] = record
	r.puts++
	return nil
}

func (r *records) DeleteExecutor(_ context.Context, agent api.AgentID) error {
	delete(r.byAgent, agent)
	return nil
}

// cluster is a Cluster that sends events, Synced, and then those of the channel. It ignores actions.
type cluster struct {
	events []scheduler.Event
	more   chan scheduler.Event
}

func (c cluster) Run(ctx context.Context, sink Sink) error {
	for _, ev := range append(c.events, scheduler.Synced{}) {
		if err := sink(ev); err != nil {
			return err
		}
	}
	for {
		select {
		case ev := <-c.more:
			if err := sink(ev); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (cluster) Do(scheduler.ClusterAction) {}

// master is a Master that subscribes and then sends events. It reports the result of the subscription and the times of launches.
type master struct {
	events     []scheduler.Event
	subscribed chan error
	launches   chan time.Time
}

func newMaster(events ...scheduler.Event) master {
	return master{events, make(chan error, 1), make(chan time.Time, 1)}
}

func (m master) Run(ctx context.Context, id api.FrameworkID, sink Sink) error {
	if id == "" {
		id = "new"
	}
	err := sink(scheduler.Subscribed{Framework: id})
	m.subscribed <- err
	for _, ev := range m.events {
		if err == nil {
			err = sink(ev)
		}
	}
	if err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// launched returns the time of the next launch.
func (m master) launched(t *testing.T) time.Time {
	t.Helper()
	select {
	case at := <-m.launches:
		return at
	case <-time.After(time.Minute):
		t.Fatal("nothing is launched")
		return time.Time{}
	}
}

func (m master) Do(action scheduler.MesosAction) {
	if _, ok := action.(scheduler.Launch); ok {
		m.launches <- time.Now()
	}
}

func testConfig() Config {
	var cfg Config
	cfg.AddFlags(pflag.NewFlagSet("", pflag.PanicOnError))
	cfg.Roles, cfg.KMPath, cfg.ExecutorCPUs = []string{"*"}, "/km", 0.1
	return cfg
}

// newParts returns parts with these connections. The stored framework id is fw.
func newParts(m Master, c Cluster) Parts {
	store := &records{byAgent: map[api.AgentID][]byte{}, lost: make(chan struct{}), framework: "fw"}
	return Parts{Master: m, Cluster: c, Store: store, Tokens: tokens{}, Codec: jsonCodec{}}
}

// node is the ready node of agent a1.
func node() *v1.Node {
	return &v1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name:        "n1",
			Labels:      map[string]string{v1.LabelHostname: "n1", v1.LabelOSStable: "linux", v1.LabelArchStable: "any"},
			Annotations: map[string]string{api.AnnotationAgentAddress: "10.0.0.1:5051"},
		},
		Spec:   v1.NodeSpec{ProviderID: api.ProviderID("a1")},
		Status: v1.NodeStatus{Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}},
	}
}

// offered offers 4 cpus of agent a1.
func offered(id api.OfferID, executors ...api.ExecutorID) scheduler.Offered {
	return scheduler.Offered{Offers: []offers.Offer{{
		ID: id, Executors: executors, Agent: "a1", Hostname: "n1", IP: "10.0.0.1", Port: 5051, Role: "*",
		Resources: offers.Resources{{Name: offers.CPUs, Role: "*", Scalar: 4000}, {Name: offers.Mem, Role: "*", Scalar: 4096_000}},
	}}}
}

func pod(name string) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}}
}

func TestRunLaunchesAfterTheGatherTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.Gather = 30 * time.Millisecond
		m := newMaster(offered("o1"))
		c := cluster{events: []scheduler.Event{scheduler.NodeSeen{Node: node()}}, more: make(chan scheduler.Event)}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- Run(ctx, cfg, newParts(m, c)) }()
		c.more <- scheduler.PodSeen{Pod: pod("first")} // prepares the executor
		m.launched(t)
		c.more <- offered("o2", api.MinionExecutorID)
		begin := time.Now()
		c.more <- scheduler.PodSeen{Pod: pod("second")}
		if took := m.launched(t).Sub(begin); took != cfg.Gather { // the alarm wakes the loop before the next tick
			t.Errorf("launched after %s, want %s", took, cfg.Gather)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// acting counts the connections to Mesos and Kubernetes that are in use.
type acting struct{ atomic.Int32 }

func (a *acting) during(run func() error) error {
	a.Add(1)
	defer a.Add(-1)
	return run()
}

// watchedMaster and watchedCluster count.
type watchedMaster struct {
	master
	acting *acting
}

func (m watchedMaster) Run(ctx context.Context, id api.FrameworkID, sink Sink) error {
	return m.acting.during(func() error { return m.master.Run(ctx, id, sink) })
}

type watchedCluster struct {
	cluster
	acting *acting
}

func (c watchedCluster) Run(ctx context.Context, sink Sink) error {
	return c.acting.during(func() error { return c.cluster.Run(ctx, sink) })
}

func TestSchedulerThatLosesTheLeadershipFollowsAndMayLeadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, using := newMaster(offered("o1", api.MinionExecutorID)), &acting{}
		m.subscribed = make(chan error, 3)
		c := cluster{events: []scheduler.Event{scheduler.NodeSeen{Node: node()}, scheduler.PodSeen{Pod: pod("web")}}}
		parts := newParts(watchedMaster{m, using}, watchedCluster{c, using})
		store := parts.Store.(*records)
		store.turns = make(chan chan struct{})
		store.byAgent["a1"] = []byte(`{"Data":"e30="}`)
		registry := prometheus.NewRegistry()
		parts.Window, parts.Metrics = NewWindow(), registry
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- Run(ctx, testConfig(), parts) }()
		for turn := range 3 {
			lost := make(chan struct{})
			store.turns <- lost // blocks until it campaigns
			if err := <-m.subscribed; err != nil {
				t.Fatal(err)
			}
			m.launched(t) // the pod is new to it each time
			time.Sleep(2 * time.Second)
			for name, want := range map[string]float64{"tasks": 1, "leader": 1, "mesos_connected": 1} {
				if got := gauge(t, registry, "k8sm_scheduler_"+name); got != want {
					t.Errorf("turn %d: %s is %v, want %v", turn, name, got, want)
				}
			}
			close(lost)
			synctest.Wait() // until all wait: it does for its turn
			if n := using.Load(); n != 0 {
				t.Errorf("turn %d: %d connections are in use when it follows", turn, n)
			}
			if _, err := parts.Window.Tasks(ctx); !errors.Is(err, ErrNotLeading) {
				t.Errorf("turn %d: its state is shown: %v", turn, err)
			}
			for _, name := range []string{"tasks", "leader", "mesos_connected"} {
				if got := gauge(t, registry, "k8sm_scheduler_"+name); got != 0 {
					t.Errorf("turn %d: a follower shows %s %v", turn, name, got)
				}
			}
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// replacedMaster is a Master as which another scheduler subscribes.
type replacedMaster struct{ master }

func (m replacedMaster) Run(_ context.Context, id api.FrameworkID, sink Sink) error {
	m.subscribed <- sink(scheduler.Subscribed{Framework: id})
	return fmt.Errorf("the connection ended: %w", ErrReplaced)
}

// TestSchedulerThatWasReplacedFollows is about one whose machine stood still: Mesos tells it before its own clock does.
func TestSchedulerThatWasReplacedFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := replacedMaster{newMaster()}
		parts := newParts(m, cluster{})
		store := parts.Store.(*records)
		store.turns = make(chan chan struct{})
		ended := make(chan error, 1)
		go func() { ended <- Run(t.Context(), testConfig(), parts) }()
		lost := make(chan struct{})
		store.turns <- lost
		if err := <-m.subscribed; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		close(lost)
		store.turns <- make(chan struct{}) // it campaigns again, leads, and is replaced for no reason
		if err := <-m.subscribed; err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, ErrReplaced) {
			t.Errorf("replaced while it leads: %v", err)
		}
	})
}

// gauge returns the value of a metric without labels.
func gauge(t *testing.T, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func TestSubscriptionIsDroppedIfItsFrameworkIDCannotBeStored(t *testing.T) {
	m := newMaster()
	parts := newParts(m, cluster{})
	parts.Store.(*records).framework = ""
	err := Run(t.Context(), testConfig(), parts)
	if err == nil || !strings.Contains(err.Error(), "cannot store the framework id new") {
		t.Errorf("got %v", err)
	}
	if <-m.subscribed == nil {
		t.Error("the sink returned no error")
	}
}

func TestConfigWithoutKMForAgentsIsInvalid(t *testing.T) {
	cfg := testConfig()
	cfg.KMPath = ""
	if err := Run(t.Context(), cfg, newParts(newMaster(), cluster{})); err == nil || !strings.Contains(err.Error(), "--km-path") {
		t.Errorf("got %v", err)
	}
}

func TestWindowShowsTheStateOfARunningScheduler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMaster(offered("o1"))
		big := pod("big")
		big.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "closed"}}
		parts := newParts(m, cluster{events: []scheduler.Event{
			scheduler.NodeSeen{Node: node()}, scheduler.PodSeen{Pod: pod("web")}, scheduler.PodSeen{Pod: big},
		}})
		parts.Window = NewWindow()
		if _, err := parts.Window.Offers(t.Context()); !errors.Is(err, ErrNotLeading) {
			t.Errorf("before it leads: got %v, want ErrNotLeading", err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- Run(ctx, testConfig(), parts) }()
		synctest.Wait()
		if live, err := parts.Window.Offers(ctx); err != nil || len(live) != 1 || live[0].ID != "o1" {
			t.Errorf("offers %+v, %v", live, err)
		}
		m.launched(t)
		if live, err := parts.Window.Offers(ctx); err != nil || len(live) != 0 {
			t.Errorf("after the launch: offers %+v, %v", live, err)
		}
		if live, err := parts.Window.Tasks(ctx); err != nil || len(live) != 1 || live[0].Pod != "default/web" {
			t.Errorf("tasks %+v, %v", live, err)
		}
		if waiting, err := parts.Window.Queue(ctx); err != nil || len(waiting) != 1 || waiting[0].Pod != "default/big" {
			t.Errorf("queue %+v, %v", waiting, err)
		}
		if live, err := parts.Window.Nodes(ctx); err != nil || len(live) != 1 || live[0].Node != "n1" {
			t.Errorf("nodes %+v, %v", live, err)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := parts.Window.Offers(t.Context()); !errors.Is(err, ErrNotLeading) {
			t.Errorf("after it has ended: got %v, want ErrNotLeading", err)
		}
	})
}

func TestHealthTellsTheTruth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMaster()
		more, hang := make(chan scheduler.Event), make(chan struct{}, 1)
		parts := newParts(hangingMaster{m, hang}, cluster{events: []scheduler.Event{scheduler.NodeSeen{Node: node()}}, more: more})
		store := parts.Store.(*records)
		store.turns = make(chan chan struct{})
		parts.Window = NewWindow()
		check := func(when, alive, ready string) {
			t.Helper()
			for _, c := range []struct {
				what, want string
				got        error
			}{{"alive", alive, parts.Window.Alive()}, {"ready", ready, parts.Window.Ready()}} {
				if c.want == "" && c.got != nil || c.want != "" && (c.got == nil || !strings.Contains(c.got.Error(), c.want)) {
					t.Errorf("%s: %s: %v, want %q", when, c.what, c.got, c.want)
				}
			}
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- Run(ctx, testConfig(), parts) }()
		check("waiting for the leadership", "", "")
		store.turns <- make(chan struct{})
		if err := <-m.subscribed; err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		check("leading", "", "")
		more <- scheduler.Disconnected{}
		synctest.Wait()
		since := time.Now().UTC().Format(time.RFC3339)
		time.Sleep(time.Hour)
		check("without a master", "", "no Mesos master has answered since "+since)
		more <- scheduler.Subscribed{Framework: "fw"}
		synctest.Wait()
		check("with a master again", "", "")
		hang <- struct{}{}
		more <- offered("o1")
		time.Sleep(time.Minute) // the offer is declined, and the call hangs
		check("hanging", "has handled no event for", "has handled no event for")
		<-hang
		time.Sleep(time.Second)
		check("going on", "", "")
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		check("ended", "", "")
	})
}

// hangingMaster hangs in calls while its channel, which has room for one, is full.
type hangingMaster struct {
	master
	busy chan struct{}
}

func (m hangingMaster) Do(scheduler.MesosAction) {
	m.busy <- struct{}{}
	<-m.busy
}
