package localmesos

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	pb "github.com/mesos/mesos-go/api/v1/lib/master"

	"github.com/k8sm/k8sm/contrib/localmesos/wire"
)

const (
	// maxSubscribers is how many operators may be subscribed; the next one takes the place of the oldest
	// (--max_operator_event_stream_subscribers of Mesos).
	maxSubscribers = 1000
	// maxUnread is how many events may wait for a subscriber. One that does not read them is cut off.
	maxUnread = 10_000
)

type (
	// operatorSubscribe is a SUBSCRIBE call of the operator API.
	operatorSubscribe struct{ stream string }
	// operatorHeartbeatDue comes from the master's own timers.
	operatorHeartbeatDue struct{ stream string }
	// publish sends an event to a subscribed operator.
	publish struct {
		stream string
		event  *pb.Event
	}
	// cutOff ends a stream at once.
	cutOff struct{ stream string }
)

// subscribeOperator follows Master::ReadOnlyHandler::subscribe in src/master/readonly_handler.cpp and Master::subscribe in
// src/master/master.cpp.
func (m *master) subscribeOperator(stream string) {
	if len(m.subscribers) >= maxSubscribers {
		m.do(cutOff{m.subscribers[0]})
		m.subscribers = m.subscribers[1:]
	}
	m.subscribers = append(m.subscribers, stream)
	m.do(answer{status: http.StatusOK})
	interval := heartbeatInterval.Seconds()
	m.do(publish{stream, &pb.Event{
		Type: pb.Event_SUBSCRIBED, Subscribed: &pb.Event_Subscribed{GetState: m.getState(), HeartbeatIntervalSeconds: &interval},
	}})
	m.operatorHeartbeat(stream)
}

func (m *master) unsubscribeOperator(stream string) {
	m.subscribers = slices.DeleteFunc(slices.Clone(m.subscribers), func(s string) bool { return s == stream })
}

// operatorHeartbeat sends the operator one if it is still subscribed, and plans the next.
func (m *master) operatorHeartbeat(stream string) {
	if slices.Contains(m.subscribers, stream) {
		m.do(publish{stream, &pb.Event{Type: pb.Event_HEARTBEAT}})
		m.timers.add(m.now.Add(heartbeatInterval), operatorHeartbeatDue{stream})
	}
}

// publish sends an event to all subscribed operators, if there are any.
func (m *master) publish(event func() *pb.Event) {
	if len(m.subscribers) == 0 {
		return
	}
	e := event()
	for _, stream := range m.subscribers {
		m.do(publish{stream, e})
	}
}

func (m *master) publishTaskAdded(t *task) {
	m.publish(func() *pb.Event {
		return &pb.Event{Type: pb.Event_TASK_ADDED, TaskAdded: &pb.Event_TaskAdded{Task: t.info}}
	})
}

func (m *master) publishTaskUpdated(t *task, s mesos.TaskStatus) {
	m.publish(func() *pb.Event {
		return &pb.Event{Type: pb.Event_TASK_UPDATED, TaskUpdated: &pb.Event_TaskUpdated{
			FrameworkID: t.info.FrameworkID, Status: s, State: t.info.State,
		}}
	})
}

func (m *master) publishAgentAdded(a *agentEntry) {
	m.publish(func() *pb.Event {
		return &pb.Event{Type: pb.Event_AGENT_ADDED, AgentAdded: &pb.Event_AgentAdded{Agent: m.getAgent(a)}}
	})
}

func (m *master) publishAgentRemoved(a *agentEntry) {
	m.publish(func() *pb.Event {
		return &pb.Event{Type: pb.Event_AGENT_REMOVED, AgentRemoved: &pb.Event_AgentRemoved{AgentID: mesos.AgentID{Value: string(a.id)}}}
	})
}

func (m *master) publishFrameworkAdded(f *framework) {
	m.publish(func() *pb.Event {
		return &pb.Event{Type: pb.Event_FRAMEWORK_ADDED, FrameworkAdded: &pb.Event_FrameworkAdded{Framework: f.brief()}}
	})
}

func (m *master) publishFrameworkUpdated(f *framework) {
	m.publish(func() *pb.Event {
		return &pb.Event{Type: pb.Event_FRAMEWORK_UPDATED, FrameworkUpdated: &pb.Event_FrameworkUpdated{Framework: f.brief()}}
	})
}

func (m *master) publishFrameworkRemoved(f *framework) {
	m.publish(func() *pb.Event {
		return &pb.Event{Type: pb.Event_FRAMEWORK_REMOVED, FrameworkRemoved: &pb.Event_FrameworkRemoved{FrameworkInfo: f.info}}
	})
}

// brief describes the framework as its events do, without offers and resources (createFrameworkAdded in
// src/common/protobuf_utils.cpp).
func (f *framework) brief() pb.Response_GetFrameworks_Framework {
	return pb.Response_GetFrameworks_Framework{
		FrameworkInfo: f.info, Active: f.stream != "", Connected: f.stream != "", Recovered: f.recovered,
		RegisteredTime: timeInfo(f.registered), ReregisteredTime: timeInfo(f.reregistered), UnregisteredTime: timeInfo(f.unregistered),
	}
}

// timeInfo returns a time, or 0 for none.
func timeInfo(t time.Time) *mesos.TimeInfo {
	if t.IsZero() {
		return &mesos.TimeInfo{}
	}
	return &mesos.TimeInfo{Nanoseconds: t.UnixNano()}
}

// encodeEvent writes an event for operators.
func encodeEvent(codec wire.Codec, event wire.Message) ([]byte, error) {
	if codec == wire.JSON {
		return json.Marshal(newerFields(wire.Tree(event)))
	}
	return codec.Encode(event)
}
