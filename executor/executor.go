package executor

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"
)

// Agent is the connection to the Mesos agent; executor/mesos implements it.
type Agent interface {
	// Subscribe starts a subscription and returns at once. The answer is posted as Subscribed or Disconnected.
	Subscribe(Subscribe)
	// Update sends an update and waits until the agent has received it.
	Update(context.Context, Update) error
	// Disconnect drops the connection, if there is one; Disconnected is posted.
	Disconnect()
}

// Pods deletes pods in the API server; executor/kube implements it.
type Pods interface {
	// Delete queues the deletion and returns at once.
	Delete(DeletePod)
}

// Config configures an Executor.
type Config struct {
	Core  CoreConfig
	Agent Agent
	Pods  Pods
	// StartNode is called once, after the first subscription was accepted. It must return at once.
	StartNode func(Registration)
}

// Executor owns a Core: it passes events to it one by one, and performs its actions.
type Executor struct {
	cfg    Config
	core   *Core
	events chan Event
	done   chan struct{} // closed when Run has returned
}

// New returns an Executor. Call Run once.
func New(cfg Config) *Executor {
	return &Executor{cfg: cfg, core: NewCore(cfg.Core), events: make(chan Event, 64), done: make(chan struct{})}
}

// Post passes an event to the executor. Any goroutine may call it. It blocks while the executor is busy, and drops the event after
// Run has returned.
func (e *Executor) Post(event Event) {
	select {
	case e.events <- event:
	case <-e.done:
	}
}

// Run returns nil when the executor has a reason to leave, or ctx's error when ctx ends. The caller stops what runs on the node.
func (e *Executor) Run(ctx context.Context) error {
	defer close(e.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var event Event = Started{}
	for {
		if left := e.step(ctx, event); left {
			return nil
		}
		e.arm(timer)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case event = <-e.events:
		case <-timer.C:
			event = Tick{}
		}
	}
}

// arm sets the timer to the Core's deadline.
func (e *Executor) arm(timer *time.Timer) {
	timer.Stop()
	if at, ok := e.core.Deadline(); ok {
		timer.Reset(time.Until(at))
	}
}

// step passes one event to the Core and performs its actions; left is true after Leave.
func (e *Executor) step(ctx context.Context, event Event) (left bool) {
	logrus.Debugf("executor: event %T", event)
	for _, action := range e.core.Step(time.Now(), event) {
		switch a := action.(type) {
		case Subscribe:
			e.cfg.Agent.Subscribe(a)
		case SendUpdate:
			e.send(ctx, a.Update)
		case DeletePod:
			logrus.WithField("pod", a.Pod).Info("deleting the pod of a killed task")
			e.cfg.Pods.Delete(a)
		case StartNode:
			e.cfg.StartNode(a.Registration)
		case Leave:
			logrus.Infof("executor leaves: %s", a.Reason)
			return true
		}
	}
	return false
}

// send sends an update. If that fails it drops the connection: the next subscription repeats the update.
func (e *Executor) send(ctx context.Context, update Update) {
	log := logrus.WithFields(logrus.Fields{"task": update.Task, "state": update.State})
	if err := e.cfg.Agent.Update(ctx, update); err != nil {
		log.Warnf("cannot send the status update, resubscribing: %s", err)
		e.cfg.Agent.Disconnect()
		return
	}
	log.Info(joinNonEmpty(": ", "sent a status update", update.Message))
}
