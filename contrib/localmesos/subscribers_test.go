package localmesos

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	mesos "github.com/mesos/mesos-go/api/v1/lib"
	pb "github.com/mesos/mesos-go/api/v1/lib/master"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/localmesos/wire"
	"github.com/k8sm/k8sm/contrib/test/pipenet"
)

// lineOf is an event in a line.
func lineOf(e *pb.Event) string {
	line := e.Type.String()
	switch e.Type {
	case pb.Event_SUBSCRIBED:
		state := e.Subscribed.GetState
		line += fmt.Sprintf(" %d agents, %d frameworks, %d tasks", len(state.GetAgents.Agents), len(state.GetFrameworks.Frameworks), len(state.GetTasks.Tasks))
	case pb.Event_TASK_ADDED:
		line += " " + e.TaskAdded.Task.TaskID.Value + " " + e.TaskAdded.Task.GetState().String()
	case pb.Event_TASK_UPDATED:
		line += " " + e.TaskUpdated.Status.TaskID.Value + " " + e.TaskUpdated.GetState().String()
		if status := e.TaskUpdated.Status.GetState(); status != e.TaskUpdated.GetState() {
			line += " by " + status.String()
		}
	case pb.Event_AGENT_ADDED:
		line += " " + e.AgentAdded.Agent.AgentInfo.ID.Value + " uses " + poolOf(e.AgentAdded.Agent.AllocatedResources).String()
	case pb.Event_AGENT_REMOVED:
		line += " " + e.AgentRemoved.AgentID.Value
	case pb.Event_FRAMEWORK_ADDED:
		line += fmt.Sprintf(" %s, connected: %t", e.FrameworkAdded.Framework.FrameworkInfo.Name, e.FrameworkAdded.Framework.Connected)
	case pb.Event_FRAMEWORK_UPDATED:
		line += fmt.Sprintf(" %s, connected: %t", e.FrameworkUpdated.Framework.FrameworkInfo.Name, e.FrameworkUpdated.Framework.Connected)
	case pb.Event_FRAMEWORK_REMOVED:
		line += " " + e.FrameworkRemoved.FrameworkInfo.Name
	}
	return line
}

// heard returns what an operator got since the last call, without heartbeats.
func (s *script) heard(stream string) (lines []string) {
	for _, e := range s.told[stream] {
		if e.Type != pb.Event_HEARTBEAT {
			lines = append(lines, lineOf(e))
		}
	}
	s.told[stream] = nil
	return lines
}

// status lets an agent send an update of a task.
func (s *script) status(agent api.AgentID, task string, states ...mesos.TaskState) mesos.TaskStatus {
	var latest mesos.TaskStatus
	all := make([]mesos.TaskStatus, len(states))
	for i, state := range states {
		all[i] = mesos.TaskStatus{TaskID: mesos.TaskID{Value: task}, State: state.Enum(), UUID: []byte(fmt.Sprintf("%-16s", state.String()[5:]))}
		latest = all[i]
	}
	s.step(fromAgent{agent: agent, message: update{framework: "m-0000", status: all[0], latest: latest}})
	return all[0]
}

