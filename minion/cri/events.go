package cri

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// eventHub hands events to all that listen.
type eventHub struct {
	mu        sync.Mutex // guards what follows
	listeners map[chan *runtimeapi.ContainerEventResponse]struct{}
	closed    bool
}

func newEventHub() *eventHub {
	return &eventHub{listeners: map[chan *runtimeapi.ContainerEventResponse]struct{}{}}
}

// listen returns a channel of the events from now on. It is closed when the hub is, or when its reader falls behind: an
// event missed without notice would be worse, and a kubelet lists anew when it connects again.
func (h *eventHub) listen() chan *runtimeapi.ContainerEventResponse {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := make(chan *runtimeapi.ContainerEventResponse, 1024)
	if h.closed {
		close(c)
		return c
	}
	h.listeners[c] = struct{}{}
	return c
}

func (h *eventHub) leave(c chan *runtimeapi.ContainerEventResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.listeners, c)
}

func (h *eventHub) heard() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.listeners) > 0
}

func (h *eventHub) publish(e *runtimeapi.ContainerEventResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.listeners {
		select {
		case c <- e:
		default:
			close(c)
			delete(h.listeners, c)
		}
	}
}

func (h *eventHub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for c := range h.listeners {
		close(c)
		delete(h.listeners, c)
	}
}

// GetContainerEvents streams what happens to our containers, for the kubelet's evented PLEG
// (https://kubernetes.io/docs/tasks/administer-cluster/switch-to-evented-pleg/).
func (s *Server) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	events := s.events.listen()
	defer s.events.leave(events)
	// The header tells the client that nothing is missed from now on.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case e, ok := <-events:
			if !ok {
				return errors.New("the event stream ends: list the containers and listen again")
			}
			if err := stream.Send(e); err != nil {
				return err
			}
		}
	}
}

// lifePhase is how far a container has come. It only ever grows: no container of ours is started twice.
type lifePhase int

const (
	created lifePhase = iota + 1
	started
	ended
)

// life is what was told last about one container or sandbox.
type life struct {
	phase   lifePhase
	kind    string
	sandbox string // a container's
}

// lives are those of all our containers, by id. They tell which of the Engine's events are news, and which it had no
// chance to send: it forgets its events when it ends, and containers live and die without it.
type lives map[string]life

// phases tells which phase each of the Engine's events begins.
var phases = map[events.Action]lifePhase{events.ActionCreate: created, events.ActionStart: started, events.ActionDie: ended}

// note takes up an event and tells whether it is news.
func (l lives) note(m events.Message) bool {
	known, ok := l[m.Actor.ID]
	if m.Action == events.ActionDestroy {
		delete(l, m.Actor.ID)
		return ok
	}
	phase := phases[m.Action]
	if known.phase >= phase || !ok && phase == ended {
		return false // told already, even that it is gone
	}
	l[m.Actor.ID] = life{phase, m.Actor.Attributes[labelKind], m.Actor.Attributes[labelSandbox]}
	return true
}

// missed returns the events between what was told last and what the list says, oldest first for each container.
func (l lives) missed(list []container.Summary, now time.Time) []events.Message {
	var messages []events.Message
	add := func(id, kind, sandbox string, action events.Action) {
		messages = append(messages, events.Message{Action: action, TimeNano: now.UnixNano(), Actor: events.Actor{
			ID: id, Attributes: map[string]string{labelKind: kind, labelSandbox: sandbox}}})
	}
	there := map[string]bool{}
	for _, c := range list {
		there[c.ID] = true
		for _, action := range []events.Action{events.ActionCreate, events.ActionStart, events.ActionDie} {
			if phase := phases[action]; phase > l[c.ID].phase && phase <= phaseOf(c.State) {
				add(c.ID, c.Labels[labelKind], c.Labels[labelSandbox], action)
			}
		}
	}
	for id, last := range l {
		if there[id] {
			continue
		}
		if last.phase == started {
			add(id, last.kind, last.sandbox, events.ActionDie)
		}
		add(id, last.kind, last.sandbox, events.ActionDestroy)
	}
	return messages
}

func phaseOf(state container.ContainerState) lifePhase {
	switch containerState(state) {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return created
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return ended
	default:
		return started
	}
}

// maxEventsWait bounds the wait between two attempts to hear the Engine's events. It is short: an Engine that is being
// started refuses at little cost, and until it is heard the kubelet hears nothing either.
const maxEventsWait = time.Second

