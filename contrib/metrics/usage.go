package metrics

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/prometheus/common/model"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/metrics/history"
)

const (
	// usagePath begins the paths of what the pods of a namespace used.
	usagePath = "/apis/" + api.MetricsGroup + "/" + api.MetricsVersion + "/namespaces/"
	// usageOf is the resource, and allPods the name that stands for all pods of a namespace.
	usageOf, allPods = "pods", "*"
	// usageTime is the time that is told of without a start.
	usageTime = time.Hour
	// usagePoints is how many values of a pod are told without a step, and maxUsagePoints with one, at most.
	usagePoints, maxUsagePoints = 120, 1000
	// usageRate is the shortest time over which a rate is the mean: of it there are several readings.
	usageRate = 4 * history.DefaultInterval
)

// usageQuery is a fixed query of what pods use.
type usageQuery struct {
	metric string
	rate   bool // of a counter
	// containers says that the metric is one of containers, and not of the pod's network.
	containers bool
}

var usageQueries = map[string]usageQuery{
	api.UsageCPU:      {"container_cpu_usage_seconds_total", true, true},
	api.UsageMemory:   {"container_memory_working_set_bytes", false, true},
	api.UsageReceived: {"container_network_receive_bytes_total", true, false},
	api.UsageSent:     {"container_network_transmit_bytes_total", true, false},
}

// promQL is the query of a pod, or of all pods, of a namespace. Names are valid ones.
func (q usageQuery) promQL(namespace, pod string, over time.Duration) string {
	series := fmt.Sprintf(`%s{job="kubelet", metrics_path="/metrics/cadvisor", namespace=%q`, q.metric, namespace)
	by := "pod"
	if pod == allPods {
		series += `, pod!=""`
	} else {
		series += fmt.Sprintf(`, pod=%q`, pod)
	}
	if q.containers {
		series += `, container!="", container!="POD"`
	}
	if q.containers && pod != allPods {
		by += ", container"
	}
	if series += "}"; q.rate {
		series = fmt.Sprintf("rate(%s[%s])", series, model.Duration(over))
	}
	return fmt.Sprintf("sum by (%s) (%s)", by, series)
}

// usage answers what the pods of one namespace used over a time: GET /apis/monitoring.k8sm.io/v1/namespaces/NS/pods/POD/WHAT. For RBAC that
// is to get pods/WHAT in the namespace, with the pod's name or *. It reads from the path what the authorizer has read, and nothing else.
type usage struct{ history http.Handler }

// ServeHTTP answers as Prometheus' query_range does
// (https://prometheus.io/docs/prometheus/latest/querying/api/#range-queries), with its parameters start, end and step, which may be left out.
func (u usage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	info, ok := request.RequestInfoFrom(r.Context())
	if !ok || !info.IsResourceRequest || info.APIGroup != api.MetricsGroup || info.Resource != usageOf || len(info.Parts) != 3 || info.Verb != "get" {
		history.Refuse(w, http.StatusNotFound, "not_found", errors.New("there is only GET "+usagePath+"NAMESPACE/pods/POD/WHAT, with * for all pods"))
		return
	}
	query, ok := usageQueries[info.Subresource]
	if !ok {
		history.Refuse(w, http.StatusNotFound, "not_found", fmt.Errorf("there is no %q of pods: give one of %s, %s, %s and %s", info.Subresource, api.UsageCPU, api.UsageMemory, api.UsageReceived, api.UsageSent))
		return
	}
	if len(validation.IsDNS1123Label(info.Namespace)) > 0 || info.Name != allPods && len(validation.IsDNS1123Subdomain(info.Name)) > 0 {
		history.Refuse(w, http.StatusNotFound, "not_found", errors.New("no namespace or pod can have this name"))
		return
	}
	over, err := spanOf(r.URL.Query(), time.Now())
	if err != nil {
		history.Refuse(w, http.StatusBadRequest, "bad_data", err)
		return
	}
	ask := url.Values{
		"query": {query.promQL(info.Namespace, info.Name, max(over.step, usageRate))},
		"start": {seconds(over.start)}, "end": {seconds(over.end)}, "step": {strconv.FormatFloat(over.step.Seconds(), 'f', 3, 64)},
	}
	asked := r.Clone(r.Context())
	asked.Method, asked.Body, asked.URL = http.MethodGet, http.NoBody, &url.URL{Path: "/api/v1/query_range", RawQuery: ask.Encode()}
	u.history.ServeHTTP(w, asked)
}

// span is a time, and how far the values in it are apart.
type span struct {
	start, end time.Time
	step       time.Duration
}

// spanOf reads a span from parameters.
func spanOf(given url.Values, now time.Time) (s span, err error) {
	if s.end, err = timeOf(given.Get("end"), now); err != nil {
		return s, fmt.Errorf("cannot use end: %w", err)
	}
	if s.start, err = timeOf(given.Get("start"), s.end.Add(-usageTime)); err != nil {
		return s, fmt.Errorf("cannot use start: %w", err)
	}
	length := s.end.Sub(s.start)
	if length <= 0 {
		return s, errors.New("cannot use start: it is not before end")
	}
	if text := given.Get("step"); text == "" {
		s.step = max(history.DefaultInterval, (length / usagePoints).Round(time.Second))
	} else if s.step, err = stepOf(text); err != nil {
		return s, err
	}
	if length/s.step > maxUsagePoints {
		return s, fmt.Errorf("cannot use step: there would be more than %d values of each pod; give a longer step", maxUsagePoints)
	}
	return s, nil
}

// timeOf reads a time, which must be one that there are metrics of.
func timeOf(text string, otherwise time.Time) (time.Time, error) {
	if text == "" {
		return otherwise, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if number, wrong := strconv.ParseFloat(text, 64); wrong == nil && number > 0 && number < 1<<40 {
		at, err = time.UnixMilli(int64(number*1000)), nil
	}
	if err != nil || at.Unix() < 0 || at.Year() > 9999 {
		return at, errors.New("give a time as in 2026-11-30T12:00:00Z, or seconds since 1970")
	}
	return at, nil
}

// stepOf reads a step.
func stepOf(text string) (time.Duration, error) {
	step, err := model.ParseDuration(text)
	if number, wrong := strconv.ParseFloat(text, 64); wrong == nil && number < 1<<32 {
		step, err = model.Duration(number*float64(time.Second)), nil
	}
	if err != nil || time.Duration(step) < time.Second {
		return 0, errors.New("cannot use step: give a time such as 30s or 5m, or a number of seconds, at least 1")
	}
	return time.Duration(step), nil
}

// seconds writes a time for Prometheus.
func seconds(at time.Time) string {
	return strconv.FormatFloat(float64(at.UnixMilli())/1000, 'f', 3, 64)
}
