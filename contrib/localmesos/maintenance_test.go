package localmesos

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// operator makes calls of the operator API.
type operator struct {
	t    *testing.T
	root string
}

func operatorOf(t *testing.T, c *Cluster) operator { return operator{t, "http://" + c.MasterAddr()} }

func (o operator) call(kind string, fields object) object {
	o.t.Helper()
	call := object{"type": kind}
	for k, v := range fields {
		call[k] = v
	}
	return post(o.t, o.root+"/api/v1", call, nil)
}

func (o operator) must(kind string, fields object) {
	o.t.Helper()
	if r := o.call(kind, fields); r["status"] != http.StatusOK {
		o.t.Fatalf("%s: %v", kind, r)
	}
}

var laptop = object{"hostname": "LapTop", "ip": "127.0.0.1"}

func schedule(start time.Time, machines ...any) object {
	return object{"schedule": object{"windows": []any{object{
		"machine_ids":    machines,
		"unavailability": object{"start": object{"nanoseconds": start.UnixNano()}, "duration": object{"nanoseconds": int64(time.Hour)}},
	}}}}
}

func (o operator) schedule(start time.Time) {
	o.t.Helper()
	o.must("UPDATE_MAINTENANCE_SCHEDULE", object{"update_maintenance_schedule": schedule(start, laptop)})
}

// answers returns the frameworks' latest answers to inverse offers.
func (o operator) answers() (answers []string) {
	o.t.Helper()
	status := at(o.call("GET_MAINTENANCE_STATUS", nil), "body", "get_maintenance_status", "status")
	machines, _ := at(status, "draining_machines").([]any)
	for _, m := range machines {
		statuses, _ := at(m, "statuses").([]any)
		for _, s := range statuses {
			answers = append(answers, text(s, "status"))
		}
	}
	return answers
}

func (f *testFramework) mustInverse() object {
	f.t.Helper()
	e := f.stream.next(patience, ofType("INVERSE_OFFERS"))
	offers, _ := at(e, "inverse_offers", "inverse_offers").([]any)
	if len(offers) == 0 {
		f.t.Fatalf("no inverse offer came: %v", e)
	}
	return offers[0].(object)
}

func (f *testFramework) answerInverse(kind string, offer object, refuse float64) {
	f.t.Helper()
	r := f.call(kind, object{strings.ToLower(kind): object{
		"inverse_offer_ids": []any{offer["id"]}, "filters": object{"refuse_seconds": refuse},
	}})
	if r["status"] != http.StatusAccepted {
		f.t.Fatalf("%s: %v", kind, r)
	}
}

func TestScheduledMachineGetsUnavailabilityAndInverseOffers(t *testing.T) {
	config := testConfig(t)
	config.AllocationInterval = 20 * time.Millisecond
	c := startCluster(t, config)
	o, f := operatorOf(t, c), subscribeWith(t, c, nil)
	before := f.mustOffer()
	if at(before, "unavailability") != nil {
		t.Errorf("nothing was planned, but the offer is %v", before)
	}
	o.schedule(time.Now().Add(time.Hour))
	rescinded := f.stream.next(patience, ofType("RESCIND"))
	if text(rescinded, "rescind", "offer_id", "value") != text(before, "id", "value") {
		t.Errorf("rescinded: %v", rescinded)
	}
	if during := f.mustOffer(); at(during, "unavailability", "duration", "nanoseconds") != float64(time.Hour) {
		t.Errorf("the new offer is %v", during)
	}
	first := f.mustInverse()
	if len(o.answers()) != 0 {
		t.Errorf("unanswered, it is shown as %v", o.answers())
	}
	f.answerInverse("DECLINE_INVERSE_OFFERS", first, 0)
	if got := o.answers(); len(got) != 1 || got[0] != "DECLINE" {
		t.Errorf("declined, it is shown as %v", got)
	}
	second := f.mustInverse()
	f.answerInverse("ACCEPT_INVERSE_OFFERS", second, 3600)
	if got := o.answers(); len(got) != 1 || got[0] != "ACCEPT" {
		t.Errorf("accepted, it is shown as %v", got)
	}
	o.schedule(time.Now().Add(2 * time.Hour)) // another time removes the filter
	third := f.mustInverse()
	o.must("UPDATE_MAINTENANCE_SCHEDULE", object{"update_maintenance_schedule": object{"schedule": object{}}})
	e := f.stream.next(patience, ofType("RESCIND_INVERSE_OFFER"))
	if text(e, "rescind_inverse_offer", "inverse_offer_id", "value") != text(third, "id", "value") {
		t.Errorf("rescinded: %v", e)
	}
	eventually(t, "offers without unavailability", func() bool { return at(f.mustOffer(), "unavailability") == nil })
}

