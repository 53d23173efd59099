package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// UnmarshalJSON reads Mesos's JSON into m. As in Mesos, unknown fields are ignored, an unknown name of an optional
// enumeration leaves the field unset, and missing required fields are an error that names all of them.
func UnmarshalJSON(body []byte, m Message) error {
	var tree any
	numbers := json.NewDecoder(bytes.NewReader(body))
	numbers.UseNumber()
	if err := numbers.Decode(&tree); err != nil {
		return fmt.Errorf("Failed to parse body into JSON: %w", err) //nolint:staticcheck // Mesos's own words
	}
	m.Reset()
	d := decoder{}
	d.message("", tree, reflect.ValueOf(m).Elem())
	switch {
	case d.err != nil:
		return fmt.Errorf("Failed to convert JSON into Call protobuf: %w", d.err) //nolint:staticcheck // Mesos's own words
	case len(d.missing) > 0:
		return fmt.Errorf("Failed to convert JSON into Call protobuf: Missing required fields: %s", //nolint:staticcheck // Mesos's own words
			strings.Join(d.missing, ", "))
	}
	return nil
}

// decoder fills one message. It collects the first error and all missing required fields.
type decoder struct {
	missing []string
	err     error
}

func (d *decoder) fail(path, want string, got any) {
	if d.err == nil {
		d.err = fmt.Errorf("%s: expecting %s, not %v", strings.TrimPrefix(path, "."), want, got)
	}
}

func (d *decoder) message(path string, tree any, out reflect.Value) {
	object, ok := tree.(map[string]any)
	if !ok {
		d.fail(path, "an object", tree)
		return
	}
	for _, f := range fieldsOf(out.Type()) {
		value, present := object[f.name]
		at := path + "." + f.name
		if !present || value == nil {
			if f.required {
				d.missing = append(d.missing, strings.TrimPrefix(at, "."))
			}
			continue
		}
		d.value(at, f, value, out.Field(f.index))
	}
}

func (d *decoder) value(path string, f field, tree any, out reflect.Value) {
	switch out.Kind() {
	case reflect.Pointer:
		target := reflect.New(out.Type().Elem())
		if f.enum != "" && !f.required && !knownEnum(f.enum, tree) {
			return
		}
		d.value(path, f, tree, target.Elem())
		out.Set(target)
	case reflect.Struct:
		d.message(path, tree, out)
	case reflect.Slice:
		d.list(path, f, tree, out)
	case reflect.Map:
		d.object(path, tree, out)
	default:
		d.scalar(path, f, tree, out)
	}
}

func (d *decoder) list(path string, f field, tree any, out reflect.Value) {
	if out.Type().Elem().Kind() == reflect.Uint8 {
		text, _ := tree.(string)
		data, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			d.fail(path, "base64", tree)
			return
		}
		out.SetBytes(data)
		return
	}
	items, ok := tree.([]any)
	if !ok {
		d.fail(path, "an array", tree)
		return
	}
	list := reflect.MakeSlice(out.Type(), len(items), len(items))
	for i, item := range items {
		d.value(fmt.Sprintf("%s[%d]", path, i), f, item, list.Index(i))
	}
	out.Set(list)
}

func (d *decoder) object(path string, tree any, out reflect.Value) {
	entries, ok := tree.(map[string]any)
	if !ok {
		d.fail(path, "an object", tree)
		return
	}
	result := reflect.MakeMap(out.Type())
	for key, entry := range entries {
		value := reflect.New(out.Type().Elem()).Elem()
		d.value(path+"."+key, field{}, entry, value)
		result.SetMapIndex(reflect.ValueOf(key), value)
	}
	out.Set(result)
}

func (d *decoder) scalar(path string, f field, tree any, out reflect.Value) {
	if f.enum != "" {
		name, _ := tree.(string)
		if value, ok := enumValue(f.enum, name); ok {
			out.SetInt(int64(value))
		} else if f.required {
			d.fail(path, "a value of "+f.enum, tree)
		}
		return
	}
	switch target := out.Addr().Interface().(type) {
	case *string:
		text, ok := tree.(string)
		if !ok {
			d.fail(path, "a string", tree)
		}
		*target = text
	default:
		// Numbers may be quoted, as 64-bit ones are in protobuf's own JSON.
		raw, err := json.Marshal(tree)
		if err == nil {
			err = json.Unmarshal(bytes.Trim(raw, `"`), target)
		}
		if err != nil {
			d.fail(path, "a "+out.Kind().String(), tree)
		}
	}
}

func knownEnum(enum string, tree any) bool {
	name, _ := tree.(string)
	_, ok := enumValue(enum, name)
	return ok
}
