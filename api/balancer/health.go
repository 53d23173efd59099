package balancer

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// probeUsed is the time between two probes of a server with connections, probeIdle that of one without.
	probeUsed = 2 * time.Second
	probeIdle = 10 * time.Second
	// probeAgain is the pause after a first failure.
	probeAgain = 500 * time.Millisecond
	// probeTimeout is for one probe.
	probeTimeout = 2 * time.Second
	// enough is how many failures in a row make a server one that does not answer: a busy one may miss a probe.
	enough = 2
)

// standing says from where a member is known. A lower one is preferred.
type standing int

const (
	listed standing = iota // the cluster has it now
	seeded                 // it was given, and is not in the list
	former                 // the cluster had it
)

// health says what the last probes found. A lower one is preferred.
type health int

const (
	ready health = iota
	unknown
	failing
)

// member is a server.
type member struct {
	address string
	client  *http.Client

	// The balancer's mutex guards the rest.
	standing standing
	left     time.Time // when a former one left
	health   health
	failures int // in a row
	probing  bool
	due      time.Time // of the next probe
	conns    map[*tracked]bool
	ahead    time.Duration // by which its clock was ahead of this machine's
	timed    bool          // ahead is known
}

// rank is lower for members that are tried before others.
func (m *member) rank() int {
	switch {
	case m.health == failing:
		return 3
	case m.standing == former: // whatever it answers, as long as there is another
		return 2
	}
	return int(m.health)
}

func newMember(address string, why standing, probes *tls.Config) *member {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
	return &member{
		address: address, standing: why, health: unknown, conns: map[*tracked]bool{},
		client: &http.Client{
			Timeout:       probeTimeout,
			Transport:     &http.Transport{DialContext: dial, TLSClientConfig: probes.Clone(), MaxIdleConns: 1},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// probe asks the server whether it is ready, and reads its clock.
func (m *member) probe(ctx context.Context) (clock reading, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+ServerName+"/readyz", nil)
	if err != nil {
		return clock, err
	}
	began := time.Now()
	response, err := m.client.Do(request)
	if err != nil {
		m.client.CloseIdleConnections()
		return clock, err
	}
	defer response.Body.Close()
	clock = readClock(response.Header, began, time.Now())
	if response.StatusCode >= http.StatusInternalServerError {
		return clock, fmt.Errorf("it is not ready: %s", response.Status)
	}
	return clock, nil
}

// Run probes the servers until ctx ends, and returns when no probe runs.
func (b *Balancer) Run(ctx context.Context) error {
	var probes sync.WaitGroup
	defer probes.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		case <-b.wake:
		}
		due, next := b.dueAt(time.Now())
		for _, m := range due {
			probes.Go(func() {
				clock, err := m.probe(ctx)
				if ctx.Err() == nil {
					b.noteClock(m, clock)
					b.note(m, err, time.Now())
					b.poke()
				}
			})
		}
		timer.Reset(next)
	}
}

// poke lets Run look for probes that are due.
func (b *Balancer) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// dueAt returns the members to probe now, and the time until the next one is due. They count as being probed until note is called.
func (b *Balancer) dueAt(now time.Time) (due []*member, next time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next = probeIdle
	for _, m := range b.members {
		switch wait := m.due.Sub(now); {
		case m.probing:
		case wait <= 0:
			m.probing = true
			due = append(due, m)
		default:
			next = min(next, wait)
		}
	}
	return due, next
}

// note takes the result of a probe.
func (b *Balancer) note(m *member, err error, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m.probing = false
	if err == nil {
		if m.health == failing {
			logrus.WithField("server", m.address).Info("the API server answers again")
		}
		m.health, m.failures = ready, 0
		m.due = now.Add(probeIdle)
		if len(m.conns) > 0 {
			m.due = now.Add(probeUsed)
		}
		return
	}
	m.failures++
	m.due = now.Add(probeAgain)
	if m.failures < enough {
		return
	}
	m.due = now.Add(probeUsed)
	if m.health != failing {
		logrus.WithField("server", m.address).WithError(err).Log(m.standing.level(), "the API server does not answer")
	}
	m.health = failing
	if b.others(m) {
		m.cut()
	}
}

// level is the level of the log for a server that does not answer. One that has left is expected not to.
func (s standing) level() logrus.Level {
	if s == former {
		return logrus.DebugLevel
	}
	return logrus.WarnLevel
}

// others reports whether another server is ready. The caller holds mu.
func (b *Balancer) others(than *member) bool {
	for _, m := range b.members {
		if m != than && m.health == ready {
			return true
		}
	}
	return false
}

// cut closes all connections. Without another server, that would only add to the work of one that is too busy to answer in time. The
// caller holds the balancer's mutex.
func (m *member) cut() {
	for c := range m.conns {
		_ = c.Conn.Close() // who uses it gets an error, and closes it
	}
	clear(m.conns)
}

// suspect lets a server that refused a connection be probed at once.
func (b *Balancer) suspect(m *member) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m.health == ready {
		m.health = unknown // others first, until it is known
	}
	m.due = time.Time{}
	b.poke()
}