func TestMachineTakenDownLosesItsAgentUntilItIsUp(t *testing.T) {
	config := testConfig(t)
	config.AllocationInterval = 20 * time.Millisecond
	c := startCluster(t, config)
	o, f := operatorOf(t, c), subscribeWith(t, c, nil)
	offer := f.mustOffer()
	old := text(offer, "agent_id", "value")
	f.accept(offer, commandTask("t", offer, "sleep 1000", nil))
	f.mustUpdate("t", "TASK_RUNNING")
	o.schedule(time.Now())
	machines := object{"machines": []any{laptop}}
	o.must("START_MAINTENANCE", object{"start_maintenance": machines})
	if u := f.mustUpdate("t", "TASK_GONE"); text(u, "update", "status", "reason") != "REASON_AGENT_REMOVED" {
		t.Errorf("the task: %v", u)
	}
	if e := f.stream.next(patience, ofType("FAILURE")); text(e, "failure", "agent_id", "value") != old {
		t.Errorf("the agent: %v", e)
	}
	if down := at(o.call("GET_MAINTENANCE_STATUS", nil), "body", "get_maintenance_status", "status", "down_machines"); down == nil {
		t.Error("no machine is shown as down")
	}
	c.KillMaster()
	if err := c.RestartMaster(); err != nil {
		t.Fatal(err)
	}
	if down := at(get(t, o.root+"/maintenance/status"), "body", "down_machines"); down == nil {
		t.Error("a master that was restarted does not know which machines are down")
	}
	o.must("STOP_MAINTENANCE", object{"stop_maintenance": machines})
	f = subscribeAs(t, c, f.id)
	if again := f.mustOffer(); text(again, "agent_id", "value") == old || at(again, "unavailability") != nil {
		t.Errorf("after maintenance: %v", again)
	}
}

func TestDrainedAgentHasNoTasksOrOffersUntilReactivated(t *testing.T) {
	config := testConfig(t)
	config.AllocationInterval = 20 * time.Millisecond
	c := startCluster(t, config)
	o, f := operatorOf(t, c), subscribeWith(t, c, nil)
	offer := f.mustOffer()
	stubborn := func(task object) {
		task["kill_policy"] = object{"grace_period": object{"nanoseconds": int64(time.Hour)}}
	}
	f.accept(offer, commandTask("t", offer, "trap '' TERM; sleep 1000", stubborn))
	f.mustUpdate("t", "TASK_RUNNING")
	id := object{"agent_id": offer["agent_id"]}
	o.must("DRAIN_AGENT", object{"drain_agent": object{"agent_id": offer["agent_id"], "max_grace_period": object{"seconds": 1}}})
	state := func() (string, any) {
		agents, _ := at(o.call("GET_AGENTS", nil), "body", "get_agents", "agents").([]any)
		return text(agents[0], "drain_info", "state"), at(agents[0], "deactivated")
	}
	if got, deactivated := state(); got != "DRAINING" || deactivated != true {
		t.Errorf("it is shown as %q, %v", got, deactivated)
	}
	if r := o.call("REACTIVATE_AGENT", object{"reactivate_agent": id}); r["body"] != "Agent is still in the DRAINING state\n" {
		t.Errorf("reactivated too early: %v", r)
	}
	if u := f.mustUpdate("t", "TASK_KILLED"); text(u, "update", "status", "reason") != "REASON_AGENT_DRAINING" {
		t.Errorf("the task: %v", u)
	}
	eventually(t, "drained", func() bool { got, _ := state(); return got == "DRAINED" })
	if f.offer(300*time.Millisecond) != nil {
		t.Error("a drained agent makes offers")
	}
	o.must("REACTIVATE_AGENT", object{"reactivate_agent": id})
	f.mustOffer()
	if got, deactivated := state(); got != "" || deactivated != false {
		t.Errorf("reactivated, it is shown as %q, %v", got, deactivated)
	}
}

