package localmesos

import (
	"maps"
	"slices"
	"time"

	"github.com/k8sm/k8sm/api"
)

// registry is what a master keeps of agents beyond its own life (src/master/registry.proto): those that it had, those that are
// unreachable, and those that are gone for good.
type registry struct {
	// recovered are the agents of the master before that have not come back yet: nothing is said of what they run.
	recovered map[api.AgentID]bool
	// lost are those that did not come back in time.
	lost map[api.AgentID]bool
	// gone are those that an operator has marked gone.
	gone map[api.AgentID]bool
	// forgetful is a master whose agents come and go with it, by the thousand: it keeps only which are gone.
	forgetful bool
}

// reregisterTimeout is how long agents may take to come back to a new master: --agent_reregister_timeout of Mesos
// (MIN_AGENT_REREGISTER_TIMEOUT in src/master/constants.hpp).
const reregisterTimeout = 10 * time.Minute

// registryFile is a registry in the master's file.
type registryFile struct {
	Admitted    []api.AgentID `json:"admitted,omitempty"`
	Unreachable []api.AgentID `json:"unreachable,omitempty"`
	Gone        []api.AgentID `json:"gone,omitempty"`
}

func newRegistry(forgetful bool) registry {
	return registry{recovered: map[api.AgentID]bool{}, lost: map[api.AgentID]bool{}, gone: map[api.AgentID]bool{}, forgetful: forgetful}
}

// savedRegistry is what survives a master.
func (m *master) savedRegistry() registryFile {
	file := registryFile{Gone: slices.Sorted(maps.Keys(m.registry.gone))}
	if m.registry.forgetful {
		return file
	}
	admitted, unreachable := maps.Clone(m.registry.recovered), maps.Clone(m.registry.lost)
	for id, a := range m.agents {
		if a.unreachable {
			unreachable[id] = true
		} else {
			admitted[id] = true
		}
	}
	file.Admitted, file.Unreachable = slices.Sorted(maps.Keys(admitted)), slices.Sorted(maps.Keys(unreachable))
	return file
}

// restoreRegistry brings back the agents of an earlier life, which have their time to come back.
func (m *master) restoreRegistry(file registryFile) {
	for _, id := range file.Admitted {
		m.registry.recovered[id] = true
	}
	for _, id := range file.Unreachable {
		m.registry.lost[id] = true
	}
	for _, id := range file.Gone {
		m.registry.gone[id] = true
	}
	m.timers.add(m.now.Add(reregisterTimeout), recoveryDue{})
}

// admit enters an agent that registers.
func (m *master) admit(id api.AgentID, isNew bool) {
	delete(m.registry.recovered, id)
	delete(m.registry.lost, id)
	if isNew {
		m.keepAgents()
	}
}

// keepAgents has the registry stored where that is of use.
func (m *master) keepAgents() {
	if !m.registry.forgetful {
		m.do(saveFrameworks{})
	}
}

// giveUpRecovered calls agents unreachable that have not come back to this master (Master::recoveredSlavesTimeout in
// src/master/master.cpp). It knows nothing of their tasks.
func (m *master) giveUpRecovered() {
	for _, id := range slices.Sorted(maps.Keys(m.registry.recovered)) {
		delete(m.registry.recovered, id)
		m.registry.lost[id] = true
		m.tellAgentLost(id)
		m.do(note{"agent is unreachable: it did not come back to this master", map[string]any{"agent": string(id)}})
		m.keepAgents()
	}
}
