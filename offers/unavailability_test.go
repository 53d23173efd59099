package offers

import (
	"testing"
	"time"
)

func TestUnavailabilityIsReadAsItIsWritten(t *testing.T) {
	start := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for text, u := range map[string]Unavailability{
		"2026-01-01T12:00:00Z/2026-01-01T13:00:00Z": {Start: start, End: start.Add(time.Hour)},
		"2026-01-01T12:00:00Z/..":                   {Start: start},
	} {
		if got := u.String(); got != text {
			t.Errorf("%s is written as %s", text, got)
		}
		if got, err := ParseUnavailability(text); err != nil || got != u {
			t.Errorf("%s is read as %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "2026-01-01T12:00:00Z", "noon/..", "2026-01-01T12:00:00Z/later"} {
		if got, err := ParseUnavailability(text); err == nil {
			t.Errorf("%q is read as %s", text, got)
		}
	}
}