func TestReactivatedAgentDropsLaunchesUntilDrainedExecutorsHaveEnded(t *testing.T) {
	t.Parallel()
	c := startCluster(t, testConfig(t))
	o, f := operatorOf(t, c), subscribeWith(t, c, nil)
	agent := object{"agent_id": runExecutorTask(t, f, "t", "x")}
	o.must("DRAIN_AGENT", object{"drain_agent": agent})
	f.mustUpdate("t", "TASK_KILLED")
	eventually(t, "drained", func() bool {
		agents, _ := at(o.call("GET_AGENTS", nil), "body", "get_agents", "agents").([]any)
		return text(agents[0], "drain_info", "state") == "DRAINED"
	})
	o.must("REACTIVATE_AGENT", object{"reactivate_agent": agent})
	f.call("REVIVE", nil)
	offer := f.mustOffer()
	f.accept(offer, commandTask("u", offer, "sleep 1000", nil))
	if u := f.mustUpdate("u", "TASK_DROPPED"); text(u, "update", "status", "reason") != "REASON_AGENT_DRAINING" {
		t.Errorf("the launch: %v", u)
	}
	f.call("SHUTDOWN", object{"shutdown": object{"agent_id": agent["agent_id"], "executor_id": named("x")}})
	f.stream.next(patience, ofType("FAILURE"))
	offer = f.mustOffer()
	f.accept(offer, commandTask("v", offer, "sleep 1000", nil))
	f.mustUpdate("v", "TASK_RUNNING")
}

func TestAgentDrainedWithMarkGoneIsGone(t *testing.T) {
	c := startCluster(t, testConfig(t))
	o, f := operatorOf(t, c), subscribeWith(t, c, nil)
	offer := f.mustOffer()
	f.accept(offer, commandTask("t", offer, "sleep 1000", nil))
	f.mustUpdate("t", "TASK_RUNNING")
	o.must("DRAIN_AGENT", object{"drain_agent": object{"agent_id": offer["agent_id"], "mark_gone": true}})
	if u := f.mustUpdate("t", "TASK_GONE_BY_OPERATOR"); text(u, "update", "status", "reason") != "REASON_AGENT_DRAINING" {
		t.Errorf("the task: %v", u)
	}
	if e := f.stream.next(patience, ofType("FAILURE")); text(e, "failure", "agent_id", "value") != text(offer, "agent_id", "value") {
		t.Errorf("the agent: %v", e)
	}
}

func TestDeactivatedAgentMakesNoOffersAndKeepsItsTasks(t *testing.T) {
	config := testConfig(t)
	config.AllocationInterval = 20 * time.Millisecond
	c := startCluster(t, config)
	o, f := operatorOf(t, c), subscribeWith(t, c, nil)
	offer := f.mustOffer()
	f.accept(offer, commandTask("t", offer, "sleep 1000", nil))
	f.mustUpdate("t", "TASK_RUNNING")
	f.mustOffer() // the rest
	id := object{"agent_id": offer["agent_id"]}
	o.must("DEACTIVATE_AGENT", object{"deactivate_agent": id})
	if e := f.stream.next(patience, ofType("RESCIND")); at(e, "none") != nil {
		t.Errorf("its offer was not rescinded: %v", e)
	}
	f.call("REVIVE", nil)
	if f.offer(300*time.Millisecond) != nil {
		t.Error("it makes offers")
	}
	if u := f.update("t", 0); at(u, "none") == nil {
		t.Errorf("its task: %v", u)
	}
	o.must("REACTIVATE_AGENT", object{"reactivate_agent": id})
	f.mustOffer()
}

