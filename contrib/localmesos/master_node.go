package localmesos

import (
	"net"
	"net/http"
	"path/filepath"
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
	// addresses says where the agents of this master are. Only the owner uses it.
	addresses map[api.AgentID]string
}

// startMaster runs a master on a listener. It takes the listener over, also in case of an error.
func startMaster(p plan, h *hub, l net.Listener) (*masterNode, error) {
	n := &masterNode{plan: p, hub: h, streams: newStreams(), addresses: map[api.AgentID]string{}}
	var file masterFile
	if _, err := readFile(n.path(), &file); err != nil {
		_ = l.Close()
		return nil, err
	}
	n.master = newMaster(masterInfo(uuid.NewString(), p.Hostname, p.IP, port(l)), p, time.Now())
	var known []mesos.FrameworkInfo
	for _, f := range file.Frameworks {
		known = append(known, f.message)
	}
	n.master.restore(known, file.Removed)
	n.owner = newOwner(n.master, n.perform)
	go n.owner.run()
	n.server = serve(l, n.handler())
	h.joinMaster(n.owner)
	return n, nil
}

func (n *masterNode) path() string { return filepath.Join(n.plan.WorkDir, "master", "frameworks.json") }

// close ends the master as a kill would: nothing is told to anyone.
func (n *masterNode) close() {
	n.hub.leaveMaster()
	n.owner.end()
	<-n.owner.done
	n.server.close()
}

func (n *masterNode) perform(x action) {
	switch x := x.(type) {
	case send:
		n.hub.faults.pass(MasterToScheduler, x.kind, func() { n.streams.send(x.stream, x.event) })
	case hangUp:
		n.streams.send(x.stream, nil)
	case sendAgent:
		n.hub.toAgent(n.addresses[x.agent], x.message)
	case welcome:
		n.addresses[x.agent] = x.address
		n.hub.toAgent(x.address, registered{x.agent})
	case saveFrameworks:
		n.save()
	case note:
		log.WithFields(x.fields).Info(x.text)
	}
}

func (n *masterNode) save() {
	known, removed := n.master.saved()
	file := masterFile{Removed: removed}
	for _, info := range known {
		file.Frameworks = append(file.Frameworks, frameworkDocument{info})
	}
	if err := writeFile(n.path(), file); err != nil {
		log.WithError(err).Error("cannot save the frameworks")
	}
}

func (n *masterNode) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/api/v1/scheduler", endpoint[scheduler.Call, *scheduler.Call]{
		owner: n.owner, streams: n.streams, faults: n.hub.faults, path: SchedulerToMaster, streamID: true, problem: callProblem,
		kind: func(c *scheduler.Call) (string, bool) { return c.Type.String(), c.Type == scheduler.Call_SUBSCRIBE },
		event: func(c *scheduler.Call, stream string) event {
			if c.Type == scheduler.Call_SUBSCRIBE {
				return subscribe{stream: stream, call: c}
			}
			return schedulerCall{stream: stream, call: c}
		},
	})
	n.addOperatorAPI(mux)
	mux.Handle("/faults", n.hub.faults)
	return mux
}
