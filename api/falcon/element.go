package falcon

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode"
)

// CounterType says what open-falcon makes of a value.
type CounterType string

// The counter types of open-falcon.
const (
	TypeGauge   CounterType = "GAUGE"   // stored as it is
	TypeCounter CounterType = "COUNTER" // its increase per second is stored; a decrease is skipped
	TypeDerive  CounterType = "DERIVE"  // its change per second is stored
)

const (
	// MinStep is the shortest step in seconds: transfers raise a shorter one to this.
	MinStep = 30
	// maxNames is the most bytes that transfers accept for metric and tags together.
	maxNames = 510
)

// Element is one value of one series, as open-falcon's agents send it.
type Element struct {
	Endpoint    string      `json:"endpoint"` // the machine, or what stands for one
	Metric      string      `json:"metric"`
	Value       float64     `json:"value"`
	Step        int64       `json:"step"` // seconds between two values
	CounterType CounterType `json:"counterType"`
	Tags        string      `json:"tags"`      // k=v,k=v; made by Tags
	Timestamp   int64       `json:"timestamp"` // Unix time, seconds
}

// Gauge returns an element of type GAUGE. A Pusher adds endpoint, step and timestamp.
func Gauge(metric string, value float64, tags string) Element {
	return Element{Metric: metric, Value: value, CounterType: TypeGauge, Tags: tags}
}

// Counter returns an element of type COUNTER. A Pusher adds endpoint, step and timestamp.
func Counter(metric string, value float64, tags string) Element {
	return Element{Metric: metric, Value: value, CounterType: TypeCounter, Tags: tags}
}

// Validate returns an error for an element that a transfer would count as invalid and drop.
func (e Element) Validate() error {
	switch {
	case e.Endpoint == "":
		return errors.New("the endpoint is empty")
	case e.Metric == "":
		return errors.New("the metric is empty")
	case e.Metric == "kernel.hostname":
		return errors.New("metric kernel.hostname is reserved")
	case e.CounterType != TypeGauge && e.CounterType != TypeCounter && e.CounterType != TypeDerive:
		return fmt.Errorf("counterType %q is none of GAUGE, COUNTER and DERIVE", e.CounterType)
	case e.Step <= 0:
		return fmt.Errorf("step %d is not above 0", e.Step)
	case len(e.Metric)+len(e.Tags) > maxNames:
		return fmt.Errorf("metric and tags have %d bytes, which is more than %d", len(e.Metric)+len(e.Tags), maxNames)
	case math.IsNaN(e.Value) || math.IsInf(e.Value, 0):
		return fmt.Errorf("value %v is not a number", e.Value)
	}
	return nil
}

// Tags returns the tags of the given keys and values, one after the other. It leaves out empty values, and replaces what would break
// the format.
func Tags(pairs ...string) string {
	var tags []string
	for i := 0; i+1 < len(pairs); i += 2 {
		if key, value := clean(pairs[i]), clean(pairs[i+1]); key != "" && value != "" {
			tags = append(tags, key+"="+value)
		}
	}
	return strings.Join(tags, ",")
}

// clean replaces blanks, control characters and the separators of tags.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r == ',' || r == '=' || unicode.IsSpace(r) || unicode.IsControl(r) || r == unicode.ReplacementChar {
			return '_'
		}
		return r
	}, text)
}
