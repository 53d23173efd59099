package mesos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	mesosmaster "github.com/mesos/mesos-go/api/v1/lib/master"
	log "github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api/backoff"
	"github.com/k8sm/k8sm/scheduler/mesosstate"
	"github.com/k8sm/k8sm/scheduler/run"
)

const (
	// observeFor is how long the cluster is observed after the last call of State.
	observeFor = 2 * time.Minute
	// askEvery is how often the master is asked for what SUBSCRIBE does not tell: 5 s, or longer if its answers take long, so that
	// questions take at most a twentieth of the time.
	askEvery    = 5 * time.Second
	askFraction = 20
	// askTimeout bounds the time for an answer.
	askTimeout = time.Minute
	// staleAfter is how soon to ask after an event that says only a part of what has changed.
	staleAfter = time.Second

	longestObserverPause = 30 * time.Second
)

// questions are the calls for what SUBSCRIBE does not tell.
var questions = []mesosmaster.Call_Type{
	mesosmaster.Call_GET_MASTER, mesosmaster.Call_GET_VERSION, mesosmaster.Call_GET_AGENTS, mesosmaster.Call_GET_FRAMEWORKS,
	mesosmaster.Call_GET_EXECUTORS, mesosmaster.Call_GET_ROLES, mesosmaster.Call_GET_WEIGHTS, mesosmaster.Call_GET_QUOTA,
	mesosmaster.Call_GET_MAINTENANCE_SCHEDULE, mesosmaster.Call_GET_MAINTENANCE_STATUS,
}

// observer keeps what the leading master tells of the whole cluster, while somebody asks for it. One subscription
// (https://mesos.apache.org/documentation/latest/operator-http-api/#subscribe-1) serves all who ask.
type observer struct {
	wake chan struct{} // has a token when somebody asks

	mu      sync.Mutex    // guards what follows
	asked   time.Time     // when State was called last
	news    chan struct{} // is closed, and replaced, when told is set
	told    *session      // whose master has answered all questions once, or has a problem
	cluster *mesosstate.Cluster
	of      *session // whose master told it
	problem string
	unknown map[mesosmaster.Call_Type]string
}

func newObserver() *observer {
	return &observer{wake: make(chan struct{}, 1), news: make(chan struct{}), unknown: map[mesosmaster.Call_Type]string{}}
}

// State returns what is known of the Mesos cluster. The first call waits until the master has answered, or ctx ends; the cluster is then
// observed for observeFor. The error is run.ErrNotLeading while this scheduler does not lead. State may be called concurrently.
func (m *Master) State(ctx context.Context) (mesosstate.Document, error) {
	s, err := m.awaitState(ctx)
	if err != nil {
		return mesosstate.Document{}, err
	}
	d := m.observer.document()
	m.mu.Lock()
	masters, lost := m.masters, m.lost.UTC()
	m.mu.Unlock()
	for _, one := range masters.all() {
		if u, err := url.Parse(one); err == nil {
			d.Masters = append(d.Masters, u.Host)
		}
	}
	if s == nil {
		d.NoMasterSince, d.Problem = &lost, ""
	} else {
		d.Framework = string(s.framework)
	}
	return d, nil
}

// awaitState waits until the master of the present session has answered, and returns that session; nil if there is none.
func (m *Master) awaitState(ctx context.Context) (*session, error) {
	o := m.observer
	tick := time.NewTicker(staleAfter)
	defer tick.Stop()
	for {
		m.mu.Lock()
		s, masters := m.session, m.masters
		m.mu.Unlock()
		if masters == nil {
			return nil, run.ErrNotLeading
		}
		news, told, begun := o.ask(s)
		if s == nil || told {
			return s, nil
		}
		select {
		case <-news:
		case <-tick.C: // the session may be another one
		case <-ctx.Done():
			if begun {
				return s, nil
			}
			return nil, fmt.Errorf("the Mesos master at %s has not told its state yet: try again", strings.TrimSuffix(s.endpoint, schedulerPath))
		}
	}
}

// ask notes that somebody asks. told says that the session's master has answered; if not, news is closed when one has. begun says that
// it has answered a part.
func (o *observer) ask(s *session) (news <-chan struct{}, told, begun bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked = time.Now()
	select {
	case o.wake <- struct{}{}:
	default:
	}
	return o.news, o.told == s, o.of == s
}

func (o *observer) document() mesosstate.Document {
	o.mu.Lock()
	defer o.mu.Unlock()
	cluster := o.cluster
	if cluster == nil {
		cluster = mesosstate.New()
	}
	d := cluster.Document()
	d.Problem = o.problem
	for call, reason := range o.unknown {
		d.Unknown = append(d.Unknown, mesosstate.Unknown{Call: call.String(), Reason: reason})
	}
	slices.SortFunc(d.Unknown, func(a, b mesosstate.Unknown) int { return strings.Compare(a.Call, b.Call) })
	return d
}

// observe observes the cluster, whenever somebody asks for it, until ctx ends.
func (m *Master) observe(ctx context.Context) {
	o := m.observer
	begin := backoff.Between(time.Second, longestObserverPause)
	pauses := begin
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.wake:
		}
		for o.wanted() && ctx.Err() == nil {
			began := time.Now()
			err := m.observeSession(ctx)
			if time.Since(began) > longestObserverPause {
				pauses = begin
			}
			if err == nil {
				continue
			}
			log.WithError(err).Debug("the state of the Mesos cluster is not observed")
			rest := staleAfter
			if !errors.Is(err, errNoSession) {
				rest = pauses.Step()
			}
			pause := time.NewTimer(rest)
			select {
			case <-ctx.Done():
			case <-pause.C:
			}
			pause.Stop()
		}
		o.forget()
	}
}

