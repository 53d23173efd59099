package balancer

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// clockBounds are the differences of clocks that are told, the longest first. Below the last one, nothing is told: the servers' answers
// have whole seconds. The text names a bound, not the difference, which drifts.
var clockBounds = []time.Duration{24 * time.Hour, time.Hour, 10 * time.Minute, time.Minute, 5 * time.Second}

// reading is by how much a server's clock is ahead of this machine's; ok is false if that is not known.
type reading struct {
	ahead time.Duration
	ok    bool
}

// readClock reads the time of an answer, which was requested and came at these times (RFC 9110, section 6.6.1). A probe takes two seconds at
// most.
func readClock(header http.Header, began, ended time.Time) reading {
	said, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return reading{}
	}
	halfway := began.Add(ended.Sub(began) / 2)
	return reading{said.Add(time.Second / 2).Sub(halfway.Round(0)), true} // of the wall clock
}

func (b *Balancer) noteClock(m *member, clock reading) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if clock.ok {
		m.ahead, m.timed = clock.ahead, true
	}
}

// clocks returns by how much the clocks of the servers that answer are ahead of this machine's.
func (b *Balancer) clocks() map[string]time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := map[string]time.Duration{}
	for address, m := range b.members {
		if m.timed && m.health == ready && m.standing != former {
			all[address] = m.ahead
		}
	}
	return all
}

// WrongClocks describes the differences between this machine's clock and those of API servers that answer.
func (b *Balancer) WrongClocks() (problems []string) {
	all := b.clocks()
	by := map[string][]string{} // servers by the difference
	for _, address := range slices.Sorted(maps.Keys(all)) {
		if text := difference(all[address]); text != "" {
			by[text] = append(by[text], address)
		}
	}
	for _, text := range slices.Sorted(maps.Keys(by)) {
		problems = append(problems, fmt.Sprintf("this machine's clock is %s that of the API server at %s: certificates, tokens, logs and metrics go by clocks; "+
			"let both follow the same time servers", text, strings.Join(by[text], ", ")))
	}
	return problems
}

// difference says by how much a clock is wrong; "" if it is not.
func difference(ahead time.Duration) string {
	for _, bound := range clockBounds {
		switch {
		case ahead >= bound:
			return fmt.Sprintf("more than %s behind", short(bound))
		case ahead <= -bound:
			return fmt.Sprintf("more than %s ahead of", short(bound))
		}
	}
	return ""
}

// short writes a duration without zeros.
func short(d time.Duration) string {
	return strings.Replace(strings.Replace(d.String(), "m0s", "m", 1), "h0m", "h", 1)
}

var clockDesc = prometheus.NewDesc("k8sm_apiserver_clock_ahead_seconds",
	"By how much the clock of an API server is ahead of this machine's, to half a second.", []string{"server"}, nil)

// Describe implements prometheus.Collector.
func (b *Balancer) Describe(to chan<- *prometheus.Desc) { to <- clockDesc }

// Collect implements prometheus.Collector.
func (b *Balancer) Collect(to chan<- prometheus.Metric) {
	for address, ahead := range b.clocks() {
		to <- prometheus.MustNewConstMetric(clockDesc, prometheus.GaugeValue, ahead.Seconds(), address)
	}
}
