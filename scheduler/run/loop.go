package run

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	log "github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/podtrace"
	"github.com/k8sm/k8sm/scheduler"
)

// Sink passes an event to the scheduler, and blocks while the scheduler is busy. An error means that the scheduler has stopped.
// It may be called concurrently.
type Sink func(scheduler.Event) error

// Master is the connection to Mesos.
type Master interface {
	// Run subscribes as the framework (as a new one if id is empty), sends events to the sink and reconnects, until ctx ends or
	// subscribing fails for good. The error is ErrReplaced if another scheduler has subscribed. It may be called again after that.
	Run(ctx context.Context, id api.FrameworkID, sink Sink) error
	// Do queues a call and returns at once. A call that cannot be sent is dropped: reconciliation repairs that.
	Do(action scheduler.MesosAction)
}

// Cluster is the connection to Kubernetes.
type Cluster interface {
	// Run sends an event for each existing object, then Synced, then an event for each change. It performs the actions that Do
	// queues, until ctx ends, and then drops the others. It may be called again after that.
	Run(ctx context.Context, sink Sink) error
	// Do queues an action and returns at once.
	Do(action scheduler.ClusterAction)
}

// Store is the durable state of schedulers. It refuses writes of a scheduler that is no longer the leader.
type Store interface {
	// Lead waits until this scheduler is the leader. It closes lost when another one may be. It may be called again after that.
	Lead(ctx context.Context, id string) (lost <-chan struct{}, err error)
	// FrameworkID returns the stored id, or "".
	FrameworkID(ctx context.Context) (api.FrameworkID, error)
	// ReplaceFrameworkID stores new if old is stored; else it returns an error.
	ReplaceFrameworkID(ctx context.Context, old, new api.FrameworkID) error
	Records
}

// Parts are what Run connects to the core. Run owns them until it returns. It runs them anew whenever this scheduler becomes the leader.
type Parts struct {
	Master    Master
	Cluster   Cluster
	Store     Store
	Tokens    Tokens
	Codec     ExecutorCodec
	Addresses Addresses             // nil if there are no address pools
	Metrics   prometheus.Registerer // nil for no metrics
	Traces    *podtrace.Book        // where the spans of pods' starts go, if there are Metrics; nil keeps none
	Window    *Window               // nil for no window
	Falcon    Falcon                // nil for no metrics for open-falcon
}

// ErrReplaced is the error when another scheduler has subscribed with the same framework id.
var ErrReplaced = errors.New("another scheduler has subscribed as this framework")

// lossPatience is how long a scheduler that was replaced waits for the news that it does not lead: one whose machine stood still hears
// that from Mesos first. Only a scheduler of elsewhere replaces one that leads.
const lossPatience = 10 * time.Second

// errLost ends a term.
var errLost = errors.New("the leadership was lost; another scheduler may lead now")

// Run schedules whenever this scheduler is the leader, and waits for that otherwise. It returns nil when ctx has ended, and an error
// when it cannot continue. When it loses the leadership, it performs no further action, and forgets all that it knew. All its
// goroutines have ended when it returns.
func Run(ctx context.Context, cfg Config, parts Parts) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	var shown *metrics
	if parts.Metrics != nil {
		shown = newMetrics(parts.Metrics, parts.Traces)
	}
	for {
		err := term(ctx, cfg, parts, shown)
		if !errors.Is(err, errLost) || ctx.Err() != nil {
			return nilIfEnded(ctx, err)
		}
		log.WithField("scheduler", cfg.Identity).Warn(err)
	}
}

// term waits until this scheduler is the leader, and then schedules. It returns errLost when the leadership was lost, after all that
// acts has ended.
func term(ctx context.Context, cfg Config, parts Parts, shown *metrics) error {
	log.WithField("scheduler", cfg.Identity).Info("waiting for the leadership")
	lost, err := parts.Store.Lead(ctx, cfg.Identity)
	if err != nil {
		return fmt.Errorf("cannot become the leading scheduler: %w", err)
	}
	log.WithField("scheduler", cfg.Identity).Info("this scheduler leads")
	shown.begin()
	defer shown.end()
	group, leading := errgroup.WithContext(ctx)
	group.Go(func() error {
		select {
		case <-lost:
			return errLost
		case <-leading.Done():
			return nil
		}
	})
	group.Go(func() error { return lead(leading, cfg, parts, shown) })
	err = group.Wait()
	if errors.Is(err, ErrReplaced) {
		select {
		case <-lost:
		case <-ctx.Done():
		case <-time.After(lossPatience):
		}
	}
	select {
	case <-lost: // the reason for any other error
		return errLost
	default:
		return err
	}
}

