package mesos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	mesos "github.com/mesos/mesos-go/api/v1/lib"
	mesossched "github.com/mesos/mesos-go/api/v1/lib/scheduler"
	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/run"
)

// fakeMaster is a master that answers each SUBSCRIBE with what subscribe writes, and takes every other call.
type fakeMaster struct {
	*httptest.Server
	subscribe func(call *mesossched.Call, stream stream)
	calls     chan *mesossched.Call // other than SUBSCRIBE
	// refuse may answer such a call with an error; nil takes all.
	refuse func(*mesossched.Call) (status int, text string)
}

// stream writes the events of one subscription.
type stream struct {
	w      http.ResponseWriter
	closed <-chan struct{} // by the client
}

func (s stream) send(t *testing.T, events ...*mesossched.Event) {
	for _, e := range events {
		data, err := e.Marshal()
		if err != nil {
			t.Error(err)
		}
		if _, err := fmt.Fprintf(s.w, "%d\n%s", len(data), data); err != nil {
			return // the client has gone
		}
		s.w.(http.Flusher).Flush()
	}
}

func newFakeMaster(t *testing.T, subscribe func(*mesossched.Call, stream)) *fakeMaster {
	m := &fakeMaster{subscribe: subscribe, calls: make(chan *mesossched.Call, 100)}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var call mesossched.Call
		if err != nil || r.URL.Path != "/api/v1/scheduler" || r.Header.Get("Content-Type") != "application/x-protobuf" ||
			call.Unmarshal(body) != nil {
			http.Error(w, "not a call in protobuf", http.StatusBadRequest)
			return
		}
		if call.GetType() != mesossched.Call_SUBSCRIBE {
			if r.Header.Get("Mesos-Stream-Id") != "stream" {
				http.Error(w, "wrong Mesos-Stream-Id", http.StatusBadRequest)
				return
			}
			m.calls <- &call
			if m.refuse != nil {
				if status, text := m.refuse(&call); status != 0 {
					http.Error(w, text, status)
					return
				}
			}
			w.WriteHeader(http.StatusAccepted)
			return
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
		w.Header().Set("Mesos-Stream-Id", "stream")
		m.subscribe(&call, stream{w, r.Context().Done()})
	}))
	t.Cleanup(func() {
		m.CloseClientConnections()
		m.Close()
	})
	return m
}

func subscribedEvent(heartbeat float64) *mesossched.Event {
	return &mesossched.Event{Type: mesossched.Event_SUBSCRIBED, Subscribed: &mesossched.Event_Subscribed{
		FrameworkID: &mesos.FrameworkID{Value: "fw-1"}, HeartbeatIntervalSeconds: &heartbeat,
	}}
}

func errorEvent(message string) *mesossched.Event {
	return &mesossched.Event{Type: mesossched.Event_ERROR, Error: &mesossched.Event_Error{Message: message}}
}

func configFor(masters ...string) Config {
	var cfg Config
	cfg.AddFlags(pflag.NewFlagSet("", pflag.PanicOnError))
	cfg.Masters, cfg.ConnectTimeout = masters, 300*time.Millisecond
	return cfg
}

// start runs a Master and returns its events and how it ended.
func start(t *testing.T, cfg Config, id api.FrameworkID) (*Master, <-chan scheduler.Event, <-chan error) {
	t.Helper()
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	events, ended := make(chan scheduler.Event, 100), make(chan error, 1)
	go func() {
		ended <- m.Run(ctx, id, func(ev scheduler.Event) error {
			if _, again := ev.(scheduler.SubscribeFailed); !again { // as often as it takes: see TestSchedulerHearsWhyItHasNoMaster
				events <- ev
			}
			return nil
		})
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		for range ended { // until it has ended
		}
	})
	return m, events, ended
}

func hold(s stream) { <-s.closed }

func TestRedirectionToTheLeadingMasterIsFollowed(t *testing.T) {
	leader := newFakeMaster(t, func(_ *mesossched.Call, s stream) {
		s.send(t, subscribedEvent(15))
		hold(s)
	})
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "//"+leader.Listener.Addr().String()) // as Mesos writes it
		w.WriteHeader(http.StatusTemporaryRedirect)
	}))
	defer other.Close()
	m, events, _ := start(t, configFor(other.URL), "")
	if diff := cmp.Diff(scheduler.Subscribed{Framework: "fw-1"}, <-events); diff != "" {
		t.Error(diff)
	}
	m.Do(scheduler.Revive{})
	call := <-leader.calls
	if call.GetType() != mesossched.Call_REVIVE || call.GetFrameworkID().GetValue() != "fw-1" {
		t.Errorf("the leader got %v", call)
	}
}

