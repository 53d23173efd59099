package balancer

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// authority signs the servers' certificates.
type authority struct {
	pem  []byte
	pair tls.Certificate // of a server
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, DNSNames: []string{ServerName}, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return authority{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
}

func (a authority) pool() (*x509.CertPool, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.pem)
	return roots, nil
}

// server is an API server that says its name, and at /hold nothing more.
type server struct {
	*httptest.Server
	name     string
	notReady atomic.Bool
	ahead    atomic.Int64 // of this machine's clock, in nanoseconds
	asked    atomic.Int32 // for /readyz
	ice      *ice
}

// ice lets connections stand still: the machine answers, the process does not.
type ice struct {
	net.Listener
	mu     sync.Mutex // guards frozen
	frozen chan struct{}
}

func (i *ice) Accept() (net.Conn, error) {
	c, err := i.Listener.Accept()
	return iceConn{c, i}, err
}

type iceConn struct {
	net.Conn
	ice *ice
}

func (c iceConn) Read(data []byte) (int, error) {
	n, err := c.Conn.Read(data)
	c.ice.mu.Lock()
	frozen := c.ice.frozen
	c.ice.mu.Unlock()
	if frozen != nil {
		<-frozen
	}
	return n, err
}

func (s *server) freeze() (thaw func()) {
	s.ice.mu.Lock()
	defer s.ice.mu.Unlock()
	s.ice.frozen = make(chan struct{})
	frozen := s.ice.frozen
	return sync.OnceFunc(func() {
		s.ice.mu.Lock()
		defer s.ice.mu.Unlock()
		s.ice.frozen = nil
		close(frozen)
	})
}

// start starts a server at the address, by default a free one.
func (a authority) start(t *testing.T, name, address string) *server {
	t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{name: name, ice: &ice{Listener: l}}
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		s.asked.Add(1)
		w.Header().Set("Date", time.Now().Add(time.Duration(s.ahead.Load())).UTC().Format(http.TimeFormat))
		if s.notReady.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, name) })
	s.Server = &httptest.Server{Listener: s.ice, Config: &http.Server{Handler: mux}, TLS: &tls.Config{Certificates: []tls.Certificate{a.pair}}}
	s.StartTLS()
	t.Cleanup(s.kill)
	return s
}

// kill ends the server and its connections, as kill -9.
func (s *server) kill() {
	s.CloseClientConnections()
	s.Close()
}

func (s *server) address() string { return s.Listener.Addr().String() }

// balanced starts a balancer.
func (a authority) balanced(t *testing.T, file string, seeds ...string) *Balancer {
	t.Helper()
	b, err := New(Config{Seeds: seeds, CAs: a.pool})
	if err != nil {
		t.Fatal(err)
	}
	if file != "" {
		b.Remember(file)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = b.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return b
}

// line is a connection through a balancer.
type line struct {
	*tls.Conn
	from *bufio.Reader
}

// call connects, and returns the name of the server that answers.
func (a authority) call(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error)) (name string, on *line, err error) {
	c, err := dial(ctx, "", "")
	if err != nil {
		return "", nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.pem)
	on = &line{Conn: tls.Client(c, &tls.Config{RootCAs: roots, ServerName: ServerName})}
	on.from = bufio.NewReader(on.Conn)
	if err := on.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return "", nil, err
	}
	name, err = on.ask()
	return name, on, err
}

