package localmesos

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/allocator"
	"github.com/mesos/mesos-go/api/v1/lib/maintenance"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/localmesos/wire"
)

// upkeep has the operators' plans for machines and agents
// (https://mesos.apache.org/documentation/latest/maintenance/).
type upkeep struct {
	schedule    maintenance.Schedule
	machines    map[machineKey]*machineEntry // machines in the schedule
	inverse     map[api.OfferID]askKey       // unanswered inverse offers
	asked       map[askKey]*asking
	deactivated map[api.AgentID]*deactivation
}

// machineKey identifies a machine. An agent is on it if both hostname and IP address match.
type machineKey struct{ hostname, ip string }

type machineEntry struct {
	id   mesos.MachineID
	mode mesos.MachineInfo_Mode // DRAINING or DOWN
	when mesos.Unavailability
}

// askKey identifies the subject of an inverse offer: everything a framework has on an agent.
type askKey struct {
	agent     api.AgentID
	framework api.FrameworkID
}

type asking struct {
	offer  api.OfferID // the unanswered inverse offer, or ""
	until  time.Time   // send no other one before
	status allocator.InverseOfferStatus
}

func newUpkeep() upkeep {
	return upkeep{
		machines: map[machineKey]*machineEntry{}, inverse: map[api.OfferID]askKey{}, asked: map[askKey]*asking{},
		deactivated: map[api.AgentID]*deactivation{},
	}
}

func keyOf(id mesos.MachineID) machineKey {
	return machineKey{strings.ToLower(id.GetHostname()), id.GetIP()}
}

// machine returns the entry of the agent's machine, or nil if it is not in the schedule.
func (m *master) machine(a *agentEntry) *machineEntry {
	return m.upkeep.machines[machineKey{strings.ToLower(a.info.Hostname), a.ip}]
}

// agentsOn returns the agents on a machine.
func (m *master) agentsOn(key machineKey) []*agentEntry {
	return slices.DeleteFunc(m.sortedAgents(), func(a *agentEntry) bool {
		return machineKey{strings.ToLower(a.info.Hostname), a.ip} != key
	})
}

// updateSchedule replaces the schedule. Machines added to it drain; machines removed from it are up.
func (m *master) updateSchedule(schedule maintenance.Schedule) answer {
	if problem := m.scheduleProblem(schedule); problem != "" {
		return refused(problem)
	}
	before := m.upkeep.machines
	m.upkeep.schedule, m.upkeep.machines = schedule, map[machineKey]*machineEntry{}
	for _, w := range schedule.Windows {
		for _, id := range w.MachineIDs {
			entry := &machineEntry{id: id, mode: mesos.DRAINING, when: w.Unavailability}
			if old := before[keyOf(id)]; old != nil {
				entry.mode = old.mode
			}
			m.upkeep.machines[keyOf(id)] = entry
		}
	}
	m.do(saveFrameworks{})
	for key := range before {
		if m.upkeep.machines[key] == nil {
			m.updateUnavailability(key)
		}
	}
	for key := range m.upkeep.machines {
		m.updateUnavailability(key)
	}
	return answer{status: http.StatusOK}
}

// updateUnavailability rescinds offers and inverse offers for all frameworks, and makes new ones.
func (m *master) updateUnavailability(key machineKey) {
	for _, a := range m.agentsOn(key) {
		m.rescindOffers(a)
		for k := range m.upkeep.asked {
			if k.agent == a.id {
				delete(m.upkeep.asked, k)
			}
		}
		m.allocate(m.now, a)
	}
}

