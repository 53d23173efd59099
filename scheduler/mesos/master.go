package mesos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/httpcli"
	"github.com/mesos/mesos-go/api/v1/lib/httpcli/apierrors"
	"github.com/mesos/mesos-go/api/v1/lib/httpcli/httpsched"
	mesossched "github.com/mesos/mesos-go/api/v1/lib/scheduler"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler/calls"
	log "github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/backoff"
	"github.com/k8sm/k8sm/api/mesoshttp"
	"github.com/k8sm/k8sm/api/resolve"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/run"
	"github.com/k8sm/k8sm/scheduler/run/lanes"
)

const (
	firstPause       = 200 * time.Millisecond
	longestPause     = 10 * time.Second
	defaultHeartbeat = 15 * time.Second // Mesos's default interval
	missedHeartbeats = 3                // then the connection counts as dead

	subscribeTimeout = 10 * time.Second // for the answer; then another master may be tried
	callTimeout      = 30 * time.Second // for the answer to any other call: a timeout costs the subscription, and masters may be busy
)

// Master is the connection to the leading master. It implements run.Master. Do may be called concurrently.
type Master struct {
	cfg        Config
	detector   Detector
	subscriber *http.Client // for SUBSCRIBE
	caller     *http.Client // for all other calls
	secret     string
	plain      sync.Once // warnOfPlainHTTP
	metrics    lastMetrics
	observer   *observer

	mu      sync.Mutex  // guards what follows
	session *session    // nil while not subscribed
	lost    time.Time   // when the last session ended, or Run began
	masters *candidates // nil before Run
}

// session is one subscription.
type session struct {
	framework api.FrameworkID
	endpoint  string // of the leading master
	caller    calls.Caller
	calls     *lanes.Lanes[*mesossched.Call]
	end       context.CancelCauseFunc
}

// New returns the connection, not yet connected. The error names the wrong flag.
func New(cfg Config) (*Master, error) {
	detector, err := cfg.detector()
	if err != nil {
		return nil, err
	}
	if err := cfg.checkRoles(); err != nil {
		return nil, err
	}
	secret, err := cfg.secret()
	if err != nil {
		return nil, err
	}
	secured, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	if z, ok := detector.(*zooKeeper); ok {
		cfg.Masters = []string{z.String()} // without the password
	}
	return &Master{
		cfg: cfg, detector: detector, secret: secret,
		subscriber: newClient(secured, subscribeTimeout), caller: newClient(secured, callTimeout),
		metrics: lastMetrics{turn: make(chan struct{}, 1)}, observer: newObserver(),
	}, nil
}

// Addresses returns the addresses of the masters and ZooKeeper servers that this scheduler knows: those of --mesos-master, and those
// that it was told of.
func (m *Master) Addresses(ctx context.Context) []netip.Addr {
	servers := m.cfg.Peers()
	m.mu.Lock()
	if m.masters != nil {
		servers = append(servers, m.masters.all()...)
	}
	if m.session != nil {
		servers = append(servers, m.session.endpoint)
	}
	m.mu.Unlock()
	return resolve.Hosts(ctx, servers...)
}

// newClient returns a client with this timeout for the header of an answer. It follows no redirects.
func newClient(secured *mesoshttp.TLS, timeout time.Duration) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			DialTLSContext:        secured.Dial,
			ResponseHeaderTimeout: timeout,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Do implements run.Master.
func (m *Master) Do(action scheduler.MesosAction) {
	m.mu.Lock()
	s := m.session
	m.mu.Unlock()
	if s == nil {
		log.Debugf("not subscribed to Mesos, dropping: %s", action)
		return
	}
	call, err := callOf(action)
	if err != nil {
		log.WithError(err).Error("cannot translate an action to a call of Mesos")
		launch, ok := action.(scheduler.Launch)
		if !ok {
			return
		}
		// Give its offers back: nothing else would. Reconciliation finds out that its tasks do not exist.
		call = calls.Decline(offerIDs(launch.Offers)...)
	}
	s.calls.Add(call.With(calls.Framework(string(s.framework))))
}