// ask asks for the server's name on a connection that stays open.
func (l *line) ask() (string, error) {
	if _, err := fmt.Fprintf(l.Conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(l.from, nil)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	name, err := bufio.NewReader(response.Body).ReadString('\n')
	return strings.TrimSpace(name), err
}

// names returns who answers a number of calls, sorted and without repetition. Calls may fail.
func (a authority) names(t *testing.T, b *Balancer, calls int) (names []string) {
	t.Helper()
	for range calls {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		name, on, err := a.call(ctx, b.Dial)
		cancel()
		if err != nil {
			name = "failed"
			t.Log(err)
		} else {
			_ = on.Close()
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (b *Balancer) healthOf(address string) health {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m := b.members[address]; m != nil {
		return m.health
	}
	return unknown
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain until %s", what)
		case <-tick.C:
		}
	}
}

func (b *Balancer) await(t *testing.T, address string, want health) {
	t.Helper()
	until(t, fmt.Sprintf("%s has health %d", address, want), func() bool { return b.healthOf(address) == want })
}

func TestCallersAreSharedAmongTheServersThatAnswer(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	one, two, dead := ca.start(t, "one", ""), ca.start(t, "two", ""), ca.start(t, "dead", "")
	dead.kill()
	b := ca.balanced(t, "", dead.address())
	b.Set([]string{one.address(), two.address(), dead.address()})
	if diff := cmp.Diff([]string{"one", "two"}, ca.names(t, b, 30)); diff != "" {
		t.Error(diff)
	}
	one.kill()
	if diff := cmp.Diff([]string{"two"}, ca.names(t, b, 30)); diff != "" {
		t.Errorf("after one was killed: %s", diff)
	}
}

func TestBalancerIsReadyWhileAServerIs(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	one, two := ca.start(t, "one", ""), ca.start(t, "two", "")
	b := ca.balanced(t, "", one.address(), two.address())
	until(t, "it is ready", func() bool { return b.Ready() == nil })
	one.kill()
	b.await(t, one.address(), failing)
	if err := b.Ready(); err != nil {
		t.Errorf("with the second server: %v", err)
	}
	two.notReady.Store(true)
	until(t, "it is not ready", func() bool { return b.Ready() != nil })
	two.notReady.Store(false)
	until(t, "it is ready again", func() bool { return b.Ready() == nil })
}

func TestConnectionsOfAServerThatHangsAreCut(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	one, two := ca.start(t, "one", ""), ca.start(t, "two", "")
	b := ca.balanced(t, "", one.address())
	if name, on, err := ca.call(t.Context(), b.Dial); err != nil || name != "one" {
		t.Fatalf("%s, %v", name, err)
	} else {
		defer on.Close()
		b.Set([]string{one.address(), two.address()})
		b.await(t, two.address(), ready)
		thaw := one.freeze()
		defer thaw()
		begin := time.Now()
		if _, err := on.ask(); err == nil {
			t.Error("a server that hangs answers")
		}
		took := time.Since(begin)
		t.Logf("cut after %s", took)
		if took > 8*time.Second {
			t.Error("that is too late for a node's heartbeat")
		}
		if diff := cmp.Diff([]string{"two"}, ca.names(t, b, 10)); diff != "" {
			t.Error(diff)
		}
		thaw()
		b.await(t, one.address(), ready)
		if diff := cmp.Diff([]string{"one", "two"}, ca.names(t, b, 30)); diff != "" {
			t.Errorf("when it goes on: %s", diff)
		}
	}
}

func TestOnlyServersConnectionsAreNotCut(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	one := ca.start(t, "one", "")
	b := ca.balanced(t, "", one.address())
	_, on, err := ca.call(t.Context(), b.Dial)
	if err != nil {
		t.Fatal(err)
	}
	defer on.Close()
	thaw := one.freeze()
	b.await(t, one.address(), failing)
	thaw()
	if name, err := on.ask(); name != "one" || err != nil {
		t.Errorf("it was only busy: got %q, %v", name, err)
	}
}

// blackHole returns an address where packets vanish: the kernel drops those to a listener whose queue is full.
func blackHole(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for range 10 {
		c, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	t.Fatal("the queue does not get full")
	return ""
}

func TestServerThatSwallowsPacketsCostsTwoSecondsOnce(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	hole, two := blackHole(t), ca.start(t, "two", "")
	b := ca.balanced(t, "", two.address())
	b.Set([]string{hole}) // preferred
	begin := time.Now()
	if diff := cmp.Diff([]string{"two"}, ca.names(t, b, 1)); diff != "" {
		t.Error(diff)
	}
	if took := time.Since(begin); took > dialTimeout+time.Second {
		t.Errorf("the first call took %s", took)
	}
	b.await(t, two.address(), ready)
	begin = time.Now()
	if diff := cmp.Diff([]string{"two"}, ca.names(t, b, 20)); diff != "" {
		t.Error(diff)
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("20 more calls took %s", took)
	}
}

func TestServerThatIsNotReadyIsAskedLast(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	one, two := ca.start(t, "one", ""), ca.start(t, "two", "")
	one.notReady.Store(true)
	b := ca.balanced(t, "", one.address(), two.address())
	b.await(t, one.address(), failing)
	b.await(t, two.address(), ready)
	if diff := cmp.Diff([]string{"two"}, ca.names(t, b, 20)); diff != "" {
		t.Error(diff)
	}
	two.kill()
	if diff := cmp.Diff([]string{"one"}, ca.names(t, b, 3)); diff != "" {
		t.Errorf("none is ready, and one serves: %s", diff)
	}
}

func TestAddressThatSomebodyElseHasIsNotReady(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	one, foreign := ca.start(t, "one", ""), other.start(t, "foreign", "")
	b := ca.balanced(t, "", one.address())
	b.Set([]string{one.address(), foreign.address()})
	b.await(t, one.address(), ready)
	b.await(t, foreign.address(), failing)
	if diff := cmp.Diff([]string{"one"}, ca.names(t, b, 20)); diff != "" {
		t.Error(diff)
	}
	if n := foreign.asked.Load(); n != 0 {
		t.Errorf("the foreign server was asked %d times", n)
	}
}

func TestServersThatAllWentAndCameBackAreFound(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	one, two := ca.start(t, "one", ""), ca.start(t, "two", "")
	b := ca.balanced(t, "", one.address(), two.address())
	one.kill()
	two.kill()
	_, err := b.Dial(t.Context(), "", "")
	if err == nil || !strings.Contains(err.Error(), one.address()) || !strings.Contains(err.Error(), two.address()) {
		t.Errorf("the error names not all servers: %v", err)
	}
	b.await(t, two.address(), failing)
	ca.start(t, "two again", two.address())
	if diff := cmp.Diff([]string{"two again"}, ca.names(t, b, 3)); diff != "" {
		t.Errorf("before it was probed: %s", diff)
	}
	b.await(t, two.address(), ready)
}

func TestServersAreRememberedForTheNextStart(t *testing.T) {
	t.Parallel()
	ca, file := newAuthority(t), filepath.Join(t.TempDir(), "servers.json")
	first, one, two := ca.start(t, "first", ""), ca.start(t, "one", ""), ca.start(t, "two", "")
	b := ca.balanced(t, file, first.address())
	if diff := cmp.Diff([]string{first.address()}, b.Servers()); diff != "" {
		t.Error(diff)
	}
	b.Set([]string{first.address(), one.address()})
	b.Set([]string{first.address(), two.address()}) // one left
	b.Set(nil)                                      // no API server has written it
	want := slices.Sorted(slices.Values([]string{first.address(), two.address()}))
	if diff := cmp.Diff(want, b.Servers()); diff != "" {
		t.Error(diff)
	}
	first.kill()
	again := ca.balanced(t, file, first.address())
	if diff := cmp.Diff([]string{"two"}, ca.names(t, again, 10)); diff != "" {
		t.Errorf("while the first is away: %s", diff)
	}
	two.kill()
	if diff := cmp.Diff([]string{"one"}, ca.names(t, again, 1)); diff != "" {
		t.Errorf("while all others are away: %s", diff)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := ca.balanced(t, file, first.address()).Servers(); len(got) != 1 {
		t.Errorf("a broken file gives %q", got)
	}
}

func TestOnlyTheLastServersThatLeftAreRemembered(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	b, err := New(Config{Seeds: []string{"192.0.2.1:1"}, CAs: ca.pool})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 * mostFormer {
		b.Set([]string{fmt.Sprintf("127.0.0.1:%d", n+1)})
	}
	want := memory{Listed: []string{fmt.Sprintf("127.0.0.1:%d", 3*mostFormer)}}
	for n := 2*mostFormer - 1; n < 3*mostFormer-1; n++ {
		want.Former = append(want.Former, fmt.Sprintf("127.0.0.1:%d", n+1))
	}
	slices.Sort(want.Former)
	if diff := cmp.Diff(want, b.known()); diff != "" {
		t.Error(diff)
	}
	if got := len(b.order()); got != 1+1+mostFormer {
		t.Errorf("%d servers are tried", got)
	}
}

func TestServerForLocalProgramsPassesBothWaysAndEnds(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	one := ca.start(t, "one", "")
	b := ca.balanced(t, "", one.address())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Serve(ctx, l) }()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	}
	name, on, err := ca.call(t.Context(), dial)
	if err != nil || name != "one" {
		t.Fatalf("got %q, %v", name, err)
	}
	one.kill()
	if _, err := on.ask(); err == nil {
		t.Error("the caller does not see that the server is gone")
	}
	two := ca.start(t, "two", one.address())
	if name, on, err = ca.call(t.Context(), dial); err != nil || name != "two" {
		t.Fatalf("got %q, %v", name, err)
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := on.ask(); err == nil {
		t.Error("a connection outlives it")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.members[two.address()].conns); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

func TestBalancerNeedsACAAndASeed(t *testing.T) {
	ca := newAuthority(t)
	for _, cfg := range []Config{{Seeds: []string{"192.0.2.1:6443"}}, {CAs: ca.pool}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}
