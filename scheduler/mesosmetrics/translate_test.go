package mesosmetrics

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// lines are samples as Prometheus writes them, in order.
func lines(samples []Sample) []string {
	var out []string
	for _, s := range samples {
		var labels []string
		for i, name := range s.Family.Labels {
			labels = append(labels, fmt.Sprintf("%s=%q", name, s.Labels[i]))
		}
		line := s.Family.Name
		if labels != nil {
			line += "{" + strings.Join(labels, ",") + "}"
		}
		out = append(out, fmt.Sprintf("%s %v", line, s.Value))
	}
	slices.Sort(out)
	return out
}

func TestMetricsOfMasterGetTheNamesOfMesosExporter(t *testing.T) {
	for name, test := range map[string]struct {
		master map[string]float64
		want   []string
	}{
		"nothing": {nil, nil},
		"resources": {
			map[string]float64{"master/cpus_total": 8, "master/cpus_used": 2.5, "master/cpus_percent": 0.3125, "master/mem_revocable_total": 7},
			[]string{
				`mesos_master_cpus{type="free"} 5.5`, `mesos_master_cpus{type="percent"} 0.3125`, `mesos_master_cpus{type="total"} 8`,
				`mesos_master_cpus{type="used"} 2.5`, `mesos_master_mem_revocable{type="total"} 7`,
			},
		},
		"the master": {
			map[string]float64{"master/elected": 1, "master/uptime_secs": 61.5, "master/outstanding_offers": 3, "master/event_queue_messages": 4},
			[]string{
				"mesos_master_elected 1", `mesos_master_event_queue_length{type="message"} 4`, "mesos_master_offers_pending 3", "mesos_master_uptime_seconds 61.5",
			},
		},
		"agents": {
			map[string]float64{
				"master/slaves_active": 5, "master/slaves_inactive": 3, "master/slaves_disconnected": 1, "master/slaves_unreachable": 2,
				"master/slave_removals": 4, "master/slave_shutdowns_completed": 1, "master/slave_removals/reason_unhealthy": 3,
			},
			[]string{
				`mesos_master_slave_removal_events_reasons{reason="unhealthy"} 3`, `mesos_master_slave_removal_events_total{event="completed"} 1`,
				`mesos_master_slave_removal_events_total{event="died"} 3`, `mesos_master_slaves_state{state="connected_active"} 5`,
				`mesos_master_slaves_state{state="connected_inactive"} 2`, `mesos_master_slaves_state{state="disconnected_inactive"} 1`,
				`mesos_master_slaves_state{state="unreachable"} 2`,
			},
		},
		"tasks": {
			map[string]float64{
				"master/tasks_error": 1, "master/tasks_gone_by_operator": 2, "master/tasks_running": 3,
				"master/task_lost/source_slave/reason_executor_terminated": 4, "master/tasks_lost/source_x": 5,
			},
			[]string{
				`mesos_master_task_state_counts_by_source_reason{state="lost",source="slave",reason="executor_terminated"} 4`,
				`mesos_master_task_states_current{state="running"} 3`, `mesos_master_task_states_exit_total{state="errored"} 1`,
				`mesos_master_task_states_exit_total{state="gone_by_operator"} 2`,
			},
		},
		"messages": {
			map[string]float64{
				"master/messages_kill_task": 1, "master/dropped_messages": 2, "master/valid_status_updates": 3,
				"master/invalid_executor_to_framework_messages": 4, "frameworks/k8sm/messages_received": 5,
			},
			[]string{
				`mesos_master_frameworks_messages{framework="k8sm",type="received"} 5`, `mesos_master_messages{type="dropped_messages"} 2`,
				`mesos_master_messages{type="kill_task"} 1`,
				`mesos_master_messages_outcomes_total{source="executor",destination="framework",type="",outcome="invalid"} 4`,
				`mesos_master_messages_outcomes_total{source="framework",destination="slave",type="status_update",outcome="valid"} 3`,
			},
		},
		"roles": {
			map[string]float64{
				"allocator/mesos/roles/*/shares/dominant": 0.5, "allocator/mesos/roles/eng/shares/dominant/shares/dominant": 0.25,
				"allocator/mesos/offer_filters/roles/a/b/active": 7, "allocator/mesos/quota/roles/a/b/resources/cpus/limit": 4,
				"allocator/mesos/quota/roles/a/resources/gpus/guarantee": 1, "allocator/mesos/quota/roles/a/resources/gpus/consumed": 2,
			},
			[]string{
				`mesos_allocator_role_dominant_share{role="*"} 0.5`, `mesos_allocator_role_dominant_share{role="eng/shares/dominant"} 0.25`,
				`mesos_allocator_role_quota_consumed{role="a",resource="gpus"} 2`, `mesos_allocator_role_quota_limit{role="a/b",resource="cpus"} 4`,
				`mesos_master_allocator_offer_filters_active{role="a/b"} 7`, `mesos_master_allocator_role_quota_guarantee{role="a",resource="gpus"} 1`,
				`mesos_master_allocator_role_shares_dominant{role="*"} 0.5`,
				`mesos_master_allocator_role_shares_dominant{role="eng/shares/dominant"} 0.25`,
			},
		},
		"times": {
			map[string]float64{
				"allocator/mesos/allocation_run_ms": 2, "allocator/mesos/allocation_run_ms/p99": 9, "allocator/mesos/allocation_run_ms/count": 70,
				"allocator/mesos/allocation_runs": 80, "registrar/state_store_ms": 3, "registrar/state_fetch_ms": 4, "registrar/log/recovered": 1,
			},
			[]string{
				`mesos_master_allocation_run_ms_count 70`, `mesos_master_allocation_run_ms{type="mean"} 2`, `mesos_master_allocation_run_ms{type="p99"} 9`,
				`mesos_master_allocation_runs{event="allocation"} 80`, "mesos_registrar_log_recovered 1", "mesos_registrar_state_fetch_ms 4",
				`mesos_registrar_state_store_ms{type="mean"} 3`,
			},
		},
		"names of others": {
			map[string]float64{
				"allocator/mesos/offer_filters/roles/\xff/active": 1, "allocator/mesos/offer_filters/roles/\xfe/active": 2,
				"allocator/mesos/offer_filters/roles/a\"}\n/active": 3, "master/nothing": 1, "": 2,
			},
			[]string{`mesos_master_allocator_offer_filters_active{role="a\"}\n"} 3`, `mesos_master_allocator_offer_filters_active{role="�"} 2`},
		},
	} {
		slices.Sort(test.want)
		if diff := cmp.Diff(test.want, lines(Translate(test.master))); diff != "" {
			t.Errorf("%s: want -, got +:\n%s", name, diff)
		}
	}
}

