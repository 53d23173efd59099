package localmesos

import (
	"fmt"
	"net/http"

	mesos "github.com/mesos/mesos-go/api/v1/lib"

	"github.com/k8sm/k8sm/api"
)

// agentGoneText is what Mesos says of an agent that an operator has marked gone, to everybody.
const agentGoneText = "Agent has been marked gone"

// markAgentGone follows Master::Http::_markAgentGone in src/master/http.cpp.
func (m *master) markAgentGone(id api.AgentID) answer {
	if m.registry.gone[id] {
		return answer{status: http.StatusOK}
	}
	a := m.agents[id]
	switch {
	case a == nil && (m.registry.recovered[id] || m.registry.lost[id]): // its tasks are unknown
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

// markGone takes an agent out of the books for good, has it shut down, and tells of its tasks. Frameworks hear that an agent is
// gone once: of one that is unreachable they have (Master::markGone in src/master/master.cpp).
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

// leave ends all that the agent runs. One that is gone for good registers no more in this life, and in vain in the next:
// it keeps its id. Others have no id then, and register as new agents as soon as the master lets them, as one does that is
// started again, with an empty work directory, by whoever supervises it.
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
