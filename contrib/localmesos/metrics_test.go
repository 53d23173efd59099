package localmesos

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"

	"github.com/k8sm/k8sm/api"
)

// metricsOf returns the metrics that GET_METRICS has, and fails if /metrics/snapshot has others.
func metricsOf(t *testing.T, url string) map[string]float64 {
	t.Helper()
	answer := post(t, url+"/api/v1", object{"type": "GET_METRICS", "get_metrics": object{"timeout": object{"nanoseconds": 10e9}}}, nil)
	list, _ := at(answer, "body", "get_metrics", "metrics").([]any)
	out := map[string]float64{}
	for _, m := range list {
		out[text(m, "name")] = at(m, "value").(float64)
	}
	snapshot, _ := get(t, url+"/metrics/snapshot")["body"].(object)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(out)), slices.Sorted(maps.Keys(snapshot))); diff != "" || len(out) == 0 {
		t.Errorf("GET_METRICS has -, /metrics/snapshot has +:\n%s%v", diff, answer)
	}
	return out
}

func compareMetrics(t *testing.T, what string, got, want map[string]float64) {
	t.Helper()
	some := map[string]float64{}
	for name := range want {
		if value, has := got[name]; has {
			some[name] = value
		}
	}
	if diff := cmp.Diff(want, some); diff != "" {
		t.Errorf("%s: want -, got +:\n%s", what, diff)
	}
}

// TestMetricsAreThoseOfMesos compares them with testdata/metrics.txt, which has the names in Mesos' docs/monitoring.md and in its source.
// Those with a dash are no metrics of the local Mesos, and README.md says so.
func TestMetricsAreThoseOfMesos(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	operatorOf(t, cluster).must("UPDATE_QUOTA", object{"update_quota": object{"quota_configs": []any{object{
		"role": "dev", "guarantees": object{"cpus": object{"value": 1.0}}, "limits": object{"cpus": object{"value": 2.0}},
	}}}})
	f := subscribeWith(t, cluster, func(_, info object) { info["name"], info["roles"] = "a/b c", []any{"dev"} })
	o := f.mustOffer()
	f.accept(o, taskOfRole("t", "dev", o, "exit 1"), taskOfRole("u", "dev", o, "sleep 600"))
	f.mustUpdate("t", "TASK_FAILED")
	f.decline(f.mustOffer(), 3600)
	all := metricsOf(t, masterURL(cluster))
	maps.Copy(all, metricsOf(t, agentURL(cluster)))

	names, err := os.ReadFile("testdata/metrics.txt")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	placeholder := regexp.MustCompile(`<[A-Za-z_]+>`)
	leftOut := readmeMetrics(string(readme))
	known := map[string]bool{}
	for line := range strings.Lines(string(names)) {
		name, absent := strings.CutPrefix(strings.TrimSpace(line), "- ")
		pattern := regexp.MustCompile("^" + placeholder.ReplaceAllString(regexp.QuoteMeta(name), "[^/]+") + "$")
		found := false
		for served := range all {
			if pattern.MatchString(served) {
				found, known[served] = true, true
			}
		}
		if found == absent {
			t.Errorf("%s: served: %t", name, found)
		}
		if listed := leftOut.MatchString(name); listed != absent {
			t.Errorf("%s: README.md lists it among those that are left out: %t", name, listed)
		}
	}
	for name := range all {
		if !known[name] {
			t.Errorf("Mesos has no %s", name)
		}
	}
	for name, want := range map[string]float64{
		"master/frameworks/a%2Fb%20c/" + f.id + "/tasks/terminal/task_failed": 1, "master/frameworks/a%2Fb%20c/" + f.id + "/calls/decline": 1,
		"allocator/mesos/offer_filters/roles/dev/active": 1, "allocator/mesos/quota/roles/dev/resources/cpus/limit": 2,
		"master/task_failed/source_executor/reason_command_executor_failed": 1,
	} {
		compareMetrics(t, name, all, map[string]float64{name: want})
	}
}

// readmeMetrics returns the names that README.md lists as left out.
func readmeMetrics(readme string) *regexp.Regexp {
	_, list, _ := strings.Cut(readme, "These metrics are left out")
	list, _, _ = strings.Cut(list, "\n\n")
	var patterns []string
	for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(list, -1) {
		patterns = append(patterns, strings.ReplaceAll(regexp.QuoteMeta(name[1]), `\*`, ".*"))
	}
	return regexp.MustCompile("^(" + strings.Join(patterns, "|") + ")$")
}

