// Package logformat says how km's processes write their logs: as text for people, or as JSON for programs. It imports nothing of k8sm.
package logformat

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/sirupsen/logrus"
)

// Format is a format of logs. It is the value of a flag.
type Format string

// The formats.
const (
	Text Format = "text"
	// JSON is one object a line, with "time" (RFC 3339), "level", "msg" and the fields of the record.
	JSON Format = "json"
)

// timestamps have milliseconds.
const timestamps = "2006-01-02T15:04:05.000Z07:00"

// String implements pflag.Value.
func (f *Format) String() string { return string(*f) }

// Type implements pflag.Value.
func (*Format) Type() string { return "format" }

// Set implements pflag.Value.
func (f *Format) Set(text string) error {
	if text != string(Text) && text != string(JSON) {
		return errors.New("give text or json")
	}
	*f = Format(text)
	return nil
}

// Formatter returns the formatter for logrus; "" counts as Text.
func (f Format) Formatter() logrus.Formatter {
	if f == JSON {
		return &lines{logrus.JSONFormatter{TimestampFormat: timestamps}}
	}
	return &logrus.TextFormatter{FullTimestamp: true, TimestampFormat: timestamps}
}

// lines formats records as JSON. It loses none: values that JSON does not have become text.
type lines struct{ logrus.JSONFormatter }

// Format implements logrus.Formatter.
func (l *lines) Format(entry *logrus.Entry) ([]byte, error) {
	record := *entry
	record.Data = maps.Clone(entry.Data)
	for name, value := range record.Data {
		switch value := value.(type) {
		case nil:
			delete(record.Data, name) // stock programs log errors without one
		case time.Duration:
			record.Data[name] = value.String() // as in text; JSON would have nanoseconds
		}
	}
	line, err := l.JSONFormatter.Format(&record)
	if err == nil {
		return line, nil
	}
	for name, value := range record.Data {
		record.Data[name] = fmt.Sprint(value)
	}
	return l.JSONFormatter.Format(&record)
}
