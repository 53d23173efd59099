package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	log "github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
)

// Sink takes events in; it blocks while the scheduler is busy. An error says that the scheduler takes no more.
type Sink func(Event) error

// Master is the connection to Mesos.
type Master interface {
	// Run subscribes as the framework (with a new id if it is empty), sends what happens to the sink and reconnects,
	// until ctx ends or it is certain that no subscription can succeed.
	Run(ctx context.Context, id api.FrameworkID, sink Sink) error
	// Do queues a call and returns at once. A call that cannot be sent is dropped: Reconcile repairs that.
	Do(action MesosAction)
}

// Cluster is the connection to Kubernetes.
type Cluster interface {
	// Run sends the objects that exist of each kind of event, then Synced, then what changes, and does the actions that
	// Do queues, until ctx ends.
	Run(ctx context.Context, sink Sink) error
	// Do queues an action and returns at once.
	Do(action ClusterAction)
}

// Store is what has to outlive a scheduler; its writes are refused when another scheduler leads.
type Store interface {
	// Lead waits until this scheduler leads; lost is closed when it does no more.
	Lead(ctx context.Context, id string) (lost <-chan struct{}, err error)
	// FrameworkID returns the stored id, or "".
	FrameworkID(ctx context.Context) (api.FrameworkID, error)
	// ReplaceFrameworkID stores the id if the stored one is still old.
	ReplaceFrameworkID(ctx context.Context, old, new api.FrameworkID) error
	Records
}

// Parts are what Run puts together.
type Parts struct {
	Master  Master
	Cluster Cluster
	Store   Store
	Tokens  Tokens
	Codec   ExecutorCodec
	// Addresses are those of pools; nil for none.
	Addresses Addresses
	Metrics   prometheus.Registerer // nil for none
	Window    *Window               // nil for none
}

// ErrLost is returned by Run when another scheduler has taken over the leadership.
var ErrLost = errors.New("the leadership was lost; another scheduler may lead now")

