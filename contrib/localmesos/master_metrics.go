package localmesos

import (
	"fmt"
	"maps"
	"math"
	"net/url"
	"strings"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"

	"github.com/k8sm/k8sm/api"
)

// masterCounters count since the master started. Those that stay 0 count what only drivers, rate limits or removed agents cause in
// Mesos.
var masterCounters = []string{
	"dropped_messages", "messages_authenticate", "messages_deactivate_framework", "messages_decline_offers", "messages_executor_to_framework",
	"messages_exited_executor", "messages_framework_to_executor", "messages_kill_task", "messages_launch_tasks", "messages_reconcile_tasks",
	"messages_register_framework", "messages_register_slave", "messages_reregister_framework", "messages_reregister_slave",
	"messages_resource_request", "messages_revive_offers", "messages_status_update", "messages_status_update_acknowledgement",
	"messages_suppress_offers", "messages_unregister_framework", "messages_unregister_slave", "messages_update_slave",
	"valid_executor_to_framework_messages", "invalid_executor_to_framework_messages", "valid_framework_to_executor_messages",
	"invalid_framework_to_executor_messages", "valid_status_updates", "invalid_status_updates", "valid_status_update_acknowledgements",
	"invalid_status_update_acknowledgements",
	"recovery_slave_removals", "slave_registrations", "slave_reregistrations", "slave_removals", "slave_removals/reason_registered",
	"slave_removals/reason_unhealthy", "slave_removals/reason_unregistered", "slave_shutdowns_canceled", "slave_shutdowns_completed",
	"slave_shutdowns_scheduled", "slave_unreachable_canceled", "slave_unreachable_completed", "slave_unreachable_scheduled",
	"tasks_dropped", "tasks_error", "tasks_failed", "tasks_finished", "tasks_gone", "tasks_gone_by_operator", "tasks_killed", "tasks_lost",
}

func newMasterCounts() metrics {
	m := metrics{}
	m.start("master/", masterCounters...)
	m.start("", "allocator/mesos/allocation_runs")
	return m
}

// count counts an event of the master.
func (m *master) count(name string) { m.counts.add("master/" + name) }

// countEnd counts a task that ended or became unreachable, and why (the end of Master::updateTask in src/master/master.cpp).
func (m *master) countEnd(s *mesos.TaskStatus) {
	if terminal(s.GetState()) {
		m.count(tasksIn(s.GetState()))
	}
	if s.Reason != nil { // the older API, in which agents are slaves, names it
		why := metricName(s.GetSource()) + "/" + metricName(s.GetReason())
		m.count(metricName(s.GetState()) + "/" + strings.ReplaceAll(why, "agent", "slave"))
	}
}

// countMessage counts a message of an agent. Messages of agents that are not registered have no effect.
func (m *master) countMessage(msg message, registered bool) {
	name, outcome := "", ""
	switch msg.(type) {
	case update:
		name, outcome = "messages_status_update", "status_updates"
	case exitedExecutor:
		name = "messages_exited_executor"
	case messageToFramework:
		name, outcome = "messages_executor_to_framework", "executor_to_framework_messages"
	}
	m.count(name)
	if outcome != "" && !registered {
		m.count("invalid_" + outcome)
	}
}

// countOutcome counts whether a message was of use.
func (m *master) countOutcome(name string, valid bool) {
	if valid {
		m.count("valid_" + name)
	} else {
		m.count("invalid_" + name)
	}
}

// countUnreachable counts an agent that becomes unreachable. No rate limit delays that here.
func (m *master) countUnreachable() {
	for _, name := range []string{"slave_unreachable_scheduled", "slave_unreachable_completed", "slave_removals", "slave_removals/reason_unhealthy"} {
		m.count(name)
	}
}

// callCounters are the counters of calls (Master::receive and those that it calls, in src/master/master.cpp).
var callCounters = map[scheduler.Call_Type]string{
	scheduler.Call_TEARDOWN: "messages_unregister_framework", scheduler.Call_DECLINE: "messages_decline_offers",
	scheduler.Call_REVIVE: "messages_revive_offers", scheduler.Call_SUPPRESS: "messages_suppress_offers", scheduler.Call_KILL: "messages_kill_task",
	scheduler.Call_ACKNOWLEDGE: "messages_status_update_acknowledgement", scheduler.Call_MESSAGE: "messages_framework_to_executor",
	scheduler.Call_RECONCILE: "messages_reconcile_tasks", scheduler.Call_REQUEST: "messages_resource_request",
}

