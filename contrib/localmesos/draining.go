package localmesos

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	pb "github.com/mesos/mesos-go/api/v1/lib/master"

	"github.com/k8sm/k8sm/api"
)

// deactivation is the state of an agent that an operator deactivated or drains.
type deactivation struct {
	drain *mesos.DrainInfo // nil if its tasks stay
	since time.Time
}

// offersOf reports whether the agent's resources may be offered now.
func (m *master) offersOf(a *agentEntry) bool {
	return a.connected && m.upkeep.deactivated[a.id] == nil
}

// drainAgent follows https://mesos.apache.org/documentation/latest/maintenance/ ("Automatic Node Draining"): no offers
// any more, and the agent kills its tasks.
func (m *master) drainAgent(call *pb.Call_DrainAgent) answer {
	a := m.agents[api.AgentID(call.AgentID.Value)]
	if a == nil {
		return refused("Unknown agent")
	}
	if machine := m.machine(a); machine != nil {
		return refused(fmt.Sprintf("Agent %s is part of a maintenance schedule under Machine %s", a.id, machineText(machine.id)))
	}
	gone := call.GetMarkGone()
	config := mesos.DrainConfig{MarkGone: &gone}
	if d := call.MaxGracePeriod; d != nil {
		config.MaxGracePeriod = &mesos.DurationInfo{Nanoseconds: d.Seconds*int64(time.Second) + int64(d.Nanos)}
	}
	m.upkeep.deactivated[a.id] = &deactivation{drain: &mesos.DrainInfo{State: mesos.DrainState_DRAINING, Config: config}, since: m.now}
	m.rescindOffers(a)
	m.resumeDrain(a)
	m.checkDrained(a)
	m.do(saveFrameworks{})
	return answer{status: http.StatusOK}
}

// resumeDrain tells an agent to drain. It repeats that when the agent registers again, even if the agent has drained
// (Master::___reregisterSlave in src/master/master.cpp).
func (m *master) resumeDrain(a *agentEntry) {
	d := m.upkeep.deactivated[a.id]
	if d != nil && d.drain != nil && a.connected {
		m.do(sendAgent{a.id, drainAgent{d.drain.Config}})
	}
}

// checkDrained marks an agent as drained when all its tasks have ended and are acknowledged. The master ignores executors here
// (Master::checkAndTransitionDrainingAgent in src/master/master.cpp); the agent does not.
func (m *master) checkDrained(a *agentEntry) {
	d := m.upkeep.deactivated[a.id]
	if d == nil || d.drain == nil || d.drain.State != mesos.DrainState_DRAINING || len(a.tasks) > 0 {
		return
	}
	if d.drain.Config.GetMarkGone() {
		m.markGone(a)
	} else {
		d.drain = &mesos.DrainInfo{State: mesos.DrainState_DRAINED, Config: d.drain.Config}
		m.do(note{"agent drained", map[string]any{"agent": string(a.id)}})
	}
	m.do(saveFrameworks{})
}

// deactivateAgent stops offers of an agent; its tasks keep running. A draining agent continues to drain.
func (m *master) deactivateAgent(id api.AgentID) answer {
	a := m.agents[id]
	if a == nil {
		return refused("Unknown agent")
	}
	if m.upkeep.deactivated[id] == nil {
		m.upkeep.deactivated[id] = &deactivation{since: m.now}
	}
	m.rescindOffers(a)
	m.do(saveFrameworks{})
	return answer{status: http.StatusOK}
}

func (m *master) reactivateAgent(id api.AgentID) answer {
	d, a := m.upkeep.deactivated[id], m.agents[id]
	switch {
	case d == nil:
		return refused("Agent is not deactivated")
	case d.drain != nil && d.drain.State == mesos.DrainState_DRAINING:
		return refused("Agent is still in the DRAINING state")
	}
	delete(m.upkeep.deactivated, id)
	m.do(saveFrameworks{})
	if a == nil {
		return answer{status: http.StatusConflict, text: "Agent removed while processing the call"}
	}
	m.allocateSoon(a)
	return answer{status: http.StatusOK}
}

// drain kills the agent's tasks, with the time that the operator gives them at most. An agent that runs nothing has drained;
// others drain until their last executor has ended and its updates are acknowledged, whatever the master says meanwhile
// (Slave::drain and Slave::updateDrainStatus in src/slave/slave.cpp).
func (a *agent) drain(config mesos.DrainConfig) {
	if len(a.frameworks) == 0 {
		return
	}
	a.draining = &config
	a.do(saveAgent{})
	for _, run := range a.runs {
		a.drainRun(run)
	}
}

func (a *agent) drainRun(run *executorRun) {
	for _, id := range slices.Clone(run.order) {
		if t := run.tasks[id]; t != nil {
			a.kill(killTask{framework: t.framework, task: id, policy: boundedPolicy(t.info.KillPolicy, a.draining.MaxGracePeriod)})
		}
	}
}

// boundedPolicy returns the kill policy that replaces the task's own; nil to keep that.
func boundedPolicy(own *mesos.KillPolicy, most *mesos.DurationInfo) *mesos.KillPolicy {
	if most == nil || own.GetGracePeriod() != nil && own.GracePeriod.Nanoseconds <= most.Nanoseconds {
		return nil
	}
	return &mesos.KillPolicy{GracePeriod: most}
}

// drained gives the status of a task that is killed while the agent drains the reason that all such tasks have, and if the
// agent is gone afterwards the state (Slave::statusUpdate in src/slave/slave.cpp: TASK_KILLING, too, becomes that last state).
func (a *agent) drained(framework api.FrameworkID, s mesos.TaskStatus) mesos.TaskStatus {
	if a.draining == nil || s.GetState() != mesos.TASK_KILLING && s.GetState() != mesos.TASK_KILLED {
		return s
	}
	s.Reason = mesos.REASON_AGENT_DRAINING.Enum()
	if a.draining.GetMarkGone() && hasCapability(a.frameworks[framework], mesos.FrameworkInfo_Capability_PARTITION_AWARE) {
		s.State = mesos.TASK_GONE_BY_OPERATOR.Enum()
	}
	return s
}
