package state

import (
	"context"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

const (
	// askEvery is the time between two questions to each member, askPatience how long one may take to answer.
	askEvery    = time.Second
	askPatience = time.Second
	// askEnough is how many questions in a row a member leaves unanswered before its connections are cut: a busy one may miss one.
	askEnough = 2
)

// members cuts the connections to members of etcd that do not answer while another one does. A process that is stopped and a machine
// that is cut off keep their connections: what waits for them, such as a watch, would wait for good. gRPC's own pings come every ten
// seconds at most (https://pkg.go.dev/google.golang.org/grpc/keepalive#ClientParameters), too late for a takeover.
type members struct {
	config clientv3.Config // of clients that ask, without endpoints
	all    []*member
}

// member is one of them.
type member struct {
	url    string
	silent int // how many questions in a row it left unanswered; run owns it

	mu    sync.Mutex // guards conns
	conns map[*tracked]bool
}

// newMembers returns the members at the endpoints of a client's configuration.
func newMembers(config clientv3.Config) *members {
	m := &members{config: config}
	for _, endpoint := range config.Endpoints {
		m.all = append(m.all, &member{url: endpoint, conns: map[*tracked]bool{}})
	}
	return m
}

// dial connects to an address of a member, and remembers the connection.
func (m *members) dial(ctx context.Context, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	for _, one := range m.all {
		if u, err := url.Parse(one.url); err == nil && u.Host == address {
			return one.track(c), nil
		}
	}
	return c, nil
}

func (m *member) track(c net.Conn) net.Conn {
	t := &tracked{Conn: c, member: m}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conns[t] = true
	return t
}

// cut closes the connections. Who uses one gets an error, and closes it.
func (m *member) cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		_ = c.Conn.Close()
	}
	clear(m.conns)
}

// tracked is a connection to a member.
type tracked struct {
	net.Conn
	member *member
}

// Close implements net.Conn.
func (t *tracked) Close() error {
	t.member.mu.Lock()
	delete(t.member.conns, t)
	t.member.mu.Unlock()
	return t.Conn.Close()
}

// options make clients connect through dial, and try again soon: a member that was away for long is used at once when it is back.
func (m *members) options() []grpc.DialOption {
	again := backoff.DefaultConfig
	again.MaxDelay = dialTimeout
	return []grpc.DialOption{grpc.WithContextDialer(m.dial), grpc.WithConnectParams(grpc.ConnectParams{Backoff: again, MinConnectTimeout: dialTimeout})}
}

// run asks the members until ctx ends.
func (m *members) run(ctx context.Context) {
	config, ask := m.config, make([]func(context.Context) bool, len(m.all))
	config.DialOptions = m.options()
	for i, one := range m.all {
		config.Endpoints = []string{one.url}
		client, err := clientv3.New(config)
		if err != nil {
			logrus.WithError(err).Warn("cannot check whether the members of etcd answer")
			return
		}
		defer client.Close()
		ask[i] = func(ctx context.Context) bool { return answers(ctx, client.ActiveConnection()) }
	}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			m.round(ctx, ask)
		}
	}
}

// round asks each member once.
func (m *members) round(ctx context.Context, ask []func(context.Context) bool) {
	answered := make([]bool, len(ask))
	var asking sync.WaitGroup
	for i := range ask {
		asking.Go(func() { answered[i] = ask[i](ctx) })
	}
	asking.Wait()
	for i, one := range m.all {
		if one.silent++; answered[i] {
			one.silent = 0
		}
		if one.silent < askEnough || ctx.Err() != nil || !slices.Contains(answered, true) {
			continue
		}
		if one.silent == askEnough {
			logrus.WithField("etcd", one.url).Warn("a member of etcd does not answer: leaving it")
		}
		one.cut()
	}
}

// answers reports whether a member answers, whatever.
func answers(ctx context.Context, conn grpc.ClientConnInterface) bool {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	_, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return false
	}
	return true
}
