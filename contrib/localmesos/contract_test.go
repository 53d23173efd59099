package localmesos

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// contract is one case recorded from a real Mesos.
type contract struct {
	*recorder
	t       *testing.T
	cluster *Cluster
}

func (c contract) framework() *testFramework { return subscribeWith(c.t, c.cluster, nil) }

// TestAnswersAsRecordedFromApacheMesos replays every recorded case on a new cluster.
func TestAnswersAsRecordedFromApacheMesos(t *testing.T) {
	t.Parallel()
	cases := map[string]func(contract){
		"http_errors": httpErrors, "subscribe_errors": subscribeErrors, "teardown_then_subscribe": teardownThenSubscribe,
		"failover": failoverCase, "offer_shape": offerShape, "heartbeat": heartbeatCase, "decline_refuse_revive": declineRefuseRevive,
		"suppress": suppressCase, "decline_twice": declineTwice, "launch_command_task": launchCommandTask,
		"unacknowledged_update_is_resent": unacknowledgedUpdateIsResent, "rest_of_the_offer_returns": restOfTheOfferReturns,
		"launch_refusals": launchRefusals, "used_offer_and_used_task_id": usedOfferAndUsedTaskID, "kill_and_reconcile": killAndReconcile,
		"executor_life": executorLife, "executor_dies": executorDies, "executor_killed_while_running": executorKilledWhileRunning,
		"endpoints": endpoints,
	}
	recorded, err := filepath.Glob(filepath.Join("testdata", "recorded", "*.json"))
	if err != nil || len(recorded) != len(cases) {
		t.Fatalf("%d recordings for %d cases: %v", len(recorded), len(cases), err)
	}
	for name, play := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := contract{recorder: &recorder{}, t: t, cluster: startCluster(t, testConfig(t))}
			play(c)
			c.compare(t, name)
		})
	}
}

func httpErrors(c contract) {
	f := c.framework()
	c.log("SUBSCRIBED", f.subscribed)
	c.log("Mesos-Stream-Id is a uuid", regexp.MustCompile(`^[0-9a-f-]{36}$`).MatchString(f.stream.id))
	good := object{"type": "REVIVE", "framework_id": named(f.id)}
	send := func(what string, call object, change func(*http.Request)) {
		c.log(what, post(c.t, f.url, call, func(r *http.Request) {
			r.Header.Set("Mesos-Stream-Id", f.stream.id)
			if change != nil {
				change(r)
			}
		}))
	}
	raw := func(body string) func(*http.Request) {
		return func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(bytes.NewBufferString(body)), int64(len(body))
		}
	}
	header := func(name, content string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Del(name)
			if content != "" {
				r.Header.Set(name, content)
			}
		}
	}
	send("a good call", good, nil)
	send("GET", nil, func(r *http.Request) { r.Method = http.MethodGet })
	send("not JSON", nil, raw("{nope"))
	send("empty body", nil, raw(""))
	send("no content type", good, header("Content-Type", ""))
	send("unknown content type", good, header("Content-Type", "text/plain"))
	send("unknown accept", good, header("Accept", "text/plain"))
	send("no stream id", good, header("Mesos-Stream-Id", ""))
	send("wrong stream id", good, header("Mesos-Stream-Id", "00000000-0000-0000-0000-000000000000"))
	send("no type", object{"framework_id": named(f.id)}, nil)
	send("unknown type", object{"type": "DANCE", "framework_id": named(f.id)}, nil)
	send("type without its field", object{"type": "KILL", "framework_id": named(f.id)}, nil)
	send("no framework id", object{"type": "REVIVE"}, nil)
	send("unknown framework", object{"type": "REVIVE", "framework_id": named("nobody-0000")}, nil)
}

