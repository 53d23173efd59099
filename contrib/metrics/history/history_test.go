package history

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	prom "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/promql"
	"github.com/sirupsen/logrus"
	logrustest "github.com/sirupsen/logrus/hooks/test"
)

// scrapeEvery is how often tests scrape. A target must answer within that time, so a short one makes targets fail on a busy machine.
const scrapeEvery = time.Second

// patience bounds a wait for what must come. It is long: a test that passes does not wait for it.
const patience = 2 * time.Minute

// together is how many tests run at once. Most of their time they wait for the next scrape.
const together = "12"

// quickPace is the pace of tests.
var quickPace = pace{
	block: 2 * time.Hour, blocks: time.Second, room: 20 * time.Millisecond, watch: 50 * time.Millisecond, targets: 20 * time.Millisecond,
	retry: 20 * time.Millisecond,
}

// rig is a History at work.
type rig struct {
	t *testing.T
	*History
	logs   *logrustest.Hook
	cancel context.CancelFunc
	done   chan error
}

// newRig makes a History that does not work yet.
func newRig(t *testing.T, cfg Config) *rig {
	t.Helper()
	logger, logs := logrustest.NewNullLogger()
	if testing.Verbose() {
		logger.SetOutput(os.Stderr)
	}
	cfg.Log, cfg.Interval = logrus.NewEntry(logger), time.Second
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.MinFree == 0 {
		cfg.MinFree = 1 << 20
	}
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h.pace = quickPace
	return &rig{t: t, History: h, logs: logs, done: make(chan error, 1)}
}

// run starts it.
func (r *rig) run() *rig {
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() { r.done <- r.Run(ctx) }()
	r.t.Cleanup(func() {
		if r.cancel != nil {
			r.stop()
		}
	})
	return r
}

// start makes a History and waits until it is ready.
func start(t *testing.T, cfg Config) *rig {
	t.Helper()
	r := newRig(t, cfg).run()
	r.eventually(r.Ready)
	return r
}

// stop stops it.
func (r *rig) stop() {
	r.t.Helper()
	r.cancel()
	r.cancel = nil
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Errorf("Run returned %v", err)
		}
	case <-time.After(patience):
		r.t.Fatalf("Run did not end within %s:\n%s", patience, stacks())
	}
}

// eventually waits until a check succeeds.
func (r *rig) eventually(check func() error) {
	r.t.Helper()
	eventually(r.t, check)
}

// eventually waits until a check succeeds.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	if err := within(patience, check); err != nil {
		t.Fatal(err)
	}
}

// within repeats a check until it succeeds or the time is over.
func within(limit time.Duration, check func() error) error {
	err := check()
	for end := time.Now().Add(limit); err != nil && time.Now().Before(end); err = check() {
		time.Sleep(25 * time.Millisecond)
	}
	return err
}

// stacks are the stacks of all goroutines.
func stacks() string {
	buffer := make([]byte, 4<<20)
	return string(buffer[:runtime.Stack(buffer, true)])
}

// nothingLeft returns the stacks of goroutines of Prometheus and of this package, except those of tests, that do not end.
func nothingLeft() error {
	return within(20*time.Second, func() error {
		if left := leftovers(); len(left) > 0 {
			return fmt.Errorf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
		}
		return nil
	})
}

// leftovers are the stacks of such goroutines.
func leftovers() (left []string) {
	for _, stack := range strings.Split(stacks(), "\n\n") {
		ours := strings.Contains(stack, "github.com/prometheus/") || strings.Contains(stack, "metrics/history.")
		if ours && !strings.Contains(stack, "testing.tRunner") && !strings.Contains(stack, "_test.go") {
			left = append(left, stack)
		}
	}
	return left
}

// value is the value of an expression that has one.
func (r *rig) value(text string) (float64, error) {
	return r.valueAt(text, time.Now())
}

// valueAt is the value of an expression that has one.
func (r *rig) valueAt(text string, at time.Time) (float64, error) {
	value, err := r.Query(context.Background(), text, at)
	if err != nil {
		return 0, err
	}
	vector, ok := value.(promql.Vector)
	if !ok || len(vector) != 1 {
		return 0, fmt.Errorf("%s is %v", text, value)
	}
	return vector[0].F, nil
}

// becomes waits until an expression has a value.
func (r *rig) becomes(text string, want float64) {
	r.t.Helper()
	r.eventually(func() error {
		got, err := r.value(text)
		if err == nil && got != want {
			err = fmt.Errorf("%s is %v, want %v", text, got, want)
		}
		return err
	})
}

