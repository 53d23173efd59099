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

	"github.com/k8sm/k8sm/api/backoff"
)

// eventHub sends events to all listeners.
type eventHub struct {
	mu        sync.Mutex // guards the fields below
	listeners map[chan *runtimeapi.ContainerEventResponse]struct{}
	closed    bool
}

func newEventHub() *eventHub {
	return &eventHub{listeners: map[chan *runtimeapi.ContainerEventResponse]struct{}{}}
}

// listen returns a channel of events from now on. The hub closes it when the hub itself closes, or when the reader falls behind: a
// lost event would go unnoticed, but a kubelet that reconnects lists again.
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

// GetContainerEvents streams the events of our containers, for the kubelet's evented PLEG
// (https://kubernetes.io/docs/tasks/administer-cluster/switch-to-evented-pleg/).
func (s *Server) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	events := s.events.listen()
	defer s.events.leave(events)
	// The header tells the client that it misses no events from now on.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case e, ok := <-events:
			if !ok {
				return errors.New("the event stream has ended: list the containers and reconnect")
			}
			if err := stream.Send(e); err != nil {
				return err
			}
		}
	}
}

// lifePhase is the phase of a container's life. It only grows: a container of ours is never restarted.
type lifePhase int

const (
	created lifePhase = iota + 1
	started
	ended
)

// life is what was last reported of one container or sandbox.
type life struct {
	phase   lifePhase
	kind    string
	sandbox string // for a container
}

// lives has the lives of all our containers, by id. They tell which of the Engine's events are news, and which events are missing:
// the Engine forgets its events when it stops, but containers start and exit without it.
type lives map[string]life

// phases maps the Engine's events to the phase that they begin.
var phases = map[events.Action]lifePhase{events.ActionCreate: created, events.ActionStart: started, events.ActionDie: ended}

// note records an event and reports whether it is news.
func (l lives) note(m events.Message) bool {
	known, ok := l[m.Actor.ID]
	if m.Action == events.ActionDestroy {
		delete(l, m.Actor.ID)
		return ok
	}
	phase := phases[m.Action]
	if known.phase >= phase || !ok && phase == ended {
		return false // already reported, even its removal
	}
	l[m.Actor.ID] = life{phase, m.Actor.Attributes[labelKind], m.Actor.Attributes[labelSandbox]}
	return true
}

// missed returns the events between the last report and the list, oldest first for each container.
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

// maxEventsWait bounds the wait between two attempts to connect to the Engine's events. It is short: a starting Engine refuses at
// little cost, and until then the kubelet gets no events.
const maxEventsWait = time.Second

// watchEvents follows the Engine's events until ctx ends. After an interruption it works out what it missed.
func (s *Server) watchEvents(ctx context.Context) error {
	begin := backoff.Between(50*time.Millisecond, maxEventsWait)
	known, pauses := lives{}, begin
	brokeOff := time.Now()
	var heard time.Time // zero while not connected
	for {
		err := s.watchOnce(ctx, known, func() {
			heard = time.Now()
			s.log.WithField("after", heard.Sub(brokeOff).Round(time.Millisecond)).Info("connected to Docker Engine's events")
		})
		if ctx.Err() != nil {
			return nil
		}
		if !heard.IsZero() {
			s.log.WithError(err).Warn("lost the connection to Docker Engine's events, reconnecting")
			if time.Since(heard) > 10*maxEventsWait {
				pauses = begin
			}
			brokeOff, heard = time.Now(), time.Time{}
		}
		if pause(ctx, pauses.Step()) != nil {
			return nil
		}
	}
}

// watched are the Engine's events that concern a life or the content of the view.
var watched = []events.Action{
	events.ActionCreate, events.ActionStart, events.ActionDie, events.ActionDestroy,
	events.ActionPause, events.ActionUnPause, events.ActionUpdate, events.ActionRename,
}

// noteInView invalidates what the view knows about the subject of an event.
func (s *Server) noteInView(m events.Message) {
	if m.Action == events.ActionDestroy {
		s.view.gone(m.Actor.ID)
		return
	}
	s.view.changed(m.Actor.ID, m.Actor.Attributes, m.Action)
}

// watchOnce connects to the Engine's events, adopts what it finds, calls connected, and follows the events until the connection
// breaks.
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

// adopt takes over all our containers: their logs, and the events that were missed.
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

// adoptLog starts copying the log of a container that runs or ran.
func (s *Server) adoptLog(ctx context.Context, id string) {
	if s.logs.find(id) != nil {
		return
	}
	c, err := s.view.inspect(ctx, kindContainer, id)
	if err != nil {
		return // already removed
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

// handle processes one of the Engine's events.
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
	// If the pod is being removed, the event carries what is still known.
	if sandbox, err := s.view.inspect(ctx, kindSandbox, sandboxID); err == nil {
		event.PodSandboxStatus, _ = s.sandboxStatus(sandbox)
	}
	event.ContainersStatuses, _ = s.containerStatuses(ctx, sandboxID)
	s.events.publish(event)
}

func logrusFields(m events.Message) map[string]any {
	return map[string]any{"container": m.Actor.ID, "event": string(m.Action)}
}