// watchEvents follows the Engine's events until ctx ends. What happened while it could not is found out when it connects.
func (s *Server) watchEvents(ctx context.Context) error {
	known, wait := lives{}, time.Duration(0)
	brokeOff := time.Now()
	var heard time.Time // zero while the Engine is not heard
	for {
		err := s.watchOnce(ctx, known, func() {
			heard = time.Now()
			s.log.WithField("after", heard.Sub(brokeOff).Round(time.Millisecond)).Info("Docker Engine's events are heard")
		})
		if ctx.Err() != nil {
			return nil
		}
		if !heard.IsZero() {
			s.log.WithError(err).Warn("Docker Engine's events broke off, connecting until they are heard again")
			if time.Since(heard) > 10*maxEventsWait {
				wait = 0
			}
			brokeOff, heard = time.Now(), time.Time{}
		}
		if wait = min(wait*2+50*time.Millisecond, maxEventsWait); pause(ctx, wait) != nil {
			return nil
		}
	}
}

// watched are the Engine's events that tell of a life, or of a change of what the view holds, whoever made it.
var watched = []events.Action{
	events.ActionCreate, events.ActionStart, events.ActionDie, events.ActionDestroy,
	events.ActionPause, events.ActionUnPause, events.ActionUpdate, events.ActionRename,
}

// noteInView lets the view ask anew for what an event is about.
func (s *Server) noteInView(m events.Message) {
	if m.Action == events.ActionDestroy {
		s.view.gone(m.Actor.ID)
		return
	}
	s.view.changed(m.Actor.ID, m.Actor.Attributes)
}

// watchOnce connects to the Engine's events, takes up what it finds, calls connected, and follows the events until they
// break off.
func (s *Server) watchOnce(ctx context.Context, known lives, connected func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer s.view.lose()
	ours := s.owner.filters()
	ours.Add("type", string(events.ContainerEventType))
	for _, action := range watched {
		ours.Add("event", string(action))
	}
	messages, failed := s.docker.Events(ctx, events.ListOptions{Filters: ours})
	if err := s.adopt(ctx, known); err != nil {
		return err
	}
	connected()
	for {
		select {
		case err := <-failed:
			return err
		case m := <-messages:
			s.noteInView(m)
			if known.note(m) {
				s.handle(ctx, m)
			}
		}
	}
}

// adopt takes up all our containers: their logs, and what happened to them unheard.
func (s *Server) adopt(ctx context.Context, known lives) error {
	list, err := s.docker.ContainerList(ctx, container.ListOptions{All: true, Filters: s.owner.filters()})
	if err != nil {
		return fmt.Errorf("cannot list our containers: %w", err)
	}
	s.view.take(list)
	for _, c := range list {
		if c.Labels[labelKind] == kindContainer && phaseOf(c.State) > created {
			s.adoptLog(ctx, c.ID)
		}
	}
	for _, m := range known.missed(list, time.Now()) {
		if known.note(m) {
			s.handle(ctx, m)
		}
	}
	return nil
}

// adoptLog begins to keep the log of a container that runs or ran.
func (s *Server) adoptLog(ctx context.Context, id string) {
	if s.logs.find(id) != nil {
		return
	}
	c, err := s.view.inspect(ctx, kindContainer, id)
	if err != nil {
		return // it is gone again
	}
	if record, err := readContainer(c.Config.Labels); err == nil {
		s.logs.keep(logTask{id: c.ID, path: record.LogPath, tty: c.Config.Tty})
	}
}

var eventTypes = map[events.Action]runtimeapi.ContainerEventType{
	events.ActionCreate:  runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT,
	events.ActionStart:   runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT,
	events.ActionDie:     runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT,
	events.ActionDestroy: runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT,
}

// handle acts on one of the Engine's events.
func (s *Server) handle(ctx context.Context, m events.Message) {
	if m.Actor.Attributes[labelKind] == kindCopy {
		return
	}
	isContainer := m.Actor.Attributes[labelKind] == kindContainer
	s.log.WithFields(logrusFields(m)).Debug("Docker event")
	switch {
	case m.Action == events.ActionStart && isContainer:
		s.adoptLog(ctx, m.Actor.ID)
	case m.Action == events.ActionDestroy:
		s.logs.forget(m.Actor.ID)
		s.usage.forget(m.Actor.ID)
	}
	kind, known := eventTypes[m.Action]
	if !known || !s.events.heard() {
		return
	}
	event := &runtimeapi.ContainerEventResponse{ContainerId: m.Actor.ID, ContainerEventType: kind, CreatedAt: m.TimeNano}
	sandboxID := m.Actor.ID
	if isContainer {
		sandboxID = m.Actor.Attributes[labelSandbox]
	}
	// The pod may be going away; then the event tells what is left of it.
	if sandbox, err := s.view.inspect(ctx, kindSandbox, sandboxID); err == nil {
		event.PodSandboxStatus, _ = s.sandboxStatus(sandbox)
	}
	event.ContainersStatuses, _ = s.containerStatuses(ctx, sandboxID)
	s.events.publish(event)
}

func logrusFields(m events.Message) map[string]any {
	return map[string]any{"container": m.Actor.ID, "event": string(m.Action)}
}
