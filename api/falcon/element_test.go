package falcon

import (
	"math"
	"strings"
	"testing"
)

func TestElementIsInvalidAsForATransfer(t *testing.T) {
	for want, spoil := range map[string]func(*Element){
		"":                           func(*Element) {},
		"endpoint is empty":          func(e *Element) { e.Endpoint = "" },
		"metric is empty":            func(e *Element) { e.Metric = "" },
		"kernel.hostname":            func(e *Element) { e.Metric = "kernel.hostname" },
		`"gauge" is none of`:         func(e *Element) { e.CounterType = "gauge" },
		`"" is none of`:              func(e *Element) { e.CounterType = "" },
		"step 0":                     func(e *Element) { e.Step = 0 },
		"step -60":                   func(e *Element) { e.Step = -60 },
		"511 bytes":                  func(e *Element) { e.Tags = strings.Repeat("t", 511-len(e.Metric)) },
		"value NaN is not a number":  func(e *Element) { e.Value = math.NaN() },
		"value +Inf is not a number": func(e *Element) { e.Value = math.Inf(1) },
	} {
		e := Element{Endpoint: "node-1", Metric: "load.1min", Step: 60, CounterType: TypeDerive}
		spoil(&e)
		err := e.Validate()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%+v: %v, want %q", e, err, want)
		}
	}
	longest := Element{Endpoint: "node-1", Metric: "m", Step: 1, CounterType: TypeGauge, Tags: strings.Repeat("t", 509)}
	if err := longest.Validate(); err != nil {
		t.Error(err)
	}
}

func TestTagsHaveNoBlanksAndNoSeparators(t *testing.T) {
	for _, c := range []struct {
		pairs []string
		want  string
	}{
		{nil, ""},
		{[]string{"namespace", "default", "pod", "web-0"}, "namespace=default,pod=web-0"},
		{[]string{"mount", "/mnt/my disk,2=b\n", "fstype", "ext4"}, "mount=/mnt/my_disk_2_b_,fstype=ext4"},
		{[]string{"a b", "\u00a0\t\u2003x\xff"}, "a_b=___x_"},
		{[]string{"device", "", "", "x", "iface", "eth0"}, "iface=eth0"},
	} {
		if got := Tags(c.pairs...); got != c.want {
			t.Errorf("%q: got %q, want %q", c.pairs, got, c.want)
		}
	}
}
