// Package seldom tells whether a line of log is worth writing again. It knows nothing else.
package seldom

import (
	"sync"
	"time"
)

const (
	// repeatAfter is when a line that comes again and again is written again.
	repeatAfter = 10 * time.Minute
	// maxRemembered bounds how many lines are remembered.
	maxRemembered = 1000
)

// Seen remembers what was written when. The zero value is ready. Any goroutine may use it.
type Seen struct {
	mu sync.Mutex // guards at
	at map[string]time.Time
}

// Fresh reports whether a text was not written within the last 10 minutes, and remembers it.
func (s *Seen) Fresh(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if last, ok := s.at[text]; ok && now.Sub(last) < repeatAfter {
		return false
	}
	if s.at == nil || len(s.at) >= maxRemembered {
		s.at = map[string]time.Time{}
	}
	s.at[text] = now
	return true
}
