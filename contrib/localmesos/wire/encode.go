package wire

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
)

// MarshalJSON returns m as Mesos writes it: names from the .proto file, enumerations by name, bytes in base64,
// without unset fields that have no default value.
func MarshalJSON(m Message) ([]byte, error) { return json.Marshal(Tree(m)) }

// Tree returns m's JSON as decoded by encoding/json, to compose answers from messages and other values. The result shares nothing
// with m.
func Tree(m Message) map[string]any {
	tree, _ := encodeStruct(reflect.Indirect(reflect.ValueOf(m))).(map[string]any)
	return tree
}

// Trees returns the trees of several messages; it is never nil.
func Trees[T any, M interface {
	*T
	Message
}](messages []T) []any {
	trees := make([]any, 0, len(messages))
	for i := range messages {
		trees = append(trees, Tree(M(&messages[i])))
	}
	return trees
}

func encodeStruct(v reflect.Value) any {
	out := map[string]any{}
	for _, f := range fieldsOf(v.Type()) {
		value := v.Field(f.index)
		if value.Kind() == reflect.Pointer && value.IsNil() && f.def != "" {
			out[f.name] = defaultOf(f, value.Type().Elem().Kind())
			continue
		}
		if absent(f, value) {
			continue
		}
		out[f.name] = encodeValue(f, value)
	}
	return out
}

// absent reports whether a field is not set. mesos-go keeps some optional fields by value; their zero value (an enumeration's
// UNKNOWN) means unset.
func absent(f field, v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer:
		return v.IsNil()
	case reflect.Slice:
		return v.IsNil() && !f.required || v.Len() == 0 && v.Type().Elem().Kind() != reflect.Uint8
	case reflect.Map:
		return v.Len() == 0
	}
	return !f.required && v.IsZero()
}

func encodeValue(f field, v reflect.Value) any {
	if f.enum != "" && v.Kind() == reflect.Int32 {
		return enumName(f.enum, int32(v.Int()))
	}
	switch v.Kind() {
	case reflect.Pointer:
		return encodeValue(f, v.Elem())
	case reflect.Struct:
		return encodeStruct(v)
	case reflect.Float32, reflect.Float64:
		return Float(v.Float())
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return base64.StdEncoding.EncodeToString(v.Bytes())
		}
		list := make([]any, 0, v.Len())
		for i := range v.Len() {
			list = append(list, encodeValue(f, v.Index(i)))
		}
		return list
	case reflect.Map:
		object := map[string]any{}
		for entries := v.MapRange(); entries.Next(); {
			object[fmt.Sprint(entries.Key().Interface())] = encodeValue(f, entries.Value())
		}
		return object
	}
	return v.Interface()
}

func defaultOf(f field, kind reflect.Kind) any {
	switch {
	case f.enum != "":
		value, _ := strconv.ParseInt(f.def, 10, 32)
		return enumName(f.enum, int32(value))
	case kind == reflect.Bool:
		return f.def == "1"
	case kind == reflect.String:
		return f.def
	case kind == reflect.Float64:
		value, _ := strconv.ParseFloat(f.def, 64)
		return Float(value)
	}
	return json.Number(f.def)
}

// Float is a number with a decimal point in JSON, as in Mesos ("4.0"), so that readers such as Python's json get the documented
// type.
type Float float64

// MarshalJSON implements json.Marshaler.
func (n Float) MarshalJSON() ([]byte, error) {
	text, err := json.Marshal(float64(n))
	if err != nil {
		return nil, err
	}
	for _, c := range text {
		if c == '.' || c == 'e' {
			return text, nil
		}
	}
	return append(text, ".0"...), nil
}
