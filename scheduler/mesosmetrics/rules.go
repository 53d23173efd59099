package mesosmetrics

import (
	"regexp"
	"slices"
)

// rule makes the samples of a family.
type rule struct {
	family Family
	series []series
	// pattern matches further metrics of the master. Its groups are the labels' values.
	pattern *regexp.Regexp
}

// series is a sample from certain metrics of the master.
type series struct {
	plus, minus []string // metrics to add and to subtract
	labels      []string
}

// of is a series with the value of one metric.
func of(name string, labels ...string) series { return series{plus: []string{name}, labels: labels} }

// less is a series with the difference of two metrics.
func less(name, minus string, labels ...string) series {
	return series{plus: []string{name}, minus: []string{minus}, labels: labels}
}

// single is the rule for a metric without labels.
func single(kind Kind, name, help, from string) rule {
	return rule{family: Family{Name: name, Kind: kind, Help: help}, series: []series{of(from)}}
}

// labeled is the rule for metrics that differ in one label, whose values follow each other with the names of the metrics.
func labeled(kind Kind, name, help, label string, valuesAndNames ...string) rule {
	r := rule{family: Family{Name: name, Kind: kind, Help: help, Labels: []string{label}}}
	for pair := range slices.Chunk(valuesAndNames, 2) {
		r.series = append(r.series, of(pair[1], pair[0]))
	}
	return r
}

// matching is the rule for all metrics whose names match the pattern.
func matching(kind Kind, name, help, pattern string, labels ...string) rule {
	return rule{family: Family{Name: name, Kind: kind, Help: help, Labels: labels}, pattern: regexp.MustCompile("(?s)^" + pattern + "$")}
}

// resource is the rule for a resource of all agents.
func resource(name, unit string) rule {
	from := "master/" + name + "_"
	return rule{
		family: Family{Name: "mesos_master_" + name, Help: "Resources of the registered agents, in " + unit + "; percent is a share of 1.", Labels: []string{"type"}},
		series: []series{
			of(from+"total", "total"), of(from+"used", "used"), less(from+"total", from+"used", "free"), of(from+"percent", "percent"),
		},
	}
}

// timing is the rule for how long something took. The last time is the "mean", as mesos_exporter has it.
func timing(name, help, from string) rule {
	pairs := []string{"mean", from}
	for _, suffix := range []string{"min", "max", "p50", "p90", "p95", "p99", "p999", "p9999"} {
		pairs = append(pairs, suffix, from+"/"+suffix)
	}
	return labeled(Gauge, name, help, "type", pairs...)
}

var rules = slices.Concat(resourceRules, masterRules, agentRules, taskRules, messageRules, allocatorRules, roleRules, registrarRules)

var resourceRules = []rule{
	resource("cpus", "CPUs"), resource("cpus_revocable", "revocable CPUs"), resource("gpus", "GPUs"), resource("gpus_revocable", "revocable GPUs"),
	resource("mem", "MB"), resource("mem_revocable", "revocable MB"), resource("disk", "MB"), resource("disk_revocable", "revocable MB"),
}

var masterRules = []rule{
	single(Gauge, "mesos_master_elected", "Whether the master leads.", "master/elected"),
	single(Gauge, "mesos_master_uptime_seconds", "Time since the master started.", "master/uptime_secs"),
	single(Gauge, "mesos_master_offers_pending", "Offers that no framework has answered yet.", "master/outstanding_offers"),
	labeled(Gauge, "mesos_master_event_queue_length", "What waits for the master.", "type",
		"message", "master/event_queue_messages", "http_request", "master/event_queue_http_requests", "dispatches", "master/event_queue_dispatches"),
	{
		// All frameworks that are not active are inactive, those that are not connected too.
		family: Family{Name: "mesos_master_frameworks_state", Help: "Frameworks by state.", Labels: []string{"state"}},
		series: []series{
			of("master/frameworks_active", "connected_active"), of("master/frameworks_disconnected", "disconnected_inactive"),
			less("master/frameworks_inactive", "master/frameworks_disconnected", "connected_inactive"),
		},
	},
	matching(Counter, "mesos_master_frameworks_messages", "Messages of drivers, by principal; type is received or processed.",
		"frameworks/(.+)/messages_([a-z]+)", "framework", "type"),
}

