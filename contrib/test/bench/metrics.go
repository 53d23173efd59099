package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	prometheus "github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/procfs"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/k8sm/k8sm/contrib/metrics"
	"github.com/k8sm/k8sm/contrib/metrics/targets"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

const (
	// metricsGrid is the time between two samples: the interval at which both servers read.
	metricsGrid = 30 * time.Second
	// metricsTime is how long both read the hollow kubelets before they are asked.
	metricsTime = 6 * time.Minute
	// metricsPatience is how long something may take to begin.
	metricsPatience = 3 * time.Minute
	// metricsAsked is how often each query is asked.
	metricsAsked = 40
)

// metricsQueries are of the kinds that dashboards ask, over what the hollow kubelets serve.
var metricsQueries = []string{
	`count({job="kubelet"})`,
	`sum by (namespace) (rate(container_cpu_usage_seconds_total{container!=""}[2m]))`,
	`topk(10, sum by (namespace, pod) (rate(container_cpu_usage_seconds_total{container!=""}[2m])))`,
	`sum by (node) (container_memory_working_set_bytes{container!=""})`,
	`container_memory_working_set_bytes{node="hollow-7", container!=""}`,
	`sum by (pod) (rate(container_network_receive_bytes_total{namespace="default"}[2m]))`,
	`histogram_quantile(0.99, sum by (le) (rate(kubelet_pod_start_sli_duration_seconds_bucket[3m])))`,
	`max by (node) (rate(node_cpu_usage_seconds_total[2m])) > 0`,
	`avg_over_time(container_memory_working_set_bytes{pod="pod-1-1"}[3m])`,
	`quantile(0.9, container_memory_working_set_bytes)`,
}

// storedMetrics measures a cluster's stored metrics: the memory and the processor time of `km metrics` for a control plane alone and
// with 100 hollow nodes, and how long it reads and answers. The peer is Debian's prometheus, which has the same targets by the same
// configuration; k8sm's queries pass through the API server, with TLS and the caller's rights, and the peer's are plain HTTP. The
// kubelets tell the time of each sample, so both have the same samples, and have to give the same answers.
func (b *bench) storedMetrics(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp(memoryDir(), "k8sm-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	port, err := scratch.FreePort()
	if err != nil {
		return err
	}
	m := &metricsBench{hollow: newHollow(dir, fleet{})}
	defer m.stop()
	// A control plane on loopback alone has no metrics server.
	if err := m.start(ctx, b.km, "--bind-address=0.0.0.0", "--metrics-port="+strconv.Itoa(port)); err != nil {
		return err
	}
	if m.api, err = m.queryAPI(); err != nil {
		return err
	}
	if err := await(ctx, "km metrics stored nothing", func() bool { n, err := series(ctx, m.api); return err == nil && n > 0 }); err != nil {
		return err
	}
	if m.ours, err = processOf("metrics", "--state-dir="+dir); err != nil {
		return err
	}
	if err := m.measureAlone(ctx); err != nil {
		return err
	}
	stop, err := m.addKubelets(ctx)
	if err != nil {
		return err
	}
	defer stop()
	peer, err := m.startPeer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, peer.stop()) }()
	if err := m.measureNodes(ctx, peer); err != nil {
		return err
	}
	return m.compare(ctx, peer)
}

// metricsBench is a control plane with its metrics server.
type metricsBench struct {
	*hollow
	ours int // the process `km metrics`
	api  v1.API
}

// processOf returns the process that runs `km NAME` with the argument.
func processOf(name, argument string) (int, error) {
	all, err := procfs.AllProcs()
	if err != nil {
		return 0, err
	}
	for _, p := range all {
		if args, err := p.CmdLine(); err == nil && len(args) > 1 && args[1] == name && slices.Contains(args, argument) {
			return p.PID, nil
		}
	}
	return 0, fmt.Errorf("no process runs km %s %s", name, argument)
}

// queryAPI is the cluster's stored metrics by the API server, as the administrator.
func (m *metricsBench) queryAPI() (v1.API, error) {
	client, err := rest.HTTPClientFor(m.rest)
	if err != nil {
		return nil, err
	}
	return newAPI(m.rest.Host+metrics.HistoryPath, client)
}

func newAPI(address string, client *http.Client) (v1.API, error) {
	c, err := prometheus.NewClient(prometheus.Config{Address: address, Client: client})
	if err != nil {
		return nil, err
	}
	return v1.NewAPI(c), nil
}

// measureAlone measures `km metrics` with a control plane alone.
func (m *metricsBench) measureAlone(ctx context.Context) error {
	use, err := watchUse(ctx, 3*metricsGrid, m.ours)
	if err != nil {
		return err
	}
	n, err := series(ctx, m.api)
	if err != nil {
		return err
	}
	printAll(single("metrics_alone_series", "series", n), single("metrics_alone_memory", "MB", use[0].memory), single("metrics_alone_cpu", "%", use[0].cpu))
	return nil
}

