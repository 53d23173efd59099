package mesos

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	mesosapi "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/encoding"
	"github.com/mesos/mesos-go/api/v1/lib/encoding/codecs"
	"github.com/mesos/mesos-go/api/v1/lib/encoding/framing"
	mesosexec "github.com/mesos/mesos-go/api/v1/lib/executor"
	"github.com/mesos/mesos-go/api/v1/lib/executor/config"
	"github.com/mesos/mesos-go/api/v1/lib/recordio"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/executor"
)

// fakeAgent is the executor endpoint of an agent: it refuses what a real one refuses, remembers the calls, and sends what
// the test says.
type fakeAgent struct {
	*httptest.Server
	calls  chan mesosexec.Call
	events chan *mesosexec.Event // a nil one ends the stream
	token  string

	mu      sync.Mutex                // guards the fields below
	refusal int                       // how many more subscriptions to answer with 503, as an agent that recovers does
	fail    func(http.ResponseWriter) // answers the next call that is no subscription
}

func newFakeAgent(t *testing.T) *fakeAgent {
	f := &fakeAgent{calls: make(chan mesosexec.Call, 16), events: make(chan *mesosexec.Event, 16)}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(func() {
		f.CloseClientConnections()
		f.Close()
	})
	return f
}

func (f *fakeAgent) serve(w http.ResponseWriter, r *http.Request) {
	codec := codecs.ByMediaType[codecs.MediaTypeProtobuf]
	var call mesosexec.Call
	if err := codec.NewDecoder(encoding.SourceReader(r.Body)).Decode(&call); err != nil || r.URL.Path != "/api/v1/executor" {
		http.Error(w, fmt.Sprintf("%s: %v", r.URL.Path, err), http.StatusBadRequest)
		return
	}
	if f.token != "" && r.Header.Get("Authorization") != "Bearer "+f.token {
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	f.calls <- call
	if call.Type != mesosexec.Call_SUBSCRIBE {
		f.mu.Lock()
		answer := f.fail
		f.fail = nil
		f.mu.Unlock()
		if answer == nil {
			w.WriteHeader(http.StatusAccepted)
			return
		}
		answer(w)
		return
	}
	if f.refuses() {
		http.Error(w, "agent has not finished recovery", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", codec.Type.ContentType())
	w.WriteHeader(http.StatusOK)
	encoder := codec.NewEncoder(func() framing.Writer { return recordio.NewWriter(w) })
	for {
		select {
		case <-r.Context().Done():
			return
		case event := <-f.events:
			if event == nil {
				return
			}
			if err := encoder.Encode(event); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	}
}

func (f *fakeAgent) refuses() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refusal--
	return f.refusal >= 0
}

func (f *fakeAgent) config() Config {
	return Config{Token: f.token, Config: config.Config{
		FrameworkID: "framework-1", ExecutorID: "k8sm-minion.v1", AgentEndpoint: strings.TrimPrefix(f.URL, "http://"),
		Checkpoint: true, SubscriptionBackoffMax: 100 * time.Millisecond, RecoveryTimeout: time.Minute,
	}}
}

// run starts an Agent; its events come from the returned channel.
func run(t *testing.T, f *fakeAgent) (*Agent, <-chan executor.Event) {
	t.Helper()
	return runWith(t, f.config())
}

func runWith(t *testing.T, cfg Config) (*Agent, <-chan executor.Event) {
	agent := New(cfg)
	events := make(chan executor.Event, 16)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx, func(e executor.Event) { events <- e }) }()
	t.Cleanup(func() {
		cancel()
		if err := receive(t, done); err != context.Canceled {
			t.Errorf("Run returned %v", err)
		}
	})
	return agent, events
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came within 10 s")
		panic("unreachable")
	}
}

func subscribed() *mesosexec.Event {
	return &mesosexec.Event{Type: mesosexec.Event_SUBSCRIBED, Subscribed: &mesosexec.Event_Subscribed{
		ExecutorInfo: mesosapi.ExecutorInfo{
			ExecutorID: mesosapi.ExecutorID{Value: "k8sm-minion.v1"}, Data: []byte("bootstrap"),
			Resources: []mesosapi.Resource{scalar("cpus", "*", 0.1)},
		},
		FrameworkInfo: mesosapi.FrameworkInfo{User: "root", Name: "k8sm"},
		AgentInfo: mesosapi.AgentInfo{
			Hostname: "host", ID: &mesosapi.AgentID{Value: "agent-1"},
			Resources: []mesosapi.Resource{scalar("cpus", "*", 3), scalar("cpus", "k8sm", 1), scalar("mem", "*", 4096)},
		},
	}}
}