// Run waits for the leadership and then schedules until ctx ends, in which case it returns nil, or until it cannot go
// on: it stops acting at once when the leadership is lost. All its goroutines have ended when it returns.
func Run(ctx context.Context, cfg Config, parts Parts) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	log.WithField("scheduler", cfg.Identity).Info("waiting for the leadership")
	lost, err := parts.Store.Lead(ctx, cfg.Identity)
	if err != nil {
		return unlessEnded(ctx, fmt.Errorf("cannot become the leading scheduler: %w", err))
	}
	framework, err := parts.Store.FrameworkID(ctx)
	if err != nil {
		return unlessEnded(ctx, fmt.Errorf("cannot read the framework id: %w", err))
	}
	l := &loop{
		core: NewCore(cfg), parts: parts, framework: framework,
		events: make(chan Event, 1024), keeper: newKeeper(cfg, parts), addresser: newAddresser(parts.Addresses),
	}
	if parts.Metrics != nil {
		l.metrics = newMetrics(parts.Metrics)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		select {
		case <-lost:
			return ErrLost
		case <-ctx.Done():
			return nil
		}
	})
	group.Go(func() error { return l.own(ctx, group) })
	group.Go(func() error { return parts.Cluster.Run(ctx, l.sink(ctx)) })
	group.Go(func() error { return l.keeper.run(ctx, l.sink(ctx)) })
	group.Go(func() error { return l.addresser.run(ctx, l.sink(ctx)) })
	err = group.Wait()
	select {
	case <-lost: // whatever else failed then, this is why
		return ErrLost
	default:
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// unlessEnded drops the error of something that was only interrupted.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// loop owns the core.
type loop struct {
	core      *Core
	parts     Parts
	keeper    *keeper
	addresser *addresser
	metrics   *metrics
	framework api.FrameworkID
	events    chan Event
}

func (l *loop) sink(ctx context.Context) Sink {
	return func(ev Event) error {
		select {
		case l.events <- ev:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// own is the owner loop: it alone touches the core.
func (l *loop) own(ctx context.Context, group *errgroup.Group) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	alarm := time.NewTimer(time.Hour)
	defer alarm.Stop()
	questions, shut := l.parts.Window.open()
	defer shut()
	for {
		var ev Event
		select {
		case <-ctx.Done():
			return nil
		case answer := <-questions:
			answer(time.Now(), l.core)
			continue
		case ev = <-l.events:
		case <-ticker.C:
			ev = Tick{}
		case <-alarm.C:
			ev = Wake{}
		}
		logEvent(ev)
		acts := l.core.Step(time.Now(), ev)
		if ctx.Err() != nil {
			return nil // the leadership may be lost: whatever was decided must not be done
		}
		for _, act := range acts {
			l.do(ctx, group, act)
		}
		l.setAlarm(alarm)
		if _, tick := ev.(Tick); tick && l.metrics != nil {
			l.metrics.set(l.core.Snapshot())
		}
	}
}

// setAlarm has the core woken when it wants to be.
func (l *loop) setAlarm(alarm *time.Timer) {
	now := time.Now()
	if at := l.core.WakeAt(now); !at.IsZero() {
		alarm.Reset(max(at.Sub(now), 0))
		return
	}
	alarm.Stop()
}

func (l *loop) do(ctx context.Context, group *errgroup.Group, act Action) {
	switch act := act.(type) {
	case Subscribe:
		group.Go(func() error { return l.parts.Master.Run(ctx, l.framework, l.masterSink(ctx)) })
	case Complain:
		log.Error(act.Text)
	case PrepareExecutor:
		log.WithFields(log.Fields{"agent": act.Agent, "node": act.Node}).Debug("preparing the executor")
		l.keeper.do(act)
	case ForgetExecutor:
		l.keeper.do(act)
	case AssignAddresses, ReleaseAddress, KeepAddresses:
		log.Debug(act.String())
		l.addresser.do(act)
	case MesosAction:
		logAction(act)
		l.parts.Master.Do(act)
	case ClusterAction:
		logAction(act)
		l.parts.Cluster.Do(act)
	}
}

// logEvent shows what Mesos says of tasks and offers. Pods and nodes can be watched by kubectl.
func logEvent(ev Event) {
	switch ev := ev.(type) {
	case TaskUpdated:
		log.WithFields(log.Fields{"task": ev.Status.Task, "agent": ev.Status.Agent}).Debug(ev.Status.String())
	case Offered:
		for _, o := range ev.Offers {
			log.WithFields(log.Fields{"offer": o.ID, "agent": o.Agent}).Debugf("offered %s", o.Resources)
		}
	case InverseOffered:
		for _, o := range ev.Offers {
			log.WithFields(log.Fields{"offer": o.ID, "agent": o.Agent}).Debugf("asked back for maintenance %s", o.Unavailable)
		}
	case OfferRescinded:
		log.WithField("offer", ev.Offer).Debug("rescinded")
	case AgentLost:
		log.WithField("agent", ev.Agent).Warn("the agent is gone")
	case ExecutorExited:
		log.WithField("agent", ev.Agent).Warn("the executor has ended")
	}
}

// logAction tells an operator of changes; all else is for debugging.
func logAction(act Action) {
	switch act := act.(type) {
	case Launch:
		for _, t := range act.Tasks {
			log.WithFields(log.Fields{"pod": t.Name(), "task": t.ID, "agent": act.Agent}).
				Info("launching task")
		}
	case Kill:
		log.WithFields(log.Fields{"task": act.Task, "agent": act.Agent}).Info("killing task")
	case ShutdownExecutor:
		log.WithField("agent", act.Agent).Info("asking the executor to end")
	case Nominate:
		log.WithFields(log.Fields{"pod": act.Pod.Namespace + "/" + act.Pod.Name, "node": act.Node}).Info(act.Message)
	case Preempt:
		log.WithFields(log.Fields{"pod": act.Victim.Namespace + "/" + act.Victim.Name, "node": act.Node}).
			Infof("preempting it for %s/%s", act.By.Namespace, act.By.Name)
	case CreateNode:
		log.WithFields(log.Fields{"node": act.Node.Name, "agent": act.Node.Spec.ProviderID}).Info("creating node")
	case DeleteNode:
		log.WithField("node", act.Name).Info("deleting node")
	case MarkNode:
		log.WithField("node", act.Node.Name).Info(act.String())
	case TellNode:
		level := log.InfoLevel
		if act.Type == v1.EventTypeWarning {
			level = log.WarnLevel
		}
		log.WithField("node", act.Node.Name).Log(level, act.Reason+": "+act.Message)
	case TaintNode:
		log.WithField("node", act.Node.Name).Info(act.String())
	case Evict:
		log.WithField("pod", act.Pod.Namespace+"/"+act.Pod.Name).Info(act.String())
	case AnswerInverse:
		level := log.DebugLevel
		if act.News {
			level = log.InfoLevel
		}
		log.WithFields(log.Fields{"offer": act.Offer, "agent": act.Agent}).Log(level, act.String())
	default:
		log.Debug(act.String())
	}
}

// masterSink stores a new framework id before anybody acts on the subscription: an id that is not stored would leave
// tasks without a scheduler after a restart.
func (l *loop) masterSink(ctx context.Context) Sink {
	forward := l.sink(ctx)
	return func(ev Event) error {
		if sub, ok := ev.(Subscribed); ok && sub.Framework != l.framework {
			if err := l.parts.Store.ReplaceFrameworkID(ctx, l.framework, sub.Framework); err != nil {
				return fmt.Errorf("cannot store the framework id %s: %w", sub.Framework, err)
			}
			l.framework = sub.Framework
		}
		return forward(ev)
	}
}