// told are the log lines of a level and worse, without times.
func (r *rig) told(level logrus.Level) (lines []string) {
	for _, entry := range r.logs.AllEntries() {
		if entry.Level <= level {
			line := entry.Message
			for _, key := range slices.Sorted(maps.Keys(entry.Data)) {
				line += fmt.Sprintf(" %s=%v", key, entry.Data[key])
			}
			lines = append(lines, line)
		}
	}
	return lines
}

// tells waits for a warning with a text, and checks that there is one such warning only.
func (r *rig) tells(text string) {
	r.t.Helper()
	r.eventually(func() error {
		if found := r.telling(text); len(found) != 1 {
			return fmt.Errorf("%d warnings have %q:\n%s", len(found), text, strings.Join(r.told(logrus.WarnLevel), "\n"))
		}
		return nil
	})
}

// telling are the warnings with a text.
func (r *rig) telling(text string) []string {
	return slices.DeleteFunc(r.told(logrus.WarnLevel), func(line string) bool { return !strings.Contains(line, text) })
}

// quiet checks that there are no warnings, except those with a text, and of targets that this machine is too slow for.
func (r *rig) quiet(except ...string) {
	r.t.Helper()
	for _, line := range r.told(logrus.WarnLevel) {
		if !slow(line) && !slices.ContainsFunc(except, func(text string) bool { return strings.Contains(line, text) }) {
			r.t.Errorf("it logs: %s", line)
		}
	}
}

// slow reports whether a line tells of a target that this machine was too slow for.
func slow(line string) bool { return strings.Contains(line, context.DeadlineExceeded.Error()) }

// target is an HTTP server of metrics.
type target struct {
	*httptest.Server
	scrapes atomic.Int64
}

// serve serves metrics by a function.
func serve(t *testing.T, answer http.HandlerFunc) *target {
	t.Helper()
	served := &target{}
	served.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.scrapes.Add(1)
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		answer(w, r)
	}))
	t.Cleanup(served.Close)
	return served
}

// serveText serves a text.
func serveText(t *testing.T, text string) *target {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
}

// job is a job of one target.
func (s *target) job(name string) Job {
	return jobOf(name, s.URL)
}

// newJob is a job that follows no redirects.
func newJob(name string, targets discovery.Discoverer) Job {
	job := Job{ScrapeConfig: prom.DefaultScrapeConfig, Targets: targets}
	job.JobName, job.HTTPClientConfig.FollowRedirects = name, false
	return job
}

// jobOf is a job of targets.
func jobOf(name string, targets ...string) Job {
	job := newJob(name, TargetFunc(func(ctx context.Context, groups chan<- []*targetgroup.Group) {
		group := &targetgroup.Group{Source: name}
		for _, address := range targets {
			parsed, err := url.Parse(address)
			if err != nil {
				panic(err)
			}
			group.Targets = append(group.Targets, model.LabelSet{model.AddressLabel: model.LabelValue(parsed.Host)})
		}
		select {
		case groups <- []*targetgroup.Group{group}:
		case <-ctx.Done():
		}
	}))
	job.ScrapeInterval, job.ScrapeTimeout = model.Duration(scrapeEvery), model.Duration(scrapeEvery)
	return job
}

// get asks the API.
func (r *rig) get(path string) (int, string) {
	return r.ask(http.MethodGet, path)
}

// ask asks the API.
func (r *rig) ask(method, path string) (int, string) {
	recorder := httptest.NewRecorder()
	r.ServeHTTP(recorder, httptest.NewRequest(method, path, nil))
	return recorder.Code, recorder.Body.String()
}