// measureNodes measures both servers while they read the control plane and the hollow kubelets.
func (m *metricsBench) measureNodes(ctx context.Context, peer *promPeer) error {
	use, err := watchUse(ctx, metricsTime, m.ours, peer.cmd.Process.Pid)
	if err != nil {
		return err
	}
	var figures []*figure
	add := func(name, unit string, ours, peers float64) {
		f := single(name, unit, ours)
		f.peer = []float64{peers}
		figures = append(figures, f)
	}
	for _, q := range []struct{ name, unit, query string }{
		{"metrics_nodes_series", "series", `count({__name__=~".+"})`},
		{"metrics_nodes_targets", "targets", `count(up{job="kubelet"} == 1)`},
		{"metrics_scrape_p99", "ms", `1000 * quantile(0.99, scrape_duration_seconds{job="kubelet"})`},
	} {
		ours, err := value(ctx, m.api, q.query)
		if err != nil {
			return err
		}
		peers, err := value(ctx, peer.api, q.query)
		if err != nil {
			return err
		}
		add(q.name, q.unit, ours, peers)
	}
	add("metrics_nodes_memory", "MB", use[0].memory, use[1].memory)
	add("metrics_nodes_cpu", "%", use[0].cpu, use[1].cpu)
	printAll(figures...)
	return nil
}

// compare asks both servers the same, says whether they answer the same, and how long they take.
func (m *metricsBench) compare(ctx context.Context, peer *promPeer) error {
	// Between two samples, and old enough that both have all of them.
	at := time.Now().Truncate(metricsGrid).Add(-metricsGrid / 2)
	window := v1.Range{Start: at.Add(-2 * time.Minute), End: at, Step: metricsGrid}
	p50, p99 := &figure{name: "metrics_query_p50", unit: "ms"}, &figure{name: "metrics_query_p99", unit: "ms"}
	var ours, peers []float64
	same, asked := 0, 0
	for _, query := range metricsQueries {
		for _, ask := range []func(v1.API) (model.Value, error){
			func(a v1.API) (model.Value, error) { v, _, err := a.Query(ctx, query, at); return v, err },
			func(a v1.API) (model.Value, error) { v, _, err := a.QueryRange(ctx, query, window); return v, err },
		} {
			a, tookA, err := repeat(m.api, ask)
			if err != nil {
				return fmt.Errorf("km metrics: %s: %w", query, err)
			}
			b, tookB, err := repeat(peer.api, ask)
			if err != nil {
				return fmt.Errorf("prometheus: %s: %w", query, err)
			}
			ours, peers = append(ours, tookA...), append(peers, tookB...)
			asked++
			if err := equalAnswers(a, b); err != nil {
				fmt.Printf("not the same: %s: %v\n", query, err)
			} else {
				same++
			}
		}
	}
	slices.Sort(ours)
	slices.Sort(peers)
	p50.rounds, p50.peer = []float64{ours[len(ours)/2]}, []float64{peers[len(peers)/2]}
	p99.rounds, p99.peer = []float64{ours[len(ours)*99/100]}, []float64{peers[len(peers)*99/100]}
	equal := single("metrics_same_answers", "queries", float64(same))
	equal.peer = []float64{float64(asked)}
	printAll(p50, p99, equal)
	return nil
}

// repeat asks metricsAsked times and returns the last answer and each time in milliseconds.
func repeat(api v1.API, ask func(v1.API) (model.Value, error)) (answer model.Value, took []float64, err error) {
	for range metricsAsked {
		begin := time.Now()
		if answer, err = ask(api); err != nil {
			return nil, nil, err
		}
		took = append(took, milliseconds(time.Since(begin)))
	}
	return answer, took, nil
}

// equalAnswers compares series by their labels, and their values but for rounding.
func equalAnswers(a, b model.Value) error {
	left, right := samplesOf(a), samplesOf(b)
	if len(left) == 0 {
		return errors.New("the answer is empty")
	}
	for key, value := range left {
		other, ok := right[key]
		if !ok {
			return fmt.Errorf("prometheus lacks %s", key)
		}
		if math.Abs(value-other) > 1e-9*max(math.Abs(value), math.Abs(other)) {
			return fmt.Errorf("%s is %v, and %v by prometheus", key, value, other)
		}
	}
	if len(left) != len(right) {
		return fmt.Errorf("%d samples, and %d by prometheus", len(left), len(right))
	}
	return nil
}

// samplesOf returns the values by labels and time.
func samplesOf(v model.Value) map[string]float64 {
	samples := map[string]float64{}
	switch v := v.(type) {
	case model.Vector:
		for _, s := range v {
			samples[s.Metric.String()+" "+s.Timestamp.String()] = float64(s.Value)
		}
	case model.Matrix:
		for _, s := range v {
			for _, p := range s.Values {
				samples[s.Metric.String()+" "+p.Timestamp.String()] = float64(p.Value)
			}
		}
	}
	return samples
}

// series is how many series have a sample now.
func series(ctx context.Context, api v1.API) (float64, error) {
	return value(ctx, api, `count({__name__=~".+"})`)
}