// TestCountsFollowTasks launches real ones.
func TestCountsFollowTasks(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	f := subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	f.accept(o, commandTask("bad", o, "true", func(task object) { task["resources"] = []any{scalarOf("cpus", 99)} }),
		commandTask("finished", o, "true", nil), commandTask("failed", o, "false", nil), commandTask("killed", o, "sleep 600", nil),
		commandTask("running", o, "sleep 600", nil))
	f.accept(o, commandTask("late", o, "true", nil))
	f.mustUpdate("bad", "TASK_ERROR")
	f.mustUpdate("late", "TASK_DROPPED")
	f.mustUpdate("finished", "TASK_FINISHED")
	f.mustUpdate("failed", "TASK_FAILED")
	f.mustUpdate("killed", "TASK_RUNNING")
	f.mustUpdate("running", "TASK_RUNNING")
	f.call("KILL", object{"kill": object{"task_id": named("killed")}})
	f.mustUpdate("killed", "TASK_KILLED")
	f.call("MESSAGE", object{"message": object{"agent_id": o["agent_id"], "executor_id": named("nobody"), "data": "eA=="}})
	f.call("ACKNOWLEDGE", object{"acknowledge": object{"agent_id": o["agent_id"], "task_id": named("t"), "uuid": "eA=="}})
	eventually(t, "the agent has no task but one", func() bool {
		return metricsOf(t, agentURL(cluster))["slave/invalid_framework_messages"] == 1
	})
	master := metricsOf(t, masterURL(cluster))
	compareMetrics(t, "the master", master, map[string]float64{
		"master/elected": 1, "master/slaves_connected": 1, "master/slaves_active": 1, "master/slaves_inactive": 0, "master/slaves_disconnected": 0,
		"master/slaves_unreachable": 0, "master/slave_registrations": 1, "master/slave_reregistrations": 0, "master/slave_removals": 0,
		"master/frameworks_connected": 1, "master/frameworks_active": 1, "master/frameworks_disconnected": 0,
		"master/tasks_running": 1, "master/tasks_staging": 0, "master/tasks_starting": 0, "master/tasks_unreachable": 0,
		"master/tasks_finished": 1, "master/tasks_failed": 1, "master/tasks_killed": 1, "master/tasks_error": 1, "master/tasks_dropped": 1, "master/tasks_lost": 0,
		"master/task_error/source_master/reason_task_invalid": 1, "master/task_dropped/source_master/reason_invalid_offers": 1,
		"master/messages_launch_tasks": 2, "master/messages_kill_task": 1, "master/messages_register_framework": 1, "master/messages_register_slave": 1,
		"master/messages_framework_to_executor": 1, "master/valid_framework_to_executor_messages": 1,
		"master/valid_status_update_acknowledgements": 11, "master/invalid_status_update_acknowledgements": 1,
		"master/valid_status_updates": 11, "master/invalid_status_updates": 0,
		"master/cpus_total": 4, "master/cpus_used": 0.1, "master/cpus_percent": 0.025, "master/mem_used": 32, "master/gpus_total": 0, "master/gpus_percent": 0,
		"allocator/mesos/resources/cpus/total": 4,
	})
	prefix := "master/frameworks/contract/" + f.id + "/"
	compareMetrics(t, "the framework", master, map[string]float64{
		prefix + "subscribed": 1, prefix + "operations/launch": 4, prefix + "operations": 4, prefix + "tasks/active/task_running": 1,
		prefix + "tasks/terminal/task_finished": 1, prefix + "tasks/terminal/task_killed": 1, prefix + "calls/accept": 2, prefix + "calls/kill": 1,
		prefix + "calls/subscribe": 1, prefix + "events/subscribed": 1, prefix + "offers/accepted": 1, prefix + "roles/*/suppressed": 0,
	})
	compareMetrics(t, "the agent", metricsOf(t, agentURL(cluster)), map[string]float64{
		"slave/registered": 1, "slave/frameworks_active": 1, "slave/tasks_running": 1, "slave/tasks_finished": 1, "slave/tasks_failed": 1,
		"slave/tasks_killed": 1, "slave/executors_running": 1, "slave/executors_terminated": 3, "slave/valid_status_updates": 11,
		"slave/cpus_total": 4, "slave/cpus_used": 0.1, "slave/mem_used": 32, "slave/recovery_errors": 0, "slave/container_launch_errors": 0,
	})
}