// write writes a file at once: who reads it meanwhile sees no part of it.
func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", []byte(content), 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTargetsAreScrapedAndQueried(t *testing.T) {
	t.Parallel()
	target := serveText(t, "# HELP apples how many\n# TYPE apples gauge\napples{color=\"red\"} 3\n")
	r := start(t, Config{Jobs: []Job{target.job("fruit")}, Retention: 48 * time.Hour})
	r.becomes(`up{job="fruit"}`, 1)
	r.becomes(`apples{color="red",instance="`+strings.TrimPrefix(target.URL, "http://")+`"}`, 3)
	now := time.Now().Unix()
	for path, want := range map[string]string{
		"/api/v1/query?query=apples": `"resultType":"vector"`,
		fmt.Sprintf("/api/v1/query_range?query=apples&start=%d&end=%d&step=1", now-10, now): `"resultType":"matrix"`,
		"/api/v1/query?query=sum(":             `"errorType":"bad_data"`,
		"/api/v1/series?match[]=apples":        `"color":"red"`,
		"/api/v1/labels":                       `"color"`,
		"/api/v1/label/color/values":           `"red"`,
		"/api/v1/metadata?metric=apples":       `"how many"`,
		"/api/v1/targets":                      `"scrapePool":"fruit"`,
		"/api/v1/targets/metadata":             `"how many"`,
		"/api/v1/scrape_pools":                 `"fruit"`,
		"/api/v1/rules":                        `"groups":[]`,
		"/api/v1/alerts":                       `"alerts":[]`,
		"/api/v1/alertmanagers":                `"activeAlertmanagers":[]`,
		"/api/v1/status/config":                `job_name: fruit`,
		"/api/v1/status/flags":                 `"success"`,
		"/api/v1/status/buildinfo":             `"version":"3.`,
		"/api/v1/status/runtimeinfo":           `"storageRetention":"2d"`,
		"/api/v1/status/tsdb":                  `"headStats"`,
		"/api/v1/status/tsdb/blocks":           `"blocks"`,
		"/api/v1/status/walreplay":             `"success"`,
		"/api/v1/status/self_metrics":          `prometheus_tsdb_head_series`,
		"/api/v1/features":                     `"success"`,
		"/api/v1/notifications":                `"success"`,
		"/api/v1/query_exemplars?query=apples": `"success"`,
		"/api/v1/format_query?query=apples":    `apples`,
		"/api/v1/parse_query?query=apples":     `vectorSelector`,
		"/api/v1/search/metric_names":          `"error"`,
	} {
		if _, got := r.get(path); !strings.Contains(got, want) {
			t.Errorf("%s has no %s: %.300s", path, want, got)
		}
	}
	families, err := r.Gather()
	if err != nil || !slices.ContainsFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == "prometheus_tsdb_head_series" }) {
		t.Errorf("its own metrics: %d, %v", len(families), err)
	}
	r.quiet()
}

func TestTargetOnLoopbackIsShownWithoutAnErrorAndByTheMachinesName(t *testing.T) {
	t.Parallel()
	machine, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	target := serveText(t, "apples 3\n")
	_, port, _ := strings.Cut(strings.TrimPrefix(target.URL, "http://"), ":")
	for external, host := range map[string]string{"": machine, "https://km.example:9090/prometheus": "km.example"} {
		r := start(t, Config{Jobs: []Job{target.job("fruit")}, ExternalURL: external})
		r.becomes(`up{job="fruit"}`, 1)
		_, got := r.get("/api/v1/targets")
		for _, want := range []string{`"lastError":""`, `"globalUrl":"http://` + host + ":" + port + `/metrics"`, `"scrapeUrl":"` + target.URL + `/metrics"`} {
			if !strings.Contains(got, want) {
				t.Errorf("with the external URL %q there is no %s in %s", external, want, got)
			}
		}
	}
}

func TestTheAPIOnlyReads(t *testing.T) {
	t.Parallel()
	r := start(t, Config{})
	for path, method := range map[string]string{
		"/api/v1/admin/tsdb/delete_series?match[]=up": http.MethodPost,
		"/api/v1/admin/tsdb/clean_tombstones":         http.MethodPut,
		"/api/v1/admin/tsdb/snapshot":                 http.MethodPost,
		"/api/v1/write":                               http.MethodPost,
		"/api/v1/read":                                http.MethodPost,
		"/api/v1/otlp/v1/metrics":                     http.MethodPost,
		"/api/v1/notifications/live":                  http.MethodGet,
		"/-/reload":                                   http.MethodPost,
		"/api/v1/nothing":                             http.MethodGet,
		"/":                                           http.MethodGet,
	} {
		if code, _ := r.ask(method, path); code != http.StatusNotFound {
			t.Errorf("%s answers %d", path, code)
		}
	}
}