func subscribeErrors(c contract) {
	multiRole := []any{object{"type": "MULTI_ROLE"}}
	replace := func(with object) func(call, info object) {
		return func(_, info object) {
			clear(info)
			maps.Copy(info, object{"name": "x", "user": "root"})
			maps.Copy(info, with)
		}
	}
	c.log("no framework_info", subscribeWith(c.t, c.cluster, func(call, _ object) { call["subscribe"] = object{} }).subscribed)
	c.log("no roles, no MULTI_ROLE", subscribeWith(c.t, c.cluster, replace(nil)).subscribed)
	c.log("role with MULTI_ROLE", subscribeWith(c.t, c.cluster, replace(object{"role": "a", "capabilities": multiRole})).subscribed)
	c.log("a role with a space", subscribeWith(c.t, c.cluster, replace(object{"roles": []any{"bad role"}, "capabilities": multiRole})).subscribed)
	c.log("two framework ids that differ", subscribeWith(c.t, c.cluster, func(call, info object) {
		replace(object{"id": named("b"), "roles": []any{"*"}, "capabilities": multiRole})(call, info)
		call["framework_id"] = named("a")
	}).subscribed)
}

func teardownThenSubscribe(c contract) {
	f := c.framework()
	c.log("TEARDOWN", f.call("TEARDOWN", nil))
	c.log("the stream afterwards", f.stream.next(3*time.Second, ofType()))
	again := subscribeAs(c.t, c.cluster, f.id)
	c.log("SUBSCRIBE again", again.subscribed)
	c.log("then", again.stream.next(2*time.Second, ofType()))
}

func failoverCase(c contract) {
	a := c.framework()
	o := a.offer(patience)
	c.log("an offer came", o != nil)
	b := subscribeAs(c.t, c.cluster, a.id)
	c.log("second SUBSCRIBED", b.subscribed)
	c.log("first gets", a.stream.next(4*time.Second, ofType("ERROR")))
	c.log("first's call", a.call("REVIVE", nil))
	o2 := b.offer(patience)
	c.log("the second gets an offer with a new id", o2 != nil && text(o2, "id", "value") != text(o, "id", "value"))
}

func offerShape(c contract) {
	f := c.framework()
	c.log("OFFERS", f.stream.next(patience, ofType("OFFERS")))
}

func heartbeatCase(c contract) {
	f := c.framework()
	c.log("interval", at(f.subscribed, "subscribed", "heartbeat_interval_seconds"))
	c.log("HEARTBEAT", f.stream.next(patience, ofType("HEARTBEAT")))
}

func declineRefuseRevive(c contract) {
	f := c.framework()
	c.log("DECLINE for an hour", f.decline(f.mustOffer(), 3600))
	c.log("an offer within 4 s", f.offer(4*time.Second) != nil)
	c.log("REVIVE", f.call("REVIVE", nil))
	o := f.offer(patience)
	c.log("an offer after REVIVE", o != nil)
	c.log("DECLINE for no time", f.decline(o, 0))
	c.log("an offer soon", f.offer(patience) != nil)
}

func suppressCase(c contract) {
	f := c.framework()
	o := f.mustOffer()
	c.log("SUPPRESS", f.call("SUPPRESS", nil))
	f.decline(o, 0)
	c.log("an offer within 4 s", f.offer(4*time.Second) != nil)
	c.log("REVIVE", f.call("REVIVE", nil))
	c.log("an offer after REVIVE", f.offer(patience) != nil)
}

func declineTwice(c contract) {
	f := c.framework()
	o := f.mustOffer()
	c.log("first", f.decline(o, 0))
	c.log("second", f.decline(o, 0))
	c.log("unknown id", f.call("DECLINE", object{"decline": object{"offer_ids": []any{named("no-such-O1")}}}))
}

func launchCommandTask(c contract) {
	f := c.framework()
	o := f.mustOffer()
	c.log("ACCEPT", f.accept(o, commandTask("t-short", o, "sleep 1", nil)))
	for _, n := range []string{"first", "second", "third"} {
		u := f.update("t-short", patience)
		c.log(n+" UPDATE", u)
		c.log("ACKNOWLEDGE", f.ack(u))
	}
	c.log("more", f.update("t-short", 2*time.Second))
}