func scalar(name, role string, value float64) mesosapi.Resource {
	return mesosapi.Resource{Name: name, Role: &role, Type: mesosapi.SCALAR.Enum(), Scalar: &mesosapi.Value_Scalar{Value: value}}
}

func task(id string) mesosapi.TaskInfo {
	uid, _, _ := api.TaskID(id).Parse()
	pod, _ := json.Marshal(map[string]any{"metadata": map[string]any{"namespace": "default", "name": "web", "uid": uid}})
	return mesosapi.TaskInfo{Name: "default/web", TaskID: mesosapi.TaskID{Value: id}, AgentID: mesosapi.AgentID{Value: "agent-1"}, Data: pod}
}

func TestEventsOfTheAgentAreTranslated(t *testing.T) {
	f := newFakeAgent(t)
	agent, events := run(t, f)
	agent.Subscribe(executor.Subscribe{})
	call := receive(t, f.calls)
	if call.FrameworkID.Value != "framework-1" || call.ExecutorID.Value != "k8sm-minion.v1" {
		t.Errorf("subscribed as %v of %v", call.ExecutorID, call.FrameworkID)
	}
	acknowledged := uuid.New()
	launched := task("u.1")
	info, err := launched.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range []*mesosexec.Event{
		subscribed(),
		{Type: mesosexec.Event_LAUNCH, Launch: &mesosexec.Event_Launch{Task: launched}},
		{Type: mesosexec.Event_LAUNCH_GROUP, LaunchGroup: &mesosexec.Event_LaunchGroup{TaskGroup: mesosapi.TaskGroupInfo{
			Tasks: []mesosapi.TaskInfo{launched, launched}}}},
		{Type: mesosexec.Event_HEARTBEAT},
		{Type: mesosexec.Event_MESSAGE, Message: &mesosexec.Event_Message{Data: []byte("hello")}},
		{Type: mesosexec.Event_ACKNOWLEDGED, Acknowledged: &mesosexec.Event_Acknowledged{TaskID: launched.TaskID, UUID: acknowledged[:]}},
		{Type: mesosexec.Event_KILL, Kill: &mesosexec.Event_Kill{TaskID: launched.TaskID, KillPolicy: &mesosapi.KillPolicy{
			GracePeriod: &mesosapi.DurationInfo{Nanoseconds: int64(3 * time.Second)}}}},
		{Type: mesosexec.Event_KILL, Kill: &mesosexec.Event_Kill{TaskID: launched.TaskID}},
		{Type: mesosexec.Event_SHUTDOWN},
		nil,
	} {
		f.events <- event
	}
	three := int64(3)
	want := []executor.Event{
		executor.Subscribed{Registration: executor.Registration{
			Agent: "agent-1", Data: []byte("bootstrap"),
			AgentResources:    map[string]float64{"cpus": 4, "mem": 4096},
			ExecutorResources: map[string]float64{"cpus": 0.1},
		}},
		executor.Launch{Task: "u.1", Pod: api.PodKey{Namespace: "default", Name: "web"}, UID: "u", Info: info},
		executor.Launch{Task: "u.1", Pod: api.PodKey{Namespace: "default", Name: "web"}, UID: "u", Info: info},
		executor.Launch{Task: "u.1", Pod: api.PodKey{Namespace: "default", Name: "web"}, UID: "u", Info: info},
		executor.Acknowledged{Task: "u.1", Update: acknowledged},
		executor.Kill{Task: "u.1", Grace: &three},
		executor.Kill{Task: "u.1"},
		executor.Shutdown{},
		executor.Disconnected{Reason: "the agent closed the connection"},
	}
	for _, w := range want {
		if diff := cmp.Diff(w, receive(t, events)); diff != "" {
			t.Errorf("event differs (-want +got):\n%s", diff)
		}
	}
}

func TestUpdateArrivesAsTaskStatus(t *testing.T) {
	f := newFakeAgent(t)
	agent, _ := run(t, f)
	id := uuid.New()
	err := agent.Update(t.Context(), executor.Update{ID: id, Task: "u.1", State: executor.Failed, Report: executor.Report{Message: "out of memory"}})
	if err != nil {
		t.Fatal(err)
	}
	call := receive(t, f.calls)
	status := call.GetUpdate().GetStatus()
	if status.GetState() != mesosapi.TASK_FAILED || status.TaskID.Value != "u.1" || status.GetMessage() != "out of memory" ||
		string(status.UUID) != string(id[:]) || status.GetSource() != mesosapi.SOURCE_EXECUTOR {
		t.Errorf("the agent got %v", status)
	}
}