func TestUpSaysWhetherTheMasterAnswered(t *testing.T) {
	if diff := cmp.Diff([]string{"mesos_up 0", "mesos_up 1"}, lines([]Sample{Up(true), Up(false)})); diff != "" {
		t.Error(diff)
	}
}

func TestFamiliesAreWellFormed(t *testing.T) {
	before := ""
	for _, f := range Families() {
		if !regexp.MustCompile(`^mesos_[a-z_]+$`).MatchString(f.Name) || f.Name <= before || !strings.HasSuffix(f.Help, ".") {
			t.Errorf("%s after %s: %q", f.Name, before, f.Help)
		}
		before = f.Name
	}
	for i := range rules {
		for _, s := range rules[i].series {
			if len(s.labels) != len(rules[i].family.Labels) {
				t.Errorf("%s has the labels %q and values %q", rules[i].family.Name, rules[i].family.Labels, s.labels)
			}
		}
		if p := rules[i].pattern; p != nil && p.NumSubexp() != len(rules[i].family.Labels) {
			t.Errorf("%s: %s has other groups than the labels %q", rules[i].family.Name, p, rules[i].family.Labels)
		}
	}
}

// FuzzNames holds that any name that a master sends is translated to valid samples, each once.
func FuzzNames(f *testing.F) {
	for _, seed := range []string{
		"master/cpus_total", "allocator/mesos/roles/*/shares/dominant", "allocator/mesos/quota/roles/a/resources/b/limit",
		"frameworks/\xff/messages_received", "master/task_/source_/reason_", "master/task_a/source_b/source_c/reason_d",
	} {
		f.Add(seed, seed+"/active")
	}
	f.Fuzz(func(t *testing.T, one, other string) {
		seen := map[string]bool{}
		for _, s := range Translate(map[string]float64{one: 1, other: 2, "master/cpus_used": 3}) {
			key := s.Family.Name + fmt.Sprintf("%q", s.Labels)
			if seen[key] || len(s.Labels) != len(s.Family.Labels) || !utf8.ValidString(strings.Join(s.Labels, "")) {
				t.Errorf("%q and %q: %s", one, other, key)
			}
			seen[key] = true
		}
	})
}
