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
}

// counters are the API server's metrics that are counted, with the labels that tell one count from another. A histogram counts what it
// observes.
var counters = []struct {
	metric, name string
	labels       []string
	unit         string
}{
	{"apiserver_request_total", "calls", []string{"verb", "resource", "subresource"}, "calls/pod"},
	{"apiserver_watch_events_total", "watch_events", []string{"resource"}, "events/pod"},
	{"etcd_request_duration_seconds", "etcd", []string{"operation", "resource"}, "requests/pod"},
}

// takeStock reads what has been used until now.
func (h *hollow) takeStock(ctx context.Context, c contender) (stock, error) {
	s := stock{seconds: map[string]float64{}, memory: map[string]float64{}}
	processes := map[string]int{"apiserver": h.control.pid(), "client": os.Getpid()}
	maps.Copy(processes, c.processes())
	used, err := usageOf(processes)
	if err != nil {
		return s, err
	}
	for name, u := range used {
		s.seconds[name], s.memory[name] = u.cpu, u.resident
	}
	s.counts, err = h.counts(ctx)
	return s, err
}

// counts reads the API server's metrics.
func (h *hollow) counts(ctx context.Context) (map[string]float64, error) {
	text, err := h.kube.Discovery().RESTClient().Get().AbsPath("/metrics").Stream(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read the API server's metrics: %w", err)
	}
	defer text.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(text)
	if err != nil {
		return nil, fmt.Errorf("cannot read the API server's metrics: %w", err)
	}
	counts := map[string]float64{}
	for _, c := range counters {
		for _, metric := range families[c.metric].GetMetric() {
			name := []string{c.name}
			for _, label := range metric.GetLabel() {
				if slices.Contains(c.labels, label.GetName()) && label.GetValue() != "" {
					name = append(name, label.GetValue())
				}
			}
			value := cmp.Or(metric.GetCounter().GetValue(), float64(metric.GetHistogram().GetSampleCount()))
			counts[strings.ToLower(strings.Join(name, "_"))] += value
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
	kind := strings.TrimPrefix(fmt.Sprintf("%T", c), "*main.")
	for i, url := range []string{h.rest.Host, c.profile()} {
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
	config := rest.CopyConfig(h.rest)
	config.Insecure, config.CAFile, config.CAData = true, "", nil // it may be kube-scheduler's, which signs its own certificate
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, response.Body)
	return errors.Join(err, out.Close())
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