// Run implements run.Master.
func (m *Master) Run(ctx context.Context, id api.FrameworkID, sink run.Sink) error {
	defer m.subscriber.CloseIdleConnections()
	defer m.caller.CloseIdleConnections()
	if z, ok := m.detector.(*zooKeeper); ok {
		z.warnOfArguments(os.Args)
	}
	masters := newCandidates()
	m.mu.Lock()
	m.masters, m.lost = masters, time.Now()
	m.mu.Unlock()
	detecting, cancel := context.WithCancel(ctx)
	var detector sync.WaitGroup
	detector.Go(func() { m.observe(detecting) })
	detector.Go(func() { m.detector.Detect(detecting, masters.tell) })
	defer detector.Wait()
	defer cancel()
	return m.keepSubscribed(ctx, masters, id, sink)
}

// keepSubscribed subscribes to one of the masters, again and again.
func (m *Master) keepSubscribed(ctx context.Context, masters *candidates, id api.FrameworkID, sink run.Sink) error {
	started, connected := time.Now(), false
	begin := backoff.Between(firstPause, longestPause)
	pauses := begin
	for attempt := 0; ; attempt++ {
		endpoint, changed, err := masters.pick(attempt)
		c := &connection{master: m, id: id, sink: sink, endpoint: endpoint, known: masters.all()}
		if endpoint == "" {
			pauses = begin // no master is asked, so none needs a rest
		} else {
			err = c.followUntil(ctx, changed)
		}
		if ctx.Err() != nil {
			return nil
		}
		var final finalError
		if errors.As(err, &final) {
			return final.error
		}
		if c.subscribed {
			id, connected = c.id, true
			if !c.endedEarly(err) {
				pauses = begin
			}
			log.WithError(err).Warn("lost the connection to Mesos, trying again")
		}
		if !connected && time.Since(started) > m.cfg.ConnectTimeout {
			return fmt.Errorf("cannot subscribe to any Mesos master of --mesos-master=%s within %s: %w",
				strings.Join(m.cfg.Masters, ","), m.cfg.ConnectTimeout, err)
		}
		level := log.DebugLevel
		if c.astray != nil {
			level = log.WarnLevel
		}
		log.WithError(err).Log(level, "no connection to Mesos yet")
		if err := m.miss(sink, err); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			pauses = begin
		case <-time.After(pauses.Step()):
		}
	}
}

// miss tells the scheduler why it has no master.
func (m *Master) miss(sink run.Sink, why error) error {
	if why == nil {
		return nil
	}
	return sink(scheduler.SubscribeFailed{Why: why.Error()})
}

// finalError is an error that would happen again at every attempt.
type finalError struct{ error }

// connection is one attempt to subscribe, with its redirects, and the subscription that follows.
type connection struct {
	master     *Master
	id         api.FrameworkID
	sink       run.Sink
	endpoint   string
	known      []string // the endpoints of all candidates
	leader     string   // the target of the last answer's redirect; "" for none
	astray     error    // why that redirect is not followed; nil if it is
	subscribed bool
	since      time.Time // when it was subscribed
}

// callError is the error of a call, which ends the subscription: see session.send.
type callError struct {
	call mesossched.Call_Type
	error
}

func (e callError) Error() string {
	return fmt.Sprintf("the Mesos master did not accept a call of %s: %s", e.call, e.error)
}

func (e callError) Unwrap() error { return e.error }

// endedEarly is true if a call failed soon after the subscription. It may fail again, so the next attempt waits longer.
func (c *connection) endedEarly(err error) bool {
	var failed callError
	return errors.As(err, &failed) && time.Since(c.since) < longestPause
}

// errSilent ends a subscription without events or heartbeats.
var errSilent = errors.New("the master sent no heartbeat")

// errMoved ends a subscription when the candidates have changed.
var errMoved = errors.New("another Mesos master leads now")

