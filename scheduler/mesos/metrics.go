package mesos

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	mesosmaster "github.com/mesos/mesos-go/api/v1/lib/master"
	log "github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api/mesoshttp"
	"github.com/k8sm/k8sm/scheduler/mesosmetrics"
)

const (
	// A scrape of Prometheus takes 10 s at most by default.
	metricsTimeout = 5 * time.Second
	// busyTimeout is after what time a busy master answers with what it has.
	busyTimeout = 3 * time.Second
	// metricsKept is how long an answer is good for: several who scrape cost the master one call.
	metricsKept = 5 * time.Second
	// maxMetrics is the size of the largest answer, in bytes: about 50 per metric.
	maxMetrics = 16 << 20
)

// lastMetrics is the last answer to GET_METRICS.
type lastMetrics struct {
	turn    chan struct{} // has room for one: who asks the master, and uses the other fields
	of      *session
	at      time.Time
	samples []mesosmetrics.Sample
	failed  bool
}

// Metrics returns what the leading master says of itself, at most metricsKept old. There are none while this scheduler does not lead:
// the leading one has them. If it leads and no master answers, the one sample says that. Metrics may be called concurrently.
func (m *Master) Metrics(ctx context.Context) []mesosmetrics.Sample {
	last := &m.metrics
	select {
	case last.turn <- struct{}{}:
		defer func() { <-last.turn }()
	case <-ctx.Done():
		return nil
	}
	m.mu.Lock()
	s, leads := m.session, m.masters != nil
	m.mu.Unlock()
	switch {
	case !leads:
		return nil
	case s == nil:
		return []mesosmetrics.Sample{mesosmetrics.Up(false)}
	case last.of == s && time.Since(last.at) < metricsKept:
		return last.samples
	}
	values, err := m.askMetrics(ctx, s.endpoint)
	samples := []mesosmetrics.Sample{mesosmetrics.Up(err == nil)}
	if err == nil {
		samples = append(samples, mesosmetrics.Translate(values)...)
	} else {
		m.warnOfMetrics(s.endpoint, err)
	}
	if err == nil || ctx.Err() == nil { // else nobody waited for it
		last.of, last.at, last.samples, last.failed = s, time.Now(), samples, err != nil
	}
	return samples
}

// warnOfMetrics warns once of each row of failures. It is the caller's turn.
func (m *Master) warnOfMetrics(endpoint string, err error) {
	level := log.WarnLevel
	if m.metrics.failed {
		level = log.DebugLevel
	}
	log.WithField("master", endpoint).WithError(err).Log(level, "cannot read the metrics of the Mesos master")
}

// askMetrics makes the call GET_METRICS (https://mesos.apache.org/documentation/latest/operator-http-api/#get_metrics) at the master
// of a scheduler endpoint.
func (m *Master) askMetrics(ctx context.Context, endpoint string) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, metricsTimeout)
	defer cancel()
	response, err := m.operate(ctx, endpoint, &mesosmaster.Call{Type: mesosmaster.Call_GET_METRICS, GetMetrics: &mesosmaster.Call_GetMetrics{
		Timeout: &mesos.DurationInfo{Nanoseconds: busyTimeout.Nanoseconds()},
	}})
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(http.MaxBytesReader(nil, response.Body, maxMetrics))
	if err != nil {
		return nil, err
	}
	return readMetrics(answer)
}

// readMetrics reads the answer to GET_METRICS.
func readMetrics(answer []byte) (map[string]float64, error) {
	var response mesosmaster.Response
	err := mesoshttp.CheckMessage(answer, reflect.TypeFor[mesosmaster.Response]())
	if err == nil {
		err = response.Unmarshal(answer)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the answer to GET_METRICS: %w", err)
	}
	values := map[string]float64{}
	for _, metric := range response.GetGetMetrics().GetMetrics() {
		if metric.Value != nil {
			values[metric.Name] = *metric.Value
		}
	}
	return values, nil
}