// value is that of an expression with one element.
func value(ctx context.Context, api v1.API, query string) (float64, error) {
	v, _, err := api.Query(ctx, query, time.Now())
	if err != nil {
		return 0, fmt.Errorf("%s: %w", query, err)
	}
	vector, ok := v.(model.Vector)
	if !ok || len(vector) != 1 {
		return 0, fmt.Errorf("%s has no single value: %v", query, v)
	}
	return float64(vector[0].Value), nil
}

// use is what a process takes: MB of memory that is its own alone, at the end, and % of a core.
type use struct{ memory, cpu float64 }

// watchUse measures the processes for a time.
func watchUse(ctx context.Context, during time.Duration, pids ...int) ([]use, error) {
	before := make([]float64, len(pids))
	for i, pid := range pids {
		var err error
		if before[i], _, err = processUse(pid); err != nil {
			return nil, err
		}
	}
	begin := time.Now()
	select {
	case <-time.After(during):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	uses := make([]use, len(pids))
	for i, pid := range pids {
		seconds, memory, err := processUse(pid)
		if err != nil {
			return nil, err
		}
		uses[i] = use{memory: memory, cpu: 100 * (seconds - before[i]) / time.Since(begin).Seconds()}
	}
	return uses, nil
}

// processUse is a process's processor time in seconds and its anonymous memory in MB.
func processUse(pid int) (seconds, memory float64, err error) {
	process, err := procfs.NewProc(pid)
	if err != nil {
		return 0, 0, err
	}
	stat, err := process.Stat()
	if err != nil {
		return 0, 0, err
	}
	status, err := process.NewStatus()
	return stat.CPUTime(), float64(status.RssAnon) / (1 << 20), err
}

// await asks until the answer is yes; the problem is why it does not come in time.
func await(ctx context.Context, problem string, ask func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, metricsPatience)
	defer cancel()
	for !ask() {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return errors.New(problem + " in time")
		}
	}
	return nil
}

func single(name, unit string, value float64) *figure {
	return &figure{name: name, unit: unit, rounds: []float64{value}}
}

func printAll(figures ...*figure) {
	for _, f := range figures {
		f.print(os.Stdout)
	}
}

// promPeer is Debian's prometheus.
type promPeer struct {
	cmd *exec.Cmd
	api v1.API
}

// startPeer starts a prometheus that reads what `km metrics` reads now, as it does.
func (m *metricsBench) startPeer(ctx context.Context) (*promPeer, error) {
	found, err := m.api.Targets(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot list the targets: %w", err)
	}
	etcd, err := m.dir.MetricsEtcd()
	if err != nil {
		return nil, err
	}
	text, err := targets.Scrape(m.dir, etcd)
	if err != nil {
		return nil, err
	}
	if text, err = peerConfig(text, found.Active); err != nil {
		return nil, err
	}
	home := filepath.Join(string(m.dir), "peer")
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, err
	}
	file := filepath.Join(home, "prometheus.yml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	port, err := scratch.FreePort()
	if err != nil {
		return nil, err
	}
	address := "127.0.0.1:" + strconv.Itoa(port)
	p := &promPeer{cmd: exec.Command("build/prometheus", "--config.file="+file, "--storage.tsdb.path="+filepath.Join(home, "data"),
		"--web.listen-address="+address)}
	var said bytes.Buffer
	p.cmd.Stdout, p.cmd.Stderr = io.Discard, &said
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start Debian's prometheus (make test-deps installs it): %w", err)
	}
	if p.api, err = newAPI("http://"+address, &http.Client{Transport: &http.Transport{}}); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	if err := await(ctx, "prometheus does not answer", func() bool { _, err := p.api.Buildinfo(ctx); return err == nil }); err != nil {
		return nil, errors.Join(err, p.stop(), errors.New(said.String()))
	}
	return p, nil
}

// stop ends the server. Its data is not needed.
func (p *promPeer) stop() error {
	err := p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	return err
}

// peerConfig gives each job the targets that `km metrics` has found for it.
func peerConfig(scrape []byte, active []v1.ActiveTarget) ([]byte, error) {
	var config struct {
		Jobs []map[string]json.RawMessage `json:"scrape_configs"`
	}
	if err := yaml.Unmarshal(scrape, &config); err != nil {
		return nil, err
	}
	var jobs []map[string]json.RawMessage
	for _, job := range config.Jobs {
		var name string
		if err := json.Unmarshal(job["job_name"], &name); err != nil {
			return nil, err
		}
		var static []any
		for _, t := range active {
			if t.ScrapePool != name {
				continue
			}
			labels := map[string]string{}
			for key, value := range t.DiscoveredLabels {
				if key == "__metrics_path__" || !strings.HasPrefix(key, "__") && key != "job" {
					labels[key] = value
				}
			}
			static = append(static, map[string]any{"targets": []string{t.DiscoveredLabels["__address__"]}, "labels": labels})
		}
		if len(static) == 0 {
			continue // it may have what Debian's prometheus does not know
		}
		text, err := json.Marshal(static)
		if err != nil {
			return nil, err
		}
		job["static_configs"] = text
		jobs = append(jobs, job)
	}
	return yaml.Marshal(map[string]any{"scrape_configs": jobs})
}