// followUntil follows until changed is closed.
func (c *connection) followUntil(ctx context.Context, changed <-chan struct{}) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() {
		select {
		case <-changed:
			cancel(errMoved)
		case <-ctx.Done():
		}
	})
	defer watcher.Wait()
	defer cancel(nil)
	err := c.follow(ctx)
	if errors.Is(context.Cause(ctx), errMoved) {
		return errMoved // the reason for any other error
	}
	return err
}

// follow subscribes, and follows redirects to the leading master.
func (c *connection) follow(ctx context.Context) error {
	for range 5 {
		c.leader = ""
		err := c.subscribe(ctx)
		if c.astray != nil {
			return c.astray
		}
		if c.leader == "" {
			return err
		}
		c.endpoint = c.leader
	}
	return fmt.Errorf("the masters redirect to each other; the last was %s", c.endpoint)
}

// subscribe holds one subscription until it ends.
func (c *connection) subscribe(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &session{caller: c.caller(), end: cancel}
	s.calls = lanes.New(func(*mesossched.Call) string { return "in order" }, s.send)
	response, err := s.caller.Call(ctx, calls.Subscribe(c.master.cfg.frameworkInfo(c.id)))
	if err != nil {
		return c.explain(err)
	}
	defer response.Close()
	watchdog := time.AfterFunc(missedHeartbeats*defaultHeartbeat, func() { cancel(errSilent) })
	defer watchdog.Stop()
	var sender errgroup.Group
	sender.Go(func() error { return s.calls.Run(ctx, 1) })
	err = c.read(response, s, watchdog)
	var final finalError
	if cause := context.Cause(ctx); cause != nil && !errors.As(err, &final) {
		err = cause // the reason why the stream was interrupted
	}
	cancel(nil)
	c.master.use(nil)
	if c.subscribed {
		err = errors.Join(err, c.sink(scheduler.Disconnected{}))
	}
	return errors.Join(err, sender.Wait())
}

// read passes events on until the stream ends. Each of them resets the watchdog.
func (c *connection) read(response mesos.Response, s *session, watchdog *time.Timer) error {
	patience := missedHeartbeats * defaultHeartbeat
	for {
		var e mesossched.Event
		if err := response.Decode(&e); err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("the Mesos master closed the connection")
			}
			return fmt.Errorf("cannot read the next event from Mesos: %w", err)
		}
		if interval := e.GetSubscribed().GetHeartbeatIntervalSeconds(); interval > 0 {
			patience = time.Duration(missedHeartbeats * interval * float64(time.Second))
		}
		watchdog.Reset(patience)
		if err := c.pass(&e, s); err != nil {
			return err
		}
	}
}

func (c *connection) pass(e *mesossched.Event, s *session) error {
	switch e.GetType() {
	case mesossched.Event_SUBSCRIBED:
		c.id, c.subscribed, c.since = api.FrameworkID(e.GetSubscribed().GetFrameworkID().GetValue()), true, time.Now()
		s.framework, s.endpoint = c.id, c.endpoint
		c.master.use(s)
		log.WithFields(log.Fields{"framework": c.id, "master": c.endpoint}).Info("subscribed to Mesos")
		return c.tell(scheduler.Subscribed{Framework: c.id})
	case mesossched.Event_ERROR:
		return finalError{c.refusal(e.GetError().GetMessage())}
	}
	events, err := eventsOf(e)
	if err != nil {
		log.WithError(err).Error("cannot translate an event from Mesos")
	}
	for _, ev := range events {
		if err := c.tell(ev); err != nil {
			return err
		}
	}
	return nil
}

// tell hands an event to the scheduler. An error of the scheduler is final.
func (c *connection) tell(ev scheduler.Event) error {
	if err := c.sink(ev); err != nil {
		return finalError{err}
	}
	return nil
}

func (m *Master) use(s *session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s == nil && m.session != nil {
		m.lost = time.Now()
	}
	m.session = s
}

