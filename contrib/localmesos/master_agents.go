package localmesos

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"

	"github.com/k8sm/k8sm/api"
)

// fromAgent handles a message of an agent. It ignores an agent that is not registered, which must register first.
func (m *master) fromAgent(e fromAgent) {
	if r, ok := e.message.(register); ok {
		m.register(e.address, r)
		return
	}
	a := m.agents[e.agent]
	registered := a != nil && a.connected
	m.countMessage(e.message, registered)
	if !registered {
		return
	}
	switch msg := e.message.(type) {
	case update:
		m.statusUpdate(a, msg)
	case exitedExecutor:
		m.exited(a, msg)
	case messageToFramework:
		f := m.frameworks[msg.executor.framework]
		m.countOutcome("executor_to_framework_messages", f != nil && f.stream != "")
		if f != nil {
			m.tell(f, &scheduler.Event{Type: scheduler.Event_MESSAGE, Message: &scheduler.Event_Message{
				AgentID: mesos.AgentID{Value: string(a.id)}, ExecutorID: mesos.ExecutorID{Value: string(msg.executor.executor)}, Data: msg.data,
			}})
		}
	}
}

// register registers an agent: a new one, a restarted one, or one that this master has not seen since its own restart.
func (m *master) register(address string, r register) {
	id := api.AgentID(r.info.GetID().GetValue())
	m.count(either(id == "", "messages_register_slave", "messages_reregister_slave"))
	ip := m.agentIP(address)
	if machine := m.upkeep.machines[machineKey{strings.ToLower(r.info.Hostname), ip}]; machine != nil &&
		machine.mode == mesos.DOWN {
		return // as if it had been shut down and restarted: it will register again
	}
	first := id == ""
	if first {
		id = api.AgentID(fmt.Sprintf("%s-S%d", m.info.ID, m.agentsMade))
		m.agentsMade++
	}
	if m.registry.gone[id] { // Master::reregisterSlave in src/master/master.cpp
		m.do(turnAway{address, shutdownAgent{forGood: true}})
		return
	}
	r.info.ID = &mesos.AgentID{Value: string(id)}
	a := m.agents[id]
	m.admit(id, a == nil)
	back := a != nil && !a.unreachable // the allocator still has it
	if !back {
		m.count(either(first, "slave_registrations", "slave_reregistrations"))
	}
	if a == nil {
		a = &agentEntry{
			id: id, registered: m.now, executors: map[executorKey]*executorEntry{}, tasks: map[taskKey]*task{},
			offers: map[api.OfferID]*offer{},
		}
		m.agents[id] = a
	}
	m.rescindOffers(a)
	wasUnreachable := a.unreachable
	a.ip, a.info, a.connected, a.unreachable, a.silent = ip, r.info, true, false, time.Time{}
	a.total = m.reservedTotal(id, poolOf(r.info.Resources)).plus(m.oversubscribed)
	m.do(welcome{address, id})
	m.do(note{"agent registered", map[string]any{"agent": string(id)}})
	m.adopt(a, r, wasUnreachable)
	m.tellReturned(a, wasUnreachable)
	m.recount(a)
	if !back {
		m.publishAgentAdded(a)
	}
	for _, f := range m.frameworks {
		if f.stream != "" {
			m.do(sendAgent{a.id, updateFramework{f.info}})
		}
	}
	m.resumeDrain(a)
	m.checkDrained(a)
	if back {
		m.allocateSoon(a)
		return
	}
	m.allocate(m.now, a)
}

// adopt updates the master's records of a registering agent to what the agent reports.
func (m *master) adopt(a *agentEntry, r register, wasUnreachable bool) {
	for _, info := range r.frameworks {
		id := api.FrameworkID(info.GetID().GetValue())
		switch {
		case m.removed[id]:
			m.do(sendAgent{a.id, shutdownFramework{id}})
		case m.frameworks[id] == nil:
			m.publishFrameworkAdded(m.addRecovered(info))
		}
	}
	clear(a.executors)
	for _, info := range r.executors {
		key := executorKey{api.FrameworkID(info.GetFrameworkID().GetValue()), api.ExecutorID(info.ExecutorID.Value)}
		a.executors[key] = &executorEntry{info: info, used: poolOf(info.Resources)}
	}
	there := map[taskKey]bool{}
	for i := range r.tasks {
		t := &r.tasks[i]
		f := m.frameworks[t.framework]
		if f == nil {
			continue
		}
		key := taskKey{t.framework, api.TaskID(t.info.TaskID.Value)}
		there[key] = true
		if known := a.tasks[key]; known != nil {
			known.latest = t.latest // its state counts and shows when the update comes
			if wasUnreachable {
				known.reachAgain()
				m.publishTaskAdded(known)
			}
			continue
		}
		m.addTask(f, a, t.info, t.latest)
	}
	m.dropLost(a, there)
}

// reachAgain shows the task as its agent has it.
func (t *task) reachAgain() {
	t.info.State = t.latest.State
	t.info.Statuses = slices.DeleteFunc(slices.Clone(t.info.Statuses), func(s mesos.TaskStatus) bool { return s.GetSource() == mesos.SOURCE_MASTER })
}

