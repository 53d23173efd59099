package history

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/contrib/metrics/seldom"
)

// named are the attributes by which Prometheus' log lines differ. Others, as counts, differ from line to line.
var named = []string{"component", "scrape_pool", "target", "alertmanager", "file", "group", "name", "discovery", "config"}

// needless are warnings that tell an operator nothing.
var needless = []string{
	"Failed to determine correct type of scrape target.",                    // tellTargets says so
	"A lockfile from a previous execution already existed. It was replaced", // it is there after a crash, and locks nothing by itself
	"error reloading target set",                                            // a job that is gone has targets for a moment
}

// handler writes Prometheus' log: its info is our debug, and a warning that comes again and again is written once in a while.
type handler struct {
	log  *logrus.Entry
	seen *seldom.Seen
	key  string // what names the origin
}

// newLogger returns a logger for Prometheus' parts.
func newLogger(log *logrus.Entry) *slog.Logger {
	return slog.New(&handler{log: log, seen: &seldom.Seen{}})
}

// Enabled implements slog.Handler.
func (h *handler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn || h.log.Logger.IsLevelEnabled(logrus.DebugLevel)
}

// Handle implements slog.Handler.
func (h *handler) Handle(_ context.Context, record slog.Record) error {
	log, key, told := h.log, h.key+" "+record.Message, slices.Contains(needless, record.Message)
	record.Attrs(func(attr slog.Attr) bool {
		log, key = with(log, key, attr)
		err, ok := attr.Value.Any().(error)
		told = told || ok && (errors.Is(err, errPaused) || errors.Is(err, context.Canceled))
		told = told || attr.Key == "count" && attr.Value.Kind() == slog.KindInt64 && attr.Value.Int64() == 0 // alerts dropped at the end
		return true
	})
	level := logrus.DebugLevel
	if record.Level >= slog.LevelWarn && !told && h.seen.Fresh(key) {
		level = logrus.WarnLevel
	}
	log.Log(level, record.Message)
	return nil
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	log, key := h.log, h.key
	for _, attr := range attrs {
		log, key = with(log, key, attr)
	}
	return &handler{log, h.seen, key}
}

// WithGroup implements slog.Handler. Prometheus has no groups.
func (h *handler) WithGroup(string) slog.Handler { return h }

// with adds an attribute to a line, and to what names its origin.
func with(log *logrus.Entry, key string, attr slog.Attr) (*logrus.Entry, string) {
	value := attr.Value.Any()
	if err, ok := value.(error); ok {
		return log.WithError(err), key
	}
	if attr.Key == "err" {
		return log.WithField(logrus.ErrorKey, value), key
	}
	if slices.Contains(named, attr.Key) {
		key += fmt.Sprintf(" %s=%v", attr.Key, value)
	}
	return log.WithField(attr.Key, value), key
}
