package localmesos

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"golang.org/x/time/rate"

	"github.com/k8sm/k8sm/contrib/localmesos/wire"
)

// noTimeout waits for all metrics.
const noTimeout time.Duration = math.MaxInt64

func timeoutOf(d *mesos.DurationInfo) time.Duration {
	if d == nil {
		return noTimeout
	}
	return time.Duration(d.Nanoseconds)
}

// metrics returns those of the master. If it does not answer within the timeout, only those that do not need it.
func (n *masterNode) metrics(ctx context.Context, timeout time.Duration) metrics {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	out := metrics{}
	out.system()
	if file, err := os.Stat(n.path()); err == nil {
		out["registrar/registry_size_bytes"] = float64(file.Size())
	}
	seen, _ := see(ctx, n.owner, func() metrics {
		seen := n.master.metrics()
		messages, requests, others := n.owner.queue()
		seen["master/event_queue_messages"], seen["master/event_queue_http_requests"] = float64(messages), float64(requests)
		seen["master/event_queue_dispatches"] = float64(others)
		seen["registrar/queued_operations"] = 0 // the master writes its file before it goes on
		seen.timing("registrar/state_fetch_ms", &n.fetched)
		seen.timing("registrar/state_store_ms", &n.stored)
		return seen
	})
	maps.Copy(out, seen)
	return out
}

// newSnapshotLimit has the rate of /metrics/snapshot: two requests a second. Others wait
// (3rdparty/libprocess/src/metrics/metrics.cpp).
func newSnapshotLimit() *rate.Limiter { return rate.NewLimiter(2, 1) }

// snapshotHandler serves metrics as a JSON object
// (https://mesos.apache.org/documentation/latest/endpoints/metrics/snapshot/).
func snapshotHandler(limit *rate.Limiter, read func(context.Context, time.Duration) metrics) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		timeout := noTimeout
		if text, given := r.URL.Query()["timeout"]; given {
			d, err := parseMesosDuration(text[0])
			if err != nil {
				http.Error(w, fmt.Sprintf("Invalid timeout '%s': %s.", text[0], err), http.StatusBadRequest)
				return
			}
			timeout = d
		}
		if limit.Wait(r.Context()) != nil {
			return // the client went away
		}
		out := map[string]wire.Float{}
		for name, value := range read(r.Context(), timeout) {
			out[name] = wire.Float(value)
		}
		writeJSON(w, out)
	})
}

// durationUnits are the units in which Mesos writes durations, the largest first.
var durationUnits = []struct {
	size time.Duration
	name string
}{
	{7 * 24 * time.Hour, "weeks"}, {24 * time.Hour, "days"}, {time.Hour, "hrs"}, {time.Minute, "mins"}, {time.Second, "secs"},
	{time.Millisecond, "ms"}, {time.Microsecond, "us"}, {time.Nanosecond, "ns"},
}

// mesosDuration writes a duration as Mesos does: the largest unit that divides it, such as "15mins".
func mesosDuration(d time.Duration) string {
	for _, unit := range durationUnits {
		if d != 0 && d%unit.size == 0 {
			return fmt.Sprintf("%d%s", d/unit.size, unit.name)
		}
	}
	return "0ns"
}

// parseMesosDuration reads a duration in Mesos' form, such as "2.5secs" (3rdparty/stout/include/stout/duration.hpp).
func parseMesosDuration(text string) (time.Duration, error) {
	for _, unit := range durationUnits {
		number, found := strings.CutSuffix(text, unit.name)
		if !found {
			continue
		}
		value, err := strconv.ParseFloat(number, 64)
		switch nanoseconds := value * float64(unit.size); {
		case err != nil || math.IsNaN(value):
			return 0, fmt.Errorf("'%s' is not a number", number)
		case math.Abs(nanoseconds) >= math.MaxInt64:
			return 0, fmt.Errorf("argument out of the range that a Duration can represent due to int64_t's size limit")
		default:
			return time.Duration(nanoseconds), nil
		}
	}
	return 0, fmt.Errorf("unknown duration unit in '%s': use one of weeks, days, hrs, mins, secs, ms, us, ns", text)
}