var agentRules = []rule{
	{
		family: Family{Name: "mesos_master_slaves_state", Help: "Agents by state.", Labels: []string{"state"}},
		series: []series{
			of("master/slaves_active", "connected_active"), of("master/slaves_disconnected", "disconnected_inactive"),
			less("master/slaves_inactive", "master/slaves_disconnected", "connected_inactive"), of("master/slaves_unreachable", "unreachable"),
		},
	},
	labeled(Counter, "mesos_master_slave_registration_events_total", "Registrations of agents.", "event",
		"register", "master/slave_registrations", "reregister", "master/slave_reregistrations"),
	labeled(Counter, "mesos_master_recovery_slave_removal_events_total", "Agents that did not come back after the leader changed.", "event",
		"removal", "master/recovery_slave_removals"),
	{
		family: Family{Name: "mesos_master_slave_removal_events_total", Kind: Counter, Help: "Removals of agents.", Labels: []string{"event"}},
		series: []series{
			of("master/slave_shutdowns_scheduled", "scheduled"), of("master/slave_shutdowns_canceled", "canceled"),
			of("master/slave_shutdowns_completed", "completed"), less("master/slave_removals", "master/slave_shutdowns_completed", "died"),
		},
	},
	matching(Counter, "mesos_master_slave_removal_events_reasons", "Removals of agents by reason.", "master/slave_removals/reason_(.+)", "reason"),
	labeled(Counter, "mesos_master_slave_unreachable_events_total", "Agents that became unreachable.", "event",
		"scheduled", "master/slave_unreachable_scheduled", "canceled", "master/slave_unreachable_canceled", "completed", "master/slave_unreachable_completed"),
}

var taskRules = []rule{
	labeled(Counter, "mesos_master_task_states_exit_total", "Tasks by how they ended.", "state",
		"dropped", "master/tasks_dropped", "errored", "master/tasks_error", "failed", "master/tasks_failed", "finished", "master/tasks_finished",
		"gone", "master/tasks_gone", "gone_by_operator", "master/tasks_gone_by_operator", "killed", "master/tasks_killed", "lost", "master/tasks_lost"),
	labeled(Gauge, "mesos_master_task_states_current", "Tasks by state.", "state",
		"staging", "master/tasks_staging", "starting", "master/tasks_starting", "running", "master/tasks_running", "killing", "master/tasks_killing",
		"unreachable", "master/tasks_unreachable"),
	matching(Counter, "mesos_master_task_state_counts_by_source_reason", "Tasks by how they ended, who said so, and why.",
		"master/task_(.+)/source_(.+)/reason_(.+)", "state", "source", "reason"),
}

var messageRules = []rule{
	labeled(Counter, "mesos_master_messages", "Messages and calls that the master got.", "type",
		"authenticate_messages", "master/messages_authenticate", "dropped_messages", "master/dropped_messages",
		"deactivate_framework", "master/messages_deactivate_framework", "decline_offers", "master/messages_decline_offers",
		"executor_to_framework", "master/messages_executor_to_framework", "exited_executor", "master/messages_exited_executor",
		"framework_to_executor", "master/messages_framework_to_executor", "kill_task", "master/messages_kill_task",
		"launch_tasks", "master/messages_launch_tasks", "reconcile_tasks", "master/messages_reconcile_tasks",
		"register_framework", "master/messages_register_framework", "register_slave", "master/messages_register_slave",
		"reregister_framework", "master/messages_reregister_framework", "reregister_slave", "master/messages_reregister_slave",
		"resource_request", "master/messages_resource_request", "revive_offers", "master/messages_revive_offers",
		"status_update", "master/messages_status_update", "status_update_acknowledgement", "master/messages_status_update_acknowledgement",
		"suppress_offers", "master/messages_suppress_offers", "unregister_framework", "master/messages_unregister_framework",
		"unregister_slave", "master/messages_unregister_slave", "update_slave", "master/messages_update_slave"),
	{
		// mesos_exporter takes updates for messages to agents, and acknowledgements for messages of agents.
		family: Family{
			Name: "mesos_master_messages_outcomes_total", Kind: Counter, Help: "Messages by whether the master could pass them on.",
			Labels: []string{"source", "destination", "type", "outcome"},
		},
		series: []series{
			of("master/valid_framework_to_executor_messages", "framework", "executor", "", "valid"),
			of("master/invalid_framework_to_executor_messages", "framework", "executor", "", "invalid"),
			of("master/valid_executor_to_framework_messages", "executor", "framework", "", "valid"),
			of("master/invalid_executor_to_framework_messages", "executor", "framework", "", "invalid"),
			of("master/valid_status_updates", "framework", "slave", "status_update", "valid"),
			of("master/invalid_status_updates", "framework", "slave", "status_update", "invalid"),
			of("master/valid_status_update_acknowledgements", "slave", "framework", "status_update", "valid"),
			of("master/invalid_status_update_acknowledgements", "slave", "framework", "status_update", "invalid"),
		},
	},
}

