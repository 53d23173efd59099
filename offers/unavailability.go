package offers

import (
	"fmt"
	"strings"
	"time"
)

// Unavailability is an agent's planned maintenance
// (https://mesos.apache.org/documentation/latest/maintenance/#scheduling-maintenance).
type Unavailability struct {
	Start time.Time
	End   time.Time // zero if no end is planned
}

// String returns "start/end" in RFC 3339, in UTC and seconds. Without a planned end it is "start/..", as in ISO 8601.
func (u Unavailability) String() string {
	end := ".."
	if !u.End.IsZero() {
		end = u.End.UTC().Format(time.RFC3339)
	}
	return u.Start.UTC().Format(time.RFC3339) + "/" + end
}

// ParseUnavailability is the inverse of String.
func ParseUnavailability(text string) (u Unavailability, err error) {
	start, end, ok := strings.Cut(text, "/")
	if !ok {
		return u, fmt.Errorf("cannot parse unavailability %q: it is not of the form START/END", text)
	}
	if u.Start, err = time.Parse(time.RFC3339, start); err == nil && end != ".." {
		u.End, err = time.Parse(time.RFC3339, end)
	}
	if err != nil {
		return Unavailability{}, fmt.Errorf("cannot parse unavailability %q: %w", text, err)
	}
	return u, nil
}

// Over reports whether the planned end has passed; a nil Unavailability is never over.
func (u *Unavailability) Over(now time.Time) bool {
	return u != nil && !u.End.IsZero() && !now.Before(u.End)
}