func TestStatusHasTheReasonAndTheHealthThatMesosKnows(t *testing.T) {
	agent := New(Config{})
	for _, test := range []struct {
		state  executor.State
		report executor.Report
		want   string
	}{
		{executor.Starting, executor.Report{}, "none unknown"},
		{executor.Starting, executor.Report{Cause: executor.NotLaunched}, "REASON_CONTAINER_LAUNCH_FAILED unknown"},
		{executor.Running, executor.Report{}, "none unknown"},
		{executor.Running, executor.Report{Health: executor.Healthy}, "REASON_TASK_HEALTH_CHECK_STATUS_UPDATED true"},
		{executor.Running, executor.Report{Health: executor.Unhealthy, Cause: executor.OutOfMemory}, "REASON_TASK_HEALTH_CHECK_STATUS_UPDATED false"},
		{executor.Failed, executor.Report{Cause: executor.OutOfMemory}, "REASON_CONTAINER_LIMITATION_MEMORY unknown"},
		{executor.Failed, executor.Report{Cause: executor.TooLong}, "REASON_MAX_COMPLETION_TIME_REACHED unknown"},
		{executor.Killed, executor.Report{Cause: executor.Displaced}, "REASON_CONTAINER_PREEMPTED unknown"},
		{executor.Failed, executor.Report{}, "none unknown"},
		{executor.Error, executor.Report{}, "REASON_TASK_INVALID unknown"},
	} {
		status := agent.status(executor.Update{State: test.state, Report: test.report})
		reason, health := "none", "unknown"
		if status.Reason != nil {
			reason = status.Reason.String()
		}
		if status.Healthy != nil {
			health = fmt.Sprint(*status.Healthy)
		}
		if got := reason + " " + health; got != test.want {
			t.Errorf("%s %+v: got %s, want %s", test.state, test.report, got, test.want)
		}
	}
}

func TestErrorOfTheAgentIsRepeatedWhenTheConnectionIsOver(t *testing.T) {
	f := newFakeAgent(t)
	agent, events := run(t, f)
	agent.Subscribe(executor.Subscribe{})
	f.events <- subscribed()
	receive(t, events)
	f.events <- &mesosexec.Event{Type: mesosexec.Event_ERROR, Error: &mesosexec.Event_Error{Message: "who are you?"}}
	if e, ok := receive(t, events).(executor.Disconnected); !ok || !strings.Contains(e.Reason, "who are you?") {
		t.Errorf("got %+v", e)
	}
}

func TestSubscriptionIsRepeatedWithWhatIsUnacknowledged(t *testing.T) {
	f := newFakeAgent(t)
	f.refusal = 2
	agent, events := run(t, f)
	launched := task("u.1")
	info, err := launched.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	subscribe := executor.Subscribe{Tasks: [][]byte{info}, Updates: []executor.Update{{ID: uuid.New(), Task: "u.1", State: executor.Starting}}}
	for range 2 {
		agent.Subscribe(subscribe)
		if e, ok := receive(t, events).(executor.Disconnected); !ok || !strings.Contains(e.Reason, "cannot subscribe to the agent") {
			t.Fatalf("after a refusal came %+v", e)
		}
	}
	agent.Subscribe(subscribe)
	f.events <- subscribed()
	if e := receive(t, events); !cmp.Equal(e.(executor.Subscribed).Registration.Agent, api.AgentID("agent-1")) {
		t.Errorf("got %+v", e)
	}
	for range 3 {
		call := receive(t, f.calls)
		s := call.GetSubscribe()
		if len(s.UnacknowledgedTasks) != 1 || s.UnacknowledgedTasks[0].TaskID.Value != "u.1" ||
			len(s.UnacknowledgedUpdates) != 1 || s.UnacknowledgedUpdates[0].Status.GetState() != mesosapi.TASK_STARTING {
			t.Errorf("subscribed with %v", s)
		}
	}
}

// noPods has nothing to delete.
type noPods struct{}

func (noPods) Delete(executor.DeletePod) {}

func TestUpdateThatTheAgentDoesNotTakeComesWithTheNextSubscription(t *testing.T) {
	for name, fail := range map[string]func(http.ResponseWriter){
		"unavailable": func(w http.ResponseWriter) {
			http.Error(w, "Agent has not finished recovery", http.StatusServiceUnavailable)
		},
		"forbidden": func(w http.ResponseWriter) { http.Error(w, "Executor is not subscribed", http.StatusForbidden) },
		"broken": func(w http.ResponseWriter) {
			if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
				_ = conn.Close()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeAgent(t)
			f.fail = fail
			agent := New(f.config())
			e := executor.New(executor.Config{
				Core:  executor.CoreConfig{Run: uuid.New(), Checkpoint: true, RecoveryTimeout: time.Minute},
				Agent: agent, Pods: noPods{}, StartNode: func(executor.Registration) {},
			})
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { _ = e.Run(ctx) })
			running.Go(func() { _ = agent.Run(ctx, e.Post) })
			defer running.Wait()
			defer cancel()
			receive(t, f.calls) // SUBSCRIBE
			f.events <- subscribed()
			f.events <- &mesosexec.Event{Type: mesosexec.Event_LAUNCH, Launch: &mesosexec.Event_Launch{Task: task("u.1")}}
			failed := receive(t, f.calls)
			resubscribed := receive(t, f.calls)
			again := resubscribed.GetSubscribe()
			if again == nil || len(again.UnacknowledgedUpdates) != 1 || len(again.UnacknowledgedTasks) != 1 {
				t.Fatalf("after %v came %v", failed, again)
			}
			if diff := cmp.Diff(failed.GetUpdate().Status.UUID, again.UnacknowledgedUpdates[0].Status.UUID); diff != "" {
				t.Errorf("another update came: %s", diff)
			}
		})
	}
}

