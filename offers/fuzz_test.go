package offers

import (
	"testing"
	"time"
)

func FuzzUnavailability(f *testing.F) {
	for _, seed := range []string{
		"", "/", "2026-01-01T00:00:00Z/..", "2026-01-01T00:00:00Z/2026-01-01T01:00:00Z", "2026-01-01T00:00:00+02:00/..", "2026-01-01/..",
		"0001-01-01T00:00:00Z/0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59/..",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParseUnavailability(text)
		if err != nil {
			return
		}
		again, err := ParseUnavailability(u.String())
		if year := u.Start.UTC().Year(); year < 0 || year > 9999 {
			return // RFC 3339 has no such year
		}
		if year := u.End.UTC().Year(); year < 0 || year > 9999 {
			return
		}
		if err != nil || !again.Start.Equal(u.Start.Truncate(time.Second)) || !again.End.Equal(u.End.Truncate(time.Second)) {
			t.Errorf("%q is read as %s, and that as %s (%v)", text, u, again, err)
		}
	})
}
