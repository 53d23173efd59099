package history

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/route"
	prom "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/features"
	"github.com/prometheus/prometheus/util/notifications"
	v1 "github.com/prometheus/prometheus/web/api/v1"
)

const (
	// apiPrefix is before all paths, as in Prometheus.
	apiPrefix = "/api/v1"
	// version is the Prometheus that clients see, by which Grafana knows what it may ask.
	version = "3.13.5"
	// maxAnswer bounds an answer, in bytes.
	maxAnswer = 32 << 20
	// maxRequests bounds the requests at once.
	maxRequests = 8
	// maxForm bounds the body of a request, in bytes.
	maxForm = 1 << 20
)

// closed are the paths that write, or stream without end.
var closed = []string{"/write", "/read", "/otlp/v1/metrics", "/notifications/live"}

// newAPI returns Prometheus' HTTP API.
func (s *session) newAPI(registry *prometheus.Registry) http.Handler {
	api := v1.NewAPI(
		s.engine, s.store.db, nil, nil, s.store.db,
		func(context.Context) v1.ScrapePoolsRetriever { return s.scraper },
		func(context.Context) v1.TargetRetriever { return s.scraper },
		func(context.Context) v1.AlertmanagerRetriever { return s.notifier },
		func() prom.Config { return *s.h.built.Load() },
		nil, s.h.cfg.elsewhere(),
		func(f http.HandlerFunc) http.HandlerFunc { return f },
		admin{s.store}, s.h.cfg.Dir, false, false, 0, s.h.slog.With("component", "api"),
		func(context.Context) v1.RulesRetriever { return s.rules },
		0, 0, 0, false, relabel.MustNewRegexp("").Regexp,
		s.info, &v1.PrometheusVersion{Version: version, Revision: "k8sm", GoVersion: runtime.Version()},
		func() []notifications.Notification { return nil },
		func() (<-chan notifications.Notification, func(), bool) { return nil, nil, false },
		registry, registry, nil, false, nil, false, false, false, false, 0, false, false, nil,
		features.NewRegistry(), v1.OpenAPIOptions{IncludePaths: []string{"/query"}}, s.h.rules.parser,
	)
	router := route.New()
	api.Register(router.WithPrefix(apiPrefix))
	return router
}

// elsewhere says how the API shows targets on loopback: by the name of this machine, unless there is an ExternalURL.
func (c Config) elsewhere() v1.GlobalURLOptions {
	external, _ := url.Parse(c.ExternalURL) // New has checked it
	machine, _ := os.Hostname()
	// None of them is this process itself, whose port is said there.
	return v1.GlobalURLOptions{ListenAddress: ":0", Host: cmp.Or(external.Host, machine), Scheme: cmp.Or(external.Scheme, "http")}
}

// info is what the API says of the process.
func (s *session) info() (v1.RuntimeInfo, error) {
	host, err := os.Hostname()
	return v1.RuntimeInfo{
		StartTime: s.began, Hostname: host, ServerTime: time.Now(), ReloadConfigSuccess: true, LastConfigTime: s.began,
		GoroutineCount: runtime.NumGoroutine(), GOMAXPROCS: runtime.GOMAXPROCS(0),
		StorageRetention: model.Duration(s.h.cfg.Retention).String(),
	}, err
}

// admin is the part of the database that the API shows. Nothing can be changed by it.
type admin struct{ store *store }

// CleanTombstones implements v1.TSDBAdminStats.
func (admin) CleanTombstones() error { return errors.ErrUnsupported }

// Delete implements v1.TSDBAdminStats.
func (admin) Delete(context.Context, int64, int64, ...*labels.Matcher) error {
	return errors.ErrUnsupported
}

// Snapshot implements v1.TSDBAdminStats.
func (admin) Snapshot(string, bool) error { return errors.ErrUnsupported }

// Stats implements v1.TSDBAdminStats.
func (a admin) Stats(label string, limit int) (*tsdb.Stats, error) {
	return a.store.db.Head().Stats(label, limit), nil
}

// WALReplayStatus implements v1.TSDBAdminStats.
func (a admin) WALReplayStatus() (tsdb.WALReplayStatus, error) {
	return a.store.stats.Head.WALReplayStatus.GetWALReplayStatus(), nil
}

// BlockMetas implements v1.TSDBAdminStats.
func (a admin) BlockMetas() ([]tsdb.BlockMeta, error) { return a.store.db.BlockMetas(), nil }

// ServeHTTP serves Prometheus' HTTP API (https://prometheus.io/docs/prometheus/latest/querying/api/) below /api/v1/, without what changes
// anything. Whoever may call it reads all metrics of all namespaces.
func (h *History) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, apiPrefix)
	if !ok || slices.Contains(closed, path) || strings.HasPrefix(path, "/admin/") {
		Refuse(w, http.StatusNotFound, "not_found", errors.New("this API only reads: there is no "+r.URL.Path))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
	defer cancel()
	select {
	case h.requests <- struct{}{}:
		defer func() { <-h.requests }()
	case <-ctx.Done():
		Refuse(w, http.StatusServiceUnavailable, "unavailable", errors.New("too many requests are being answered"))
		return
	}
	r = r.WithContext(ctx)
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	answer := &answer{header: w.Header(), code: http.StatusOK}
	// The answer is sent when the session is free again: a client that reads slowly must not delay its end.
	err := h.use(ctx, func(ctx context.Context, s *session) error {
		s.api().ServeHTTP(answer, r.WithContext(ctx))
		return answer.err
	})
	switch {
	case errors.Is(err, errTooLong):
		w.Header().Del("Content-Encoding")
		Refuse(w, http.StatusUnprocessableEntity, "execution", err)
	case err != nil:
		Refuse(w, http.StatusServiceUnavailable, "unavailable", err)
	default:
		w.WriteHeader(answer.code)
		_, _ = w.Write(answer.body.Bytes()) // the client is gone
	}
}

// Refuse answers with an error as Prometheus does. The kind is one of https://prometheus.io/docs/prometheus/latest/querying/api/.
func Refuse(w http.ResponseWriter, code int, kind string, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v1.Response{Status: "error", ErrorType: kind, Error: err.Error()}) // or the client is gone
}

// errTooLong is why an answer is not sent.
var errTooLong = errors.New("the answer is longer than 32 MiB: ask for fewer series, less time or a longer step")

// answer has an answer until it is sent.
type answer struct {
	header http.Header
	code   int
	body   bytes.Buffer
	err    error
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(code int) { a.code = code }

// Write implements http.ResponseWriter.
func (a *answer) Write(part []byte) (int, error) {
	if a.body.Len()+len(part) > maxAnswer {
		a.err = errTooLong
		return 0, errTooLong
	}
	return a.body.Write(part)
}