func (m *master) scheduleProblem(schedule maintenance.Schedule) string {
	seen := map[machineKey]bool{}
	for _, w := range schedule.Windows {
		if len(w.MachineIDs) == 0 {
			return "List of machines in the maintenance window is empty"
		}
		if w.Unavailability.GetDuration().GetNanoseconds() < 0 {
			return "Unavailability 'duration' is negative"
		}
		if problem := machinesProblem(w.MachineIDs, seen); problem != "" {
			return problem
		}
	}
	for key, entry := range m.upkeep.machines {
		if entry.mode == mesos.DOWN && !seen[key] {
			return fmt.Sprintf("Machine '%s' is deactivated and cannot be removed from the schedule", machineText(entry.id))
		}
	}
	return ""
}

// machinesProblem returns what is wrong with a list of machines, or "". seen has the machines named before.
func machinesProblem(ids []mesos.MachineID, seen map[machineKey]bool) string {
	for _, id := range ids {
		ip := id.GetIP()
		switch {
		case id.GetHostname() == "" && ip == "":
			return "Both 'hostname' and 'ip' for a machine are empty"
		case ip != "" && net.ParseIP(ip).To4() == nil:
			return "Failed to parse IPv4: " + ip
		case seen[keyOf(id)]:
			return fmt.Sprintf("Machine '%s' appears more than once in the schedule", machineText(id))
		}
		seen[keyOf(id)] = true
	}
	return ""
}

func machineText(id mesos.MachineID) string {
	text, _ := json.Marshal(wire.Tree(&id)) // two strings
	return string(text)
}

// startMaintenance takes machines down: it shuts down and removes their agents, which may then not register.
func (m *master) startMaintenance(ids []mesos.MachineID) answer {
	if problem := m.modeProblem(ids, mesos.DRAINING, "brought down"); problem != "" {
		return refused(problem)
	}
	for _, id := range ids {
		m.upkeep.machines[keyOf(id)].mode = mesos.DOWN
		for _, a := range m.agentsOn(keyOf(id)) {
			m.do(sendAgent{a.id, shutdownAgent{}})
			m.removeAgent(a, masterStatus(mesos.TASK_GONE, mesos.REASON_AGENT_REMOVED, "Operator initiated 'Machine DOWN'"))
		}
	}
	m.do(saveFrameworks{})
	return answer{status: http.StatusOK}
}

// stopMaintenance takes machines out of the schedule; their agents may register.
func (m *master) stopMaintenance(ids []mesos.MachineID) answer {
	if problem := m.modeProblem(ids, mesos.DOWN, "brought up"); problem != "" {
		return refused(problem)
	}
	for _, id := range ids {
		delete(m.upkeep.machines, keyOf(id))
	}
	var left []maintenance.Window
	for _, w := range m.upkeep.schedule.Windows {
		w.MachineIDs = slices.DeleteFunc(slices.Clone(w.MachineIDs), func(id mesos.MachineID) bool {
			return m.upkeep.machines[keyOf(id)] == nil
		})
		if len(w.MachineIDs) > 0 {
			left = append(left, w)
		}
	}
	m.upkeep.schedule.Windows = left
	m.do(saveFrameworks{})
	return answer{status: http.StatusOK}
}

func (m *master) modeProblem(ids []mesos.MachineID, mode mesos.MachineInfo_Mode, purpose string) string {
	if len(ids) == 0 {
		return "List of machines is empty"
	}
	if problem := machinesProblem(ids, map[machineKey]bool{}); problem != "" {
		return problem
	}
	for _, id := range ids {
		entry := m.upkeep.machines[keyOf(id)]
		switch {
		case entry == nil:
			return fmt.Sprintf("Machine '%s' is not part of a maintenance schedule", machineText(id))
		case entry.mode != mode:
			return fmt.Sprintf("Machine '%s' is not in %s mode and cannot be %s", machineText(id), mode, purpose)
		}
	}
	return ""
}