func TestAnotherMasterIsTriedWhenOneDoesNotAnswer(t *testing.T) {
	master := newFakeMaster(t, func(_ *mesossched.Call, s stream) {
		s.send(t, subscribedEvent(15))
		hold(s)
	})
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	_, events, _ := start(t, configFor(gone.URL, master.URL), "")
	if _, ok := (<-events).(scheduler.Subscribed); !ok {
		t.Error("not subscribed")
	}
}

func TestMasterThatCannotBeReachedIsGivenUpAtTheStart(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	_, _, ended := start(t, configFor(gone.URL), "")
	err := <-ended
	if err == nil || !strings.Contains(err.Error(), gone.URL) || !strings.Contains(err.Error(), "--mesos-master") {
		t.Errorf("got %v", err)
	}
}

func TestSubscriptionIsRepeatedWithTheSameFramework(t *testing.T) {
	ids := make(chan string, 10)
	master := newFakeMaster(t, func(call *mesossched.Call, s stream) {
		ids <- call.GetFrameworkID().GetValue()
		s.send(t, subscribedEvent(15))
		if len(ids) > 1 {
			hold(s)
		}
	})
	_, events, _ := start(t, configFor(master.URL), "")
	want := []scheduler.Event{
		scheduler.Subscribed{Framework: "fw-1"}, scheduler.Disconnected{}, scheduler.Subscribed{Framework: "fw-1"},
	}
	for _, event := range want {
		if diff := cmp.Diff(event, <-events); diff != "" {
			t.Error(diff)
		}
	}
	if first, second := <-ids, <-ids; first != "" || second != "fw-1" {
		t.Errorf("subscribed as %q, then as %q", first, second)
	}
}

func TestSchedulerHearsWhyItHasNoMaster(t *testing.T) {
	master := newFakeMaster(t, func(_ *mesossched.Call, s stream) { s.send(t, subscribedEvent(15)) })
	m, err := New(configFor(master.URL))
	if err != nil {
		t.Fatal(err)
	}
	var whys []string
	ended := errors.New("it has heard enough")
	err = m.Run(t.Context(), "", func(ev scheduler.Event) error {
		switch ev := ev.(type) {
		case scheduler.Disconnected:
			master.Close()
		case scheduler.SubscribeFailed:
			if whys = append(whys, ev.Why); strings.Contains(ev.Why, "connection refused") {
				return ended
			}
		}
		return nil
	})
	if !errors.Is(err, ended) || !strings.Contains(strings.Join(whys, "\n"), "closed the connection") {
		t.Errorf("heard %q: %v", whys, err)
	}
}

func TestConnectionWithoutHeartbeatsIsDead(t *testing.T) {
	master := newFakeMaster(t, func(_ *mesossched.Call, s stream) {
		s.send(t, subscribedEvent(0.02))
		hold(s)
	})
	_, events, _ := start(t, configFor(master.URL), "")
	for _, want := range []scheduler.Event{scheduler.Subscribed{Framework: "fw-1"}, scheduler.Disconnected{}} {
		if diff := cmp.Diff(want, <-events); diff != "" {
			t.Error(diff)
		}
	}
}

