package history

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	dto "github.com/prometheus/client_model/go"
	prom "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/contrib/metrics/seldom"
)

// ErrNotReady is why nothing can be asked: the history is being opened, or its disk is full.
var ErrNotReady = errors.New("the metrics' history is not ready")

// pace is how often what is done. Tests are faster.
type pace struct {
	block   time.Duration // the length of the shortest block
	blocks  time.Duration // how often the database looks for blocks
	room    time.Duration // how often a full disk is looked at
	watch   time.Duration // how often files, the clock and targets are looked at
	targets time.Duration // how long changes of targets are collected
	inspect time.Duration // how long after a look at all blocks the next may be
	retry   time.Duration // how long after an error the next attempt is
}

// realPace is the pace outside of tests.
var realPace = pace{
	block: minRetention, blocks: time.Minute, room: 10 * time.Second, watch: 15 * time.Second, targets: 5 * time.Second,
	inspect: 10 * time.Minute, retry: 10 * time.Second,
}

// History scrapes targets, keeps their samples, evaluates rules and answers queries. Any goroutine may use it.
type History struct {
	cfg      Config
	log      *logrus.Entry
	slog     *slog.Logger
	clock    *clock
	pace     pace
	rules    *ruleFiles
	seen     seldom.Seen
	requests chan struct{} // one for each request that is answered
	reload   chan struct{} // has an entry if files shall be read again

	// Run's goroutine owns these.
	sources    map[string]discovery.Configs // by job
	scrapeFile []byte                       // the file of scrape configurations, as last read
	failing    map[string]bool              // targets whose failure is logged

	built atomic.Pointer[prom.Config]

	mu      sync.RWMutex // guards current and why; held for reading as long as current is used
	current *session     // nil while there is none
	why     error        // why there is none
}

// New returns a History that Run opens. A wrong configuration is an error.
func New(cfg Config) (*History, error) {
	cfg = cfg.withDefaults()
	cfg.Jobs = slices.Clone(cfg.Jobs)
	for i := range cfg.Jobs {
		if targets := cfg.Jobs[i].Targets; targets != nil {
			cfg.Jobs[i].Targets = &source{targets}
		}
	}
	built, sources, err := cfg.build()
	if err != nil {
		return nil, err
	}
	h := &History{
		cfg: cfg, log: cfg.Log, slog: newLogger(cfg.Log), clock: newClock(), pace: realPace, sources: sources,
		requests: make(chan struct{}, maxRequests), reload: make(chan struct{}, 1), failing: map[string]bool{},
		why: fmt.Errorf("%w: it is not open yet", ErrNotReady),
	}
	h.rules = newRuleFiles(cfg)
	h.built.Store(built)
	h.scrapeFile, _ = h.readScrapeFile() // what has changed since build is read again later
	return h, nil
}

// Run opens the history and works until ctx ends; then it closes it. What goes wrong is logged and tried again: on a full disk, say,
// nothing is kept until there is room. Call it once.
func (h *History) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := h.session(ctx)
		if err == nil || ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			continue
		}
		h.publish(nil, fmt.Errorf("%w: %w", ErrNotReady, err))
		h.warn(err, "no metrics are kept until this works, retrying")
		select {
		case <-ctx.Done():
		case <-time.After(h.pace.retry):
		}
	}
	return nil
}

// session works until ctx ends, or until the database must be made anew. If ctx ends while the disk is full, the database stays open until
// the process ends: its write-ahead log has all samples, and closing it would write.
func (h *History) session(ctx context.Context) error {
	store := newStore(h.cfg, h.slog, h.clock, h.pace)
	unlock, err := store.lock()
	if err != nil {
		return err
	}
	defer unlock()
	h.publish(nil, fmt.Errorf("%w: the disk of %s is full", ErrNotReady, h.cfg.Dir))
	if err := store.wait(ctx); err != nil {
		return err
	}
	h.publish(nil, fmt.Errorf("%w: it is being read", ErrNotReady))
	registry, err := store.open(ctx)
	if err != nil {
		return err
	}
	s, err := h.newSession(store, registry)
	if err != nil {
		return errors.Join(err, store.closeSafely(ctx))
	}
	s.start()
	h.publish(s, nil)
	h.log.WithFields(logrus.Fields{"dir": h.cfg.Dir, "blocks": len(store.db.Blocks()), "series": store.db.Head().NumSeries()}).Info("the metrics' history is open")
	anew := s.watch(ctx)
	s.end() // lets go of those who use it
	h.publish(nil, fmt.Errorf("%w: it is being closed", ErrNotReady))
	s.stop()
	if anew {
		return store.shed(ctx)
	}
	return store.closeSafely(ctx)
}

// publish sets the session that is used, or why there is none. It waits for those who use the last one.
func (h *History) publish(s *session, why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.current, h.why = s, why
}

// use calls a function with the session. The context ends with the session.
func (h *History) use(ctx context.Context, f func(context.Context, *session) error) error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.current == nil {
		return h.why
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.current.ctx, cancel)()
	return f(ctx, h.current)
}

// Ready returns nil if queries are answered, or else an ErrNotReady that says why not.
func (h *History) Ready() error {
	return h.use(context.Background(), func(context.Context, *session) error { return nil })
}

// Reload makes Run read the files again that it was told of. It does so by itself within 15 seconds.
func (h *History) Reload() {
	select {
	case h.reload <- struct{}{}:
	default:
	}
}

// Query returns the value of a PromQL expression at a time.
func (h *History) Query(ctx context.Context, text string, at time.Time) (value parser.Value, err error) {
	err = h.use(ctx, func(ctx context.Context, s *session) error {
		made, err := s.engine.NewInstantQuery(ctx, s.store.db, nil, text, at)
		if err != nil {
			return err
		}
		result := made.Exec(ctx) // it is not closed: the value would be reused
		value = result.Value
		return result.Err
	})
	return value, err
}

// Gather implements prometheus.Gatherer: it returns the metrics of Prometheus' own parts. They start anew when the database is made anew.
func (h *History) Gather() (families []*dto.MetricFamily, err error) {
	if h.Ready() != nil {
		return nil, nil
	}
	err = h.use(context.Background(), func(_ context.Context, s *session) error {
		families, err = s.registry.Gather()
		return err
	})
	return families, err
}

// readScrapeFile reads the file of scrape configurations.
func (h *History) readScrapeFile() ([]byte, error) {
	if h.cfg.ScrapeConfigFile == "" {
		return nil, nil
	}
	file, err := os.Open(h.cfg.ScrapeConfigFile)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readFile(file)
}

// rebuilt makes Prometheus' configuration anew if the file of scrape configurations has changed. A wrong one changes nothing.
func (h *History) rebuilt() bool {
	content, err := h.readScrapeFile()
	if err == nil && bytes.Equal(content, h.scrapeFile) {
		return false
	}
	built, sources, failed := h.cfg.build()
	if err = errors.Join(err, failed); err != nil {
		h.warn(err, "cannot use the changed scrape configurations: those before stay")
		return false
	}
	h.scrapeFile, h.sources = content, sources
	h.built.Store(built)
	return true
}
