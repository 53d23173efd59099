package flagvalue

import (
	"testing"
	"time"
)

func TestValues(t *testing.T) {
	var long Retention
	for text, want := range map[string]time.Duration{"36h": 36 * time.Hour, "7d": 7 * 24 * time.Hour, "1y": 365 * 24 * time.Hour} {
		if err := long.Set(text); err != nil || time.Duration(long) != want {
			t.Errorf("%s: %s, %v", text, time.Duration(long), err)
		}
	}
	var much Size
	for text, want := range map[string]Size{"512MiB": 512 << 20, "10GiB": 10 << 30, "0": 0} {
		if err := much.Set(text); err != nil || much != want {
			t.Errorf("%s: %d, %v", text, much, err)
		}
	}
	for _, text := range []string{"", "much", "-1"} {
		if long.Set(text) == nil || much.Set(text) == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
