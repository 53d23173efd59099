package v1beta1

import (
	"fmt"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Error is the message.
func (s *Status) Error() string { return s.Message }

// NewStatus makes the answer to what failed: the code of HTTP, the reason, and what to tell. Its version is the caller's to set, if
// it is not V1Beta1.
func NewStatus(code int, reason metav1.StatusReason, format string, args ...any) *Status {
	return &Status{
		Meta:    Meta{Kind: "Status", APIVersion: V1Beta1},
		Status:  Failure,
		Message: fmt.Sprintf(format, args...),
		Reason:  string(reason),
		Code:    code,
	}
}

// NotFound is the answer to an id that nothing has.
func NotFound(singular, id string) *Status {
	return NewStatus(404, metav1.StatusReasonNotFound, "%s %q not found", singular, id).about(singular, id)
}

// AlreadyExists is the answer to an id that something has.
func AlreadyExists(singular, id string) *Status {
	return NewStatus(409, metav1.StatusReasonAlreadyExists, "%s %q already exists", singular, id).about(singular, id)
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

// FromV1Status converts the answer to a request for the object of a resource with an id; "" is no object's. Kinds, ids, fields and
// messages are those of v1beta1.
func FromV1Status(o *metav1.Status, r Resource, id string) *Status {
	s := NewStatus(int(o.Code), o.Reason, "%s", o.Message)
	s.Status = o.Status
	if o.Details == nil {
		return s
	}
	d := o.Details
	s = s.about(d.Kind, d.Name)
	if about, ok := ofV1(d.Kind); ok {
		s.Details.Kind = about.Singular
		if about.Kind == r.Kind && NameOf(id) == d.Name {
			s.Details.ID = id
		}
	}
	for _, c := range d.Causes[:min(len(d.Causes), maxCauses)] {
		s.Details.Causes = append(s.Details.Causes, fromV1Cause(r, c))
	}
	s.Message = message(o, s.Details)
	return s
}

// ofV1 finds a resource by its name or kind in v1, or by a part of it, such as pods/binding.
func ofV1(name string) (Resource, bool) {
	name, _, _ = strings.Cut(name, "/")
	for _, r := range Resources() {
		if name == r.V1.Resource || name == r.Kind || name == "Node" && r.Kind == "Minion" {
			return r, true
		}
	}
	return Resource{}, false
}

// message tells in the words of v1beta1 what o tells.
func message(o *metav1.Status, d *StatusDetails) string {
	switch o.Reason {
	case metav1.StatusReasonNotFound:
		return NotFound(d.Kind, d.ID).Message
	case metav1.StatusReasonAlreadyExists:
		return AlreadyExists(d.Kind, d.ID).Message
	case metav1.StatusReasonInvalid:
		if len(d.Causes) > 0 {
			return causes(d.Causes).message(d.Kind, d.ID)
		}
	}
	was, is := fmt.Sprintf("%s %q", o.Details.Kind, o.Details.Name), fmt.Sprintf("%s %q", d.Kind, d.ID)
	if why, ok := strings.CutPrefix(o.Message, "Operation cannot be fulfilled on "+was+": "); ok {
		return is + " cannot be updated: " + why
	}
	return strings.Replace(o.Message, was, is, 1)
}

// words are what v1beta1 begins messages of causes with, by the beginnings that v1 has.
var words = []struct{ v1, v1beta1 string }{
	{"Invalid value", "invalid value"},
	{"Unsupported value", "unsupported value"},
	{"Required value", "required value"},
	{"Duplicate value", "duplicate value"},
	{"Not found", "not found"},
}

func fromV1Cause(r Resource, o metav1.StatusCause) Cause {
	c := Cause{Reason: string(o.Type), Field: FieldPath(r, o.Field)}
	text := o.Message
	for _, w := range words {
		rest, ok := strings.CutPrefix(o.Message, w.v1)
		if !ok {
			continue
		}
		value, why := "", strings.TrimPrefix(rest, ": ")
		if quoted, err := strconv.QuotedPrefix(why); err == nil {
			value, _ = strconv.Unquote(quoted)
			why = strings.TrimPrefix(why[len(quoted):], ": ")
		} else if o.Type != metav1.CauseTypeFieldValueRequired {
			value, why, _ = strings.Cut(why, ": ")
		}
		text = w.v1beta1 + " '" + value + "'"
		if why != "" {
			text += ": " + why
		}
		break
	}
	c.Message = text
	if c.Field != "" {
		c.Message = c.Field + ": " + text
	}
	return c
}

// causes are what is wrong with an object.
type causes []Cause

// maxCauses is how many things that are wrong are told. Else an answer could be many times as large as what was sent.
const maxCauses = 20

// add adds a cause, if there is room. It tells more if there is more to tell.
func (c *causes) add(reason metav1.CauseType, field, what string, value any, more ...string) {
	if len(*c) == maxCauses {
		return
	}
	message := fmt.Sprintf("%s: %s '%v'", field, what, value)
	*c = append(*c, Cause{Reason: string(reason), Message: strings.Join(append([]string{message}, more...), ": "), Field: field})
}

// invalid is nil if nothing is wrong.
func (c causes) invalid(singular, id string) error {
	if len(c) == 0 {
		return nil
	}
	s := NewStatus(422, metav1.StatusReasonInvalid, "%s", c.message(singular, id)).about(singular, id)
	s.Details.Causes = c
	return s
}

func (c causes) message(singular, id string) string {
	messages := make([]string, len(c))
	for i := range c {
		messages[i] = c[i].Message
	}
	list := strings.Join(messages, ", ")
	if len(c) > 1 {
		list = "[" + list + "]"
	}
	return fmt.Sprintf("%s %q is invalid: %s", singular, id, list)
}
