package wire

import (
	"reflect"
	"strconv"
	"strings"
	"sync"

	"github.com/gogo/protobuf/proto"
	mesos "github.com/mesos/mesos-go/api/v1/lib"
)

// field is the parsed tag of a generated struct's field.
type field struct {
	index    int
	name     string // in the .proto file
	enum     string // full name of the enumeration, "" for other kinds
	required bool
	def      string // default value, "" if there is none
}

var fieldsOfType sync.Map // reflect.Type -> []field

// fieldsOf returns the message fields of a generated struct in the order of their declaration.
func fieldsOf(t reflect.Type) []field {
	if known, ok := fieldsOfType.Load(t); ok {
		return known.([]field)
	}
	var fields []field
	for i := range t.NumField() {
		if tag, ok := t.Field(i).Tag.Lookup("protobuf"); ok {
			fields = append(fields, parseTag(i, tag))
		}
	}
	fieldsOfType.Store(t, fields)
	return fields
}

func parseTag(index int, tag string) field {
	f := field{index: index}
	for _, part := range strings.Split(tag, ",") {
		key, value, _ := strings.Cut(part, "=")
		switch key {
		case "req":
			f.required = true
		case "name":
			f.name = value
		case "enum":
			f.enum = value
		case "def":
			f.def = value
		}
	}
	// Mesos shows default values, except for deprecated fields. The only deprecated one with a default is "role".
	if f.name == "role" {
		f.def = ""
	}
	return f
}

// newerEnums has enumeration values that mesos-go v0.0.11 lacks.
var newerEnums = map[string]map[int32]string{
	"mesos.MasterInfo_Capability_Type":    {int32(MasterCapabilityQuotaV2): "QUOTA_V2"},
	"mesos.FrameworkInfo_Capability_Type": {9: "OFFER_CONSTRAINTS"},
}

// MasterCapabilityQuotaV2 is MasterInfo.Capability.QUOTA_V2 of the current mesos.proto.
const MasterCapabilityQuotaV2 mesos.MasterInfo_Capability_Type = 3

func enumName(enum string, value int32) string {
	if name, ok := newerEnums[enum][value]; ok {
		return name
	}
	for name, v := range proto.EnumValueMap(enum) {
		if v == value {
			return name
		}
	}
	return strconv.Itoa(int(value))
}

func enumValue(enum, name string) (int32, bool) {
	for value, n := range newerEnums[enum] {
		if n == name {
			return value, true
		}
	}
	value, ok := proto.EnumValueMap(enum)[name]
	return value, ok
}
