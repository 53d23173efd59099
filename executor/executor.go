package executor

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"
)

// Agent is the connection to the Mesos agent; executor/mesos has it.
type Agent interface {
	// Subscribe starts a subscription and returns at once; Subscribed or Disconnected is posted in answer.
	Subscribe(Subscribe)
	// Update sends an update and waits until the agent has received it.
	Update(context.Context, Update) error
	// Disconnect gives the connection up, if there is one: Disconnected is posted.
	Disconnect()
}

// Pods deletes pods in the API server; executor/kube has it.
type Pods interface {
	// Delete sees to the deletion and returns at once.
	Delete(DeletePod)
}

// Config is what an Executor is made of.
type Config struct {
	Core  CoreConfig
	Agent Agent
	Pods  Pods
	// StartNode is called once, when the first subscription has been accepted. It must return at once.
	StartNode func(Registration)
}

// Executor owns a Core: it feeds it events one by one and performs its actions.
type Executor struct {
	cfg    Config
	core   *Core
	events chan Event
	done   chan struct{} // closed when Run has returned
}

// New returns an Executor; Run has to be called once.
func New(cfg Config) *Executor {
	return &Executor{cfg: cfg, core: NewCore(cfg.Core), events: make(chan Event, 64), done: make(chan struct{})}
}

// Post hands an event to the executor. It may be called by any goroutine, waits while the executor is behind, and drops
// the event once Run has returned.
func (e *Executor) Post(event Event) {
	select {
	case e.events <- event:
	case <-e.done:
	}
}

// Run works until the executor has a reason to leave, and returns nil then, or until ctx ends, and returns its error.
// What runs on the node is the caller's to stop.
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

// step gives one event to the Core and performs what it answers; left is true after a Leave.
func (e *Executor) step(ctx context.Context, event Event) (left bool) {
	logrus.Debugf("executor: event %T", event)
	for _, action := range e.core.Step(time.Now(), event) {
		switch a := action.(type) {
		case Subscribe:
			e.cfg.Agent.Subscribe(a)
		case SendUpdate:
			e.send(ctx, a.Update)
		case DeletePod:
			logrus.WithField("pod", a.Pod).Info("deleting the pod of a task that was killed")
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

// send sends an update. One that cannot be sent is repeated by the next subscription, so the connection is given up.
func (e *Executor) send(ctx context.Context, update Update) {
	log := logrus.WithFields(logrus.Fields{"task": update.Task, "state": update.State})
	if err := e.cfg.Agent.Update(ctx, update); err != nil {
		log.Warnf("sending it again after a new subscription: %s", err)
		e.cfg.Agent.Disconnect()
		return
	}
	log.Info(joinNonEmpty(": ", "told the agent the task's state", update.Message))
}