func TestOperatorIsToldWhatChanges(t *testing.T) {
	s := newScript(t)
	s.step(operatorSubscribe{"o"})
	expect := func(what string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, s.heard("o")); diff != "" {
			t.Errorf("%s: want -, got +:\n%s", what, diff)
		}
	}
	expect("at first", "SUBSCRIBED 0 agents, 0 frameworks, 0 tasks")
	s.framework("a", 60, "*")
	expect("a new framework", "FRAMEWORK_ADDED a, connected: true")
	s.agent(0, "cpus:2;mem:512")
	expect("a new agent", "AGENT_ADDED m-S0 uses ")
	offers, _ := s.take("a")
	s.launch("a", offers[0], "t", "cpus:1", 3600)
	expect("a launch", "TASK_ADDED t TASK_STAGING")
	s.status("m-S0", "t", mesos.TASK_STARTING)
	s.status("m-S0", "t", mesos.TASK_STARTING)
	expect("an update, and again", "TASK_UPDATED t TASK_STARTING")
	s.status("m-S0", "t", mesos.TASK_RUNNING, mesos.TASK_KILLING)
	expect("one that another waits for", "TASK_UPDATED t TASK_KILLING by TASK_RUNNING")
	healthy := mesos.TaskStatus{
		TaskID: mesos.TaskID{Value: "t"}, State: mesos.TASK_RUNNING.Enum(), Reason: mesos.REASON_TASK_HEALTH_CHECK_STATUS_UPDATED.Enum(), UUID: []byte("healthy"),
	}
	s.step(fromAgent{agent: "m-S0", message: update{framework: "m-0000", status: healthy, latest: healthy}})
	expect("the result of a check", "TASK_UPDATED t TASK_RUNNING")

	s.step(agentGone{"m-S0"})
	expect("a disconnected agent")
	s.returns(0, "m-S0", "cpus:2;mem:512", "m-0000", "t", "cpus:1")
	expect("one that is back in time")
	s.step(agentGone{"m-S0"})
	s.pass(76 * time.Second)
	expect("an unreachable agent", "TASK_UPDATED t TASK_UNREACHABLE", "AGENT_REMOVED m-S0")
	s.step(operatorSubscribe{"late"})
	if diff := cmp.Diff([]string{"SUBSCRIBED 0 agents, 1 frameworks, 0 tasks"}, s.heard("late")); diff != "" {
		t.Error(diff)
	}
	s.returns(0, "m-S0", "cpus:2;mem:512", "m-0000", "t", "cpus:1")
	expect("one that is back late", "TASK_ADDED t TASK_STAGING", "AGENT_ADDED m-S0 uses cpus(allocated: *):1")

	s.step(streamClosed{"a"})
	expect("a disconnected framework")
	info := s.m.frameworks["m-0000"].info
	s.step(subscribe{stream: "a2", call: &scheduler.Call{
		Type: scheduler.Call_SUBSCRIBE, FrameworkID: info.ID, Subscribe: &scheduler.Call_Subscribe{FrameworkInfo: &info},
	}})
	expect("one that subscribes again", "FRAMEWORK_UPDATED a, connected: true")
	for _, name := range []string{"b", "b"} {
		info.Name = name
		s.call("a2", scheduler.Call{Type: scheduler.Call_UPDATE_FRAMEWORK, UpdateFramework: &scheduler.Call_UpdateFramework{FrameworkInfo: info}})
	}
	expect("one that changes, and repeats it", "FRAMEWORK_UPDATED b, connected: true")
	s.step(streamClosed{"a2"})
	s.pass(61 * time.Second)
	expect("one that does not come back", "TASK_UPDATED t TASK_KILLED", "FRAMEWORK_REMOVED b")
	s.step(operatorCall{&pb.Call{Type: pb.Call_MARK_AGENT_GONE, MarkAgentGone: &pb.Call_MarkAgentGone{AgentID: mesos.AgentID{Value: "m-S0"}}}})
	expect("an agent that is marked gone", "AGENT_REMOVED m-S0")
	s.step(streamClosed{"o"})
	s.framework("c", 0, "*")
	expect("after it has left")
	if n := len(s.m.subscribers); n != 1 {
		t.Errorf("%d operators are subscribed, want the late one only", n)
	}
}

