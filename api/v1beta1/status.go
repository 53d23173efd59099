package v1beta1

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Error is the message.
func (s *Status) Error() string { return s.Message }

// NewStatus makes the answer to what failed: the code of HTTP, the reason, and what to tell.
func NewStatus(code int, reason metav1.StatusReason, format string, args ...any) *Status {
	return &Status{
		Meta:    Meta{Kind: "Status", APIVersion: V1Beta1},
		Status:  Failure,
		Message: fmt.Sprintf(format, args...),
		Reason:  string(reason),
		Code:    code,
	}
}

// Succeeded makes the answer to what succeeded and has no other answer.
func Succeeded() *Status {
	return &Status{Meta: Meta{Kind: "Status", APIVersion: V1Beta1}, Status: Success}
}

// about completes a Status with the object it is about.
func (s *Status) about(singular, id string) *Status {
	s.Details = &StatusDetails{ID: id, Kind: singular}
	return s
}

// causes are what is wrong with an object.
type causes []Cause

func (c *causes) add(reason metav1.CauseType, field, what string, value any) {
	*c = append(*c, Cause{Reason: string(reason), Message: fmt.Sprintf("%s: %s '%v'", field, what, value), Field: field})
}

// invalid is nil if nothing is wrong.
func (c causes) invalid(singular, id string) error {
	if len(c) == 0 {
		return nil
	}
	messages := make([]string, len(c))
	for i := range c {
		messages[i] = c[i].Message
	}
	list := strings.Join(messages, ", ")
	if len(c) > 1 {
		list = "[" + list + "]"
	}
	s := NewStatus(422, metav1.StatusReasonInvalid, "%s %q is invalid: %s", singular, id, list).about(singular, id)
	s.Details.Causes = c
	return s
}