func TestFetchesAndFailedLaunchesAreCounted(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	f := subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	with := func(uri string) func(object) {
		return func(task object) { task["command"].(object)["uris"] = []any{named(uri)} }
	}
	f.accept(o, commandTask("fetched", o, "true", with("/etc/passwd")), commandTask("missing", o, "true", with("/no/such/file")))
	f.mustUpdate("fetched", "TASK_FINISHED")
	f.mustUpdate("missing", "TASK_FAILED")
	compareMetrics(t, "the agent", metricsOf(t, agentURL(cluster)), map[string]float64{
		"containerizer/fetcher/task_fetches_succeeded": 1, "containerizer/fetcher/task_fetches_failed": 1, "slave/container_launch_errors": 1,
	})
}

// TestCountsFollowAgents steps a master through what becomes of agents.
func TestCountsFollowAgents(t *testing.T) {
	s := newScript(t)
	s.framework("a", 3600, "x")
	s.m.frameworks["m-0000"].info.Capabilities = s.m.frameworks["m-0000"].info.Capabilities[:1] // not PARTITION_AWARE
	s.framework("b", 3600, "y/z")
	s.m.frameworks["m-0000"].info.ID = &mesos.FrameworkID{Value: "m-0000"}
	for i, stream := range []string{"a", "b"} {
		s.agent(i, "cpus:4;mem:1000;disk:100")
		offers, _ := s.take(stream)
		s.launch(stream, offers[0], "t"+stream, "cpus:1;mem:500", 3600)
	}
	check := func(what string, want map[string]float64) { t.Helper(); compareMetrics(t, what, s.m.metrics(), want) }
	check("after the launch", map[string]float64{
		"master/slaves_active": 2, "master/tasks_staging": 2, "master/mem_used": 1000, "master/mem_percent": 0.5, "master/outstanding_offers": 0,
		"allocator/mesos/roles/x/shares/dominant": 0.25, "allocator/mesos/roles/y/z/shares/dominant": 0.25,
		"allocator/mesos/resources/mem/total": 2000, "allocator/mesos/resources/mem/offered_or_allocated": 1000, "allocator/mesos/resources/disk/total": 200,
		"allocator/mesos/offer_filters/roles/x/active": 1, "allocator/mesos/quota/roles/y/resources/mem/consumed": 500, "master/uptime_secs": 0,
	})
	for _, id := range []api.AgentID{"m-S0", "m-S1"} {
		s.step(agentGone{id})
	}
	check("disconnected", map[string]float64{"master/slaves_disconnected": 2, "master/slaves_inactive": 2, "master/slaves_connected": 0, "master/tasks_lost": 0})
	s.pass(76 * time.Second)
	check("unreachable", map[string]float64{
		"master/slaves_unreachable": 2, "master/slaves_disconnected": 0, "master/slave_removals": 2, "master/slave_removals/reason_unhealthy": 2,
		"master/slave_unreachable_scheduled": 2, "master/slave_unreachable_completed": 2, "master/slave_unreachable_canceled": 0,
		"master/tasks_unreachable": 1, "master/tasks_lost": 1, "master/tasks_staging": 0, "master/cpus_total": 0, "master/cpus_percent": 0,
		"master/task_lost/source_master/reason_slave_removed": 1, "master/task_unreachable/source_master/reason_slave_removed": 1,
		"allocator/mesos/roles/x/shares/dominant": 0, "master/uptime_secs": 76,
	})
	s.returns(0, "m-S0", "cpus:4;mem:1000;disk:100", "m-0000", "ta", "cpus:1;mem:500")
	check("one is back", map[string]float64{
		"master/slaves_unreachable": 1, "master/slaves_active": 1, "master/slave_registrations": 2, "master/slave_reregistrations": 1,
		"master/messages_reregister_slave": 1, "master/tasks_staging": 1, "master/cpus_used": 1, "allocator/mesos/roles/x/shares/dominant": 0.5,
	})
	s.call("a", scheduler.Call{Type: scheduler.Call_TEARDOWN})
	check("without its framework", map[string]float64{
		"master/messages_unregister_framework": 1, "master/tasks_killed": 1, "master/task_killed/source_master/reason_framework_removed": 1,
		"master/frameworks_connected": 1, "master/cpus_used": 0, "master/tasks_staging": 0,
	})
	if _, has := s.m.metrics()["allocator/mesos/roles/x/shares/dominant"]; has {
		t.Error("a role without frameworks has a share")
	}
	for name := range s.m.metrics() {
		if strings.Contains(name, "/m-0000/") {
			t.Errorf("a framework that was removed has %s", name)
		}
	}
}