func unacknowledgedUpdateIsResent(c contract) {
	f := c.framework()
	o := f.mustOffer()
	f.accept(o, commandTask("t-resend", o, "sleep 600", nil))
	a, b := f.update("t-resend", patience), f.update("t-resend", patience)
	c.log("same uuid again", text(a, "update", "status", "uuid") == text(b, "update", "status", "uuid"))
}

func restOfTheOfferReturns(c contract) {
	f := c.framework()
	o := f.mustOffer()
	f.accept(o, commandTask("t-rest", o, "sleep 600", func(task object) {
		task["resources"] = []any{scalarOf("cpus", 1), scalarOf("mem", 1024)}
	}))
	o2 := f.mustOffer()
	var scalars []any
	for _, r := range o2["resources"].([]any) {
		if text(r, "type") == "SCALAR" {
			scalars = append(scalars, []any{text(r, "name"), at(r, "scalar", "value")})
		}
	}
	slices.SortFunc(scalars, func(a, b any) int { return strings.Compare(a.([]any)[0].(string), b.([]any)[0].(string)) })
	c.log("resources offered then", scalars)
	c.log("executor ids in it", o2["executor_ids"] != nil)
}

func launchRefusals(c contract) {
	f := c.framework()
	refuse := func(name, id string, change func(task, o object)) {
		o := f.mustOffer()
		for len(at(o, "resources").([]any)) < 4 { // these are only the resources of an executor that has just ended
			f.decline(o, 0)
			o = f.mustOffer()
		}
		task := commandTask(id, o, "sleep 600", func(task object) { change(task, o) })
		c.log(name, object{"ACCEPT": f.accept(o, task), "UPDATE": f.update(id, patience)})
		f.call("REVIVE", nil)
	}
	with := func(key string, v any) func(task, o object) {
		return func(task, _ object) { task[key] = v }
	}
	withExecutor := func(id, line, without string) func(task, o object) {
		return func(task, _ object) {
			x := executorOf(f, id, line)
			delete(x, without)
			delete(task, "command")
			task["executor"] = x
		}
	}
	small := []any{scalarOf("cpus", 0.1), scalarOf("mem", 32)}
	port80 := object{
		"name": "ports", "type": "RANGES", "allocation_info": object{"role": "*"},
		"ranges": object{"range": []any{object{"begin": 80, "end": 80}}},
	}
	refuse("more cpus than offered", "r-1", with("resources", []any{scalarOf("cpus", 1000), scalarOf("mem", 32)}))
	refuse("no allocation_info", "r-2", func(task, _ object) {
		for _, r := range task["resources"].([]any) {
			delete(r.(object), "allocation_info")
		}
	})
	refuse("wrong agent", "r-3", with("agent_id", named("no-such-S9")))
	refuse("no resources", "r-4", with("resources", []any{}))
	refuse("neither command nor executor", "r-5", func(task, _ object) { delete(task, "command") })
	refuse("command and executor", "r-6", with("executor", executorOf(f, "e", "sleep 1")))
	refuse("port not offered", "r-7", with("resources", append(slices.Clone(small), port80)))
	refuse("task id with a slash", "r/8", with("name", "r/8"))
	refuse("executor without framework id", "r-9", withExecutor("e", "sleep 1", "framework_id"))
	refuse("executor without command", "r-10", withExecutor("e", "sleep 1", "command"))
	refuse("executor without type", "r-11", withExecutor("e11", "exit 0", "type"))
	refuse("kill grace below zero", "r-12", with("kill_policy", object{"grace_period": object{"nanoseconds": -1}}))
}

