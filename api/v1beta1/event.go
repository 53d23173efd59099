package v1beta1

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ToV1 converts an event that is created. Today's events have no status. It is kept as what was done (action), unless it is one of
// today's types.
func (e *Event) ToV1() *v1.Event {
	o := &v1.Event{
		ObjectMeta: e.objectMeta(nil),
		InvolvedObject: v1.ObjectReference{
			Kind:            e.InvolvedObject.Kind,
			Namespace:       e.InvolvedObject.Namespace,
			Name:            NameOf(e.InvolvedObject.Name),
			UID:             types.UID(e.InvolvedObject.UID),
			APIVersion:      e.InvolvedObject.APIVersion,
			ResourceVersion: e.InvolvedObject.ResourceVersion,
			FieldPath:       e.InvolvedObject.FieldPath,
		},
		Reason:         e.Reason,
		Message:        e.Message,
		Source:         v1.EventSource{Component: e.Source},
		FirstTimestamp: e.Timestamp,
		LastTimestamp:  e.Timestamp,
		Count:          1,
		Type:           v1.EventTypeNormal,
	}
	if e.Status == v1.EventTypeNormal || e.Status == v1.EventTypeWarning {
		o.Type = e.Status
	} else {
		o.Action = e.Status
	}
	return o
}

// FromV1Event converts an event. What has no action shows its type, Normal or Warning, as its status.
func FromV1Event(o *v1.Event) *Event {
	e := &Event{
		Meta: fromV1(o),
		InvolvedObject: ObjectReference{
			Kind:            o.InvolvedObject.Kind,
			Namespace:       o.InvolvedObject.Namespace,
			Name:            o.InvolvedObject.Name,
			UID:             string(o.InvolvedObject.UID),
			APIVersion:      o.InvolvedObject.APIVersion,
			ResourceVersion: o.InvolvedObject.ResourceVersion,
			FieldPath:       o.InvolvedObject.FieldPath,
		},
		Status:    o.Action,
		Reason:    o.Reason,
		Message:   o.Message,
		Source:    o.Source.Component,
		Timestamp: o.LastTimestamp,
	}
	if e.Status == "" {
		e.Status = o.Type
	}
	if e.Source == "" {
		e.Source = o.ReportingController
	}
	if e.Timestamp.IsZero() {
		e.Timestamp.Time = o.EventTime.Time
	}
	return e
}

// OverlayEvent is OverlayPod for events.
func OverlayEvent(stored *v1.Event, e *Event) (*v1.Event, error) {
	if err := Conflict("event", e.ID, e.ResourceVersion, ResourceVersion(stored.ResourceVersion)); err != nil {
		return nil, err
	}
	was, next := FromV1Event(stored), e.ToV1()
	o := stored.DeepCopy()
	e.overlay(&o.ObjectMeta, o.Labels)
	o.Reason, o.Message = next.Reason, next.Message
	if e.InvolvedObject != was.InvolvedObject {
		o.InvolvedObject = next.InvolvedObject
	}
	if e.Status != was.Status {
		o.Action, o.Type = next.Action, next.Type
	}
	if e.Source != was.Source {
		o.Source.Component = next.Source.Component
	}
	if !e.Timestamp.Equal(&was.Timestamp) {
		o.LastTimestamp = next.LastTimestamp
	}
	return o, nil
}
