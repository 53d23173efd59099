package etcd

import (
	"github.com/sirupsen/logrus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Logger returns a logger for etcd that writes records of the given level and above to logrus.
func Logger(from zapcore.LevelEnabler) *zap.Logger {
	return zap.New(&logrusCore{LevelEnabler: from, entry: logrus.WithField("component", "etcd")})
}

// logrusCore is a zapcore.Core that writes to logrus.
type logrusCore struct {
	zapcore.LevelEnabler
	entry *logrus.Entry
}

// Sync does nothing, because logrus does not buffer.
func (c *logrusCore) Sync() error { return nil }

// With returns a core that adds the fields to each record.
func (c *logrusCore) With(fields []zapcore.Field) zapcore.Core {
	return &logrusCore{LevelEnabler: c.LevelEnabler, entry: c.entry.WithFields(logrusFields(fields))}
}

// Check adds the core to those that write the record, if its level is enabled.
func (c *logrusCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

// Write logs at Error and below only: zap itself panics or exits after a record of a higher level.
func (c *logrusCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := logrus.ErrorLevel
	switch e.Level {
	case zapcore.DebugLevel:
		level = logrus.DebugLevel
	case zapcore.InfoLevel:
		level = logrus.InfoLevel
	case zapcore.WarnLevel:
		level = logrus.WarnLevel
	}
	c.entry.WithFields(logrusFields(fields)).Log(level, e.Message)
	return nil
}

func logrusFields(fields []zapcore.Field) logrus.Fields {
	m := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(m)
	}
	return m.Fields
}