func TestRestartedMasterTellsWhatAgentsBring(t *testing.T) {
	s := newScript(t)
	s.step(operatorSubscribe{"o"})
	info := mesos.FrameworkInfo{Name: "a", ID: &mesos.FrameworkID{Value: "old-0000"}}
	s.m.frameworks["old-0000"] = newFramework("old-0000", info)
	id := mesos.TaskID{Value: "t"}
	r := register{
		info: mesos.AgentInfo{ID: &mesos.AgentID{Value: "old-S0"}, Hostname: "laptop"}, frameworks: []mesos.FrameworkInfo{info, {Name: "b", ID: &mesos.FrameworkID{Value: "old-0001"}}},
		tasks: []agentTask{{framework: "old-0000", info: mesos.TaskInfo{TaskID: id}, latest: mesos.TaskStatus{TaskID: id, State: mesos.TASK_RUNNING.Enum()}}},
	}
	s.step(fromAgent{address: "0", message: r})
	want := []string{"SUBSCRIBED 0 agents, 0 frameworks, 0 tasks", "FRAMEWORK_ADDED b, connected: false", "TASK_ADDED t TASK_RUNNING", "AGENT_ADDED old-S0 uses "}
	if diff := cmp.Diff(want, s.heard("o")); diff != "" {
		t.Error(diff)
	}
}

func TestOperatorGetsHeartbeatsEveryFifteenSeconds(t *testing.T) {
	s := newScript(t)
	s.step(operatorSubscribe{"o"})
	if got := s.told["o"][0].Subscribed.GetHeartbeatIntervalSeconds(); got != 15 {
		t.Errorf("the interval is %v", got)
	}
	count := func() (n int) {
		for _, e := range s.told["o"] {
			n += boolToInt(e.Type == pb.Event_HEARTBEAT)
		}
		return n
	}
	s.pass(61 * time.Second)
	if n := count(); n != 5 {
		t.Errorf("%d heartbeats in a minute and the first", n)
	}
	s.step(streamClosed{"o"})
	s.pass(time.Minute)
	if n := count(); n != 5 {
		t.Errorf("%d heartbeats for nobody", n-5)
	}
}

func TestOldestOfTooManyOperatorsIsCutOff(t *testing.T) {
	s := newScript(t)
	for i := range maxSubscribers + 2 {
		s.step(operatorSubscribe{fmt.Sprint(i)})
	}
	if diff := cmp.Diff([]string{"0", "1"}, s.cut); diff != "" {
		t.Error(diff)
	}
	if got := s.m.metrics()["master/operator_event_stream_subscribers"]; got != maxSubscribers {
		t.Errorf("%v are subscribed", got)
	}
}

// mirror is what an operator makes of the events.
type mirror struct {
	agents, frameworks map[string]bool
	tasks              map[string]string // states that have not ended
}

func newMirror() mirror {
	return mirror{agents: map[string]bool{}, frameworks: map[string]bool{}, tasks: map[string]string{}}
}

func (x *mirror) take(t *testing.T, e *pb.Event) {
	t.Helper()
	switch e.Type {
	case pb.Event_SUBSCRIBED:
		*x = mirrorOf(e.Subscribed.GetState)
	case pb.Event_TASK_ADDED:
		task := e.TaskAdded.Task
		if !x.frameworks[task.FrameworkID.Value] {
			t.Errorf("task %s is of an unknown framework", task.TaskID.Value)
		}
		x.task(task.TaskID.Value, task.GetState())
	case pb.Event_TASK_UPDATED:
		x.task(e.TaskUpdated.Status.TaskID.Value, e.TaskUpdated.GetState())
	case pb.Event_AGENT_ADDED:
		x.agents[e.AgentAdded.Agent.AgentInfo.ID.Value] = true
	case pb.Event_AGENT_REMOVED:
		delete(x.agents, e.AgentRemoved.AgentID.Value)
	case pb.Event_FRAMEWORK_ADDED:
		x.frameworks[e.FrameworkAdded.Framework.FrameworkInfo.ID.Value] = true
	case pb.Event_FRAMEWORK_REMOVED:
		delete(x.frameworks, e.FrameworkRemoved.FrameworkInfo.ID.Value)
	}
}

