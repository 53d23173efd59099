package balancer

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A difference of clocks is told with the servers that have it, in words that do not change as clocks drift.
func TestClocksOfAPIServersAreComparedWithThisMachines(t *testing.T) {
	ca := newAuthority(t)
	var seeds []string
	for name, ahead := range map[string]time.Duration{"right": 2 * time.Second, "ahead": 90 * time.Second, "behind": -2 * time.Hour, "also behind": -3 * time.Hour, "down": time.Hour} {
		s := ca.start(t, name, "")
		s.ahead.Store(int64(ahead))
		s.notReady.Store(name == "down")
		seeds = append(seeds, s.address())
	}
	b := ca.balanced(t, "", seeds...)
	until(t, "the clocks are known", func() bool { return len(b.clocks()) == len(seeds)-1 })
	got := b.WrongClocks()
	if len(got) != 2 || !strings.HasPrefix(got[0], "this machine's clock is more than 1h ahead of that of the API server at 127.0.0.1:") ||
		strings.Count(got[0], "127.0.0.1:") != 2 || !strings.HasPrefix(got[1], "this machine's clock is more than 1m behind that of the API server at 127.0.0.1:") {
		t.Errorf("the problems are %q", got)
	}
	if n := testutil.CollectAndCount(b, "k8sm_apiserver_clock_ahead_seconds"); n != len(seeds)-1 {
		t.Errorf("%d servers' clocks are shown, want those of the %d that are ready", n, len(seeds)-1)
	}
}

func TestClockIsReadToHalfASecond(t *testing.T) {
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for said, want := range map[string]time.Duration{
		"Thu, 01 Jan 2026 00:00:01 GMT": 500 * time.Millisecond, // the request took two seconds
		"Thu, 01 Jan 2026 01:00:00 GMT": time.Hour - 500*time.Millisecond,
		"Wed, 31 Dec 2025 23:59:00 GMT": -time.Minute - 500*time.Millisecond,
	} {
		if got := readClock(http.Header{"Date": {said}}, began, began.Add(2*time.Second)); !got.ok || got.ahead != want {
			t.Errorf("%s: %+v, want %s", said, got, want)
		}
	}
	if got := readClock(http.Header{}, began, began); got.ok {
		t.Errorf("without a date: %+v", got)
	}
}

func TestDriftDoesNotChangeTheWords(t *testing.T) {
	for _, test := range []struct {
		ahead time.Duration
		want  string
	}{
		{0, ""}, {4 * time.Second, ""}, {-4 * time.Second, ""}, {6 * time.Second, "more than 5s behind"}, {59 * time.Second, "more than 5s behind"},
		{-61 * time.Second, "more than 1m ahead of"}, {11 * time.Minute, "more than 10m behind"}, {-90 * time.Minute, "more than 1h ahead of"},
		{1000 * time.Hour, "more than 24h behind"},
	} {
		if got := difference(test.ahead); got != test.want {
			t.Errorf("%s: %q, want %q", test.ahead, got, test.want)
		}
	}
}
