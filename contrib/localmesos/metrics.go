package localmesos

import (
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/prometheus/procfs"
)

// metrics are values by the names that https://mesos.apache.org/documentation/latest/monitoring/ gives them.
type metrics map[string]float64

func (m metrics) add(name string) { m[name]++ }

// start lets counters begin at 0, so that readers see them before they count.
func (m metrics) start(prefix string, names ...string) {
	for _, name := range names {
		m[prefix+name] = 0
	}
}

// resources adds NAME_total, _used and _percent of the resources that Mesos shows.
func (m metrics) resources(prefix string, total, used pool) {
	for infix, revocable := range map[string]bool{"": false, "revocable_": true} {
		kind := func(a amount) bool { return a.revocable == revocable }
		totals, uses := total.sums(kind), used.sums(kind)
		for _, name := range []string{"cpus", "gpus", "mem", "disk"} {
			m[prefix+name+"_"+infix+"total"], m[prefix+name+"_"+infix+"used"] = totals[name], uses[name]
			m[prefix+name+"_"+infix+"percent"] = 0
			if totals[name] > 0 {
				m[prefix+name+"_"+infix+"percent"] = uses[name] / totals[name]
			}
		}
	}
}

// messages returns metrics as the operator API has them, by name.
func (m metrics) messages() []mesos.Metric {
	var out []mesos.Metric
	for _, name := range slices.Sorted(maps.Keys(m)) {
		value := m[name]
		out = append(out, mesos.Metric{Name: name, Value: &value})
	}
	return out
}

// system adds what the machine has and does. What it does not tell is left out, as in Mesos.
func (m metrics) system() {
	m["system/cpus_total"] = float64(runtime.NumCPU())
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return
	}
	if load, err := proc.LoadAvg(); err == nil {
		m["system/load_1min"], m["system/load_5min"], m["system/load_15min"] = load.Load1, load.Load5, load.Load15
	}
	if memory, err := proc.Meminfo(); err == nil && memory.MemTotal != nil && memory.MemFree != nil {
		m["system/mem_total_bytes"], m["system/mem_free_bytes"] = float64(*memory.MemTotal<<10), float64(*memory.MemFree<<10)
	}
}

// timing is a metric of how long something took, in milliseconds, with percentiles of the last times
// (3rdparty/libprocess/include/process/metrics/timer.hpp and statistics.hpp).
type timing struct {
	window time.Duration // of the percentiles; 0 for none
	last   float64
	values []timedValue // in the order of time
}

type timedValue struct {
	at    time.Time
	value float64
}

// timesKept bounds a timing's values. Mesos thins out older ones instead.
const timesKept = 1000

func (t *timing) add(now time.Time, took time.Duration) {
	t.last = float64(took) / float64(time.Millisecond)
	t.values = append(t.values, timedValue{now, t.last})
	drop := max(0, len(t.values)-timesKept)
	for drop < len(t.values) && now.Sub(t.values[drop].at) > t.window {
		drop++
	}
	if t.window == 0 {
		drop = len(t.values) - 1
	}
	t.values = slices.Delete(t.values, 0, drop)
}

// timing adds a timing, if anything was timed. Percentiles need two values.
func (m metrics) timing(name string, t *timing) {
	if len(t.values) == 0 {
		return
	}
	m[name] = t.last
	if len(t.values) < 2 {
		return
	}
	sorted := make([]float64, 0, len(t.values))
	for _, v := range t.values {
		sorted = append(sorted, v.value)
	}
	slices.Sort(sorted)
	m[name+"/count"], m[name+"/min"], m[name+"/max"] = float64(len(sorted)), sorted[0], sorted[len(sorted)-1]
	for suffix, share := range map[string]float64{"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999, "p9999": 0.9999} {
		m[name+"/"+suffix] = percentile(sorted, share)
	}
}

// percentile interpolates between the sorted values, of which there are two at least.
func percentile(sorted []float64, share float64) float64 {
	position := share * float64(len(sorted)-1)
	i := min(int(math.Floor(position)), len(sorted)-2)
	return sorted[i] + (sorted[i+1]-sorted[i])*(position-float64(i))
}

// metricName returns the name of an enumeration's value in metrics, such as "task_running".
func metricName(value fmt.Stringer) string { return strings.ToLower(value.String()) }

// tasksIn returns the name of the number of tasks in a state, such as "tasks_running".
func tasksIn(state mesos.TaskState) string {
	return strings.Replace(metricName(state), "task_", "tasks_", 1)
}