// send makes one call. Nobody knows whether the master accepted a call that failed (503, no answer in time, a broken connection).
// If it did not, the call's offers would stay ours for ever, as Mesos has no --offer_timeout by default. So a failed call ends the
// subscription. The next one begins without offers, because the master rescinds all (Master::deactivate and
// Master::_failoverFramework in src/master/master.cpp), and accepts no call of the old one (the stream ID in src/master/http.cpp).
// The core then reconciles its tasks and repeats what it still wants.
func (s *session) send(ctx context.Context, call *mesossched.Call) {
	response, err := s.caller.Call(ctx, call)
	if response != nil {
		response.Close()
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	failed := callError{call.GetType(), err}
	if invalid(err) && !holdsOffers(call) {
		log.Error(failed) // the master would refuse it again
		return
	}
	s.end(failed)
}

// invalid is true if the master rejected the call as malformed, without effect (Master::Http::scheduler in src/master/http.cpp).
func invalid(err error) bool {
	return apierrors.CodeMalformedRequest.Matches(err) && strings.Contains(err.Error(), "Failed to validate scheduler::Call")
}

// holdsOffers is true for calls with offers or inverse offers.
func holdsOffers(call *mesossched.Call) bool {
	switch call.GetType() {
	case mesossched.Call_ACCEPT, mesossched.Call_DECLINE, mesossched.Call_ACCEPT_INVERSE_OFFERS, mesossched.Call_DECLINE_INVERSE_OFFERS:
		return true
	}
	return false
}

// caller returns a client for one subscription.
func (c *connection) caller() calls.Caller {
	client := httpcli.New(
		httpcli.Endpoint(c.endpoint),
		httpcli.Codec(mesoshttp.Codec()),
		httpcli.Do(mesoshttp.Bounded(c.do)),
	)
	none := func() string { return "" } // Run tries the other masters
	return httpsched.NewCaller(client, httpsched.MaxRedirects(0), httpsched.EndpointCandidates(none))
}

// do sends a request, and notes the target if a master that does not lead redirects it.
func (c *connection) do(request *http.Request) (*http.Response, error) {
	c.master.authenticate(request)
	client := c.master.subscriber
	if c.subscribed {
		client = c.master.caller
	}
	response, err := client.Do(request)
	if err == nil && response.StatusCode == http.StatusTemporaryRedirect && !c.subscribed {
		c.leader, c.astray = c.target(request.Context(), response.Header.Get("Location"))
	}
	return response, err
}

// authenticate adds the principal's secret to a request. The caller has made sure that it goes to a master.
func (m *Master) authenticate(request *http.Request) {
	if m.secret != "" {
		m.warnOfPlainHTTP(request.URL)
		request.SetBasicAuth(m.cfg.Principal, m.secret)
	}
}

func (c *Config) frameworkInfo(id api.FrameworkID) *mesos.FrameworkInfo {
	timeout, checkpoint := c.FailoverTimeout.Seconds(), true
	info := &mesos.FrameworkInfo{
		User: c.User, Name: c.Name, Roles: c.Roles, FailoverTimeout: &timeout, Checkpoint: &checkpoint,
	}
	for _, capability := range []mesos.FrameworkInfo_Capability_Type{
		mesos.FrameworkInfo_Capability_MULTI_ROLE, mesos.FrameworkInfo_Capability_PARTITION_AWARE,
		mesos.FrameworkInfo_Capability_TASK_KILLING_STATE, mesos.FrameworkInfo_Capability_GPU_RESOURCES,
		mesos.FrameworkInfo_Capability_RESERVATION_REFINEMENT,
	} {
		info.Capabilities = append(info.Capabilities, mesos.FrameworkInfo_Capability{Type: capability})
	}
	if c.RegionAware {
		info.Capabilities = append(info.Capabilities, mesos.FrameworkInfo_Capability{Type: mesos.FrameworkInfo_Capability_REGION_AWARE})
	}
	if c.Revocable {
		info.Capabilities = append(info.Capabilities,
			mesos.FrameworkInfo_Capability{Type: mesos.FrameworkInfo_Capability_REVOCABLE_RESOURCES})
	}
	if id != "" {
		info.ID = &mesos.FrameworkID{Value: string(id)}
	}
	if c.Principal != "" {
		info.Principal = &c.Principal
	}
	if c.WebUIURL != "" {
		info.WebUiURL = &c.WebUIURL
	}
	return info
}
