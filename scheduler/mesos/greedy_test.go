package mesos_test

import (
	"context"
	"fmt"
	"strconv"
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
)

// greedy subscribes a framework that keeps every offer that it gets, as one does that has work for all, until the test ends.
func (c *cluster) greedy() {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	caller := httpsched.NewCaller(httpcli.New(
		httpcli.Endpoint(c.masterURL("/api/v1/scheduler")), httpcli.Codec(codecs.ByMediaType[codecs.MediaTypeProtobuf]),
	))
	stream, err := caller.Call(ctx, calls.Subscribe(&mesosapi.FrameworkInfo{User: "root", Name: "greedy", Roles: []string{"*"},
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
		}
	}()
	c.t.Cleanup(func() {
		cancel()
		stream.Close()
		<-ended
	})
}

// TestMinionFollowsOneThatDiedAlsoBesideAGreedyFramework: else the node's warden would end the containers. Which framework is
// first is the allocator's choice; what counts is that a minion runs again, with the pods' tasks or without.
func TestMinionFollowsOneThatDiedAlsoBesideAGreedyFramework(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, func(cfg *localmesos.Config) {
		cfg.AllocationInterval = time.Second
		cfg.Resources = "cpus:8;mem:8192;disk:10000"
	})
	c.schedule()
	const pods = 50
	for i := range pods {
		c.createPod("p"+strconv.Itoa(i), "100m")
	}
	for i := range pods {
		c.wait("p"+strconv.Itoa(i), "a node", bound)
	}
	c.greedy()
	if err := c.mesos.KillExecutor(0, c.store.framework, api.MinionExecutorID); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	c.eventually("the end of the minion", func(ctx context.Context) bool {
		nodes, err := c.window.Nodes(ctx)
		return err == nil && !nodes[0].Minion
	})
	c.eventually("a minion that follows", func(ctx context.Context) bool {
		nodes, err := c.window.Nodes(ctx)
		return err == nil && nodes[0].Minion
	})
	nodes, err := c.window.Nodes(t.Context())
	t.Log(fmt.Sprint("a minion runs again after ", time.Since(began).Round(time.Millisecond), ": ", nodes, err))
}
