package localmesos

import (
	"fmt"
	"net/http"

	mesos "github.com/mesos/mesos-go/api/v1/lib"

	"github.com/k8sm/k8sm/api"
)

// agentGoneText is Mesos' message about an agent that an operator has marked gone.
const agentGoneText = "Agent has been marked gone"

// markAgentGone follows Master::Http::_markAgentGone in src/master/http.cpp.
func (m *master) markAgentGone(id api.AgentID) answer {
	if m.registry.gone[id] {
		return answer{status: http.StatusOK}
	}
	a := m.agents[id]
	switch {
	case a == nil && (m.registry.recovered[id] || m.registry.lost[id]): // the master does not know its tasks
		delete(m.registry.recovered, id)
		delete(m.registry.lost, id)
		m.registry.gone[id] = true
		m.do(saveFrameworks{})
		return answer{status: http.StatusOK}
	case a == nil:
		return answer{status: http.StatusNotFound, text: fmt.Sprintf("Agent '%s' not found", id)}
	}
	m.markGone(a)
	m.do(saveFrameworks{})
	return answer{status: http.StatusOK}
}

// markGone removes an agent permanently, shuts it down, and reports its tasks. It sends FAILURE unless the agent was unreachable,
// because frameworks got one then (Master::markGone in src/master/master.cpp).
func (m *master) markGone(a *agentEntry) {
	m.registry.gone[a.id] = true
	delete(m.upkeep.deactivated, a.id)
	m.toAgent(string(a.id), shutdownAgent{forGood: true})
	m.rescindOffers(a)
	m.loseAll(a, func(t *task) mesos.TaskStatus {
		reason := mesos.REASON_AGENT_REMOVED_BY_OPERATOR
		if !hasCapability(t.framework.info, mesos.FrameworkInfo_Capability_PARTITION_AWARE) {
			reason = mesos.REASON_AGENT_REMOVED
		}
		return masterStatus(t.framework.stateFor(mesos.TASK_GONE_BY_OPERATOR), reason, agentGoneText)
	})
	if !a.unreachable {
		m.tellAgentLost(a.id)
	}
	m.dropAgent(a, agentGoneText)
}

// leave ends all executors of the agent. An agent that is gone keeps its id and stops registering; after a restart the master
// refuses it. Other agents give up their id and register as new ones as soon as the master allows it, as if a supervisor had
// restarted them with an empty work directory.
func (a *agent) leave(forGood bool) {
	a.isRegistered, a.leaving, a.gone, a.draining = false, true, forGood, nil
	for _, run := range a.runs {
		run.silent = true
		a.shutdown(run)
		a.cleanUp(run)
	}
	clear(a.dropped)
	if !forGood {
		a.info.ID = nil
		a.timers.add(a.now.Add(registerRetry), registerDue{})
	}
	a.do(saveAgent{})
}
