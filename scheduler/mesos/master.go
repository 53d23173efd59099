package mesos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/encoding/codecs"
	"github.com/mesos/mesos-go/api/v1/lib/httpcli"
	"github.com/mesos/mesos-go/api/v1/lib/httpcli/apierrors"
	"github.com/mesos/mesos-go/api/v1/lib/httpcli/httpsched"
	mesossched "github.com/mesos/mesos-go/api/v1/lib/scheduler"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler/calls"
	log "github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/lanes"
)

const (
	firstPause       = 200 * time.Millisecond
	longestPause     = 10 * time.Second
	defaultHeartbeat = 15 * time.Second // of a master that does not tell
	missedHeartbeats = 3                // then the connection counts as dead
)

// ErrRemoved says that Mesos has ended the framework for good: its id can never be used again.
var ErrRemoved = errors.New("the framework was removed by Mesos, and all its tasks: it was torn down, or no scheduler was " +
	"connected for longer than --mesos-failover-timeout")

// ErrReplaced says that another scheduler has subscribed with the same framework id.
var ErrReplaced = errors.New("another scheduler has subscribed as this framework")

// Master is the connection to the leading master. It implements scheduler.Master.
type Master struct {
	cfg      Config
	detector Detector
	client   *http.Client
	secret   string

	mu      sync.Mutex // guards session
	session *session   // nil while not subscribed
}

// session is one subscription.
type session struct {
	framework api.FrameworkID
	caller    calls.Caller
	calls     *lanes.Lanes[*mesossched.Call]
}

// New returns the connection, not yet connected. The error tells which flag is wrong.
func New(cfg Config) (*Master, error) {
	detector, err := cfg.detector()
	if err != nil {
		return nil, err
	}
	secret, err := cfg.secret()
	if err != nil {
		return nil, err
	}
	tlsConfig, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	if z, ok := detector.(*zooKeeper); ok {
		cfg.Masters = []string{z.String()} // from here on without the password
	}
	return &Master{
		cfg: cfg, detector: detector, secret: secret,
		client: &http.Client{
			Transport: &http.Transport{
				DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
				TLSClientConfig:       tlsConfig,
				TLSHandshakeTimeout:   5 * time.Second,
				ResponseHeaderTimeout: 10 * time.Second,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Do implements scheduler.Master.
func (m *Master) Do(action scheduler.MesosAction) {
	m.mu.Lock()
	s := m.session
	m.mu.Unlock()
	if s == nil {
		log.Debugf("not connected to Mesos, dropping: %s", action)
		return
	}
	call, err := callOf(action)
	if err != nil {
		log.WithError(err).Error("cannot tell Mesos what to do")
		return
	}
	s.calls.Add(call.With(calls.Framework(string(s.framework))))
}

// Run implements scheduler.Master.
func (m *Master) Run(ctx context.Context, id api.FrameworkID, sink scheduler.Sink) error {
	defer m.client.CloseIdleConnections()
	masters := newCandidates()
	detecting, cancel := context.WithCancel(ctx)
	var detector sync.WaitGroup
	detector.Go(func() { m.detector.Detect(detecting, masters.tell) })
	defer detector.Wait()
	defer cancel()
	return m.keepSubscribed(ctx, masters, id, sink)
}

// keepSubscribed subscribes at one of the masters, again and again.
func (m *Master) keepSubscribed(ctx context.Context, masters *candidates, id api.FrameworkID, sink scheduler.Sink) error {
	started, connected := time.Now(), false
	pause := firstPause
	for attempt := 0; ; attempt++ {
		endpoint, changed, err := masters.pick(attempt)
		c := &connection{master: m, id: id, sink: sink, endpoint: endpoint}
		if endpoint == "" {
			pause = firstPause // nobody is asked, so nobody need be spared
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
			id, connected, pause = c.id, true, firstPause
			log.WithError(err).Warn("the connection to Mesos is lost, trying again")
		}
		if !connected && time.Since(started) > m.cfg.ConnectTimeout {
			return fmt.Errorf("cannot subscribe at any Mesos master of --mesos-master=%s within %s: %w",
				strings.Join(m.cfg.Masters, ","), m.cfg.ConnectTimeout, err)
		}
		log.WithError(err).Debug("no connection to Mesos yet")
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			pause = firstPause
		case <-time.After(pause/2 + rand.N(pause)):
			pause = min(2*pause, longestPause)
		}
	}
}

// finalError is an error that no repetition can mend.
type finalError struct{ error }

// connection is one attempt to subscribe, redirects included, and the subscription that it leads to.
type connection struct {
	master     *Master
	id         api.FrameworkID
	sink       scheduler.Sink
	endpoint   string
	leader     string // where the last answer redirected to
	subscribed bool
}

// errMoved ends a subscription because others are the masters now.
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
		return errMoved // and whatever else went wrong on the way
	}
	return err
}

// follow subscribes, at the leading master if another one answers.
func (c *connection) follow(ctx context.Context) error {
	for range 5 {
		c.leader = ""
		err := c.subscribe(ctx)
		if c.leader == "" {
			return err
		}
		c.endpoint = c.leader
	}
	return fmt.Errorf("the masters redirect to each other; the last was %s", c.endpoint)
}

// subscribe holds one subscription until it ends.
func (c *connection) subscribe(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &session{caller: c.caller()}
	s.calls = lanes.New(func(*mesossched.Call) string { return "in order" }, s.send)
	response, err := s.caller.Call(ctx, calls.Subscribe(c.master.cfg.frameworkInfo(c.id)))
	if err != nil {
		return c.explain(err)
	}
	defer response.Close()
	watchdog := time.AfterFunc(missedHeartbeats*defaultHeartbeat, cancel)
	defer watchdog.Stop()
	var sender errgroup.Group
	sender.Go(func() error { return s.calls.Run(ctx, 1) })
	err = c.read(response, s, watchdog)
	cancel()
	c.master.use(nil)
	if c.subscribed {
		err = errors.Join(err, c.sink(scheduler.Disconnected{}))
	}
	return errors.Join(err, sender.Wait())
}

// read passes events on until the stream ends. The watchdog is put off by each of them.
func (c *connection) read(response mesos.Response, s *session, watchdog *time.Timer) error {
	patience := missedHeartbeats * defaultHeartbeat
	for {
		var e mesossched.Event
		if err := response.Decode(&e); err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("the master closed the connection")
			}
			return fmt.Errorf("cannot read the next event of Mesos: %w", err)
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
		c.id, c.subscribed = api.FrameworkID(e.GetSubscribed().GetFrameworkID().GetValue()), true
		s.framework = c.id
		c.master.use(s)
		log.WithFields(log.Fields{"framework": c.id, "master": c.endpoint}).Info("subscribed to Mesos")
		return c.tell(scheduler.Subscribed{Framework: c.id})
	case mesossched.Event_ERROR:
		return finalError{c.master.errorOf(e.GetError().GetMessage())}
	}
	events, err := eventsOf(e)
	if err != nil {
		log.WithError(err).Error("cannot understand an event of Mesos")
	}
	for _, ev := range events {
		if err := c.tell(ev); err != nil {
			return err
		}
	}
	return nil
}