func (x *mirror) task(id string, state mesos.TaskState) {
	if terminal(state) || state == mesos.TASK_UNREACHABLE {
		delete(x.tasks, id)
	} else {
		x.tasks[id] = state.String()
	}
}

func mirrorOf(state *pb.Response_GetState) mirror {
	x := newMirror()
	for _, a := range state.GetAgents.Agents {
		x.agents[a.AgentInfo.ID.Value] = true
	}
	for _, f := range state.GetFrameworks.Frameworks {
		x.frameworks[f.FrameworkInfo.ID.Value] = true
	}
	for _, task := range state.GetTasks.Tasks {
		x.task(task.TaskID.Value, task.GetState())
	}
	return x
}

// TestEventsKeepTheFirstStateUpToDate lets an operator follow random changes, and compares with GET_STATE after each.
func TestEventsKeepTheFirstStateUpToDate(t *testing.T) {
	for seed := range uint64(30) {
		s, random := newScript(t), rand.New(rand.NewPCG(seed, 0))
		s.step(operatorSubscribe{"o"})
		followed := newMirror()
		c := chaos{script: s, random: random}
		for range 150 {
			c.change()
			for _, e := range s.told["o"] {
				followed.take(t, e)
			}
			s.told["o"] = nil
			if diff := cmp.Diff(mirrorOf(s.m.getState()), followed, cmp.AllowUnexported(mirror{})); diff != "" {
				t.Fatalf("seed %d: after %s the state is -, the operator's +:\n%s", seed, c.last, diff)
			}
		}
		if c.launched < 5 {
			t.Errorf("seed %d: only %d tasks were launched", seed, c.launched)
		}
	}
}

// chaos changes a master at random.
type chaos struct {
	*script
	random            *rand.Rand
	last              string
	launched, streams int
}

func (c *chaos) change() {
	agents := c.m.sortedAgents()
	frameworks := c.m.sortedFrameworks()
	switch kind := c.random.IntN(10); {
	case kind == 0 || len(agents) < 2:
		c.last = "a new agent"
		c.agent(c.m.agentsMade, "cpus:4;mem:4096")
	case kind == 1 || len(frameworks) == 0:
		c.last = "a new framework"
		c.streams++
		c.framework(fmt.Sprint(c.streams), 30, "*")
	case kind < 4:
		c.last = "a launch"
		c.launchAny(frameworks[c.random.IntN(len(frameworks))])
	case kind < 8:
		c.agentChanges(agents[c.random.IntN(len(agents))], kind)
	case kind == 8:
		c.last = "time"
		c.pass(time.Duration(c.random.IntN(60)) * time.Second)
	default:
		c.frameworkChanges(frameworks[c.random.IntN(len(frameworks))])
	}
}

func (c *chaos) launchAny(f *framework) {
	for id, o := range f.offers {
		c.launched++
		c.launch(f.stream, o.message(), fmt.Sprintf("t%d", c.launched), "cpus:0.5", 0)
		delete(f.offers, id)
		return
	}
	c.pass(time.Second)
}