// lead schedules until ctx ends or something fails.
func lead(ctx context.Context, cfg Config, parts Parts, shown *metrics) error {
	framework, err := parts.Store.FrameworkID(ctx)
	if err != nil {
		return fmt.Errorf("cannot read the framework id: %w", err)
	}
	l := &loop{
		core: scheduler.NewCore(cfg.Config), parts: parts, framework: framework, metrics: shown,
		events: make(chan scheduler.Event, 1024), preparer: newPreparer(cfg, parts), addresser: newAddresser(parts.Addresses),
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.runCore(ctx, group) })
	group.Go(func() error { return parts.Cluster.Run(ctx, l.sink(ctx)) })
	group.Go(func() error { return l.preparer.run(ctx, l.sink(ctx)) })
	group.Go(func() error { return l.addresser.run(ctx, l.sink(ctx)) })
	if parts.Falcon != nil {
		group.Go(func() error { return parts.Falcon.Run(ctx) })
	}
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// nilIfEnded returns nil if ctx has ended, because that interrupted the call; else err.
func nilIfEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// loop owns the core.
type loop struct {
	core      *scheduler.Core
	parts     Parts
	preparer  *preparer
	addresser *addresser
	metrics   *metrics
	framework api.FrameworkID
	events    chan scheduler.Event
}

func (l *loop) sink(ctx context.Context) Sink {
	return func(ev scheduler.Event) error {
		select {
		case l.events <- ev:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// runCore is the only function that touches the core, with those that it calls.
func (l *loop) runCore(ctx context.Context, group *errgroup.Group) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	alarm := time.NewTimer(time.Hour)
	defer alarm.Stop()
	pushes := falconClock{falcon: l.parts.Falcon}
	queries, closeWindow := l.parts.Window.open()
	defer closeWindow()
	for {
		var ev scheduler.Event
		select {
		case <-ctx.Done():
			return nil
		case query := <-queries:
			query(time.Now(), l.core)
			continue
		case ev = <-l.events:
		case <-ticker.C:
			ev = scheduler.Tick{}
		case <-alarm.C:
			ev = scheduler.Wake{}
		}
		logEvent(ev)
		now := time.Now()
		acts := l.core.Step(now, ev)
		if ctx.Err() != nil {
			return nil // the leadership may be lost: drop the actions
		}
		l.parts.Window.note(now, ev)
		l.metrics.note(now, ev, acts)
		for _, act := range acts {
			l.do(ctx, group, act)
		}
		l.setAlarm(alarm)
		if _, tick := ev.(scheduler.Tick); tick {
			l.metrics.set(l.core.Snapshot())
			pushes.tick(time.Now(), l.core)
		}
	}
}

// setAlarm sets the time of the next Wake.
func (l *loop) setAlarm(alarm *time.Timer) {
	now := time.Now()
	if at := l.core.WakeAt(now); !at.IsZero() {
		alarm.Reset(max(at.Sub(now), 0))
		return
	}
	alarm.Stop()
}

func (l *loop) do(ctx context.Context, group *errgroup.Group, act scheduler.Action) {
	switch act := act.(type) {
	case scheduler.Subscribe:
		group.Go(func() error { return l.parts.Master.Run(ctx, l.framework, l.masterSink(ctx)) })
	case scheduler.Complain:
		level := log.ErrorLevel
		if act.Over {
			level = log.InfoLevel
		}
		log.StandardLogger().Log(level, act.Text)
		l.parts.Cluster.Do(act)
	case scheduler.PrepareExecutor:
		log.WithFields(log.Fields{"agent": act.Agent, "node": act.Node}).Debug("preparing the executor")
		l.preparer.do(act)
	case scheduler.ForgetExecutor:
		l.preparer.do(act)
	case scheduler.AssignAddresses, scheduler.ReleaseAddress, scheduler.KeepAddresses:
		log.Debug(act.String())
		l.addresser.do(act)
	case scheduler.MesosAction:
		logAction(act)
		l.parts.Master.Do(act)
	case scheduler.ClusterAction:
		logAction(act)
		l.parts.Cluster.Do(act)
	}
}

// masterSink stores a new framework id before it passes on the subscription. A restarted scheduler finds the tasks of the
// framework only by this id.
func (l *loop) masterSink(ctx context.Context) Sink {
	forward := l.sink(ctx)
	return func(ev scheduler.Event) error {
		if sub, ok := ev.(scheduler.Subscribed); ok && sub.Framework != l.framework {
			if err := l.parts.Store.ReplaceFrameworkID(ctx, l.framework, sub.Framework); err != nil {
				return fmt.Errorf("cannot store the framework id %s: %w", sub.Framework, err)
			}
			l.framework = sub.Framework
		}
		return forward(ev)
	}
}