func TestSamplesSurviveARestart(t *testing.T) {
	t.Parallel()
	target := serveText(t, "apples 3\n")
	cfg := Config{Dir: t.TempDir(), Jobs: []Job{target.job("fruit")}}
	r := start(t, cfg)
	r.becomes("apples", 3)
	r.stop()
	if err := r.Ready(); err == nil {
		t.Error("it is ready after Run has returned")
	}
	if code, body := r.get("/api/v1/query?query=up"); code != http.StatusServiceUnavailable {
		t.Errorf("it answers %d %s after Run has returned", code, body)
	}
	target.Close()
	r = start(t, cfg)
	r.becomes(`count_over_time(apples[1h]) > bool 0`, 1)
	r.becomes(`up`, 0)
	r.quiet("cannot scrape a target")
}

func TestTargetsComeAndGo(t *testing.T) {
	t.Parallel()
	target := serveText(t, "apples 3\n")
	change := make(chan []*targetgroup.Group)
	job := target.job("fruit")
	job.Targets = TargetFunc(func(ctx context.Context, groups chan<- []*targetgroup.Group) {
		for {
			select {
			case found := <-change:
				select {
				case groups <- found:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	r := start(t, Config{Jobs: []Job{job}})
	address := model.LabelValue(strings.TrimPrefix(target.URL, "http://"))
	change <- []*targetgroup.Group{{Source: "a", Targets: []model.LabelSet{{model.AddressLabel: address, "node": "n"}}}}
	r.becomes(`up{node="n"}`, 1)
	change <- []*targetgroup.Group{{Source: "a"}}
	r.becomes(`count(up) or vector(0)`, 0)
	r.quiet()
}

func TestFilesOfScrapeConfigurationsAreUsedAndReadAgain(t *testing.T) {
	t.Parallel()
	target := serveText(t, "apples 3\n")
	address := strings.TrimPrefix(target.URL, "http://")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "targets.json"), `[{"targets":["`+address+`"],"labels":{"by":"file"}}]`)
	file := write(t, filepath.Join(dir, "scrape.yaml"), "scrape_configs:\n- job_name: mine\n  scrape_interval: 1s\n  file_sd_configs: [{files: [targets.json]}]\n")
	ours := target.job("ours")
	r := start(t, Config{ScrapeConfigFile: file, Jobs: []Job{ours}})
	r.becomes(`up{job="mine",by="file"}`, 1)
	if limits := r.built.Load().ScrapeConfigs[1]; limits.SampleLimit != sampleLimit || limits.BodySizeLimit != bodyLimit {
		t.Errorf("a user's job has limits %d, %d", limits.SampleLimit, limits.BodySizeLimit)
	}
	write(t, file, "scrape_configs:\n- job_name: mine\n  static_configs: [{targets: [\"http://no\"]}]\n")
	r.tells(file + ":2: ")
	r.becomes(`up{job="mine",by="file"}`, 1)
	write(t, file, "scrape_configs:\n- job_name: other\n  scrape_interval: 1s\n  static_configs: [{targets: ["+address+"]}]\n")
	r.becomes(`up{job="other"}`, 1)
	if _, pools := r.get("/api/v1/scrape_pools"); strings.Contains(pools, "mine") || !strings.Contains(pools, "ours") {
		t.Errorf("it scrapes %s", pools)
	}
	r.quiet(file)
}

// atStart are the goroutines that were there before any test.
var atStart string

// TestMain runs the tests and checks that nothing is left of what they stopped.
func TestMain(m *testing.M) {
	atStart = stacks()
	flag.Parse()
	if err := flag.Set("test.parallel", together); err != nil {
		panic(err)
	}
	code := m.Run()
	if os.Getenv(fullDisk) == "" { // there, a History that was stopped on a full disk stays open
		if err := nothingLeft(); err != nil {
			fmt.Println(err)
			code = 1
		}
	}
	os.Exit(code)
}

func TestImportingDoesNothing(t *testing.T) {
	flag.VisitAll(func(f *flag.Flag) {
		if !strings.HasPrefix(f.Name, "test.") {
			t.Errorf("it registers the flag %s", f.Name)
		}
	})
	for _, stack := range strings.Split(strings.TrimSpace(atStart), "\n\n") {
		if !strings.Contains(stack, "TestMain") {
			t.Errorf("it starts a goroutine:\n%s", stack)
		}
	}
}

func TestTheVersionIsThatOfTheLibrary(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(filepath.Join("..", "..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	var major, minor, patch int
	if _, err := fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("github.com/prometheus/prometheus v0.%d%02d.%d\n", major, minor, patch); !strings.Contains(string(content), want) {
		t.Errorf("go.mod has no %s", want)
	}
}