func (c *chaos) agentChanges(a *agentEntry, kind int) {
	states := []mesos.TaskState{mesos.TASK_STARTING, mesos.TASK_RUNNING, mesos.TASK_KILLING, mesos.TASK_FINISHED, mesos.TASK_FAILED, mesos.TASK_LOST}
	c.last = "an update"
	for _, t := range a.tasks {
		status := mesos.TaskStatus{TaskID: t.info.TaskID, State: states[c.random.IntN(len(states))].Enum(), UUID: []byte(fmt.Sprint(c.random.Uint64()))}
		c.step(fromAgent{agent: a.id, message: update{framework: t.framework.id, status: status, latest: status}})
		if c.random.IntN(2) == 0 && t.framework.stream != "" {
			c.call(t.framework.stream, scheduler.Call{Type: scheduler.Call_ACKNOWLEDGE, Acknowledge: &scheduler.Call_Acknowledge{
				AgentID: mesos.AgentID{Value: string(a.id)}, TaskID: t.info.TaskID, UUID: status.UUID,
			}})
		}
		break
	}
	if kind != 7 {
		return
	}
	switch {
	case a.connected && c.random.IntN(3) == 0:
		c.last = "an agent that is gone"
		c.step(operatorCall{&pb.Call{Type: pb.Call_MARK_AGENT_GONE, MarkAgentGone: &pb.Call_MarkAgentGone{AgentID: mesos.AgentID{Value: string(a.id)}}}})
	case a.connected:
		c.last = "a lost agent"
		c.step(agentGone{a.id})
	default:
		c.last = "an agent that returns"
		r := register{info: a.info}
		for _, t := range a.tasks {
			if c.random.IntN(4) > 0 {
				r.tasks = append(r.tasks, agentTask{framework: t.framework.id, info: mesos.TaskInfo{TaskID: t.info.TaskID, Resources: t.info.Resources}, latest: t.latest})
			}
		}
		c.step(fromAgent{agent: a.id, address: string(a.id), message: r})
	}
}

func (c *chaos) frameworkChanges(f *framework) {
	switch {
	case f.stream == "":
		c.last = "a framework that returns"
		info := f.info
		c.streams++
		c.step(subscribe{stream: fmt.Sprint(c.streams), call: &scheduler.Call{
			Type: scheduler.Call_SUBSCRIBE, FrameworkID: info.ID, Subscribe: &scheduler.Call_Subscribe{FrameworkInfo: &info},
		}})
	case c.random.IntN(4) == 0:
		c.last = "a teardown"
		c.call(f.stream, scheduler.Call{Type: scheduler.Call_TEARDOWN})
	default:
		c.last = "a framework that leaves"
		c.step(streamClosed{f.stream})
	}
}

// TestStreamOfOperatorInBothEncodings follows a real task.
func TestStreamOfOperatorInBothEncodings(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	stream := openStream(t, masterURL(cluster)+"/api/v1", object{"type": "SUBSCRIBE"})
	if stream.status != http.StatusOK || stream.id != "" {
		t.Fatalf("status %d, stream ID %q", stream.status, stream.id)
	}
	events := make(chan string, 100)
	go readProtobuf(t, cluster, events)
	if got, want := <-events, "SUBSCRIBED 1 agents, 0 frameworks, 0 tasks"; got != want {
		t.Errorf("in protobuf %s, want %s", got, want)
	}
	first := stream.next(patience, ofType())
	if got := at(first, "subscribed", "heartbeat_interval_seconds"); text(first, "type") != "SUBSCRIBED" || got != 15.0 {
		t.Errorf("the first event is %v", first)
	}
	state := post(t, masterURL(cluster)+"/api/v1", object{"type": "GET_STATE"}, nil)
	if diff := cmp.Diff(at(state, "body", "get_state"), at(first, "subscribed", "get_state")); diff != "" {
		t.Errorf("GET_STATE has -, SUBSCRIBED has +:\n%s", diff)
	}
	if diff := cmp.Diff(object{"type": "HEARTBEAT"}, stream.next(patience, ofType())); diff != "" {
		t.Error(diff)
	}
	f := subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	f.launchOnly(o, commandTask("t", o, "true", nil))
	f.mustUpdate("t", "TASK_FINISHED")
	f.call("TEARDOWN", nil)
	want := []string{
		"FRAMEWORK_ADDED contract, connected: true", "TASK_ADDED t TASK_STAGING", "TASK_UPDATED t TASK_STARTING", "TASK_UPDATED t TASK_RUNNING",
		"TASK_UPDATED t TASK_FINISHED", "FRAMEWORK_REMOVED contract",
	}
	for _, line := range want {
		got := <-events
		for got == "HEARTBEAT" {
			got = <-events
		}
		if got, _, _ = strings.Cut(got, " by "); got != line && !strings.HasPrefix(line, "TASK_UPDATED") { // the agent may be faster
			t.Errorf("in protobuf %q, want %q", got, line)
		}
		kind, _, _ := strings.Cut(line, " ")
		if e := stream.next(patience, ofType(kind)); at(e, strings.ToLower(kind)) == nil {
			t.Errorf("in JSON no %s: %v", kind, e)
		}
	}
	added := openStream(t, masterURL(cluster)+"/api/v1", object{"type": "SUBSCRIBE"})
	cluster.KillMaster()
	if e := added.next(patience, ofType("AGENT_REMOVED")); text(e, "none") != "the stream was closed" {
		t.Errorf("after the master has ended: %v", e)
	}
}