// wanted reports whether somebody has asked lately.
func (o *observer) wanted() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return time.Since(o.asked) < observeFor
}

// forget frees the memory, when nobody asks any more.
func (o *observer) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cluster, o.of, o.told, o.problem = nil, nil, nil, ""
	clear(o.unknown)
}

// tell notes that the session's master has answered. The caller holds the lock.
func (o *observer) tell(s *session) {
	o.told = s
	close(o.news)
	o.news = make(chan struct{})
}

// fail notes why nothing is known of the cluster of this session.
func (o *observer) fail(of *session, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.of != of {
		o.cluster, o.of = nil, of // what the master before told is out of date
	}
	o.problem = err.Error()
	o.tell(of)
}

// errNoSession is the error without a master.
var errNoSession = errors.New("no Mesos master is connected")

// errUnwanted ends an observation.
var errUnwanted = errors.New("nobody asks for the state of the Mesos cluster any more")

// observeSession observes the leading master's cluster while the scheduler is subscribed there. It returns nil when nobody asks any
// more, or when the subscription has ended.
func (m *Master) observeSession(ctx context.Context) error {
	m.mu.Lock()
	s := m.session
	m.mu.Unlock()
	if s == nil {
		return errNoSession
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := &observation{master: m, session: s, stale: make(chan struct{}, 1), cancel: cancel}
	watch.watchdog = time.AfterFunc(missedHeartbeats*defaultHeartbeat, func() { cancel(errSilent) })
	defer watch.watchdog.Stop()
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel(nil)
	err := watch.subscribe(ctx, func() { asking.Go(func() { watch.ask(ctx) }) })
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if errors.Is(err, errUnwanted) || errors.Is(err, errMoved) {
		return nil
	}
	if ctx.Err() == nil || errors.Is(err, errSilent) {
		m.observer.fail(s, err)
	}
	return err
}

// observation is one subscription to a master's operator API.
type observation struct {
	master   *Master
	session  *session
	stale    chan struct{} // has a token when answers should be asked for soon
	cancel   context.CancelCauseFunc
	watchdog *time.Timer
}

// subscribe reads events until the stream ends. It calls subscribed once the state of the cluster is known.
func (w *observation) subscribe(ctx context.Context, subscribed func()) error {
	response, err := w.master.operate(ctx, w.session.endpoint, &mesosmaster.Call{Type: mesosmaster.Call_SUBSCRIBE})
	if err != nil {
		return err
	}
	defer response.Body.Close()
	reader := mesosstate.NewReader(response.Body)
	for {
		event, state, err := reader.ReadEvent()
		if errors.Is(err, io.EOF) {
			return errors.New("the Mesos master closed the connection")
		}
		if err != nil {
			return fmt.Errorf("cannot read the next event of the Mesos master: %w", err)
		}
		w.watchdog.Reset(missedHeartbeats * defaultHeartbeat)
		if state != nil {
			w.begin(state)
			subscribed()
			continue
		}
		if w.apply(event) {
			select {
			case w.stale <- struct{}{}:
			default:
			}
		}
	}
}

// begin takes over the state of the cluster.
func (w *observation) begin(state *mesosstate.Cluster) {
	o := w.master.observer
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.of == w.session && o.cluster != nil { // the same master again: keep what SUBSCRIBE does not tell
		state.Keep(o.cluster)
	}
	o.cluster, o.of, o.problem = state, w.session, ""
	clear(o.unknown)
}

func (w *observation) apply(event *mesosmaster.Event) (stale bool) {
	o := w.master.observer
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.cluster.Apply(event)
}

// ask asks for what SUBSCRIBE does not tell, again and again, until ctx ends. It ends the subscription when nobody wants it, and when
// the scheduler's own has ended.
func (w *observation) ask(ctx context.Context) {
	for {
		began := time.Now()
		for _, question := range questions {
			if ctx.Err() != nil {
				return
			}
			w.question(ctx, question)
		}
		w.answered()
		next := began.Add(max(askEvery, askFraction*time.Since(began)))
		if !w.rest(ctx, next) {
			return
		}
	}
}

// answered notes that the master was asked everything.
func (w *observation) answered() {
	o := w.master.observer
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.told != w.session {
		o.tell(w.session)
	}
}

// rest waits until the time comes, or sooner after an event that says too little. It returns false when the observation ends.
func (w *observation) rest(ctx context.Context, until time.Time) bool {
	tick := time.NewTicker(staleAfter)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		w.master.mu.Lock()
		moved := w.master.session != w.session
		w.master.mu.Unlock()
		switch {
		case moved:
			w.cancel(errMoved)
			return false
		case !w.master.observer.wanted():
			w.cancel(errUnwanted)
			return false
		case !time.Now().Before(until):
			return true
		}
		if time.Until(until) > askEvery {
			continue // the cluster is large: not for each event
		}
		select {
		case <-w.stale:
			return true
		default:
		}
	}
}

// question asks one thing.
func (w *observation) question(ctx context.Context, call mesosmaster.Call_Type) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer, err := w.answer(ctx, call)
	o := w.master.observer
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case err == nil:
		delete(o.unknown, call)
		o.cluster.Take(answer)
	case !errors.Is(ctx.Err(), context.Canceled):
		o.unknown[call] = err.Error()
	}
}

func (w *observation) answer(ctx context.Context, call mesosmaster.Call_Type) (*mesosstate.Cluster, error) {
	response, err := w.master.operate(ctx, w.session.endpoint, &mesosmaster.Call{Type: call})
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := mesosstate.NewReader(response.Body).ReadAnswer()
	if err != nil {
		return nil, fmt.Errorf("cannot read the answer to %s: %w", call, err)
	}
	return answer, nil
}
