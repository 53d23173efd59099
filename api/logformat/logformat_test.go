package logformat_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api/logformat"
)

// logged returns what a logger of the format writes.
func logged(f logformat.Format, write func(*logrus.Logger)) string {
	var out bytes.Buffer
	log := logrus.New()
	log.SetOutput(&out)
	log.SetFormatter(f.Formatter())
	write(log)
	return out.String()
}

func TestEachRecordIsOneObject(t *testing.T) {
	for name, fields := range map[string]logrus.Fields{
		"none":          {},
		"text":          {"pod": "default/web", "quoted": "a \"b\"\nc", "utf": "\xff"},
		"names of ours": {"msg": "theirs", "level": 7, "time": "then"},
		"an error":      {logrus.ErrorKey: errors.New("refused")},
		"no JSON":       {"share": math.NaN(), "pod": "default/web"},
		"a channel":     {"events": make(chan int)},
		"a map":         {"labels": map[any]any{1: 2}},
	} {
		text := logged(logformat.JSON, func(log *logrus.Logger) { log.WithFields(fields).Warn("two\nlines") })
		var record map[string]any
		if err := json.Unmarshal([]byte(text), &record); err != nil || strings.Count(text, "\n") != 1 {
			t.Errorf("%s: %q: %v", name, text, err)
			continue
		}
		if record["msg"] != "two\nlines" || record["level"] != "warning" {
			t.Errorf("%s: %v", name, record)
		}
		if at, err := time.Parse(time.RFC3339Nano, record["time"].(string)); err != nil || time.Since(at) > time.Minute {
			t.Errorf("%s: %v, %v", name, record["time"], err)
		}
		if pod, ok := fields["pod"]; ok && record["pod"] != pod {
			t.Errorf("%s: the pod is %v", name, record["pod"])
		}
	}
}

func TestFieldsAreAsInText(t *testing.T) {
	text := logged(logformat.JSON, func(log *logrus.Logger) {
		log.WithError(errors.New("refused")).WithFields(logrus.Fields{"after": 1500 * time.Millisecond, "pods": 3, "cause": nil}).Error("cannot launch")
	})
	if !strings.Contains(text, `"after":"1.5s"`) || !strings.Contains(text, `"error":"refused"`) || !strings.Contains(text, `"pods":3`) || strings.Contains(text, "cause") {
		t.Error(text)
	}
}

func TestTextIsTheDefault(t *testing.T) {
	for _, f := range []logformat.Format{"", logformat.Text} {
		if text := logged(f, func(log *logrus.Logger) { log.Info("up") }); !strings.Contains(text, "level=info msg=up") {
			t.Errorf("%q: %s", f, text)
		}
	}
}

func TestOnlyFormatsAreSet(t *testing.T) {
	f := logformat.Text
	if err := f.Set("json"); err != nil || f != logformat.JSON || f.String() != "json" || f.Type() != "format" {
		t.Errorf("%q, %v", f, err)
	}
	for _, other := range []string{"", "JSON", "logfmt"} {
		if err := f.Set(other); err == nil || f != logformat.JSON {
			t.Errorf("%q is a format: %q, %v", other, f, err)
		}
	}
}