// launch accepts an offer for one task, and refuses the rest for these seconds.
func (s *script) launch(stream string, o mesos.Offer, task, resources string, refuse float64) {
	s.t.Helper()
	info := mesos.TaskInfo{
		TaskID: mesos.TaskID{Value: task}, AgentID: o.AgentID, Command: &mesos.CommandInfo{},
		Resources: mustPool(s.t, resources).allocated(o.GetAllocationInfo().GetRole()).messages(withRole),
	}
	s.call(stream, scheduler.Call{Type: scheduler.Call_ACCEPT, Accept: &scheduler.Call_Accept{
		OfferIDs: []mesos.OfferID{o.ID}, Filters: &mesos.Filters{RefuseSeconds: &refuse},
		Operations: []mesos.Offer_Operation{{Type: mesos.Offer_Operation_LAUNCH, Launch: &mesos.Offer_Operation_Launch{TaskInfos: []mesos.TaskInfo{info}}}},
	}})
}

// returns lets an agent register again, with a staging task.
func (s *script) returns(number int, id, resources, framework, task, uses string) {
	s.t.Helper()
	port := int32(5051 + number)
	f := s.m.frameworks[api.FrameworkID(framework)]
	info := mesos.TaskInfo{
		TaskID: mesos.TaskID{Value: task}, AgentID: mesos.AgentID{Value: id}, Resources: mustPool(s.t, uses).allocated(f.roles()[0]).messages(withRole),
	}
	s.step(fromAgent{address: fmt.Sprint(number), message: register{
		info: mesos.AgentInfo{
			ID: &mesos.AgentID{Value: id}, Hostname: "laptop", Port: &port, Resources: mustPool(s.t, resources).messages(withReservations),
		},
		frameworks: []mesos.FrameworkInfo{f.info},
		tasks: []agentTask{{framework: f.id, info: info, latest: mesos.TaskStatus{
			TaskID: info.TaskID, AgentID: &info.AgentID, State: mesos.TASK_STAGING.Enum(),
		}}},
	}})
}

// TestTaskThatEndsIsCountedOnce repeats its update, and has an earlier one that waited.
func TestTaskThatEndsIsCountedOnce(t *testing.T) {
	s := newScript(t)
	s.framework("a", 0, "*")
	s.agent(0, "cpus:2;mem:512")
	offers, _ := s.take("a")
	s.launch("a", offers[0], "t", "cpus:1", 0)
	running := commandStatus(mesos.TASK_RUNNING, "")
	running.TaskID, running.UUID = mesos.TaskID{Value: "t"}, []byte("another16bytes..")
	for _, status := range []mesos.TaskStatus{running, finished("t"), finished("t")} {
		s.step(fromAgent{agent: "m-S0", message: update{framework: "m-0000", status: status, latest: finished("t")}})
	}
	compareMetrics(t, "after three updates", s.m.metrics(), map[string]float64{
		"master/tasks_finished": 1, "master/messages_status_update": 3, "master/valid_status_updates": 3,
		"master/frameworks/a/m-0000/tasks/terminal/task_finished": 1, "master/tasks_running": 0,
	})
	s.step(fromAgent{agent: "m-S7", message: update{framework: "m-0000", status: running, latest: running}})
	s.step(fromAgent{agent: "m-S0", message: update{framework: "m-0007", status: running, latest: running}})
	compareMetrics(t, "of strangers", s.m.metrics(), map[string]float64{"master/messages_status_update": 5, "master/invalid_status_updates": 2})
}