func TestDisconnectEndsTheSubscription(t *testing.T) {
	f := newFakeAgent(t)
	agent, events := run(t, f)
	agent.Disconnect() // none yet: nothing happens
	agent.Subscribe(executor.Subscribe{})
	f.events <- subscribed()
	receive(t, events)
	agent.Disconnect()
	if e, ok := receive(t, events).(executor.Disconnected); !ok {
		t.Errorf("got %+v", e)
	}
}

func TestTokenIsSentToAnAgentThatAuthenticates(t *testing.T) {
	f := newFakeAgent(t)
	f.token = "secret"
	agent, events := run(t, f)
	agent.Subscribe(executor.Subscribe{})
	f.events <- subscribed()
	if e, ok := receive(t, events).(executor.Subscribed); !ok {
		t.Errorf("got %+v", e)
	}
}

func TestLaunchOfMoreThanFourMiBComes(t *testing.T) {
	f := newFakeAgent(t)
	agent, events := run(t, f)
	agent.Subscribe(executor.Subscribe{})
	f.events <- subscribed()
	receive(t, events)
	large := task("u.1")
	large.Labels = &mesosapi.Labels{Labels: []mesosapi.Label{{Key: "x", Value: new(string)}}}
	*large.Labels.Labels[0].Value = strings.Repeat("x", 5<<20)
	f.events <- &mesosexec.Event{Type: mesosexec.Event_LAUNCH, Launch: &mesosexec.Event_Launch{Task: large}}
	if e, ok := receive(t, events).(executor.Launch); !ok || e.Problem != "" {
		t.Errorf("got %+v", e)
	}
}

func TestPausesDoubleUpToHalfOfTheAgentsLimit(t *testing.T) {
	agent := New(Config{Config: config.Config{SubscriptionBackoffMax: 300 * time.Millisecond}})
	pauses := agent.pauses()
	for i, longest := range []time.Duration{50, 100, 150, 150} {
		longest *= time.Millisecond
		if got := pauses.Step(); got < longest/2 || got > longest {
			t.Errorf("pause %d is %s, want half of %s to all of it", i, got, longest)
		}
	}
}

func TestEnvironmentIsTheRecordedOne(t *testing.T) {
	if _, err := ConfigFromEnv(); err == nil || !strings.Contains(err.Error(), "this program is started by a Mesos agent") {
		t.Errorf("without an agent: %v", err)
	}
	for name, value := range map[string]string{ // shared/mesos/recorded/executor_life.json
		"MESOS_AGENT_ENDPOINT": "127.0.0.1:5051", "MESOS_CHECKPOINT": "1", "MESOS_DIRECTORY": os.TempDir(),
		"MESOS_EXECUTOR_ID": "exec-1", "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": "5secs", "MESOS_FRAMEWORK_ID": "framework-1",
		"MESOS_HTTP_COMMAND_EXECUTOR": "0", "MESOS_RECOVERY_TIMEOUT": "15mins", "MESOS_SANDBOX": os.TempDir(),
		"MESOS_SLAVE_ID": "agent-1", "MESOS_SLAVE_PID": "slave@127.0.0.1:5051", "MESOS_SUBSCRIPTION_BACKOFF_MAX": "2secs",
		"MESOS_EXECUTOR_AUTHENTICATION_TOKEN": "secret",
	} {
		t.Setenv(name, value)
	}
	got, err := ConfigFromEnv()
	if err != nil {
		t.Fatal(err)
	}
	want := Config{Token: "secret", Config: config.Config{
		FrameworkID: "framework-1", ExecutorID: "exec-1", Directory: os.TempDir(), Sandbox: os.TempDir(),
		AgentEndpoint: "127.0.0.1:5051", ExecutorShutdownGracePeriod: 5 * time.Second,
		Checkpoint: true, RecoveryTimeout: 15 * time.Minute, SubscriptionBackoffMax: 2 * time.Second,
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
