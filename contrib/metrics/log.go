package metrics

import (
	"fmt"
	"strings"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"github.com/k8sm/k8sm/contrib/metrics/seldom"
)

// takeOverLog makes klog write to the sink each error once in a while: metrics-server says at each reading that a node does not answer.
func takeOverLog(sink logr.LogSink) {
	klog.SetLogger(logr.New(&sparing{LogSink: sink, seen: &seldom.Seen{}}).V(1)) // as contrib/cli does: their info is our debug
}

// sparing is a LogSink that drops errors which were logged not long ago.
type sparing struct {
	logr.LogSink
	seen *seldom.Seen
}

// Error implements logr.LogSink. A node without an address has no kubelet, because no pod has run there: that is no error.
func (s *sparing) Error(err error, message string, keysAndValues ...any) {
	if err != nil && strings.HasPrefix(err.Error(), "no address matched types") {
		return
	}
	if s.seen.Fresh(fmt.Sprint(message, keysAndValues)) {
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
