package localmesos

import (
	"sync"

	"github.com/k8sm/k8sm/api"
)

// hub is the network between the master and its agents. Messages to an absent receiver are lost, as on a real network. It announces
// a new master to the agents.
type hub struct {
	faults *Faults

	mu     sync.Mutex // guards master, agents and cut
	master *owner
	agents map[string]*owner    // by address
	cut    map[string][]message // queued for cut agents until they are healed, as TCP does; by address
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

// cutAgent silently disconnects the agent. Messages to it are queued. Messages from it are lost; it resends them when it registers
// again.
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
