package cri

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/k8sm/k8sm/api"
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

// watchEvents follows the Engine's events until ctx ends. Each time it connects, it takes up the logs of containers that
// started unseen.
func (s *Server) watchEvents(ctx context.Context) error {
	for wait := 100 * time.Millisecond; ; wait = min(wait*2, 10*time.Second) {
		connected := time.Now()
		err := s.watchOnce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		s.log.WithError(err).Warn("Docker Engine's events broke off, connecting again")
		if time.Since(connected) > time.Minute {
			wait = 100 * time.Millisecond
		}
		if pause(ctx, wait) != nil {
			return nil
		}
	}
}

func (s *Server) watchOnce(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	messages, failed := s.docker.Events(ctx, events.ListOptions{Filters: filters.NewArgs(
		filters.Arg("type", string(events.ContainerEventType)),
		filters.Arg("label", api.DockerLabelFramework+"="+s.owner.cluster),
		filters.Arg("label", api.DockerLabelNode+"="+s.owner.node),
		filters.Arg("event", string(events.ActionCreate)), filters.Arg("event", string(events.ActionStart)),
		filters.Arg("event", string(events.ActionDie)), filters.Arg("event", string(events.ActionDestroy)),
	)})
	if err := s.adopt(ctx); err != nil {
		return err
	}
	for {
		select {
		case err := <-failed:
			return err
		case m := <-messages:
			s.handle(ctx, m)
		}
	}
}

// adopt takes up the logs of all our containers.
func (s *Server) adopt(ctx context.Context) error {
	list, err := s.list(ctx, kindContainer, "", "")
	if err != nil {
		return fmt.Errorf("cannot list our containers: %w", err)
	}
	for _, c := range list {
		if containerState(c.State) != runtimeapi.ContainerState_CONTAINER_CREATED {
			s.adoptLog(ctx, c.ID)
		}
	}
	return nil
}

func (s *Server) adoptLog(ctx context.Context, id string) {
	c, err := s.inspect(ctx, kindContainer, id)
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
	if sandbox, err := s.inspect(ctx, kindSandbox, sandboxID); err == nil {
		event.PodSandboxStatus, _ = sandboxStatus(sandbox)
	}
	event.ContainersStatuses, _ = s.containerStatuses(ctx, sandboxID)
	s.events.publish(event)
}

func logrusFields(m events.Message) map[string]any {
	return map[string]any{"container": m.Actor.ID, "event": string(m.Action)}
}
