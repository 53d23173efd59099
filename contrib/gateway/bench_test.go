package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/k8sm/k8sm/api/statedir"
)

// peerVariable makes this program the other side of BenchmarkWatches: the API server and the clients, whose memory is not measured.
const peerVariable = "K8SM_GATEWAY_BENCHMARK_PEER"

// BenchmarkWatches opens as many watches as may be open, and tells what one costs the gateway: memory of the Go heap and stacks, and
// goroutines. Then it tells how long one event takes to all clients. One more watch must be refused.
func BenchmarkWatches(b *testing.B) {
	for b.Loop() {
		peer := startPeer(b)
		before := measure()
		s, err := Listen(Config{Address: "127.0.0.1:0", MaxWatches: DefaultMaxWatches, StateDir: statedir.Dir(peer.ask("dir"))})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		ended, ready := make(chan error, 1), make(chan struct{})
		go func() { ended <- s.Run(ctx, administrator(b, statedir.Dir(peer.ask("dir"))), func() { close(ready) }) }()
		<-ready
		peer.ask("connect " + s.Addr())
		took := peer.ask("open " + strconv.Itoa(DefaultMaxWatches))
		after := measure()
		b.ReportMetric(float64(after.memory-before.memory)/DefaultMaxWatches, "B/watch")
		b.ReportMetric(float64(after.goroutines-before.goroutines)/DefaultMaxWatches, "goroutines/watch")
		b.ReportMetric(seconds(b, took), "s/opening")
		b.ReportMetric(seconds(b, peer.ask("change")), "s/event")
		if status := peer.ask("more"); status != "429" {
			b.Errorf("one watch more gets %s", status)
		}
		peer.stop()
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}
}

// used is what this process has.
type used struct {
	memory     int64 // bytes
	goroutines int
}

func measure() used {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return used{int64(m.HeapAlloc + m.StackInuse), runtime.NumGoroutine()}
}

func seconds(b *testing.B, text string) float64 {
	d, err := time.ParseDuration(text)
	if err != nil {
		b.Fatal(err)
	}
	return d.Seconds()
}

// peer is the process on the other side. It answers each line with one.
type peer struct {
	b     *testing.B
	cmd   *exec.Cmd
	to    io.WriteCloser
	lines *bufio.Scanner
}

func startPeer(b *testing.B) *peer {
	cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run=^TestPeerOfTheBenchmark$", "-test.v")
	cmd.Env, cmd.Stderr = append(os.Environ(), peerVariable+"=1"), os.Stderr
	to, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	from, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	return &peer{b, cmd, to, bufio.NewScanner(from)}
}

func (p *peer) ask(line string) string {
	p.b.Helper()
	fmt.Fprintln(p.to, line)
	for p.lines.Scan() {
		if answer, ok := strings.CutPrefix(p.lines.Text(), "peer: "); ok {
			return answer
		}
	}
	p.b.Fatalf("the peer has no answer to %q: %v", line, p.cmd.Wait())
	return ""
}

func (p *peer) stop() {
	p.to.Close()
	if err := p.cmd.Wait(); err != nil {
		p.b.Errorf("the peer: %v", err)
	}
}

// TestPeerOfTheBenchmark is the other side of BenchmarkWatches, and passes at once without it.
func TestPeerOfTheBenchmark(t *testing.T) {
	if os.Getenv(peerVariable) == "" {
		return
	}
	api := newFakeAPI(t)
	clients := watchers{t: t, got: make(chan error, DefaultMaxWatches)}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		command, argument, _ := strings.Cut(lines.Text(), " ")
		answer := ""
		began := time.Now()
		switch command {
		case "dir":
			answer = string(api.dir)
		case "connect":
			clients.address = argument
		case "open":
			count, _ := strconv.Atoi(argument)
			clients.open(count)
			answer = time.Since(began).String()
		case "change":
			api.put(aPod("default", "web", nil))
			clients.await()
			answer = time.Since(began).String()
		case "more":
			answer = clients.one()
		}
		fmt.Println("peer: " + answer)
	}
	clients.close()
}

// watchers are clients with a watch each.
type watchers struct {
	t       *testing.T
	address string
	got     chan error // whether each got an event
	mu      sync.Mutex // guards conns
	conns   []net.Conn
}

const watchRequest = "GET /api/v1beta1/watch/pods HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer alices-token\r\n\r\n"

func (w *watchers) open(count int) {
	places := make(chan struct{}, 100)
	var all sync.WaitGroup
	for range count {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			conn, err := net.Dial("tcp", w.address)
			if err == nil {
				_, err = io.WriteString(conn, watchRequest)
			}
			if err != nil {
				w.t.Error(err)
				return
			}
			w.mu.Lock()
			w.conns = append(w.conns, conn)
			w.mu.Unlock()
			buffer := make([]byte, 512)
			if n, err := conn.Read(buffer); err != nil || !strings.HasPrefix(string(buffer[:n]), "HTTP/1.1 200 OK") {
				w.t.Errorf("%q, %v", buffer[:n], err)
			}
			go func() {
				_, err := conn.Read(buffer)
				w.got <- err
			}()
		})
	}
	all.Wait()
}

func (w *watchers) await() {
	for range w.conns {
		if err := <-w.got; err != nil {
			w.t.Error(err)
		}
	}
}

// one tries one watch more.
func (w *watchers) one() string {
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	fmt.Fprint(conn, watchRequest)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err.Error()
	}
	response.Body.Close()
	return strconv.Itoa(response.StatusCode)
}

func (w *watchers) close() {
	for _, conn := range w.conns {
		conn.Close()
	}
}