// countCall counts a call that is performed. The launches of an ACCEPT count, not the call.
func (m *master) countCall(call *scheduler.Call) {
	if name := callCounters[call.Type]; name != "" {
		m.count(name)
	}
	for i := range call.GetAccept().GetOperations() {
		op := &call.Accept.Operations[i]
		switch {
		case op.Type == mesos.Offer_Operation_LAUNCH && len(op.GetLaunch().GetTaskInfos()) > 0:
			m.count("messages_launch_tasks")
		case op.Type == mesos.Offer_Operation_LAUNCH:
			m.count("messages_decline_offers")
		}
	}
}

// invalidCall: a call was refused as malformed.
type invalidCall struct{ kind scheduler.Call_Type }

// countInvalid follows Metrics::incrementInvalidSchedulerCalls in src/master/metrics.cpp.
func (m *master) countInvalid(kind scheduler.Call_Type) {
	switch kind {
	case scheduler.Call_ACKNOWLEDGE:
		m.count("invalid_status_update_acknowledgements")
	case scheduler.Call_MESSAGE:
		m.count("invalid_framework_to_executor_messages")
	}
}

// newFrameworkCounts returns the counters of a framework (FrameworkMetrics in src/master/metrics.cpp).
func newFrameworkCounts() metrics {
	m := metrics{}
	m.start("", "calls", "events", "operations", "offers/sent", "offers/accepted", "offers/declined", "offers/rescinded")
	for prefix, names := range map[string]map[int32]string{
		"calls/": scheduler.Call_Type_name, "events/": scheduler.Event_Type_name, "operations/": mesos.Offer_Operation_Type_name,
	} {
		for number, name := range names {
			if number != 0 { // UNKNOWN
				m.start(prefix, strings.ToLower(name))
			}
		}
	}
	for state := range mesos.TaskState_name {
		if state := mesos.TaskState(state); terminal(state) {
			m.start("tasks/terminal/", metricName(state))
		}
	}
	return m
}

// count counts one of a kind, and the kind's total: calls, events or operations.
func (f *framework) count(total string, kind fmt.Stringer) {
	f.counts.add(total)
	f.counts.add(total + "/" + metricName(kind))
}

// metricPrefix encodes the framework's name, which may have slashes and spaces.
func (f *framework) metricPrefix() string {
	return "master/frameworks/" + strings.ReplaceAll(url.QueryEscape(f.info.Name), "+", "%20") + "/" + string(f.id) + "/"
}

func (f *framework) metrics(out metrics) {
	prefix := f.metricPrefix()
	for name, value := range f.counts {
		out[prefix+name] = value
	}
	out[prefix+"subscribed"] = float64(boolToInt(f.stream != ""))
	for _, role := range f.roles() {
		out[prefix+"roles/"+role+"/suppressed"] = float64(boolToInt(f.suppressed[role]))
	}
	for state := range mesos.TaskState_name {
		if state := mesos.TaskState(state); !terminal(state) {
			out.start(prefix+"tasks/active/", metricName(state))
		}
	}
	for _, t := range f.tasks {
		if state := t.info.GetState(); !terminal(state) {
			out.add(prefix + "tasks/active/" + metricName(state))
		}
	}
}

// metrics returns what the master's state says (Master's functions _slaves_connected to _resources_revocable_percent in
// src/master/master.cpp).
func (m *master) metrics() metrics {
	out := maps.Clone(m.counts)
	out["master/uptime_secs"], out["master/elected"] = m.clock().Sub(m.started).Seconds(), 1
	out["master/outstanding_offers"] = float64(len(m.offers))
	out["master/operator_event_stream_subscribers"] = float64(len(m.subscribers))
	m.agentMetrics(out)
	out.start("master/", "frameworks_connected", "frameworks_disconnected", "frameworks_active", "frameworks_inactive")
	for _, f := range m.frameworks {
		if f.stream != "" {
			out.add("master/frameworks_connected")
			out.add("master/frameworks_active")
		} else {
			out.add("master/frameworks_disconnected")
			out.add("master/frameworks_inactive")
		}
		f.metrics(out)
	}
	m.allocatorMetrics(out)
	return out
}

