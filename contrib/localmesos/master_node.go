package localmesos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"
	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"
	"github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api"
)

var log = logrus.WithField("component", "local-mesos")

// masterNode runs a master: its owner, its streams, its HTTP server, its file.
type masterNode struct {
	plan    plan
	hub     *hub
	master  *master
	owner   *owner
	streams *streams
	server  *server
	// welcomed gets a value after an agent registered.
	welcomed chan struct{}
	// addresses of the agents. Only the owner uses it.
	addresses map[api.AgentID]string
	unread    int // how many events may wait for an operator
	// fetched and stored say how long reading and writing the master's file took. Only the owner uses them.
	fetched, stored timing
}

// startMaster runs a master that serve will open on the port. Agents may register before; schedulers wait for serve, so that
// reconciliation does not report a task as unknown before its agent has registered.
func startMaster(p plan, h *hub, port int) (*masterNode, error) {
	n := &masterNode{
		plan: p, hub: h, streams: newStreams(), welcomed: make(chan struct{}, 1), addresses: map[api.AgentID]string{},
		stored: timing{window: 24 * time.Hour}, unread: maxUnread,
	}
	var file masterFile
	began := time.Now()
	if _, err := readFile(n.path(), &file); err != nil {
		return nil, err
	}
	n.fetched.add(began, time.Since(began))
	n.master = newMaster(masterInfo(uuid.NewString(), p.Hostname, p.IP, port), p, time.Now())
	var known []mesos.FrameworkInfo
	for _, f := range file.Frameworks {
		known = append(known, f.message)
	}
	n.master.restore(known, file.Removed)
	n.master.restoreUpkeep(file.Upkeep)
	n.master.restoreRegistry(file.Agents)
	for _, q := range file.Quotas {
		n.master.quotas[q.message.Role] = q.message
	}
	maps.Copy(n.master.weights, file.Weights)
	for agent, changes := range file.Reservations {
		for _, change := range changes {
			n.master.reservations[agent] = append(n.master.reservations[agent], change.conversion())
		}
	}
	n.owner = newOwner(n.master, n.perform)
	go n.owner.run()
	h.joinMaster(n.owner)
	return n, nil
}

// serve opens the master to schedulers and operators. Earlier callers waited in the listener's queue.
func (n *masterNode) serve(l net.Listener) { n.server = serve(l, n.handler(), n.plan.secure) }

// waitForAgents waits until that many agents are registered.
func (n *masterNode) waitForAgents(ctx context.Context, count int) error {
	for {
		connected := 0
		n.owner.look(func() {
			for _, a := range n.master.agents {
				connected += boolToInt(a.connected)
			}
		})
		if connected >= count {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d agents registered: %w", connected, count, context.Cause(ctx))
		case <-n.owner.done:
			return errors.New("the master has ended")
		case <-n.welcomed:
		}
	}
}

func (n *masterNode) path() string { return filepath.Join(n.plan.WorkDir, "master", "frameworks.json") }

// close ends the master like a kill: it notifies no one.
func (n *masterNode) close() {
	n.hub.leaveMaster()
	n.owner.end()
	<-n.owner.done
	if n.server != nil {
		n.server.close()
	}
}

func (n *masterNode) perform(x action) {
	switch x := x.(type) {
	case send:
		n.hub.faults.pass(MasterToScheduler, x.kind, func() { n.streams.send(x.stream, x.event) })
	case publish:
		n.streams.send(x.stream, x.event)
	case cutOff:
		n.streams.end(x.stream)
	case hangUp:
		n.streams.send(x.stream, nil)
	case sendAgent:
		n.hub.toAgent(n.addresses[x.agent], x.message)
	case welcome:
		n.addresses[x.agent] = x.address
		n.hub.toAgent(x.address, registered{x.agent})
		select {
		case n.welcomed <- struct{}{}:
		default:
		}
	case turnAway:
		n.hub.toAgent(x.address, x.message)
	case saveFrameworks:
		n.save()
	case note:
		log.WithFields(x.fields).Info(x.text)
	}
}

func (n *masterNode) save() {
	known, removed := n.master.saved()
	file := masterFile{Removed: removed, Upkeep: n.master.savedUpkeep(), Agents: n.master.savedRegistry(), Weights: n.master.weights}
	for _, info := range known {
		file.Frameworks = append(file.Frameworks, frameworkDocument{info})
	}
	for _, q := range n.master.quotas {
		file.Quotas = append(file.Quotas, quotaDocument{q})
	}
	file.Reservations = map[api.AgentID][]conversionFile{}
	for agent, changes := range n.master.reservations {
		for _, change := range changes {
			file.Reservations[agent] = append(file.Reservations[agent], change.file())
		}
	}
	slices.SortFunc(file.Quotas, func(a, b quotaDocument) int { return cmp.Compare(a.message.Role, b.message.Role) })
	began := time.Now()
	if err := writeFile(n.path(), file); err != nil {
		log.WithError(err).Error("cannot save the frameworks")
		return
	}
	n.stored.add(began, time.Since(began))
}

// callProblem is callProblem, and counts what it refuses.
func (n *masterNode) callProblem(call *scheduler.Call, principal string) string {
	problem := callProblem(call, principal)
	if problem != "" {
		n.owner.post(invalidCall{call.Type})
	}
	return problem
}

func (n *masterNode) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/api/v1/scheduler", n.plan.auth.guard(schedulerRealm, endpoint[scheduler.Call, *scheduler.Call]{
		owner: n.owner, streams: n.streams, faults: n.hub.faults, path: SchedulerToMaster, streamID: true, problem: n.callProblem,
		recovering: "Master has not finished recovery",
		kind:       func(c *scheduler.Call) (string, bool) { return c.Type.String(), c.Type == scheduler.Call_SUBSCRIBE },
		event: func(c *scheduler.Call, stream string, who identity) event {
			if c.Type == scheduler.Call_SUBSCRIBE {
				return subscribe{stream: stream, call: c, principal: who.principal}
			}
			return schedulerCall{stream: stream, call: c, principal: who.principal}
		},
	}))
	n.addOperatorAPI(mux)
	mux.Handle("/faults", n.plan.auth.guard(masterReadwrite, n.hub.faults))
	return n.plan.refuseForeign(mux)
}
