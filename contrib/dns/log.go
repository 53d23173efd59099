package dns

import (
	"log"
	"strings"

	"github.com/sirupsen/logrus"
)

// takeOverLog has what CoreDNS logs, by Go's own log package with the level before the text, written through logrus.
func takeOverLog() {
	log.SetFlags(0)
	log.SetOutput(logWriter{})
}

// logWriter takes one message a call, as Go's log package writes.
type logWriter struct{}

func (logWriter) Write(p []byte) (int, error) {
	level, text := readLevel(strings.TrimRight(string(p), "\n"))
	logrus.StandardLogger().Log(level, text)
	return len(p), nil
}

// readLevel splits "[WARNING] text". What comes before the end of the process is an error, and what CoreDNS tells those who
// debug it is for those.
func readLevel(message string) (logrus.Level, string) {
	for prefix, level := range map[string]logrus.Level{
		"[FATAL] ": logrus.ErrorLevel, "[ERROR] ": logrus.ErrorLevel, "[WARNING] ": logrus.WarnLevel,
		"[INFO] ": logrus.InfoLevel, "[DEBUG] ": logrus.DebugLevel,
	} {
		if text, ok := strings.CutPrefix(message, prefix); ok {
			return level, text
		}
	}
	return logrus.InfoLevel, message
}