func TestErrorsOfTheMasterEndTheRunAndSayWhatToDo(t *testing.T) {
	for message, check := range map[string]func(error) bool{
		"Framework has been removed": func(err error) bool {
			return errors.Is(err, ErrRemoved) && strings.Contains(err.Error(), "start again: km etcdctl del /k8sm/x/framework-id")
		},
		"Framework failed over": func(err error) bool { return errors.Is(err, run.ErrReplaced) },
		"Role 'x y' is invalid": func(err error) bool { return strings.Contains(err.Error(), "Role 'x y' is invalid") },
		"Changing framework's principal is not allowed.": func(err error) bool {
			return errors.Is(err, ErrRefused) && strings.Contains(err.Error(), "--mesos-principal that it was first given") &&
				strings.Contains(err.Error(), "curl -d frameworkId=fw-1 http://127.0.0.1:") && strings.Contains(err.Error(), "/master/teardown") &&
				strings.HasSuffix(err.Error(), "start again: km etcdctl del /k8sm/x/framework-id")
		},
		"Updating 'FrameworkInfo.user' is unsupported; attempted to update from 'a' to 'b'": func(err error) bool {
			return strings.Contains(err.Error(), "--mesos-user that it was first given")
		},
		"Roles { a } are not present in the master's --roles": func(err error) bool { return strings.Contains(err.Error(), "--mesos-roles") },
		"'FrameworkInfo.roles' contains duplicate items: { a }": func(err error) bool {
			return strings.HasSuffix(err.Error(), "correct --mesos-roles")
		},
		"User 'root' is not allowed to run frameworks without --root_submissions set": func(err error) bool {
			return strings.Contains(err.Error(), "minions need root")
		},
		"Not authorized to register framework": func(err error) bool { return strings.Contains(err.Error(), "--acls") },
	} {
		master := newFakeMaster(t, func(_ *mesossched.Call, s stream) { s.send(t, errorEvent(message)) })
		cfg := configFor(master.URL)
		cfg.Forget = "km etcdctl del /k8sm/x/framework-id"
		_, _, ended := start(t, cfg, "fw-1")
		if err := <-ended; err == nil || !check(err) {
			t.Errorf("%s: got %v", message, err)
		}
	}
}

func TestPrincipalIsSentAndARefusalIsFinal(t *testing.T) {
	master := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name, secret, _ := r.BasicAuth(); name != "k8sm" || secret != "s3cret" {
			t.Errorf("authenticated as %q with %q", name, secret)
		}
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer master.Close()
	cfg := configFor(master.URL)
	cfg.Principal, cfg.SecretFile, cfg.ConnectTimeout = "k8sm", filepath.Join(t.TempDir(), "secret"), time.Hour
	if err := os.WriteFile(cfg.SecretFile, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, ended := start(t, cfg, "")
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "--mesos-secret-file") {
		t.Errorf("got %v", err)
	}
}

func TestWhatTheFlagsSayIsWhatMesosIsTold(t *testing.T) {
	var cfg Config
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	cfg.AddFlags(fs)
	if err := fs.Parse([]string{
		"--mesos-roles=a,b", "--mesos-user=nobody", "--mesos-framework-name=f", "--mesos-webui-url=http://w",
		"--mesos-principal=p", "--mesos-failover-timeout=1m",
	}); err != nil {
		t.Fatal(err)
	}
	info := cfg.frameworkInfo("fw-1")
	if diff := cmp.Diff([]string{"a", "b"}, info.Roles); diff != "" {
		t.Error(diff)
	}
	got := fmt.Sprint(info.User, info.Name, info.GetWebUiURL(), info.GetPrincipal(), info.GetFailoverTimeout(), info.GetCheckpoint(), info.ID.Value)
	if want := fmt.Sprint("nobody", "f", "http://w", "p", 60.0, true, "fw-1"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if info.Role != nil {
		t.Error("Mesos refuses a role beside MULTI_ROLE")
	}
}

func TestAddressesOfMasters(t *testing.T) {
	for master, want := range map[string]string{
		"10.0.0.1:5050":       "http://10.0.0.1:5050/api/v1/scheduler",
		"master.mesos":        "http://master.mesos:5050/api/v1/scheduler",
		"https://master:443":  "https://master:443/api/v1/scheduler",
		"[::1]:5050":          "http://[::1]:5050/api/v1/scheduler",
		"ftp://master":        "neither",
		"":                    "is empty: use --mesos-master=",
		"file:///etc/masters": "nothing beside it",
		"zk://a:2181/mesos":   "nothing beside it",
	} {
		got, err := endpoint(master)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q: got %s, want %s", master, got, want)
		}
	}
}

func TestWrongFlagsAreNamed(t *testing.T) {
	for flag, change := range map[string]func(*Config){
		"--mesos-master":      func(c *Config) { c.Masters = nil },
		"--mesos-secret-file": func(c *Config) { c.Principal = "p" },
		"--mesos-ca-file":     func(c *Config) { c.CAFile = os.DevNull },
		"--mesos-cert-file":   func(c *Config) { c.CertFile, c.KeyFile = os.DevNull, os.DevNull },
		"--mesos-roles=a,b,a": func(c *Config) { c.Roles = []string{"a", "b", "a"} },
		"--mesos-key-file":    func(c *Config) { c.CertFile = os.DevNull },
	} {
		cfg := configFor("127.0.0.1:5050")
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: got %v", flag, err)
		}
	}
}
