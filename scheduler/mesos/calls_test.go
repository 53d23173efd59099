package mesos

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	mesos "github.com/mesos/mesos-go/api/v1/lib"
	mesossched "github.com/mesos/mesos-go/api/v1/lib/scheduler"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler"
)

// newRefusing is a master that refuses all calls but SUBSCRIBE.
func newRefusing(t *testing.T, status int, text string) *fakeMaster {
	master := newFakeMaster(t, func(_ *mesossched.Call, s stream) {
		s.send(t, subscribedEvent(15))
		hold(s)
	})
	master.refuse = func(*mesossched.Call) (int, string) { return status, text }
	return master
}

func TestCallThatTheMasterFindsInvalidEndsTheSubscriptionOnlyIfItHoldsOffers(t *testing.T) {
	master := newRefusing(t, http.StatusBadRequest, "Failed to validate scheduler::Call: Not a valid UUID")
	m, events, _ := start(t, configFor(master.URL), "")
	next(t, events, scheduler.Subscribed{Framework: "fw-1"})
	m.Do(scheduler.Acknowledge{Task: "t", Agent: "a", UUID: []byte("x")})
	m.Do(scheduler.Revive{})
	for _, want := range []mesossched.Call_Type{mesossched.Call_ACKNOWLEDGE, mesossched.Call_REVIVE} {
		if call := <-master.calls; call.GetType() != want {
			t.Errorf("the master got %s, not %s", call.GetType(), want)
		}
	}
	m.Do(scheduler.Decline{Offers: []api.OfferID{"o1"}})
	next(t, events, scheduler.Disconnected{})
	next(t, events, scheduler.Subscribed{Framework: "fw-1"})
}

func TestCallThatIsOfAnEndedSubscriptionBringsANewOne(t *testing.T) {
	for status, text := range map[int]string{
		http.StatusForbidden: "Framework is not subscribed", http.StatusBadRequest: "The stream ID 'x' included in this request didn't match",
		http.StatusServiceUnavailable: "busy",
	} {
		master := newRefusing(t, status, text)
		m, events, _ := start(t, configFor(master.URL), "")
		next(t, events, scheduler.Subscribed{Framework: "fw-1"})
		m.Do(scheduler.Revive{})
		next(t, events, scheduler.Disconnected{})
		next(t, events, scheduler.Subscribed{Framework: "fw-1"})
	}
}

func TestCallToAMasterThatLeadsNoMoreEndsTheSubscription(t *testing.T) {
	other := newRefusing(t, http.StatusServiceUnavailable, "it need not be asked")
	var leads atomic.Bool
	leads.Store(true)
	master := newFakeMaster(t, func(_ *mesossched.Call, s stream) {
		s.send(t, subscribedEvent(15))
		hold(s)
	})
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if leads.Load() {
			master.Config.Handler.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Location", "//"+other.Listener.Addr().String())
		w.WriteHeader(http.StatusTemporaryRedirect)
	}))
	t.Cleanup(func() {
		front.CloseClientConnections()
		front.Close()
	})
	m, events, _ := start(t, configFor(front.URL), "")
	next(t, events, scheduler.Subscribed{Framework: "fw-1"})
	leads.Store(false)
	m.Do(scheduler.Decline{Offers: []api.OfferID{"o1"}})
	next(t, events, scheduler.Disconnected{})
	next(t, events, scheduler.Subscribed{Framework: "fw-1"}) // at the other one
}

func TestCallWithoutAnAnswerEndsTheSubscription(t *testing.T) {
	master := newRefusing(t, http.StatusServiceUnavailable, "nobody waits for that")
	forever := make(chan struct{})
	defer close(forever)
	master.refuse = func(*mesossched.Call) (int, string) { <-forever; return 0, "" }
	m, events, _ := start(t, configFor(master.URL), "")
	next(t, events, scheduler.Subscribed{Framework: "fw-1"})
	m.caller.Transport.(*http.Transport).ResponseHeaderTimeout = 50 * time.Millisecond
	m.Do(scheduler.Decline{Offers: []api.OfferID{"o1"}})
	next(t, events, scheduler.Disconnected{})
	next(t, events, scheduler.Subscribed{Framework: "fw-1"})
}

func TestOffersOfALaunchThatCannotBeWrittenAreGivenBack(t *testing.T) {
	master := newFakeMaster(t, func(_ *mesossched.Call, s stream) {
		s.send(t, subscribedEvent(15))
		hold(s)
	})
	m, events, _ := start(t, configFor(master.URL), "")
	next(t, events, scheduler.Subscribed{Framework: "fw-1"})
	m.Do(scheduler.Launch{Agent: "a", Offers: []api.OfferID{"o1", "o2"}, Executor: []byte("no ExecutorInfo")})
	call := <-master.calls
	if diff := cmp.Diff([]mesos.OfferID{{Value: "o1"}, {Value: "o2"}}, call.GetDecline().GetOfferIDs()); diff != "" {
		t.Errorf("the master got %v: %s", call, diff)
	}
}

func TestPausesBetweenSubscriptionsGrowWhileCallsFail(t *testing.T) {
	master := newRefusing(t, http.StatusServiceUnavailable, "busy")
	m, events, _ := start(t, configFor(master.URL), "")
	var came []time.Time
	for range 4 {
		next(t, events, scheduler.Subscribed{Framework: "fw-1"})
		came = append(came, time.Now())
		m.Do(scheduler.Revive{})
		next(t, events, scheduler.Disconnected{})
	}
	// Each pause is at least half of a time that doubles from firstPause.
	if got := came[3].Sub(came[0]); got < 7*firstPause/2 {
		t.Errorf("three subscriptions followed each other within %s", got)
	}
}

func TestRefusedSubscriptionEndsTheRunAndSaysWhatToDo(t *testing.T) {
	for _, c := range []struct {
		status     int
		text, want string
	}{
		{http.StatusBadRequest, "Failed to validate scheduler::Call: Authenticated principal 'a' does not match principal 'b' set in `FrameworkInfo`", "--mesos-principal"},
		{http.StatusBadRequest, "Client sent an HTTP request to an HTTPS server.", "https://"},
		{http.StatusForbidden, "The request's authenticated principal contains claims, but no value", "claims"},
	} {
		master := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, c.text, c.status) }))
		cfg := configFor(master.URL)
		cfg.ConnectTimeout = time.Hour
		_, _, ended := start(t, cfg, "")
		if err := <-ended; err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: got %v", c.text, err)
		}
		master.Close()
	}
}