// tell hands an event to the scheduler; what that refuses, it will refuse again.
func (c *connection) tell(ev scheduler.Event) error {
	if err := c.sink(ev); err != nil {
		return finalError{err}
	}
	return nil
}

func (m *Master) errorOf(message string) error {
	switch message {
	case "Framework has been removed":
		return fmt.Errorf("%w; to register as a new one, forget its id and start again: %s", ErrRemoved, m.cfg.Forget)
	case "Framework failed over":
		return ErrReplaced
	case "Changing framework's principal is not allowed.": // validateUpdate in src/master/validation.cpp
		return fmt.Errorf("the framework is refused by Mesos: its principal is final, and it was not %q (--mesos-principal): give the one that it "+
			"subscribed with first, or end it with all its tasks (the master's /teardown) and have a new one take its place: %s",
			m.cfg.Principal, m.cfg.Forget)
	}
	return fmt.Errorf("the framework is refused by Mesos: %s", message)
}

func (m *Master) use(s *session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.session = s
}

// send makes one call. One that fails is not repeated: the subscription is gone or the master does not want it.
func (s *session) send(ctx context.Context, call *mesossched.Call) {
	response, err := s.caller.Call(ctx, call)
	if response != nil {
		response.Close()
	}
	if err != nil && ctx.Err() == nil {
		log.WithError(err).Warnf("Mesos did not take a call of %s", call.GetType())
	}
}

// caller returns a client for one subscription.
func (c *connection) caller() calls.Caller {
	client := httpcli.New(
		httpcli.Endpoint(c.endpoint),
		httpcli.Codec(codecs.ByMediaType[codecs.MediaTypeProtobuf]),
		httpcli.Do(c.do),
	)
	none := func() string { return "" } // other masters are tried by Run
	return httpsched.NewCaller(client, httpsched.MaxRedirects(0), httpsched.EndpointCandidates(none))
}

// do sends a request and notes where a master that does not lead redirects to.
func (c *connection) do(request *http.Request) (*http.Response, error) {
	if c.master.secret != "" {
		request.SetBasicAuth(c.master.cfg.Principal, c.master.secret)
	}
	response, err := c.master.client.Do(request)
	if err == nil && response.StatusCode == http.StatusTemporaryRedirect && !c.subscribed {
		c.leader = leaderOf(c.endpoint, response.Header.Get("Location"))
	}
	return response, err
}

// leaderOf returns the endpoint at the host that a redirection names ("//host:port"), or "".
func leaderOf(endpoint, location string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return ""
	}
	to, err := url.Parse(location)
	if err != nil || to.Host == "" {
		return ""
	}
	u.Host = to.Host
	return u.String()
}

func (c *connection) explain(err error) error {
	if !apierrors.CodeNotAuthenticated.Matches(err) {
		return err
	}
	if c.master.secret == "" {
		return finalError{fmt.Errorf("the Mesos master at %s wants credentials: give --mesos-principal and --mesos-secret-file: %w", c.endpoint, err)}
	}
	return finalError{fmt.Errorf("the Mesos master at %s does not know principal %s (--mesos-principal) with the secret in --mesos-secret-file: %w",
		c.endpoint, c.master.cfg.Principal, err)}
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
