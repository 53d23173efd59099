package metrics

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

const (
	// repeatAfter is when an error that comes again and again is logged again.
	repeatAfter = 10 * time.Minute
	// maxRemembered bounds how many errors are remembered.
	maxRemembered = 1000
)

// takeOverLog makes klog write to the sink each error once in a while: metrics-server says at each reading that a node does not answer.
func takeOverLog(sink logr.LogSink) {
	klog.SetLogger(logr.New(&sparing{LogSink: sink, seen: &seen{}}).V(1)) // as contrib/cli does: their info is our debug
}

// sparing is a LogSink that drops errors which were logged not long ago.
type sparing struct {
	logr.LogSink
	seen *seen
}

// Error implements logr.LogSink. A node without an address has no kubelet, because no pod has run there: that is no error.
func (s *sparing) Error(err error, message string, keysAndValues ...any) {
	if err != nil && strings.HasPrefix(err.Error(), "no address matched types") {
		return
	}
	if s.seen.fresh(time.Now(), fmt.Sprint(message, keysAndValues)) {
		s.LogSink.Error(err, message, keysAndValues...)
	}
}

// WithName implements logr.LogSink.
func (s *sparing) WithName(name string) logr.LogSink {
	return &sparing{s.LogSink.WithName(name), s.seen}
}

// WithValues implements logr.LogSink.
func (s *sparing) WithValues(keysAndValues ...any) logr.LogSink {
	return &sparing{s.LogSink.WithValues(keysAndValues...), s.seen}
}

// seen remembers what was logged when.
type seen struct {
	mu sync.Mutex // guards at
	at map[string]time.Time
}

// fresh reports whether a text was not logged within repeatAfter, and remembers it.
func (s *seen) fresh(now time.Time, text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.at[text]; ok && now.Sub(last) < repeatAfter {
		return false
	}
	if s.at == nil || len(s.at) >= maxRemembered {
		s.at = map[string]time.Time{}
	}
	s.at[text] = now
	return true
}