// readProtobuf subscribes, and passes the events on until the stream ends.
func readProtobuf(t *testing.T, cluster *Cluster, events chan<- string) {
	body, _ := wire.Protobuf.Encode(&pb.Call{Type: pb.Call_SUBSCRIBE})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, masterURL(cluster)+"/api/v1", strings.NewReader(string(body)))
	if err != nil {
		t.Error(err)
		return
	}
	r.Header.Set("Content-Type", wire.Protobuf.String())
	r.Header.Set("Accept", wire.Protobuf.String())
	resp, err := caller.Do(r)
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	for in := bufio.NewReader(resp.Body); ; {
		var size int
		if _, err := fmt.Fscanf(in, "%d\n", &size); err != nil {
			return
		}
		record := make([]byte, size)
		if _, err := io.ReadFull(in, record); err != nil {
			return
		}
		var e pb.Event
		if err := wire.Protobuf.Decode(record, &e); err != nil {
			t.Error(err)
		}
		events <- lineOf(&e)
	}
}

// TestEventsInJSONHaveMesosShape compares them with the examples in Mesos' docs/operator-http-api.md.
func TestEventsInJSONHaveMesosShape(t *testing.T) {
	s := newScript(t)
	s.step(operatorSubscribe{"o"})
	s.framework("a", 60, "*")
	s.agent(0, "cpus:2")
	offers, _ := s.take("a")
	s.launch("a", offers[0], "t", "cpus:1", 0)
	s.status("m-S0", "t", mesos.TASK_RUNNING)
	s.call("a", scheduler.Call{Type: scheduler.Call_TEARDOWN})
	s.step(operatorCall{&pb.Call{Type: pb.Call_MARK_AGENT_GONE, MarkAgentGone: &pb.Call_MarkAgentGone{AgentID: mesos.AgentID{Value: "m-S0"}}}})
	info := object{
		"name": "a", "user": "", "roles": []any{"*"}, "failover_timeout": 60.0, "checkpoint": false, "id": named("m-0000"),
		"capabilities": []any{object{"type": "MULTI_ROLE"}, object{"type": "PARTITION_AWARE"}},
	}
	start := object{"nanoseconds": float64(1_800_000_000e9)}
	cpus := func(n float64) object { return object{"name": "cpus", "type": "SCALAR", "scalar": object{"value": n}} }
	total := cpus(2)
	total["role"] = "*"
	allocated := cpus(1)
	allocated["role"], allocated["allocation_info"] = "*", object{"role": "*"}
	want := map[pb.Event_Type]object{
		pb.Event_HEARTBEAT: {},
		pb.Event_FRAMEWORK_ADDED: {"framework_added": object{"framework": object{
			"framework_info": info, "active": true, "connected": true, "recovered": false,
			"registered_time": start, "reregistered_time": start, "unregistered_time": object{"nanoseconds": 0.0},
		}}},
		pb.Event_AGENT_ADDED: {"agent_added": object{"agent": object{
			"agent_info": object{
				"hostname": "laptop", "port": 5051.0, "id": named("m-S0"), "checkpoint": true,
				"resources": []any{cpus(2)},
			},
			"active": true, "deactivated": false, "version": mesosVersion, "pid": "slave(1)@127.0.0.1:5051", "registered_time": start,
			"total_resources": []any{total}, "capabilities": []any{
				object{"type": "MULTI_ROLE"}, object{"type": "HIERARCHICAL_ROLE"}, object{"type": "RESERVATION_REFINEMENT"}, object{"type": "RESOURCE_PROVIDER"},
				object{"type": "RESIZE_VOLUME"}, object{"type": "AGENT_OPERATION_FEEDBACK"}, object{"type": "AGENT_DRAINING"}, object{"type": "TASK_RESOURCE_LIMITS"},
			},
		}}},
		pb.Event_TASK_ADDED: {"task_added": object{"task": object{
			"name": "", "task_id": named("t"), "framework_id": named("m-0000"), "agent_id": named("m-S0"), "state": "TASK_STAGING",
			"resources": []any{allocated},
		}}},
		pb.Event_TASK_UPDATED: {"task_updated": object{
			"framework_id": named("m-0000"), "state": "TASK_RUNNING",
			"status": object{"task_id": named("t"), "state": "TASK_RUNNING", "uuid": "UlVOTklORyAgICAgICAgIA=="},
		}},
		pb.Event_FRAMEWORK_REMOVED: {"framework_removed": object{"framework_info": info}},
		pb.Event_AGENT_REMOVED:     {"agent_removed": object{"agent_id": named("m-S0")}},
	}
	for kind, fields := range want {
		i := slices.IndexFunc(s.told["o"], func(e *pb.Event) bool { return e.Type == kind })
		if i < 0 {
			t.Errorf("no %s", kind)
			continue
		}
		data, err := encodeEvent(wire.JSON, s.told["o"][i])
		if err != nil {
			t.Fatal(err)
		}
		var got object
		unmarshal(t, data, &got)
		fields["type"] = kind.String()
		if diff := cmp.Diff(fields, got); diff != "" {
			t.Errorf("%s: want -, got +:\n%s", kind, diff)
		}
	}
}

