package logs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/k8sm/k8sm/api/logs"
	"github.com/k8sm/k8sm/minion/supervise"
)

// Stores ships to all log stores of a cluster: everything to each, with a spool of its own. One goroutine may call Run, once.
type Stores struct {
	// Config is that for each store. Its Dir has a directory for each, with the store's name. Store, Metrics and Dropped are not used.
	Config Config
	// Dropped is Config.Dropped with the name of the store that lacks the lines. It may be called concurrently. It may be nil.
	Dropped func(store, why string, lines, bytes int64)
	// Connect returns the store with this name, which has only small letters, digits and "-".
	Connect func(name string) Store
	// Registry gets the metrics of each store, with its name as the label "store".
	Registry prometheus.Registerer

	running map[string]*supervise.Part
	metrics map[string]*Metrics
}

const (
	// presentFile is a file in a store's directory, which is changed while the store is in the service.
	presentFile = "present"
	// presentInterval is the time between two such changes.
	presentInterval = 10 * time.Minute
)

// storeName is a name that package membership gives.
var storeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Run ships until ctx ends, first to the stores of which there is a directory. names sends the names of the stores in the service, again
// whenever they change.
func (s *Stores) Run(ctx context.Context, names <-chan []string) error {
	s.running, s.metrics = map[string]*supervise.Part{}, map[string]*Metrics{}
	defer func() {
		for name := range s.running {
			s.stop(name)
		}
	}()
	known, err := s.known()
	if err != nil {
		return err
	}
	for _, name := range known {
		s.start(ctx, name)
	}
	ticker := time.NewTicker(presentInterval)
	defer ticker.Stop()
	var present []string
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case present = <-names:
		case <-ticker.C:
		}
		if err := s.take(ctx, present, time.Now()); err != nil {
			s.Config.Log.WithError(err).Error("cannot keep the directories of log stores; trying again")
		}
	}
}

// known are the stores of which there is a directory.
func (s *Stores) known() (names []string, err error) {
	entries, err := os.ReadDir(s.Config.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot find the log stores that this node shipped to: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() && storeName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (s *Stores) dir(name string) string { return filepath.Join(s.Config.Dir, name) }

// start ships to a store.
func (s *Stores) start(ctx context.Context, name string) {
	if s.running[name] != nil {
		return
	}
	cfg := s.Config
	cfg.Dir, cfg.Store, cfg.Log = s.dir(name), s.Connect(name), s.Config.Log.WithField("store", name)
	cfg.Metrics = NewMetrics(prometheus.WrapRegistererWith(prometheus.Labels{"store": name}, s.Registry))
	if s.Dropped != nil {
		cfg.Dropped = func(why string, lines, bytes int64) { s.Dropped(name, why, lines, bytes) }
	}
	s.metrics[name] = cfg.Metrics
	s.running[name] = supervise.Start(ctx, "shipping logs to "+name, func(ctx context.Context) error { return Run(ctx, cfg) })
}

// take takes which stores are in the service now.
func (s *Stores) take(ctx context.Context, present []string, now time.Time) (failed error) {
	in := map[string]bool{}
	for _, name := range present {
		if storeName.MatchString(name) {
			in[name] = true
			failed = errors.Join(failed, touch(filepath.Join(s.dir(name), presentFile), now))
			s.start(ctx, name)
		}
	}
	for name := range s.running {
		if len(in) > 0 && !in[name] && s.isForgotten(name, now) {
			failed = errors.Join(failed, s.forget(name))
		}
	}
	return failed
}

// touch changes a file, and makes it if it is not there.
func touch(path string, now time.Time) error {
	err := os.Chtimes(path, now, now)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			err = os.WriteFile(path, nil, 0o600)
		}
	}
	return err
}

// isForgotten reports whether a store was not in the service for too long.
func (s *Stores) isForgotten(name string, now time.Time) bool {
	info, err := os.Stat(filepath.Join(s.dir(name), presentFile))
	return err != nil || now.Sub(info.ModTime()) > logs.ForgetAfter
}

func (s *Stores) stop(name string) {
	s.running[name].Stop()
	delete(s.running, name)
	s.metrics[name].unregister()
	delete(s.metrics, name)
}

// forget removes all that is kept for a store.
func (s *Stores) forget(name string) error {
	s.stop(name)
	if err := os.RemoveAll(s.dir(name)); err != nil {
		return fmt.Errorf("cannot forget the log store %s: %w", name, err)
	}
	s.Config.Log.WithField("store", name).Warnf("forgot a log store, and the logs that it lacks: it was not in the service for %s", logs.ForgetAfter)
	return nil
}
