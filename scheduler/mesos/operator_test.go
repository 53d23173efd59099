package mesos

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	mesosmaster "github.com/mesos/mesos-go/api/v1/lib/master"

	"github.com/k8sm/k8sm/scheduler/mesosstate"
	"github.com/k8sm/k8sm/scheduler/run"
)

// operatorMaster is a master of one agent that answers the operator API.
type operatorMaster struct {
	t *testing.T
	*httptest.Server
	refuse        map[mesosmaster.Call_Type]int // HTTP statuses
	broken        atomic.Bool                   // the next subscription ends with half an event
	subscriptions atomic.Int32                  // that are open
	subscribed    atomic.Int32                  // that ever were
}

func newOperatorMaster(t *testing.T, refuse map[mesosmaster.Call_Type]int) *operatorMaster {
	m := &operatorMaster{t: t, refuse: refuse}
	m.Server = httptest.NewServer(m)
	t.Cleanup(func() {
		m.CloseClientConnections()
		m.Close()
	})
	return m
}

var oneAgent = &mesosmaster.Response_GetAgents{Agents: []mesosmaster.Response_GetAgents_Agent{{
	AgentInfo: mesos.AgentInfo{ID: &mesos.AgentID{Value: "a1"}, Hostname: "one"}, Active: true,
}}}

func (m *operatorMaster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var call mesosmaster.Call
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = call.Unmarshal(body)
	}
	if err != nil || r.URL.Path != operatorPath {
		m.t.Errorf("%s %v", r.URL, err)
	}
	if status := m.refuse[call.Type]; status != 0 {
		http.Error(w, "no", status)
		return
	}
	if call.Type == mesosmaster.Call_SUBSCRIBE {
		m.subscribe(w, r)
		return
	}
	response := &mesosmaster.Response{Type: mesosmaster.Response_Type(mesosmaster.Response_Type_value[call.Type.String()])}
	if call.Type == mesosmaster.Call_GET_AGENTS {
		response.GetAgents = oneAgent
	}
	answer, err := response.Marshal()
	if err != nil {
		m.t.Error(err)
	}
	_, _ = w.Write(answer)
}

func (m *operatorMaster) subscribe(w http.ResponseWriter, r *http.Request) {
	m.subscriptions.Add(1)
	defer m.subscriptions.Add(-1)
	m.subscribed.Add(1)
	event, err := (&mesosmaster.Event{Type: mesosmaster.Event_SUBSCRIBED, Subscribed: &mesosmaster.Event_Subscribed{
		GetState: &mesosmaster.Response_GetState{GetAgents: oneAgent},
	}}).Marshal()
	if err != nil {
		m.t.Error(err)
	}
	fmt.Fprintf(w, "%d\n%s", len(event), event)
	if m.broken.CompareAndSwap(true, false) {
		fmt.Fprintf(w, "100\nhalf")
		return
	}
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// observing returns a connection that observes the master's cluster.
func observing(t *testing.T, url string) *Master {
	m := subscribedTo(t, url)
	ended := make(chan struct{})
	ctx := t.Context()
	go func() { m.observe(ctx); close(ended) }()
	t.Cleanup(func() { <-ended }) // t.Context has ended by then
	return m
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestRefusedQuestionIsUnknownAndTheRestIsTold(t *testing.T) {
	t.Parallel()
	master := newOperatorMaster(t, map[mesosmaster.Call_Type]int{
		mesosmaster.Call_GET_QUOTA: http.StatusForbidden, mesosmaster.Call_GET_ROLES: http.StatusNotImplemented,
	})
	d, err := observing(t, master.URL).State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Agents) != 1 || d.Problem != "" || len(d.Unknown) != 2 {
		t.Fatalf("%+v", d)
	}
	for i, want := range []mesosstate.Unknown{
		{Call: "GET_QUOTA", Reason: "the master answers 403 Forbidden to GET_QUOTA: no: let the principal of --mesos-principal use the operator API " +
			"(its secret must be in --credentials of the master)"},
		{Call: "GET_ROLES", Reason: "the master answers 501 Not Implemented to GET_ROLES: no"},
	} {
		if d.Unknown[i] != want {
			t.Errorf("got %+v, want %+v", d.Unknown[i], want)
		}
	}
}

func TestMasterThatTellsNothingIsAProblem(t *testing.T) {
	t.Parallel()
	master := newOperatorMaster(t, map[mesosmaster.Call_Type]int{mesosmaster.Call_SUBSCRIBE: http.StatusUnauthorized})
	d, err := observing(t, master.URL).State(t.Context())
	if err != nil || !strings.Contains(d.Problem, "401 Unauthorized to SUBSCRIBE") || !strings.Contains(d.Problem, "--mesos-principal") || d.NoMasterSince != nil {
		t.Errorf("%v %+v", err, d)
	}
}

func TestObservationBeginsAgainWhenItsStreamBreaks(t *testing.T) {
	t.Parallel()
	master := newOperatorMaster(t, nil)
	master.broken.Store(true)
	m := observing(t, master.URL)
	until(t, "the second subscription", func() bool {
		if _, err := m.State(t.Context()); err != nil {
			t.Fatal(err)
		}
		return master.subscribed.Load() == 2
	})
	until(t, "the state", func() bool {
		d, err := m.State(t.Context())
		return err == nil && d.Problem == "" && len(d.Agents) == 1
	})
}

func TestClusterIsObservedOnlyWhileSomebodyAsks(t *testing.T) {
	t.Parallel()
	master := newOperatorMaster(t, nil)
	m := observing(t, master.URL)
	time.Sleep(50 * time.Millisecond)
	if master.subscribed.Load() != 0 {
		t.Fatal("it is observed before anybody asks")
	}
	for range 10 {
		if _, err := m.State(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if master.subscribed.Load() != 1 {
		t.Fatalf("%d subscriptions", master.subscribed.Load())
	}
	m.observer.mu.Lock()
	m.observer.asked = time.Now().Add(-observeFor)
	m.observer.mu.Unlock()
	until(t, "the end of the subscription", func() bool { return master.subscriptions.Load() == 0 })
	until(t, "its memory", func() bool {
		m.observer.mu.Lock()
		defer m.observer.mu.Unlock()
		return m.observer.cluster == nil
	})
	if d, err := m.State(t.Context()); err != nil || len(d.Agents) != 1 || master.subscribed.Load() != 2 {
		t.Errorf("asked again: %v %+v", err, d)
	}
}

func TestStateOfASchedulerThatDoesNotLead(t *testing.T) {
	m, err := New(configFor("127.0.0.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.State(t.Context()); !errors.Is(err, run.ErrNotLeading) {
		t.Errorf("got %v", err)
	}
}