// agentMetrics adds what there is on agents.
func (m *master) agentMetrics(out metrics) {
	out.start("master/", "slaves_connected", "slaves_disconnected", "slaves_active", "slaves_inactive",
		"tasks_staging", "tasks_starting", "tasks_running", "tasks_killing", "tasks_unreachable")
	out["master/slaves_unreachable"] = float64(m.unreachable())
	var total, used pool
	for _, a := range m.registeredAgents() {
		out.add("master/slaves_" + either(a.connected, "connected", "disconnected"))
		out.add("master/slaves_" + either(m.offersOf(a), "active", "inactive"))
		total, used = total.plus(a.total), used.plus(a.used())
	}
	for _, f := range m.frameworks {
		for _, t := range f.tasks {
			switch state := t.info.GetState(); state {
			case mesos.TASK_STAGING, mesos.TASK_STARTING, mesos.TASK_RUNNING, mesos.TASK_KILLING, mesos.TASK_UNREACHABLE:
				out.add("master/" + tasksIn(state))
			}
		}
	}
	out.resources("master/", total, used)
}

func either(yes bool, one, other string) string {
	if yes {
		return one
	}
	return other
}

// allocatorMetrics follows src/master/allocator/mesos/metrics.cpp and sorter/drf/metrics.cpp.
func (m *master) allocatorMetrics(out metrics) {
	out.timing("allocator/mesos/allocation_run_ms", &m.allocationRuns)
	out.timing("allocator/mesos/allocation_run_latency_ms", &m.allocationLatency)
	// This allocator has no queue of its own: it does at once what it is asked to do.
	out.start("allocator/", "event_queue_dispatches", "mesos/event_queue_dispatches")
	var total, taken pool
	for _, a := range m.registeredAgents() {
		total, taken = total.plus(a.total), taken.plus(a.used()).plus(a.offered())
	}
	all := func(amount) bool { return true }
	totals, takes := total.sums(all), taken.sums(all)
	for _, name := range []string{"cpus", "mem", "disk"} {
		out["allocator/mesos/resources/"+name+"/total"] = totals[name]
		out["allocator/mesos/resources/"+name+"/offered_or_allocated"] = takes[name]
	}
	tracked := m.trackedRoles()
	for role := range tracked {
		mine := taken.sums(func(a amount) bool { return a.used == role })
		out["allocator/mesos/roles/"+role+"/shares/dominant"] = min(dominantShare(totals, mine)/m.weights.of(role), math.MaxFloat64)
		out["allocator/mesos/offer_filters/roles/"+role+"/active"] = float64(m.activeFilters(role))
	}
	m.quotaMetrics(out, tracked, taken)
}

// dominantShare is a role's share of the resource of which it has the largest one (DRFSorter::calculateShare in
// src/master/allocator/mesos/sorter/drf/sorter.cpp), before it is divided by the role's weight.
func dominantShare(totals, mine map[string]float64) float64 {
	share := 0.0
	for name, total := range totals {
		if total > 0 {
			share = max(share, mine[name]/total)
		}
	}
	return share
}

func (m *master) activeFilters(role string) int {
	n := 0
	for _, f := range m.frameworks {
		for key, x := range f.filters {
			n += boolToInt(key.role == role && m.clock().Before(x.until))
		}
	}
	return n
}

// quotaMetrics adds what roles with a quota may use, and what every role uses of one (QuotaMetrics in
// src/master/allocator/mesos/metrics.cpp).
func (m *master) quotaMetrics(out metrics, tracked map[string][]api.FrameworkID, taken pool) {
	prefix := func(role, resource string) string {
		return "allocator/mesos/quota/roles/" + role + "/resources/" + resource + "/"
	}
	for role, config := range m.quotas {
		mine := taken.sums(func(a amount) bool { return a.used == role })
		for suffix, amounts := range map[string]map[string]mesos.Value_Scalar{"guarantee": config.Guarantees, "limit": config.Limits} {
			for name, amount := range amounts {
				out[prefix(role, name)+suffix] = amount.Value
				out[prefix(role, name)+"offered_or_allocated"] = mine[name]
			}
		}
	}
	for _, role := range m.knownRoles(tracked) {
		for name, thousandths := range m.consumed(role) {
			if thousandths > 0 {
				out[prefix(role, name)+"consumed"] = float64(thousandths) / 1000
			}
		}
	}
}