func TestPercentilesAreOfTheLastTimes(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	out := metrics{}
	history := timing{window: time.Minute}
	out.timing("x", &history)
	if len(out) > 0 {
		t.Errorf("before the first: %v", out)
	}
	history.add(now, time.Hour)
	out.timing("x", &history)
	if diff := cmp.Diff(metrics{"x": 3.6e6}, out); diff != "" {
		t.Error(diff)
	}
	now = now.Add(2 * time.Minute)
	for i := range 101 {
		history.add(now, time.Duration(i)*time.Millisecond)
	}
	out = metrics{}
	out.timing("x", &history)
	want := metrics{
		"x": 100, "x/count": 101, "x/min": 0, "x/max": 100, "x/p50": 50, "x/p90": 90, "x/p95": 95, "x/p99": 99, "x/p999": 99.9, "x/p9999": 99.99,
	}
	if diff := cmp.Diff(want, out, cmp.Comparer(func(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 })); diff != "" {
		t.Error(diff)
	}
	last := timing{}
	for i := range 3 * timesKept {
		history.add(now, 0)
		last.add(now, time.Duration(i))
	}
	if len(history.values) != timesKept || len(last.values) != 1 {
		t.Errorf("%d and %d times are kept", len(history.values), len(last.values))
	}
}

// TestBusyMasterAnswersInTime asks a master that does not come to it.
func TestBusyMasterAnswersInTime(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	release, blocked := make(chan struct{}), make(chan struct{})
	go cluster.master.owner.look(func() { close(blocked); <-release })
	<-blocked
	defer close(release)
	for _, nanoseconds := range []int64{50e6, 0, -1} {
		call := object{"type": "GET_METRICS", "get_metrics": object{"timeout": object{"nanoseconds": nanoseconds}}}
		answer := post(t, masterURL(cluster)+"/api/v1", call, nil)
		var names []string
		list, _ := at(answer, "body", "get_metrics", "metrics").([]any)
		for _, m := range list {
			names = append(names, text(m, "name"))
		}
		if !slices.Contains(names, "system/cpus_total") || slices.Contains(names, "master/uptime_secs") {
			t.Errorf("%d ns: %v", nanoseconds, answer)
		}
	}
	snapshot, _ := get(t, masterURL(cluster)+"/metrics/snapshot?timeout=50ms")["body"].(object)
	if _, has := snapshot["master/uptime_secs"]; has || snapshot["system/cpus_total"] == nil {
		t.Errorf("/metrics/snapshot: %v", snapshot)
	}
}

// counting is a machine that takes any event.
type counting struct{}

func (counting) step(time.Time, event) []action { return nil }
func (counting) wake() time.Time                { return time.Time{} }

func TestEventQueueIsWhatWaits(t *testing.T) {
	o := newOwner(counting{}, func(action) {})
	for range 3 {
		o.post(fromAgent{})
	}
	var got [3]int
	o.inbox.put(envelope{look: func() {
		o.post(tick{})
		got[0], got[1], got[2] = o.queue()
	}, answer: make(chan answer, 1)})
	o.post(fromAgent{})
	o.post(streamClosed{})
	seen := make(chan bool)
	go func() { seen <- o.look(func() {}) }()
	eventually(t, "all is in the queue", func() bool { return len(o.inbox.peek()) == 7 })
	go o.run()
	<-seen
	o.end()
	if want := [3]int{1, 1, 2}; got != want {
		t.Errorf("messages, requests and others that wait: %v, want %v", got, want)
	}
}

func TestSnapshotsAreTwoASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handler := snapshotHandler(newSnapshotLimit(), func(context.Context, time.Duration) metrics { return metrics{"x": 1} })
		began := time.Now()
		for range 5 {
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics/snapshot", nil))
			if w.Body.String() != `{"x":1.0}` || w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("five took %s", took)
		}
	})
}

func TestTimeoutOfSnapshot(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"5secs": 5 * time.Second, "2.5mins": 150 * time.Second, "1weeks": 7 * 24 * time.Hour, "10ns": 10, "3ms": 3 * time.Millisecond, "-1secs": -time.Second,
	} {
		if got, err := parseMesosDuration(text); err != nil || got != want {
			t.Errorf("%s is %s (%v), want %s", text, got, err, want)
		}
	}
	handler := snapshotHandler(newSnapshotLimit(), func(context.Context, time.Duration) metrics { return nil })
	for _, text := range []string{"", "5", "secs", "5 parsecs", "nansecs", "1e300weeks", "0x", "5s"} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/metrics/snapshot", nil)
		r.URL.RawQuery = "timeout=" + strings.ReplaceAll(text, " ", "+")
		handler.ServeHTTP(w, r)
		if w.Code != http.StatusBadRequest || !strings.HasPrefix(w.Body.String(), "Invalid timeout '"+text+"': ") {
			t.Errorf("%q: %d %s", text, w.Code, w.Body)
		}
	}
}