func TestInvalidMaintenanceCallsAreRefusedWithMesosMessage(t *testing.T) {
	c := startCluster(t, testConfig(t))
	o := operatorOf(t, c)
	nobody, list := object{"agent_id": named("nobody")}, object{"machines": []any{laptop}}
	negative := schedule(time.Now(), laptop)
	window := at(negative, "schedule", "windows").([]any)[0]
	at(window, "unavailability").(object)["duration"] = object{"nanoseconds": -1}
	update := func(plan object) object { return object{"update_maintenance_schedule": plan} }
	for _, test := range []struct {
		kind   string
		fields object
		want   string
	}{
		{"UPDATE_MAINTENANCE_SCHEDULE", nil, "Expecting 'update_maintenance_schedule' to be present"},
		{"UPDATE_MAINTENANCE_SCHEDULE", update(schedule(time.Now())), "List of machines in the maintenance window is empty"},
		{"UPDATE_MAINTENANCE_SCHEDULE", update(schedule(time.Now(), laptop, laptop)), "appears more than once in the schedule"},
		{"UPDATE_MAINTENANCE_SCHEDULE", update(schedule(time.Now(), object{})), "Both 'hostname' and 'ip' for a machine are empty"},
		{"UPDATE_MAINTENANCE_SCHEDULE", update(schedule(time.Now(), object{"ip": "one"})), "Failed to parse IPv4: one"},
		{"UPDATE_MAINTENANCE_SCHEDULE", update(negative), "Unavailability 'duration' is negative"},
		{"START_MAINTENANCE", object{"start_maintenance": object{}}, "List of machines is empty"},
		{"START_MAINTENANCE", object{"start_maintenance": list}, `Machine '{"hostname":"LapTop","ip":"127.0.0.1"}' is not part of a maintenance schedule`},
		{"STOP_MAINTENANCE", object{"stop_maintenance": list}, "is not part of a maintenance schedule"},
		{"DRAIN_AGENT", object{"drain_agent": nobody}, "Unknown agent"},
		{"DRAIN_AGENT", object{"drain_agent": object{"agent_id": named("x"), "max_grace_period": object{"seconds": -1}}}, "non-negative"},
		{"DEACTIVATE_AGENT", object{"deactivate_agent": nobody}, "Unknown agent"},
		{"REACTIVATE_AGENT", object{"reactivate_agent": nobody}, "Agent is not deactivated"},
	} {
		r := o.call(test.kind, test.fields)
		if body, _ := r["body"].(string); r["status"] != http.StatusBadRequest || !strings.Contains(body, test.want) {
			t.Errorf("%s %v: %v, want %q", test.kind, test.fields, r, test.want)
		}
	}
	o.schedule(time.Now())
	for kind, want := range map[string]string{
		"STOP_MAINTENANCE": "is not in DOWN mode and cannot be brought up", "DRAIN_AGENT": "is part of a maintenance schedule",
	} {
		agent := object{"agent_id": named(string(c.AgentIDs()[0]))}
		r := o.call(kind, object{"stop_maintenance": list, "drain_agent": agent})
		if body, _ := r["body"].(string); r["status"] != http.StatusBadRequest || !strings.Contains(body, want) {
			t.Errorf("%s: %v, want %q", kind, r, want)
		}
	}
	o.must("START_MAINTENANCE", object{"start_maintenance": list})
	r := o.call("UPDATE_MAINTENANCE_SCHEDULE", update(object{"schedule": object{}}))
	if body, _ := r["body"].(string); !strings.Contains(body, "is deactivated and cannot be removed from the schedule") {
		t.Errorf("a machine that is down was taken out of the schedule: %v", r)
	}
}

func TestEndpointsForMaintenanceDoWhatTheOperatorCallsDo(t *testing.T) {
	c := startCluster(t, testConfig(t))
	root := "http://" + c.MasterAddr() + "/master"
	plan := at(schedule(time.Now(), laptop), "schedule").(object)
	if r := post(t, root+"/maintenance/schedule", plan, nil); r["status"] != http.StatusOK {
		t.Fatal(r)
	}
	if windows, _ := at(get(t, root+"/maintenance/schedule"), "body", "windows").([]any); len(windows) != 1 {
		t.Errorf("%d windows", len(windows))
	}
	list := func(r *http.Request) {
		body := `[{"hostname":"laptop","ip":"127.0.0.1"}]`
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}
	for _, path := range []string{"/machine/down", "/machine/up"} {
		if r := post(t, root+path, nil, list); r["status"] != http.StatusOK {
			t.Errorf("%s: %v", path, r)
		}
	}
	if r := post(t, root+"/machine/up", nil, nil); r["status"] != http.StatusBadRequest {
		t.Errorf("no list: %v", r)
	}
}