// removeAgent removes an agent; last is the final status of its tasks (Master::_removeSlave in src/master/master.cpp).
func (m *master) removeAgent(a *agentEntry, last mesos.TaskStatus) {
	m.count("slave_removals")
	delete(m.upkeep.deactivated, a.id)
	m.rescindOffers(a)
	text := fmt.Sprintf("Agent %s removed: %s", a.info.Hostname, last.GetMessage())
	m.loseAll(a, func(t *task) mesos.TaskStatus {
		s := last
		s.State, s.Message = t.framework.stateFor(last.GetState()).Enum(), &text
		return s
	})
	m.tellAgentLost(a.id)
	m.dropAgent(a, last.GetMessage())
}

// loseAll ends the tasks of a removed agent.
func (m *master) loseAll(a *agentEntry, last func(*task) mesos.TaskStatus) {
	for _, t := range a.tasks {
		if !t.terminal() {
			m.lose(t, last(t))
		}
		m.forget(t)
	}
}

func (m *master) tellAgentLost(id api.AgentID) {
	for _, f := range m.frameworks {
		m.tell(f, &scheduler.Event{Type: scheduler.Event_FAILURE, Failure: &scheduler.Event_Failure{AgentID: &mesos.AgentID{Value: string(id)}}})
	}
}

func (m *master) dropAgent(a *agentEntry, why string) {
	delete(m.agents, a.id)
	if !a.unreachable { // else operators were told then
		m.publishAgentRemoved(a)
	}
	m.keepAgents()
	m.do(note{"agent removed", map[string]any{"agent": string(a.id), "why": why}})
}

// askBack sends inverse offers to the frameworks that use an agent whose machine will be unavailable.
func (m *master) askBack(a *agentEntry, asked map[*framework][]mesos.InverseOffer) {
	machine := m.machine(a)
	if machine == nil || !m.offersOf(a) {
		return
	}
	for _, f := range m.sortedFrameworks() {
		if f.stream == "" || !a.has(f) {
			continue
		}
		key := askKey{a.id, f.id}
		ask := m.upkeep.asked[key]
		if ask == nil {
			ask = &asking{}
			m.upkeep.asked[key] = ask
		}
		if ask.offer != "" || m.now.Before(ask.until) {
			continue
		}
		m.offersMade++
		ask.offer = api.OfferID(fmt.Sprintf("%s-O%d", m.info.ID, m.offersMade))
		m.upkeep.inverse[ask.offer] = key
		path := "/slave(1)"
		asked[f] = append(asked[f], mesos.InverseOffer{
			OfferID: mesos.OfferID{Value: string(ask.offer)}, FrameworkID: mesos.FrameworkID{Value: string(f.id)},
			AgentID: &mesos.AgentID{Value: string(a.id)}, URL: &mesos.URL{Scheme: "http", Address: a.address(), Path: &path},
			Unavailability: machine.when,
		})
	}
}

// has reports whether the framework has tasks, executors or offers on the agent.
func (a *agentEntry) has(f *framework) bool {
	for key := range a.tasks {
		if key.framework == f.id {
			return true
		}
	}
	for key := range a.executors {
		if key.framework == f.id {
			return true
		}
	}
	for _, o := range a.offers {
		if o.framework == f {
			return true
		}
	}
	return false
}