// TestOperatorThatDoesNotReadIsCutOff has one on a connection without buffers, and one that reads.
func TestOperatorThatDoesNotReadIsCutOff(t *testing.T) {
	plan, err := testConfig(t).check()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		n, err := startMaster(plan, newHub(&Faults{}), 5050)
		if err != nil {
			t.Fatal(err)
		}
		n.unread = 10
		network := pipenet.New()
		n.serve(network)
		defer n.close()
		dial := func() net.Conn {
			conn, err := network.Dial("127.0.0.1")
			if err != nil {
				t.Fatal(err)
			}
			const body = `{"type":"SUBSCRIBE"}`
			if _, err := fmt.Fprintf(conn, "POST /api/v1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
				t.Fatal(err)
			}
			return conn
		}
		deaf, good := dial(), dial()
		defer deaf.Close()
		defer good.Close()
		heard := make(chan string, 1000)
		go func() {
			in := bufio.NewScanner(good)
			for in.Scan() {
				heard <- in.Text()
			}
		}()
		synctest.Wait()
		for range 20 + 2 {
			n.owner.look(func() {
				for _, stream := range n.master.subscribers {
					n.perform(publish{stream, &pb.Event{Type: pb.Event_HEARTBEAT}})
				}
			})
			synctest.Wait()
		}
		_ = deaf.SetReadDeadline(time.Now().Add(time.Minute)) // it fails if the server has closed the connection
		if _, err := io.ReadAll(deaf); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the operator was not cut off")
		}
		n.owner.look(func() {
			if len(n.master.subscribers) != 1 {
				t.Errorf("%d are subscribed", len(n.master.subscribers))
			}
		})
		if len(heard) < 20 {
			t.Errorf("the one that reads got %d lines", len(heard))
		}
	})
}