func usedOfferAndUsedTaskID(c contract) {
	f := c.framework()
	o := f.mustOffer()
	f.accept(o, commandTask("u-1", o, "sleep 600", nil))
	f.mustUpdate("u-1", "TASK_RUNNING")
	c.log("ACCEPT the same offer again", f.accept(o, commandTask("u-2", o, "sleep 600", nil)))
	c.log("UPDATE", f.update("u-2", patience))
	o2 := f.mustOffer()
	c.log("the same task id again", f.accept(o2, commandTask("u-1", o2, "sleep 600", nil)))
	c.log("its UPDATE", f.update("u-1", patience))
}

func killAndReconcile(c contract) {
	f := c.framework()
	o := f.mustOffer()
	f.accept(o, commandTask("k-1", o, "sleep 600", nil))
	f.mustUpdate("k-1", "TASK_RUNNING")
	ask := func(what, kind, field string, call object, task string) object {
		c.log(what, f.call(kind, object{field: call}))
		u := f.update(task, patience)
		c.log("UPDATE", u)
		return u
	}
	task := func(id string, agent any) object {
		named := object{"task_id": named(id)}
		if agent != nil {
			named["agent_id"] = agent
		}
		return named
	}
	tasks := func(named ...object) object { return object{"tasks": named} }
	agent := o["agent_id"]
	ask("RECONCILE the known one", "RECONCILE", "reconcile", tasks(task("k-1", agent)), "k-1")
	ask("RECONCILE an unknown one on a known agent", "RECONCILE", "reconcile", tasks(task("k-none", agent)), "k-none")
	ask("RECONCILE an unknown one, no agent", "RECONCILE", "reconcile", tasks(task("k-none2", nil)), "k-none2")
	ask("RECONCILE an unknown one on an unknown agent", "RECONCILE", "reconcile", tasks(task("k-none3", named("no-such-S9"))), "k-none3")
	ask("RECONCILE all", "RECONCILE", "reconcile", object{"tasks": []any{}}, "k-1")
	ask("KILL an unknown one", "KILL", "kill", task("k-none4", nil), "k-none4")
	f.ack(ask("KILL", "KILL", "kill", task("k-1", agent), "k-1"))
	ask("KILL it again", "KILL", "kill", task("k-1", agent), "k-1")
}

// notes waits until a test executor has noted an event of the type, and returns its notes.
func notes(t *testing.T, path, eventType string) []any {
	t.Helper()
	var out []any
	eventually(t, "the executor notes "+eventType, func() bool {
		data, err := os.ReadFile(path)
		if err != nil {
			return false
		}
		out = nil
		seen := false
		for line := range strings.Lines(string(data)) {
			var note object
			if json.Unmarshal([]byte(line), &note) != nil {
				return false
			}
			out = append(out, note)
			seen = seen || text(note, "event", "type") == eventType
		}
		return seen
	})
	return out
}

func executorLife(c contract) {
	f := c.framework()
	path := filepath.Join(c.t.TempDir(), "notes")
	line, env := asProgram(c.t, "executor", object{"name": "LOCALMESOS_TEST_NOTES", "value": path})
	x := executorOf(f, "exec-1", line, env...)
	x["data"] = "Zm9yIHRoZSBleGVjdXRvcg=="
	started := func(task string) {
		for _, n := range []string{"STARTING", "RUNNING"} {
			u := f.update(task, patience)
			c.log(n, u)
			f.ack(u)
		}
	}
	o := f.mustOffer()
	first := executorTask("x-1", o, x)
	first["data"], first["labels"] = "Zm9yIHRoZSB0YXNr", object{"labels": []any{object{"key": "a", "value": "b"}}}
	c.log("ACCEPT", f.accept(o, first))
	started("x-1")
	o2 := f.mustOffer()
	c.log("executor ids in the next offer", o2["executor_ids"])
	c.log("a second task on it", f.accept(o2, executorTask("x-2", o2, x)))
	started("x-2")
	onAgent := object{"agent_id": o["agent_id"], "executor_id": named("exec-1")}
	withData := maps.Clone(onAgent)
	withData["data"] = "aGVsbG8="
	c.log("MESSAGE to it", f.call("MESSAGE", object{"message": withData}))
	c.log("its answer", f.stream.next(patience, ofType("MESSAGE")))
	o3 := f.mustOffer()
	changed := maps.Clone(x)
	changed["name"] = "another name"
	c.log("a changed ExecutorInfo with the same id", f.accept(o3, executorTask("x-3", o3, changed)))
	c.log("UPDATE", f.update("x-3", patience))
	c.log("KILL", f.call("KILL", object{"kill": object{"task_id": named("x-2")}}))
	u := f.update("x-2", patience)
	c.log("UPDATE", u)
	f.ack(u)
	c.log("SHUTDOWN", f.call("SHUTDOWN", object{"shutdown": onAgent}))
	u = f.update("x-1", patience)
	c.log("x-1", u)
	f.ack(u)
	c.log("FAILURE", f.stream.next(patience, ofType("FAILURE")))
	c.log("what the executor saw", notes(c.t, path, "SHUTDOWN"))
}

