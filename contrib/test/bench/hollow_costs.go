package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"k8s.io/client-go/rest"
)

// cost is a named value of one round.
type cost struct {
	name, unit string
	value      float64
}

// stock is what processes and the API server have counted since their starts.
type stock struct {
	seconds map[string]float64 // of processor time, by process
	memory  map[string]float64 // MB that are resident, by process
	counts  map[string]float64 // what the API server has done, by what
	waits   map[string]wait    // how long it and the scheduler took, by what
}

// wait sums up what a histogram has observed.
type wait struct{ seconds, times float64 }

// metricSeries are the metrics of one kind, with the labels that tell one from another.
type metricSeries struct {
	metric, name string
	labels       []string
	unit         string
}

var (
	// counters are those of the API server that are counted. A histogram counts what it observes.
	counters = []metricSeries{
		{"apiserver_request_total", "calls", []string{"verb", "resource", "subresource"}, "calls/pod"},
		{"apiserver_watch_events_total", "watch_events", []string{"resource"}, "events/pod"},
		{"etcd_request_duration_seconds", "etcd", []string{"operation", "resource"}, "requests/pod"},
	}
	// waits are histograms of the API server, and of our scheduler, where they divide the way of a pod.
	waits = []metricSeries{
		{"apiserver_request_duration_seconds", "latency", []string{"verb", "resource", "subresource"}, "ms"},
		{"apiserver_flowcontrol_request_wait_duration_seconds", "queued", []string{"priority_level"}, "ms"},
		{"k8sm_scheduler_placement_duration_seconds", "stage_place", nil, "ms"},
		{"k8sm_scheduler_launch_duration_seconds", "stage_launch", nil, "ms"},
		{"k8sm_scheduler_bind_duration_seconds", "stage_bind", nil, "ms"},
	}
)

// nameOf returns the name of one of them.
func (s metricSeries) nameOf(metric *dto.Metric) string {
	name := []string{s.name}
	for _, label := range metric.GetLabel() {
		if slices.Contains(s.labels, label.GetName()) && label.GetValue() != "" {
			name = append(name, label.GetValue())
		}
	}
	return strings.ToLower(strings.Join(name, "_"))
}

// takeStock reads what has been used until now.
func (h *hollow) takeStock(ctx context.Context, c contender) (stock, error) {
	s := stock{seconds: map[string]float64{}, memory: map[string]float64{}, waits: map[string]wait{}}
	processes := map[string]int{"apiserver": h.control.pid(), "client": os.Getpid()}
	maps.Copy(processes, c.processes())
	used, err := usageOf(processes)
	if err != nil {
		return s, err
	}
	for name, u := range used {
		s.seconds[name], s.memory[name] = u.cpu, u.resident
	}
	if s.counts, err = h.counts(ctx); err != nil {
		return s, err
	}
	for _, server := range []string{h.rest.Host, c.address()} {
		if server == "" {
			continue
		}
		families, err := h.metrics(ctx, server)
		if err != nil {
			return s, err
		}
		for _, w := range waits {
			for _, metric := range families[w.metric].GetMetric() {
				sum := s.waits[w.nameOf(metric)]
				sum.seconds += metric.GetHistogram().GetSampleSum()
				sum.times += float64(metric.GetHistogram().GetSampleCount())
				s.waits[w.nameOf(metric)] = sum
			}
		}
	}
	return s, nil
}

// metrics returns what a server tells the administrator.
func (h *hollow) metrics(ctx context.Context, server string) (map[string]*dto.MetricFamily, error) {
	text, err := h.ask(ctx, server+"/metrics")
	if err != nil {
		return nil, fmt.Errorf("cannot read the metrics of %s: %w", server, err)
	}
	defer text.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(text)
	if err != nil {
		return nil, fmt.Errorf("cannot read the metrics of %s: %w", server, err)
	}
	return families, nil
}

// counts reads the API server's metrics.
func (h *hollow) counts(ctx context.Context) (map[string]float64, error) {
	families, err := h.metrics(ctx, h.rest.Host)
	if err != nil {
		return nil, err
	}
	counts := map[string]float64{}
	for _, c := range counters {
		for _, metric := range families[c.metric].GetMetric() {
			counts[c.nameOf(metric)] += cmp.Or(metric.GetCounter().GetValue(), float64(metric.GetHistogram().GetSampleCount()))
		}
	}
	return counts, nil
}

