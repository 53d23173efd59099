package mesoshttp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
)

// maxDepth is how deep messages may be nested. Mesos' own are less than 20 deep.
const maxDepth = 100

// CheckMessage checks the protobuf encoding of a message before the decoders that mesos-go has generated read it into a value of this
// type (a struct). They trust lengths, so that a wrong one makes them panic, and call themselves for each level of a group or message,
// until the stack ends the process.
func CheckMessage(data []byte, of reflect.Type) error { return check(data, of, maxDepth) }

func check(data []byte, of reflect.Type, depth int) error {
	if depth == 0 {
		return fmt.Errorf("the message is nested more than %d deep", maxDepth)
	}
	inner := messagesOf(of)
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if data = data[n:]; kind == protowire.StartGroupType || kind == protowire.EndGroupType {
			return errors.New("the message has a group, and those of Mesos have none")
		}
		if n = protowire.ConsumeFieldValue(number, kind, data); n < 0 {
			return protowire.ParseError(n)
		}
		if message, ok := inner[number]; ok && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(data[:n])
			if err := check(value, message, depth-1); err != nil {
				return err
			}
		}
		data = data[n:]
	}
	return nil
}

var messagesOfType sync.Map // reflect.Type -> map[protowire.Number]reflect.Type

// messagesOf returns the fields of a generated struct that are messages.
func messagesOf(t reflect.Type) map[protowire.Number]reflect.Type {
	if known, ok := messagesOfType.Load(t); ok {
		return known.(map[protowire.Number]reflect.Type)
	}
	messages := map[protowire.Number]reflect.Type{}
	for i := range t.NumField() {
		field := t.Field(i)
		tag := strings.Split(field.Tag.Get("protobuf"), ",") // such as "bytes,2,opt,name=subscribe"
		if len(tag) < 2 {
			continue
		}
		kind := field.Type
		for kind.Kind() == reflect.Pointer || kind.Kind() == reflect.Slice {
			kind = kind.Elem()
		}
		if kind.Kind() == reflect.Map { // its entries are messages
			kind = reflect.StructOf([]reflect.StructField{{Name: "Value", Type: kind.Elem(), Tag: `protobuf:"bytes,2,opt"`}})
		}
		if number, err := strconv.Atoi(tag[1]); err == nil && kind.Kind() == reflect.Struct {
			messages[protowire.Number(number)] = kind
		}
	}
	messagesOfType.Store(t, messages)
	return messages
}

// maxDigits are the digits of a record's length.
const maxDigits = 20

// records splits a stream into the records of RecordIO (https://mesos.apache.org/documentation/latest/recordio/), of most bytes
// each. mesos-go's own splitter panics if a length has 64 bits.
func records(most int) bufio.SplitFunc {
	return func(data []byte, atEOF bool) (advance int, record []byte, err error) {
		header := bytes.IndexByte(data[:min(len(data), maxDigits+1)], '\n')
		switch {
		case header < 0 && len(data) > maxDigits:
			return 0, nil, errors.New("the stream is not of RecordIO: no length of a record ends")
		case header < 0 && atEOF && len(data) > 0:
			return 0, nil, errCut
		case header < 0:
			return 0, nil, nil
		}
		size, err := strconv.ParseUint(string(bytes.TrimSpace(data[:header])), 10, 64)
		switch {
		case err != nil:
			return 0, nil, fmt.Errorf("the stream is not of RecordIO: %q is not the length of a record", data[:header])
		case size > uint64(most):
			return 0, nil, fmt.Errorf("a record has %d bytes, and %d are allowed", size, most)
		}
		end := header + 1 + int(size)
		if len(data) >= end {
			return end, data[header+1 : end], nil
		}
		if atEOF {
			return 0, nil, errCut
		}
		return 0, nil, nil
	}
}

// errCut says that a stream has ended within a record.
var errCut = errors.New("the stream ended within a record")
