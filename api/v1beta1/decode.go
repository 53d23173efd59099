package v1beta1

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// head is what is read of a body first.
type head struct {
	Kind       string `json:"kind"`
	APIVersion string `json:"apiVersion"`
	ID         string `json:"id"`
}

// Decode reads an object that a client sends to a resource: JSON or YAML. Kind and version may be missing. The result has the kind
// of the resource and this version, whichever of the versions the body names: their shapes are the same. Unknown fields are ignored,
// and numbers are taken for strings but in the metadata, as in 2014.
//
// What cannot be read is a *Status 400; a list where a map of labels belongs, 422.
func Decode(body []byte, r Resource, version string) (Object, error) {
	text, h, err := decodeHead(body)
	switch {
	case err != nil:
		return nil, badRequest("couldn't get version/kind: %v", err)
	case h.Kind != "" && h.Kind != r.Kind:
		return nil, badRequest("data of kind '%s', obj of type '%s'", h.Kind, r.Kind)
	case h.APIVersion != "" && !slices.Contains(Versions(), h.APIVersion):
		return nil, badRequest("apiVersion '%s' is none of %s: send other objects to the Kubernetes API server",
			h.APIVersion, strings.Join(Versions(), ", "))
	}
	o := r.New()
	if err := yaml.Unmarshal(text, o); err != nil {
		return nil, unreadable(err, r, h)
	}
	o.Base().Kind, o.Base().APIVersion = r.Kind, version
	return o, nil
}

// decodeHead returns the body as YAML, too.
func decodeHead(body []byte) ([]byte, head, error) {
	var h head
	text, err := jsonToYAML(body)
	if err != nil {
		return nil, h, err
	}
	var fields map[string]json.RawMessage
	if err := yaml.Unmarshal(text, &fields); err != nil {
		return nil, h, plain(err)
	}
	if fields == nil {
		return nil, h, errors.New("the body is empty: send an object as JSON or YAML")
	}
	return text, h, plain(yaml.Unmarshal(text, &h))
}

// jsonToYAML makes YAML of JSON, and returns everything else as it is. JSON is YAML nearly: YAML forbids some characters, which can
// be escaped, and pairs of escapes for one.
func jsonToYAML(body []byte) ([]byte, error) {
	if !json.Valid(body) {
		return body, nil
	}
	var tree any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&tree); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	plain, err := json.Marshal(tree)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, r := range string(plain) {
		if r >= 0x7f && r < 0xa0 || r == 0xfeff || r == 0xfffe || r == 0xffff {
			fmt.Fprintf(&out, `\u%04x`, r)
		} else {
			out.WriteRune(r)
		}
	}
	return out.Bytes(), nil
}

// plain takes off an error of the YAML library what is of no use to who wrote the YAML.
func plain(err error) error {
	if err == nil {
		return nil
	}
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return errors.New(wrongType(wrong))
	}
	text := strings.TrimPrefix(err.Error(), "error converting YAML to JSON: ")
	text = strings.TrimPrefix(text, "error unmarshaling JSON: while decoding JSON: ")
	return errors.New(strings.Replace(text, "yaml: ", "YAML error: ", 1))
}

func wrongType(e *json.UnmarshalTypeError) string {
	where := fieldOf(e)
	if where == "" {
		where = "the body"
	}
	return fmt.Sprintf("%s: cannot read %s as %s", where, e.Value, wanted(e.Type))
}

// fieldOf is the path of the field that does not fit.
func fieldOf(e *json.UnmarshalTypeError) string { return strings.TrimPrefix(e.Field, "Meta.") }

func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct, reflect.Map, reflect.Pointer:
		return "an object"
	case reflect.Slice:
		return "a list"
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	}
	return "a whole number of type " + t.Kind().String()
}

// unreadable is the answer to a body whose fields do not fit.
func unreadable(err error, r Resource, h head) error {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) && wrong.Value == "array" && wrong.Type == reflect.TypeFor[map[string]string]() {
		var c causes
		c.add(metav1.CauseTypeFieldValueInvalid, fieldOf(wrong), "invalid value", "a list", "write a map (name: nginx), not a list (- name: nginx)")
		return c.invalid(r.Singular, h.ID)
	}
	return badRequest("couldn't read the %s: %v", r.Singular, plain(err))
}

func badRequest(format string, args ...any) error {
	return NewStatus(400, metav1.StatusReasonBadRequest, format, args...)
}