// dropLost reports tasks that the agent should have but does not: their launch was lost, or the agent lost its checkpoints.
func (m *master) dropLost(a *agentEntry, there map[taskKey]bool) {
	for key, t := range a.tasks {
		if there[key] {
			continue
		}
		state := mesos.TASK_GONE
		if t.latest.GetState() == mesos.TASK_STAGING {
			state = mesos.TASK_DROPPED
		}
		if !t.terminal() {
			m.lose(t, masterStatus(t.framework.stateFor(state), mesos.REASON_RECONCILIATION, "Task is unknown to the agent that registered again"))
		}
		m.forget(t)
	}
}

// lose records and reports a state that the master detected itself.
func (m *master) lose(t *task, s mesos.TaskStatus) {
	s.TaskID, s.AgentID, s.Timestamp = t.info.TaskID, &mesos.AgentID{Value: string(t.agent.id)}, m.seconds()
	m.updateTask(t, s, s)
	t.latest, t.info.StatusUpdateState = s, s.State
	m.tellStatus(t.framework, s)
}

// tellReturned reports the latest states of tasks that were reported as unreachable.
func (m *master) tellReturned(a *agentEntry, wasUnreachable bool) {
	if !wasUnreachable {
		return
	}
	for _, t := range a.tasks {
		s := masterStatus(t.latest.GetState(), mesos.REASON_AGENT_REREGISTERED, "Agent is reachable again")
		s.TaskID, s.AgentID = t.info.TaskID, &mesos.AgentID{Value: string(a.id)}
		s.ContainerStatus = t.latest.ContainerStatus
		m.tellStatus(t.framework, s)
	}
}

// recount recomputes the agent's free resources.
func (m *master) recount(a *agentEntry) {
	a.free = a.total
	for _, x := range a.executors {
		a.free = a.free.minus(x.used.allocated(""))
	}
	for _, t := range a.tasks {
		if t.terminal() {
			t.used = nil
		} else {
			t.used = poolOf(t.info.Resources)
		}
		a.free = a.free.minus(t.used.allocated(""))
	}
}

// agentGone disconnects the agent. Its tasks become unreachable after the agent timeout.
func (m *master) agentGone(id api.AgentID) {
	a := m.agents[id]
	if a == nil || !a.connected {
		return
	}
	a.connected, a.left = false, m.now
	m.rescindOffers(a)
	m.timers.add(m.now.Add(m.agentTimeout), unreachableDue{id, m.now})
	m.do(note{"agent disconnected", map[string]any{"agent": string(id)}})
}

// pingsLost marks an agent unreachable that has not answered pings for the agent timeout. Nothing reports it earlier
// (SlaveObserver in src/master/master.cpp).
func (m *master) pingsLost(e pingsLost) {
	a := m.agents[e.agent]
	if a == nil || !a.connected || !a.silent.Equal(e.since) {
		return
	}
	a.connected, a.left = false, m.now
	m.rescindOffers(a)
	m.markUnreachable(a)
}

// markUnreachable follows https://mesos.apache.org/documentation/latest/high-availability-framework-guide/ ("Dealing
// with partitioned or failed agents").
func (m *master) markUnreachable(a *agentEntry) {
	a.unreachable = true
	m.countUnreachable()
	m.keepAgents()
	m.do(note{"agent is unreachable", map[string]any{"agent": string(a.id)}})
	for _, t := range a.tasks {
		s := masterStatus(t.framework.stateFor(mesos.TASK_UNREACHABLE), mesos.REASON_AGENT_REMOVED, "Agent is unreachable")
		s.TaskID, s.AgentID, s.Timestamp = t.info.TaskID, &mesos.AgentID{Value: string(a.id)}, m.seconds()
		m.updateTask(t, s, s)
		m.tellStatus(t.framework, s)
	}
	m.publishAgentRemoved(a)
	m.tellAgentLost(a.id)
}

// exited records the exit of an executor and reports it to the framework. It ignores unknown executors
// (Master::exitedExecutor in src/master/master.cpp).
func (m *master) exited(a *agentEntry, e exitedExecutor) {
	if a.executors[e.executor] == nil {
		return
	}
	m.dropExecutor(a, e.executor)
	f := m.frameworks[e.executor.framework]
	if f == nil {
		return
	}
	status := e.status
	m.tell(f, &scheduler.Event{Type: scheduler.Event_FAILURE, Failure: &scheduler.Event_Failure{
		AgentID: &mesos.AgentID{Value: string(a.id)}, ExecutorID: &mesos.ExecutorID{Value: string(e.executor.executor)}, Status: &status,
	}})
}

// address is where the agent listens.
// agentIP returns the IP address of an agent with this address, by default the master's.
func (m *master) agentIP(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil && net.ParseIP(host) != nil {
		return host
	}
	return m.info.GetAddress().GetIP()
}

func (a *agentEntry) address() mesos.Address {
	hostname, ip := a.info.Hostname, a.ip
	return mesos.Address{Hostname: &hostname, IP: &ip, Port: a.info.GetPort()}
}
