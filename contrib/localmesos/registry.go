package localmesos

import (
	"maps"
	"slices"
	"time"

	"github.com/k8sm/k8sm/api"
)

// registry is the master's persistent record of agents (src/master/registry.proto): registered, unreachable and gone ones.
type registry struct {
	// recovered agents were registered with the previous master and have not returned yet. The master reports nothing about their tasks.
	recovered map[api.AgentID]bool
	// lost agents did not return in time.
	lost map[api.AgentID]bool
	// gone agents were marked gone by an operator.
	gone map[api.AgentID]bool
	// forgetful stores only gone agents, for benchmarks with a thousand agents that end with the master.
	forgetful bool
}

// reregisterTimeout is how long agents may take to reregister with a new master: --agent_reregister_timeout of Mesos
// (MIN_AGENT_REREGISTER_TIMEOUT in src/master/constants.hpp).
const reregisterTimeout = 10 * time.Minute

// registryFile is the registry in the master's file.
type registryFile struct {
	Admitted    []api.AgentID `json:"admitted,omitempty"`
	Unreachable []api.AgentID `json:"unreachable,omitempty"`
	Gone        []api.AgentID `json:"gone,omitempty"`
}

func newRegistry(forgetful bool) registry {
	return registry{recovered: map[api.AgentID]bool{}, lost: map[api.AgentID]bool{}, gone: map[api.AgentID]bool{}, forgetful: forgetful}
}

// savedRegistry returns the registry to store.
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

// restoreRegistry restores the agents, whose reregister timeout starts now.
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

// admit records a registering agent.
func (m *master) admit(id api.AgentID, isNew bool) {
	delete(m.registry.recovered, id)
	delete(m.registry.lost, id)
	if isNew {
		m.keepAgents()
	}
}

// keepAgents stores the registry, unless it is forgetful.
func (m *master) keepAgents() {
	if !m.registry.forgetful {
		m.do(saveFrameworks{})
	}
}

// giveUpRecovered marks recovered agents unreachable that have not returned (Master::recoveredSlavesTimeout in
// src/master/master.cpp). It does not know their tasks.
func (m *master) giveUpRecovered() {
	for _, id := range slices.Sorted(maps.Keys(m.registry.recovered)) {
		delete(m.registry.recovered, id)
		m.registry.lost[id] = true
		m.countUnreachable()
		m.count("recovery_slave_removals")
		m.tellAgentLost(id)
		m.do(note{"agent is unreachable: it did not come back to this master", map[string]any{"agent": string(id)}})
		m.keepAgents()
	}
}
