package localmesos

import (
	"sync"

	"github.com/k8sm/k8sm/api"
)

// hub is the network between one master and its agents. Messages to someone who is not there are lost, as on a real
// one; who comes is told of.
type hub struct {
	faults *Faults

	mu     sync.Mutex // guards master, agents and cut
	master *owner
	agents map[string]*owner    // by address
	cut    map[string][]message // what agents that are cut off will be sent when they are not any more, as TCP does; by address
}

func newHub(faults *Faults) *hub {
	return &hub{faults: faults, agents: map[string]*owner{}, cut: map[string][]message{}}
}

func (h *hub) joinMaster(o *owner) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.master = o
	for _, a := range h.agents {
		a.post(masterFound{})
	}
}

func (h *hub) agentCount() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.agents)
}

func (h *hub) leaveMaster() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.master = nil
}

func (h *hub) joinAgent(address string, o *owner) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.agents[address] = o
	for _, m := range h.cut[address] {
		o.post(fromMaster{m})
	}
	delete(h.cut, address)
	if h.master != nil {
		o.post(masterFound{})
	}
}

func (h *hub) leaveAgent(address string, id api.AgentID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.agents, address)
	delete(h.cut, address)
	if h.master != nil {
		h.master.post(agentGone{id})
	}
}

// cutAgent takes the agent off the network without a sign to anyone. What it is sent waits; what it sends is lost, and sent
// again when it registers.
func (h *hub) cutAgent(address string, id api.AgentID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.agents, address)
	h.cut[address] = []message{}
	if h.master != nil {
		h.master.post(agentSilent{id})
	}
}

func (h *hub) toMaster(e fromAgent) {
	h.faults.pass(AgentToMaster, e.message.kind(), func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.master != nil && h.agents[e.address] != nil {
			h.master.post(e)
		}
	})
}

func (h *hub) toAgent(address string, m message) {
	h.faults.pass(MasterToAgent, m.kind(), func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		waiting, cut := h.cut[address]
		switch a := h.agents[address]; {
		case a != nil:
			a.post(fromMaster{m})
		case cut:
			h.cut[address] = append(waiting, m)
		}
	})
}
