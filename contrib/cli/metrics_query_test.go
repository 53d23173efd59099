package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
)

func TestValuesAreShown(t *testing.T) {
	series := func(pairs ...string) model.Metric {
		m := model.Metric{}
		for i := 0; i < len(pairs); i += 2 {
			m[model.LabelName(pairs[i])] = model.LabelValue(pairs[i+1])
		}
		return m
	}
	for name, test := range map[string]struct {
		query query
		value model.Value
		want  string
	}{
		"a vector in its order": {query{}, model.Vector{
			{Metric: series("__name__", "up", "job", "etcd"), Value: 1}, {Metric: series("__name__", "up", "job", "a", "node", "n1"), Value: 0.5},
		}, `
METRIC   JOB    NODE   VALUE
up       etcd          1
up       a      n1     0.5
`},
		"without a header": {query{noHeaders: true}, model.Vector{{Metric: series("job", "etcd"), Value: 1}}, "\netcd   1\n"},
		"a range": {query{}, model.Matrix{{Metric: series("job", "etcd"), Values: []model.SamplePair{{Timestamp: 1_000_000, Value: 1}, {Timestamp: 1_030_000, Value: 2}}}}, `
JOB    TIME                   VALUE
etcd   1970-01-01T00:16:40Z   1
etcd   1970-01-01T00:17:10Z   2
`},
		"a number": {query{}, &model.Scalar{Value: 4.5}, "\nVALUE\n4.5\n"},
		"a text":   {query{}, &model.String{Value: "x"}, "\nVALUE\nx\n"},
		"nothing":  {query{}, model.Vector{}, "\nNo series found.\n"},
		"JSON": {query{output: "json"}, model.Vector{{Metric: series("job", "etcd"), Value: 1, Timestamp: 1_000_000}}, `
{
  "result": [
    {
      "metric": {
        "job": "etcd"
      },
      "value": [
        1000,
        "1"
      ]
    }
  ],
  "resultType": "vector"
}
`},
	} {
		var out bytes.Buffer
		if err := test.query.print(&out, &out, test.value); err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		for line := range strings.Lines("\n" + out.String()) {
			got.WriteString(strings.TrimRight(line, " \n") + "\n")
		}
		if got.String() != test.want {
			t.Errorf("%s is shown as:%swant:%s", name, got.String(), test.want)
		}
	}
}
