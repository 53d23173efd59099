package balancer

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/k8sm/k8sm/api/certfile"
)

// ServerName is a name in the certificate of each API server, whatever its address.
const ServerName = "kubernetes"

const (
	// dialTimeout is for one server; then the next one is tried.
	dialTimeout = 2 * time.Second
	// mostListed and mostFormer bound what is remembered.
	mostListed = 32
	mostFormer = 8
)

// Config configures a Balancer.
type Config struct {
	// Seeds are the servers that are known from elsewhere, as "host:port". They are never forgotten.
	Seeds []string
	// CAs returns the authorities that sign the servers' certificates. It is called at each connection that checks a server.
	CAs func() (*x509.CertPool, error)
}

// Balancer knows the API servers of a cluster. Its methods may be called concurrently.
type Balancer struct {
	cfg    Config
	probes *tls.Config
	wake   chan struct{} // tells Run that a probe may be due; size 1

	mu      sync.Mutex // guards the members and what they contain, and the file
	members map[string]*member
	file    string // see Remember
}

// New returns a balancer that knows the seeds. Run checks the servers.
func New(cfg Config) (*Balancer, error) {
	if cfg.CAs == nil {
		return nil, errors.New("cannot check the API servers: their CA is not known")
	}
	if len(cfg.Seeds) == 0 {
		return nil, errors.New("cannot find the API servers: no address is known")
	}
	b := &Balancer{cfg: cfg, probes: certfile.Client(&tls.Config{ServerName: ServerName, MinVersion: tls.VersionTLS12}, cfg.CAs),
		wake: make(chan struct{}, 1), members: map[string]*member{}}
	for _, seed := range cfg.Seeds {
		b.add(seed, seeded)
	}
	return b, nil
}

// add adds a server, or raises its standing. The caller holds mu, or nobody else knows the balancer.
func (b *Balancer) add(address string, why standing) {
	m := b.members[address]
	if m == nil {
		m = newMember(address, why, b.probes)
		b.members[address] = m
	}
	m.standing = min(m.standing, why)
}

// Set says which servers the cluster has now. An empty list says nothing. Servers that have left are tried when no other answers.
func (b *Balancer) Set(servers []string) {
	if len(servers) == 0 {
		return
	}
	servers = servers[:min(len(servers), mostListed)]
	b.mu.Lock()
	for _, address := range servers {
		b.add(address, listed)
	}
	now := time.Now()
	for address, m := range b.members {
		switch {
		case slices.Contains(servers, address):
		case slices.Contains(b.cfg.Seeds, address):
			m.standing = seeded
		case m.standing == listed:
			m.standing, m.left = former, now
		}
	}
	b.forget()
	b.keep()
	b.mu.Unlock()
	b.poke()
}

// forget drops the servers that left first. The caller holds mu.
func (b *Balancer) forget() {
	old := b.having(former)
	slices.SortFunc(old, func(x, y *member) int { return y.left.Compare(x.left) })
	for _, m := range old[min(len(old), mostFormer):] {
		m.client.CloseIdleConnections()
		delete(b.members, m.address)
	}
}

func (b *Balancer) having(s standing) (list []*member) {
	for _, m := range b.members {
		if m.standing == s {
			list = append(list, m)
		}
	}
	return list
}

// Servers returns the servers that the cluster has now, sorted; without a list, the seeds.
func (b *Balancer) Servers() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	servers := b.known().Listed
	if len(servers) == 0 {
		servers = slices.Sorted(slices.Values(b.cfg.Seeds))
	}
	return servers
}

// Ready returns an error if no server is known to answer.
func (b *Balancer) Ready() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.others(nil) {
		return nil
	}
	return errors.New("no API server is ready")
}

// Dial connects to a server. The arguments of the address are ignored: it has the signature of net.Dialer's DialContext, for clients.
func (b *Balancer) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var problems []string
	for _, m := range b.order() {
		attempt, cancel := context.WithTimeout(ctx, dialTimeout)
		c, err := new(net.Dialer).DialContext(attempt, "tcp", m.address)
		cancel()
		if err == nil {
			return b.track(m, c), nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		b.suspect(m)
		problems = append(problems, err.Error())
	}
	return nil, fmt.Errorf("cannot connect to any API server: %s", strings.Join(problems, "; "))
}

// order returns the members in the order in which they are tried: those that answer first, those of which nobody knows whether they do,
// those that the cluster had, and those that don't answer. Equal ones are in any order.
func (b *Balancer) order() []*member {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]*member, 0, len(b.members))
	for _, m := range b.members {
		list = append(list, m)
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	slices.SortStableFunc(list, func(x, y *member) int {
		return cmp.Or(cmp.Compare(x.rank(), y.rank()), cmp.Compare(x.standing, y.standing))
	})
	return list
}

// track notes a connection, so that it can be cut.
func (b *Balancer) track(m *member, c net.Conn) net.Conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := &tracked{Conn: c, balancer: b, member: m}
	if len(m.conns) == 0 { // the server is in use now, so it is probed more often
		m.due = time.Time{}
		b.poke()
	}
	m.conns[t] = true
	return t
}

// tracked is a connection to a member.
type tracked struct {
	net.Conn
	balancer *Balancer
	member   *member
}

// Close implements net.Conn.
func (t *tracked) Close() error {
	t.balancer.mu.Lock()
	delete(t.member.conns, t)
	t.balancer.mu.Unlock()
	return t.Conn.Close()
}
