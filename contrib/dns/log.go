package dns

import (
	"log"
	"strings"

	"github.com/sirupsen/logrus"
)

// takeOverLog redirects CoreDNS's log to logrus. CoreDNS uses Go's log package and puts the level before the text.
func takeOverLog() {
	log.SetFlags(0)
	log.SetOutput(logWriter{})
}

// logWriter receives one message per call, as Go's log package writes them.
type logWriter struct{}

func (logWriter) Write(p []byte) (int, error) {
	level, text := readLevel(strings.TrimRight(string(p), "\n"))
	logrus.StandardLogger().Log(level, text)
	return len(p), nil
}

// readLevel splits "[WARNING] text". A message before the process exits becomes an error, and CoreDNS's debug output becomes debug.
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