// leastCount is the smallest count per pod that is told: what is rarer does not depend on pods.
const leastCount = 0.05

// since returns what a pod has cost since an earlier time, and the memory now.
func (s stock) since(before stock, pods int) []cost {
	var costs []cost
	for _, name := range slices.Sorted(maps.Keys(s.seconds)) {
		costs = append(costs,
			cost{"cpu_" + name, "ms/pod", 1000 * (s.seconds[name] - before.seconds[name]) / float64(pods)},
			cost{"memory_" + name, "MB", s.memory[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(s.waits)) {
		took := wait{s.waits[name].seconds - before.waits[name].seconds, s.waits[name].times - before.waits[name].times}
		if took.times/float64(pods) >= leastCount {
			costs = append(costs, cost{name + "_mean", "ms", 1000 * took.seconds / took.times})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.counts)) {
		if each := (s.counts[name] - before.counts[name]) / float64(pods); each >= leastCount {
			costs = append(costs, cost{name, unitOf(name), each})
		}
	}
	return costs
}

func unitOf(name string) string {
	for _, c := range counters {
		if strings.HasPrefix(name, c.name+"_") {
			return c.unit
		}
	}
	return ""
}

// profile writes what the processors of the API server and of the scheduler do in the next seconds to files, if the bench has a
// directory for that. The caller must call the function that it returns.
func (h *hollow) profile(ctx context.Context, c contender) func() error {
	if h.profiles == "" {
		return func() error { return nil }
	}
	var (
		group sync.WaitGroup
		errs  [2]error
	)
	kind := fmt.Sprintf("%s-%d", strings.TrimPrefix(fmt.Sprintf("%T", c), "*main."), h.nodes)
	for i, url := range []string{h.rest.Host, c.address()} {
		if url == "" {
			continue
		}
		file := filepath.Join(h.profiles, kind+[]string{"-apiserver", "-scheduler"}[i]+".pprof")
		group.Go(func() { errs[i] = h.saveProfile(ctx, url+"/debug/pprof/profile?seconds=8", file) })
	}
	return func() error {
		group.Wait()
		return errors.Join(errs[:]...)
	}
}

// saveProfile saves what a URL answers to the administrator.
func (h *hollow) saveProfile(ctx context.Context, url, file string) error {
	text, err := h.ask(ctx, url)
	if err != nil {
		return err
	}
	defer text.Close()
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, text)
	return errors.Join(err, out.Close())
}

// ask returns what a URL answers to the administrator. The caller must close it.
func (h *hollow) ask(ctx context.Context, url string) (io.ReadCloser, error) {
	config := rest.CopyConfig(h.rest)
	config.Insecure, config.CAFile, config.CAData = true, "", nil // it may be kube-scheduler's, which signs its own certificate
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("%s answers %s", url, response.Status), response.Body.Close())
	}
	return response.Body, nil
}

// sheet has figures in the order in which they came.
type sheet struct {
	prefix string
	list   []*figure
}

// figure returns the one with this name, a new one at first.
func (s *sheet) figure(name, unit string) *figure {
	for _, f := range s.list {
		if f.name == s.prefix+name {
			return f
		}
	}
	f := &figure{name: s.prefix + name, unit: unit}
	s.list = append(s.list, f)
	return f
}

// add adds a round, and addPeer the peer's.
func (s *sheet) add(round binding) {
	for _, c := range round.figures() {
		f := s.figure(c.name, c.unit)
		f.rounds = append(f.rounds, c.value)
	}
}

func (s *sheet) addPeer(round binding) {
	for _, c := range round.figures() {
		f := s.figure(c.name, c.unit)
		f.peer = append(f.peer, c.value)
	}
}

// print prints the figures. What only the peer has, such as its events, is none of ours.
func (s *sheet) print(out io.Writer) {
	for _, f := range s.list {
		if len(f.rounds) == 0 {
			f.rounds = []float64{0}
		}
		f.print(out)
	}
}