func executorDies(c contract) {
	f := c.framework()
	o := f.mustOffer()
	f.accept(o, executorTask("d-1", o, executorOf(f, "exec-dies", "sleep 1; exit 3")))
	u := f.update("d-1", patience)
	c.log("UPDATE", u)
	f.ack(u)
	c.log("FAILURE", f.stream.next(patience, ofType("FAILURE")))
}

func executorKilledWhileRunning(c contract) {
	f := c.framework()
	path := filepath.Join(c.t.TempDir(), "notes")
	line, env := asProgram(c.t, "executor", object{"name": "LOCALMESOS_TEST_NOTES", "value": path})
	line = strings.TrimPrefix(line, "exec ") + " & P=$!; while [ ! -e " + path + ".end ]; do sleep 0.1; done; kill -9 $P; exit 9"
	o := f.mustOffer()
	f.accept(o, executorTask("d-2", o, executorOf(f, "exec-killed", line, env...)))
	f.mustUpdate("d-2", "TASK_RUNNING")
	if err := os.WriteFile(path+".end", nil, 0o600); err != nil {
		c.t.Fatal(err)
	}
	u := f.update("d-2", patience)
	c.log("UPDATE", u)
	f.ack(u)
	c.log("FAILURE", f.stream.next(patience, ofType("FAILURE")))
}

func endpoints(c contract) {
	f := c.framework()
	base := "http://" + c.cluster.MasterAddr()
	keys := func(v any) []string {
		o, _ := v.(object)
		return slices.Sorted(maps.Keys(o))
	}
	o := f.mustOffer()
	f.accept(o, commandTask("s-1", o, "sleep 600", nil))
	f.ack(f.update("s-1", patience))
	// The recording waited longer: wait until the master has the second update too.
	f.stream.next(patience, func(e object) bool { return text(e, "update", "status", "state") == "TASK_RUNNING" })
	c.log("/health", get(c.t, base+"/health"))
	c.log("/redirect", get(c.t, base+"/redirect"))
	c.log("/version keys", keys(get(c.t, base+"/version")["body"]))
	state := get(c.t, base+"/state")["body"]
	c.log("/state keys", keys(state))
	c.log("/state slave", at(state, "slaves").([]any)[0])
	c.log("/state framework", at(state, "frameworks").([]any)[0])
	c.log("/slaves", get(c.t, base+"/slaves"))
	for _, call := range []string{"GET_HEALTH", "GET_VERSION", "GET_AGENTS", "GET_FRAMEWORKS", "GET_TASKS", "GET_MASTER"} {
		answer := post(c.t, base+"/api/v1", object{"type": call}, nil)
		if call == "GET_VERSION" {
			answer = object{"status": answer["status"], "keys": keys(at(answer, "body", "get_version", "version_info"))}
		}
		c.log(call, answer)
	}
}
