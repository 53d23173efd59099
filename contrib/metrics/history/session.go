package history

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/notifier"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/scrape"
)

const (
	// maxAlerts bounds the alerts that wait for an Alertmanager. The oldest go first.
	maxAlerts = 1000
	// outageTolerance is how long we may have been away for an alert to be pending as before.
	outageTolerance = time.Hour
	// forGrace is how long an alert that was pending is pending at least when we are back.
	forGrace = time.Minute
	// resendDelay is how often a firing alert is sent.
	resendDelay = time.Minute
)

// session is Prometheus' parts at work on an open database.
type session struct {
	h        *History
	store    *store
	registry *prometheus.Registry
	began    time.Time
	api      func() http.Handler // made when it is asked first: that takes a while

	engine     promql.QueryEngine
	notifier   *notifier.Manager
	rules      *rules.Manager
	scraper    *scrape.Manager
	discoverer *discovery.Manager

	ctx       context.Context // ends when nobody shall use the session any more
	end       context.CancelFunc
	discover  context.Context
	undiscove context.CancelFunc
	// undiscovered is closed when the scraper gets no targets any more.
	undiscovered chan struct{}
	parts        sync.WaitGroup
}

// newSession makes a session that does not work yet.
func (h *History) newSession(store *store, registry *prometheus.Registry) (*session, error) {
	s := &session{h: h, store: store, registry: registry, began: time.Now(), undiscovered: make(chan struct{})}
	s.ctx, s.end = context.WithCancel(context.Background())
	s.discover, s.undiscove = context.WithCancel(context.Background())
	if err := s.setUp(); err != nil {
		s.end()
		s.undiscove()
		return nil, fmt.Errorf("cannot set up Prometheus: %w", err)
	}
	return s, nil
}

// setUp makes the parts.
func (s *session) setUp() error {
	h, registry := s.h, s.registry
	interval := h.cfg.Interval.Milliseconds()
	s.engine = engine{promql.NewEngine(promql.EngineOpts{
		Logger: h.slog.With("component", "query engine"), Reg: registry, MaxSamples: maxSamples, Timeout: queryTimeout,
		ActiveQueryTracker: make(tracker, maxQueries), NoStepSubqueryIntervalFn: func(int64) int64 { return interval },
		EnableAtModifier: true, EnableNegativeOffset: true, Parser: h.rules.parser,
	}), s.store.suspectDamage}
	s.notifier = notifier.NewManager(&notifier.Options{QueueCapacity: maxAlerts, Registerer: registry}, model.UTF8Validation, h.slog.With("component", "notifier"))
	if err := s.newScraper(); err != nil {
		return err
	}
	if err := s.newRules(); err != nil {
		return err
	}
	s.api = sync.OnceValue(func() http.Handler { return s.newAPI(registry) })
	return s.apply()
}

// newScraper makes what scrapes, and what discovers its targets.
func (s *session) newScraper() (err error) {
	mechanisms, err := discovery.CreateAndRegisterSDMetrics(s.registry)
	if err != nil {
		return err
	}
	s.discoverer = discovery.NewManager(s.discover, s.h.slog.With("component", "discovery"), s.registry, mechanisms,
		discovery.Name("scrape"), discovery.Updatert(s.h.pace.targets))
	if s.discoverer == nil {
		return fmt.Errorf("cannot make the part that discovers targets") // it has logged why
	}
	s.scraper, err = scrape.NewManager(&scrape.Options{DiscoveryReloadInterval: model.Duration(s.h.pace.targets), DiscoveryReloadOnStartup: true},
		s.h.slog.With("component", "scraper"), nil, nil, s.store, s.registry)
	return err
}

// newRules makes what evaluates rules.
func (s *session) newRules() error {
	external, err := url.Parse(s.h.cfg.ExternalURL)
	if err != nil {
		return err
	}
	s.rules = rules.NewManager(&rules.ManagerOptions{
		ExternalURL: external, QueryFunc: rules.EngineQueryFunc(s.engine, s.store.db), NotifyFunc: rules.SendAlerts(s.notifier, external.String()),
		Context: s.ctx, Appendable: s.store, Queryable: s.store.db, Logger: s.h.slog.With("component", "rules"), Registerer: s.registry,
		OutageTolerance: outageTolerance, ForGracePeriod: forGrace, ResendDelay: resendDelay, GroupLoader: s.h.rules, Parser: s.h.rules.parser,
	})
	return nil
}

// apply makes all parts use the configuration, and the rules.
func (s *session) apply() error {
	built := s.h.built.Load()
	if err := s.scraper.ApplyConfig(built); err != nil {
		return fmt.Errorf("cannot scrape: %w", err)
	}
	if err := s.discoverer.ApplyConfig(s.h.sources); err != nil {
		return fmt.Errorf("cannot discover targets: %w", err)
	}
	if err := s.notifier.ApplyConfig(built); err != nil {
		return fmt.Errorf("cannot send alerts: %w", err)
	}
	s.h.rules.read()
	return s.applyRules()
}

// applyRules puts the rules in force.
func (s *session) applyRules() error {
	labels := s.h.built.Load().GlobalConfig.ExternalLabels
	if err := s.rules.Update(s.h.cfg.Interval, s.h.rules.names(), labels, s.h.cfg.ExternalURL, nil); err != nil {
		return fmt.Errorf("cannot use the rules: %w", err)
	}
	return nil
}

// start starts the parts.
func (s *session) start() {
	targets, managers := make(chan map[string][]*targetgroup.Group), make(chan map[string][]*targetgroup.Group, 1)
	managers <- s.alertmanagers()
	s.parts.Go(func() { _ = s.discoverer.Run() }) // the error is the context's
	s.parts.Go(func() { s.forward(targets) })
	s.parts.Go(func() { _ = s.scraper.Run(targets) }) // there is none
	s.parts.Go(s.rules.Run)
	s.parts.Go(func() { s.notifier.Run(managers) })
}

// forward hands the scraper its targets. At last there are none, so that it starts nothing while it stops.
func (s *session) forward(targets chan<- map[string][]*targetgroup.Group) {
	defer close(s.undiscovered)
	defer close(targets)
	for found := range s.discoverer.SyncCh() {
		targets <- found
	}
	targets <- nil
}

// alertmanagers are those of the configuration, by the names that the notifier has for them.
func (s *session) alertmanagers() map[string][]*targetgroup.Group {
	found := map[string][]*targetgroup.Group{}
	for name, manager := range s.h.built.Load().AlertingConfig.AlertmanagerConfigs.ToMap() {
		for _, config := range manager.ServiceDiscoveryConfigs {
			found[name] = append(found[name], config.(discovery.StaticConfig)...)
		}
	}
	return found
}

// stop stops the parts and waits for them.
func (s *session) stop() {
	s.rules.Stop()
	s.undiscove()
	<-s.undiscovered
	s.scraper.Stop()
	s.notifier.Stop()
	s.parts.Wait()
}