// answerInverse records answers to inverse offers. Like Mesos, it ignores ids that are no longer valid. The framework gets another
// inverse offer when the filter expires.
func (m *master) answerInverse(f *framework, ids []mesos.OfferID, filters *mesos.Filters, says allocator.InverseOfferStatus_Status) {
	for _, id := range ids {
		key, known := m.upkeep.inverse[api.OfferID(id.Value)]
		if !known || key.framework != f.id {
			continue
		}
		delete(m.upkeep.inverse, api.OfferID(id.Value))
		ask := m.upkeep.asked[key]
		ask.offer, ask.until = "", m.now.Add(refusal(filters))
		ask.status = allocator.InverseOfferStatus{
			Status: says.Enum(), FrameworkID: mesos.FrameworkID{Value: string(f.id)},
			Timestamp: mesos.TimeInfo{Nanoseconds: m.now.UnixNano()},
		}
		m.timers.add(latest(ask.until, m.now.Add(m.allocationInterval)), filterEnded{key.agent})
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// withdrawInverse removes the matching inverse offers, and rescinds them.
func (m *master) withdrawInverse(fits func(askKey) bool) {
	for id, key := range m.upkeep.inverse {
		if !fits(key) {
			continue
		}
		delete(m.upkeep.inverse, id)
		m.upkeep.asked[key].offer = ""
		if f := m.frameworks[key.framework]; f != nil {
			m.tell(f, &scheduler.Event{Type: scheduler.Event_RESCIND_INVERSE_OFFER, RescindInverseOffer: &scheduler.Event_RescindInverseOffer{
				InverseOfferID: mesos.OfferID{Value: string(id)},
			}})
		}
	}
}

// forgetAsked removes a framework's inverse offers when it disconnects. It gets new ones when it reconnects.
func (m *master) forgetAsked(f *framework) {
	for key, ask := range m.upkeep.asked {
		if key.framework == f.id {
			delete(m.upkeep.inverse, ask.offer)
			delete(m.upkeep.asked, key)
		}
	}
}

// clusterStatus shows the machines by mode, with the latest answers of the frameworks.
func (m *master) clusterStatus() maintenance.ClusterStatus {
	var status maintenance.ClusterStatus
	for _, entry := range m.sortedMachines() {
		if entry.mode == mesos.DOWN {
			status.DownMachines = append(status.DownMachines, entry.id)
			continue
		}
		draining := maintenance.ClusterStatus_DrainingMachine{ID: entry.id}
		for _, a := range m.agentsOn(keyOf(entry.id)) {
			for _, f := range m.sortedFrameworks() {
				if ask := m.upkeep.asked[askKey{a.id, f.id}]; ask != nil && ask.status.Status != nil {
					draining.Statuses = append(draining.Statuses, ask.status)
				}
			}
		}
		status.DrainingMachines = append(status.DrainingMachines, draining)
	}
	return status
}

func (m *master) sortedMachines() []*machineEntry {
	var entries []*machineEntry
	for _, entry := range m.upkeep.machines {
		entries = append(entries, entry)
	}
	slices.SortFunc(entries, func(a, b *machineEntry) int {
		return cmp.Or(cmp.Compare(a.id.GetHostname(), b.id.GetHostname()), cmp.Compare(a.id.GetIP(), b.id.GetIP()))
	})
	return entries
}

// savedUpkeep returns the plans to store.
func (m *master) savedUpkeep() upkeepFile {
	file := upkeepFile{Schedule: scheduleDocument{m.upkeep.schedule}, Draining: map[api.AgentID]drainInfoDocument{}}
	for _, entry := range m.sortedMachines() {
		if entry.mode == mesos.DOWN {
			file.Down = append(file.Down, machineDocument{entry.id})
		}
	}
	for id, d := range m.upkeep.deactivated {
		file.Deactivated = append(file.Deactivated, id)
		if d.drain != nil {
			file.Draining[id] = drainInfoDocument{*d.drain}
		}
	}
	slices.Sort(file.Deactivated)
	return file
}

func (m *master) restoreUpkeep(file upkeepFile) {
	m.upkeep.schedule = file.Schedule.message
	for _, w := range m.upkeep.schedule.Windows {
		for _, id := range w.MachineIDs {
			m.upkeep.machines[keyOf(id)] = &machineEntry{id: id, mode: mesos.DRAINING, when: w.Unavailability}
		}
	}
	for _, id := range file.Down {
		if entry := m.upkeep.machines[keyOf(id.message)]; entry != nil {
			entry.mode = mesos.DOWN
		}
	}
	for _, id := range file.Deactivated {
		d := &deactivation{since: m.now}
		if drain, draining := file.Draining[id]; draining {
			info := drain.message
			d.drain = &info
		}
		m.upkeep.deactivated[id] = d
	}
}
