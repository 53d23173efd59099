package mesos_test

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	mesosapi "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/encoding/codecs"
	"github.com/mesos/mesos-go/api/v1/lib/httpcli"
	"github.com/mesos/mesos-go/api/v1/lib/httpcli/httpsched"
	mesossched "github.com/mesos/mesos-go/api/v1/lib/scheduler"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler/calls"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/localmesos"
	"github.com/k8sm/k8sm/scheduler"
)

// greedy is a framework that keeps every offer that it gets, as one does that has work for all, until it is told to give them back.
type greedy struct {
	c      *cluster
	caller calls.Caller

	mu        sync.Mutex // guards what follows
	framework string
	held      map[mesosapi.OfferID]float64 // cpus
}

// greedy subscribes a greedy framework until the test ends.
func (c *cluster) greedy() *greedy {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	g := &greedy{c: c, held: map[mesosapi.OfferID]float64{}, caller: httpsched.NewCaller(httpcli.New(
		httpcli.Endpoint(c.masterURL("/api/v1/scheduler")), httpcli.Codec(codecs.ByMediaType[codecs.MediaTypeProtobuf]),
	))}
	stream, err := g.caller.Call(ctx, calls.Subscribe(&mesosapi.FrameworkInfo{User: "root", Name: "greedy", Roles: []string{"*"},
		Capabilities: []mesosapi.FrameworkInfo_Capability{{Type: mesosapi.FrameworkInfo_Capability_MULTI_ROLE}}}))
	if err != nil {
		c.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			var e mesossched.Event
			if stream.Decode(&e) != nil {
				return
			}
			g.note(&e)
		}
	}()
	c.t.Cleanup(func() {
		cancel()
		stream.Close()
		<-ended
	})
	return g
}

// note notes what an event says of the framework's offers.
func (g *greedy) note(e *mesossched.Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch e.Type {
	case mesossched.Event_SUBSCRIBED:
		g.framework = e.Subscribed.FrameworkID.Value
	case mesossched.Event_OFFERS:
		for _, o := range e.Offers.Offers {
			for _, r := range o.Resources {
				if r.Name == "cpus" {
					g.held[o.ID] += r.Scalar.Value
				}
			}
		}
	case mesossched.Event_RESCIND:
		delete(g.held, e.Rescind.OfferID)
	}
}

// cpus returns how many the framework holds.
func (g *greedy) cpus() (sum float64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, cpus := range g.held {
		sum += cpus
	}
	return sum
}

// giveBack declines all offers.
func (g *greedy) giveBack(ctx context.Context) {
	g.c.t.Helper()
	g.mu.Lock()
	var ids []mesosapi.OfferID
	for id := range g.held {
		ids = append(ids, id)
	}
	clear(g.held)
	call := calls.Decline(ids...).With(calls.Framework(g.framework))
	g.mu.Unlock()
	if err := calls.CallNoData(ctx, g.caller, call); err != nil {
		g.c.t.Error(err)
	}
}

// newSharedCluster has pods on an agent of 8 cpus, whose minion uses 100m of them for each and 250m for itself.
func newSharedCluster(t *testing.T, pods int) *cluster {
	t.Helper()
	c := newClusterWith(t, func(cfg *localmesos.Config) {
		cfg.AllocationInterval = time.Second
		cfg.Resources = "cpus:8;mem:8192;disk:10000"
	})
	c.schedule()
	for i := range pods {
		c.createPod("p"+strconv.Itoa(i), "100m")
	}
	for i := range pods {
		c.wait("p"+strconv.Itoa(i), "a node", bound)
	}
	return c
}

// endMinion kills the minion and waits until another one runs. Which framework is first is the allocator's choice. So the greedy one may
// be offered all that there is. Then no scheduler can start a minion before it gives that back.
func (c *cluster) endMinion(g *greedy) {
	c.t.Helper()
	if err := c.mesos.KillExecutor(0, c.store.framework, api.MinionExecutorID); err != nil {
		c.t.Fatal(err)
	}
	began, gaveBack := time.Now(), false
	c.eventually("a minion that follows", func(ctx context.Context) bool {
		tasks, err := c.window.Tasks(ctx)
		if err == nil && slices.ContainsFunc(tasks, runsAnew) {
			c.t.Logf("a minion runs again after %s, with %d tasks; the greedy framework had to give back: %t", time.Since(began).Round(time.Millisecond), len(tasks), gaveBack)
			return true
		}
		if g.cpus() > 7.9 { // all that there is
			gaveBack = true
			g.giveBack(ctx)
		}
		return false
	})
}

// runsAnew recognises a task that a second minion runs. To see that none runs in between, one would have to look at the right moment.
func runsAnew(t scheduler.LiveTask) bool {
	_, attempt, err := t.ID.Parse()
	return err == nil && (attempt > 1 || t.Warm) && t.State == "TASK_RUNNING"
}

// TestMinionFollowsOneThatDiedAlsoBesideAGreedyFramework: else the node's warden would end the containers. What counts is that a
// minion runs again, with the pods' tasks or without.
func TestMinionFollowsOneThatDiedAlsoBesideAGreedyFramework(t *testing.T) {
	t.Parallel()
	c := newSharedCluster(t, 50)
	c.endMinion(c.greedy())
}

// TestMinionFollowsOnceAGreedyFrameworkGivesBackWhatTheOneBeforeHad has the master hear of some tasks' ends before that of the minion.
// What these used is offered at once, and is too little for a minion. The rest comes with the next batch, and is the other framework's.
func TestMinionFollowsOnceAGreedyFrameworkGivesBackWhatTheOneBeforeHad(t *testing.T) {
	t.Parallel()
	c := newSharedCluster(t, 5)
	c.eventually("the end of all offers", func(ctx context.Context) bool {
		held, err := c.window.Offers(ctx)
		return err == nil && len(held) == 0
	})
	g := c.greedy()
	c.eventually("the offer of the rest to the greedy framework", func(context.Context) bool { return g.cpus() > 7 })
	c.mesos.Faults().Add(localmesos.Fault{Path: localmesos.AgentToMaster, Kind: "UPDATE", Times: 2})
	c.mesos.Faults().Add(localmesos.Fault{Path: localmesos.AgentToMaster, Delay: 150 * time.Millisecond}) // less than until the next launch
	c.endMinion(g)
}