var allocatorRules = []rule{
	single(Gauge, "mesos_master_allocator_event_queue_dispatches", "What waits for the allocator.", "allocator/event_queue_dispatches"),
	single(Gauge, "mesos_master_event_queue_dispatches", "What waits for the allocator.", "allocator/mesos/event_queue_dispatches"),
	labeled(Counter, "mesos_master_allocation_runs", "Runs of the allocator.", "event", "allocation", "allocator/mesos/allocation_runs"),
	single(Gauge, "mesos_master_allocation_run_ms_count", "Runs that allocation_run_ms is about.", "allocator/mesos/allocation_run_ms/count"),
	timing("mesos_master_allocation_run_ms", "How long runs of the allocator took, in ms; mean is the last.", "allocator/mesos/allocation_run_ms"),
	labeled(Gauge, "mesos_master_allocation_run_latency_ms_count", "Runs that allocation_run_latency_ms is about.", "event",
		"allocation", "allocator/mesos/allocation_run_latency_ms/count"),
	timing("mesos_master_allocation_run_latency_ms", "How late runs of the allocator began, in ms; mean is the last.",
		"allocator/mesos/allocation_run_latency_ms"),
	allocated("cpus", "CPUs"), allocated("mem", "Memory, in MB"), allocated("disk", "Disk, in MB"),
}

// allocated is the rule for a resource as the allocator sees it.
func allocated(name, what string) rule {
	from := "allocator/mesos/resources/" + name + "/"
	return labeled(Gauge, "mesos_master_allocator_resources_"+name, what+", in all, and offered or allocated.", "type",
		"total", from+"total", "offered_or_allocated", from+"offered_or_allocated")
}

const (
	dominantShare = "allocator/mesos/roles/(.+)/shares/dominant"
	quota         = "allocator/mesos/quota/roles/(.+)/resources/([^/]+)/"
)

var roleRules = []rule{
	matching(Gauge, "mesos_allocator_role_dominant_share", "Share that a role has of the resource of which its share is the largest, by its weight.", dominantShare, "role"),
	matching(Gauge, "mesos_master_allocator_role_shares_dominant", "As mesos_allocator_role_dominant_share.", dominantShare, "role"),
	matching(Gauge, "mesos_master_allocator_offer_filters_active", "Offers that frameworks of a role have refused for a while.",
		"allocator/mesos/offer_filters/roles/(.+)/active", "role"),
	matching(Gauge, "mesos_master_allocator_role_quota_guarantee", "What a role's quota guarantees.", quota+"guarantee", "role", "resource"),
	matching(Gauge, "mesos_master_allocator_role_quota_offered_or_allocated", "What a role with a quota uses or is offered.",
		quota+"offered_or_allocated", "role", "resource"),
	matching(Gauge, "mesos_allocator_role_quota_limit", "What a role's quota allows at most.", quota+"limit", "role", "resource"),
	matching(Gauge, "mesos_allocator_role_quota_consumed", "What of a quota a role and those below it use, reservations included.",
		quota+"consumed", "role", "resource"),
}

var registrarRules = []rule{
	single(Gauge, "mesos_registrar_registry_size_bytes", "Size of the registry of agents.", "registrar/registry_size_bytes"),
	single(Gauge, "mesos_registrar_queued_operations", "Changes of the registry that wait.", "registrar/queued_operations"),
	single(Gauge, "mesos_registrar_state_fetch_ms", "How long reading the registry took, in ms.", "registrar/state_fetch_ms"),
	timing("mesos_registrar_state_store_ms", "How long writing the registry took, in ms; mean is the last.", "registrar/state_store_ms"),
	single(Gauge, "mesos_registrar_log_recovered", "Whether the replicated log of the registry has caught up.", "registrar/log/recovered"),
	single(Gauge, "mesos_registrar_log_ensemble_size", "Masters that hold the replicated log.", "registrar/log/ensemble_size"),
}
