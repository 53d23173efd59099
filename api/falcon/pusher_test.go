package falcon_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"github.com/k8sm/k8sm/api/falcon"
	"github.com/k8sm/k8sm/api/falcon/falcontest"
	"github.com/k8sm/k8sm/contrib/test/pipenet"
)

// network is a network in memory whose hosts can be away.
type network map[string]*host

type host struct {
	*pipenet.Listener
	away   atomic.Bool
	dialed atomic.Int32
}

func (n network) dial(_ context.Context, _, address string) (net.Conn, error) {
	h := n[address]
	h.dialed.Add(1)
	if h.away.Load() {
		return nil, errors.New("connection refused")
	}
	return h.Dial("192.0.2.1")
}

// add adds a host with a server.
func (n network) add(t *testing.T, address string, serve func(net.Listener)) *host {
	n[address] = &host{Listener: pipenet.New()}
	t.Cleanup(func() { n[address].Close() })
	go serve(n[address])
	return n[address]
}

// wire gives each connection to serve.
func wire(serve func(net.Conn)) func(net.Listener) {
	return func(l net.Listener) {
		for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}
}

// push starts a pusher, and pushes a round of n elements of the series value{i=…} each minute.
func (n network) push(t *testing.T, target string, perRound int) *test.Hook {
	t.Helper()
	parsed, err := falcon.ParseTarget(target)
	if err != nil {
		t.Fatal(err)
	}
	log, hook := test.NewNullLogger()
	log.SetLevel(logrus.InfoLevel)
	pusher := falcon.New(falcon.Config{Target: parsed, Endpoint: "node-1", Step: time.Minute, Dial: n.dial, Log: log})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := pusher.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	go func() {
		for {
			elements := make([]falcon.Element, perRound)
			for i := range elements {
				elements[i] = falcon.Gauge("value", float64(i), falcon.Tags("i", fmt.Sprint(i)))
			}
			pusher.Push(time.Now(), elements)
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Minute):
			}
		}
	}()
	return hook
}

// said fails unless the log has as many lines as parts, each with its part, and none is long.
func said(t *testing.T, hook *test.Hook, parts ...string) {
	t.Helper()
	entries := hook.AllEntries()
	var lines []string
	for _, e := range entries {
		line, _ := e.String()
		lines = append(lines, line)
	}
	if len(lines) != len(parts) {
		t.Fatalf("want %d log lines, got\n%s", len(parts), strings.Join(lines, ""))
	}
	for i, part := range parts {
		if !strings.Contains(lines[i], part) || len(lines[i]) > 700 {
			t.Errorf("line %d is %q, want %q", i, lines[i], part)
		}
	}
}

// rounds returns how many elements each minute of the test brought.
func rounds(receiver *falcontest.Receiver) map[int64]int {
	counts := map[int64]int{}
	elements, _, _ := receiver.Elements()
	for _, e := range elements {
		counts[e.Timestamp]++
	}
	return counts
}

func bubble(t *testing.T, run func(t *testing.T, n network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) }) // the last one: servers that sleep end
		run(t, network{})
	})
}

func TestReceiverThatIsAwayForTwoMinutesCostsTwoLogLines(t *testing.T) {
	for _, target := range []string{"tcp://a:8433", "http://a:8433/v1/push", "http://a:8433/api/push"} {
		bubble(t, func(t *testing.T, n network) {
			receiver := falcontest.New()
			serve := receiver.ServeRPC
			if strings.HasPrefix(target, "http") {
				serve = func(l net.Listener) { _ = receiver.ServeHTTP(l) }
			}
			a := n.add(t, "a:8433", serve)
			a.away.Store(true)
			hook := n.push(t, target, 450)
			time.Sleep(2*time.Minute + 10*time.Second)
			a.away.Store(false)
			time.Sleep(45 * time.Second)
			said(t, hook, "takes no metrics: retrying until it does", "takes metrics again after 2m")
			if dials := a.dialed.Load(); dials > 20 {
				t.Errorf("%s: dialed %d times in two minutes", target, dials)
			}
			got := rounds(receiver)
			if len(got) != 3 {
				t.Errorf("%s: %d rounds arrived: %v", target, len(got), got)
			}
			for at, count := range got {
				if count != 450 {
					t.Errorf("%s: %d elements of %d arrived", target, count, at)
				}
			}
			if calls := receiver.Calls(); calls != 7 { // 1350 elements
				t.Errorf("%s: %d calls: batches are bounded, and full", target, calls)
			}
		})
	}
}

func TestReceiverThatIsAwayForHoursCostsABoundedQueue(t *testing.T) {
	bubble(t, func(t *testing.T, n network) {
		receiver := falcontest.New()
		a := n.add(t, "a:8433", receiver.ServeRPC)
		a.away.Store(true)
		hook := n.push(t, "tcp://a:8433", 1000)
		time.Sleep(3*time.Hour - 30*time.Second)
		a.away.Store(false)
		time.Sleep(time.Minute)
		said(t, hook, "takes no metrics", "elements were dropped")
		got, _, _ := receiver.Elements()
		if len(got) < 20_000 || len(got) > 21_200 {
			t.Errorf("%d elements arrived, want a full queue", len(got))
		}
		if at := got[200].Timestamp; at < time.Now().Unix()-22*60 {
			t.Errorf("the queue has elements of %s ago: it drops the oldest", time.Since(time.Unix(at, 0)))
		}
	})
}

// faults are servers that misbehave, and what the log says of them.
var faults = map[string]struct {
	serve func(net.Conn)
	want  string
}{
	"it hangs":            {func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, "timeout"},
	"it does not read":    {func(net.Conn) { time.Sleep(10 * time.Second) }, "timeout"},
	"it closes":           {func(net.Conn) {}, ""},
	"it closes after all": {func(c net.Conn) { _, _ = bufio.NewReader(c).ReadString('\n') }, ""},
	"it speaks English":   {answering("what do you want?\n"), ""},
	"it answers null":     {answering("null\n"), ""},
	"an array":            {answering("[[[[[\n"), ""},
	"no result":           {answering(`{"id":0,"result":null,"error":null}` + "\n"), ""},
	"a result of text":    {answering(`{"id":0,"result":"ok","error":null}` + "\n"), ""},
	"an error":            {answering(`{"id":0,"result":null,"error":"the graph is away"}` + "\n"), "the graph is away"},
	"a long error":        {answering(`{"id":0,"result":null,"error":"` + strings.Repeat("long", 2000) + `"}` + "\n"), "longlong"},
	"an error of objects": {answering(`{"id":0,"result":null,"error":{"a":1}}` + "\n"), ""},
	"another's answer":    {answering(`{"id":77,"result":{"Invalid":0},"error":null}` + "\n"), "timeout"},
	"a long answer":       {flooding(`{"id":0,"result":{"Message":"`, "x"), "more than"},
	"deep nesting":        {flooding(`{"id":0,"result":`, "["), ""},
	"many answers":        {flooding("", `{"id":77,"result":{"Invalid":0},"error":null}`+"\n"), "more than"},
	"HTTP of a stranger":  {answering("HTTP/1.1 400 Bad Request\r\n\r\n"), ""},
}

// answering reads a request and answers with a text.
func answering(text string) func(net.Conn) {
	return func(c net.Conn) {
		reader := bufio.NewReader(c)
		for {
			if _, err := reader.ReadString('\n'); err != nil {
				return
			}
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
		}
	}
}

// flooding reads a request and answers with a beginning and then, up to 1 GB, more.
func flooding(beginning, more string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = bufio.NewReader(c).ReadString('\n')
		chunk := bytes.Repeat([]byte(more), max(1, (1<<20)/len(more)))
		_, err := io.WriteString(c, beginning)
		for range 1024 {
			if err == nil {
				_, err = c.Write(chunk)
			}
		}
	}
}

func TestTransferThatMisbehavesCostsOneLogLine(t *testing.T) {
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) { misbehaves(t, "tcp://a:80", fault.serve, fault.want) })
	}
}

// misbehaves runs a pusher for five minutes against a server at a:80, and compares the only log line and the memory that it may cost.
func misbehaves(t *testing.T, target string, serve func(net.Conn), want string) {
	t.Helper()
	before := allocated()
	bubble(t, func(t *testing.T, n network) {
		n.add(t, "a:80", wire(serve))
		hook := n.push(t, target, 3)
		time.Sleep(5 * time.Minute)
		said(t, hook, want)
	})
	if grown := allocated() - before; grown > 64<<20 {
		t.Errorf("it cost %d MB", grown>>20)
	}
}

// allocated returns how many bytes have ever been allocated.
func allocated() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.TotalAlloc
}

func TestAgentThatMisbehavesCostsOneLogLine(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nConnection: close\r\n"
	for name, fault := range map[string]struct {
		serve func(net.Conn)
		want  string
	}{
		"it hangs":            {func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, "deadline"},
		"it hangs later":      {responding(ok + "Content-Length: 9\r\n\r\nsucc"), "deadline"},
		"it closes":           {func(net.Conn) {}, ""},
		"another page":        {responding(ok + "Content-Length: 6\r\n\r\n<html>"), "does not answer as open-falcon does"},
		"an empty page":       {responding(ok + "Content-Length: 0\r\n\r\n"), "does not answer as open-falcon does"},
		"another object":      {responding(ok + "Content-Length: 2\r\n\r\n{}"), "does not answer as open-falcon does"},
		"an error of its own": {responding(ok + "Content-Length: 15\r\n\r\n" + `{"msg":"wrong"}`), "wrong"},
		"it refuses":          {responding("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 18\r\n\r\nconnot decode body"), "connot decode body"},
		"not found":           {responding("HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"), "status 404"},
		"a redirect":          {responding("HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: http://b/\r\nContent-Length: 0\r\n\r\n"), "status 302"},
		"a long body":         {responding(ok+"Content-Length: 1073741824\r\n\r\n", "x"), "does not answer"},
		"a long header":       {responding(ok+"X: ", "x"), "headers exceeded"},
		"a long line":         {responding("HTTP/1.1 200 ", "x"), ""},
		"transfer's protocol": {responding(`{"id":0,"result":{},"error":null}` + "\n"), ""},
	} {
		t.Run(name, func(t *testing.T) { misbehaves(t, "http://a/v1/push", fault.serve, fault.want) })
	}
}

// responding reads a request and answers with a text and then, up to 1 GB, more.
func responding(text string, more ...string) func(net.Conn) {
	return func(c net.Conn) {
		reader := bufio.NewReader(c)
		for line := ""; line != "\r\n"; {
			var err error
			if line, err = reader.ReadString('\n'); err != nil {
				return
			}
		}
		go func() { _, _ = io.Copy(io.Discard, reader) }()
		_, err := io.WriteString(c, text)
		chunk := bytes.Repeat([]byte(strings.Join(more, "")), 1<<20)
		for i := 0; i < 1024 && err == nil && len(more) > 0; i++ {
			_, err = c.Write(chunk)
		}
		if len(more) == 0 {
			time.Sleep(10 * time.Second)
		}
	}
}

func TestAnotherTransferTakesOver(t *testing.T) {
	bubble(t, func(t *testing.T, n network) {
		receiver := falcontest.New()
		a, b := n.add(t, "a:8433", receiver.ServeRPC), n.add(t, "b:8433", receiver.ServeRPC)
		hook := n.push(t, "tcp://a:8433,b:8433", 1)
		for minute, away := range []*host{a, b, a, b} {
			for _, h := range n {
				h.away.Store(h == away)
			}
			time.Sleep(50 * time.Second)
			if got := len(rounds(receiver)); got != minute+1 {
				t.Fatalf("%d rounds arrived after %d minutes", got, minute+1)
			}
			time.Sleep(10 * time.Second)
		}
		said(t, hook)
	})
}

func TestConnectionIsKeptAndAnEndedOneReplaced(t *testing.T) {
	bubble(t, func(t *testing.T, n network) {
		receiver := falcontest.New()
		serving := make(chan net.Conn, 4)
		a := n.add(t, "a:8433", func(l net.Listener) { receiver.ServeRPC(noting{l, serving}) })
		hook := n.push(t, "tcp://a:8433", 1)
		time.Sleep(10*time.Minute - time.Second)
		if dials := a.dialed.Load(); dials != 1 {
			t.Errorf("dialed %d times in ten minutes", dials)
		}
		(<-serving).Close() // as a transfer that restarts
		time.Sleep(time.Minute)
		if got, dials := len(rounds(receiver)), a.dialed.Load(); got != 11 || dials != 2 {
			t.Errorf("%d rounds arrived by %d connections", got, dials)
		}
		said(t, hook)
	})
}

// noting tells of each connection.
type noting struct {
	net.Listener
	accepted chan<- net.Conn
}

func (n noting) Accept() (net.Conn, error) {
	conn, err := n.Listener.Accept()
	if err == nil {
		n.accepted <- conn
	}
	return conn, err
}

func TestInvalidElementsAreSaidOnce(t *testing.T) {
	bubble(t, func(t *testing.T, n network) {
		n.add(t, "a:8433", wire(func(c net.Conn) {
			reader := bufio.NewReader(c)
			for id := 0; ; id++ {
				if _, err := reader.ReadString('\n'); err != nil {
					return
				}
				fmt.Fprintf(c, `{"id":%d,"result":{"Message":"ok","Total":3,"Invalid":2,"Latency":0},"error":null}`+"\n", id)
			}
		}))
		hook := n.push(t, "tcp://a:8433", 3)
		time.Sleep(10 * time.Minute)
		said(t, hook, "counts 2 of 3 elements as invalid")
	})
	bubble(t, func(t *testing.T, n network) {
		receiver := falcontest.New()
		n.add(t, "a:80", func(l net.Listener) { _ = receiver.ServeHTTP(l) })
		log, hook := test.NewNullLogger()
		target, err := falcon.ParseTarget("http://a/api/push")
		if err != nil {
			t.Fatal(err)
		}
		pusher := falcon.New(falcon.Config{Target: target, Endpoint: "my cluster", Step: time.Second, Dial: n.dial, Log: log})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- pusher.Run(ctx) }()
		for range 3 {
			pusher.Push(time.Now(), []falcon.Element{
				falcon.Gauge(strings.Repeat("long", 128), 1, ""), falcon.Counter("kept", 2, ""), {Metric: "no.type"},
			})
			time.Sleep(pusher.Step())
		}
		cancel()
		<-done
		said(t, hook, "a metric is not sent to open-falcon: metric and tags have 512 bytes", "6 elements for open-falcon were invalid in all")
		got, invalid, _ := receiver.Elements()
		if len(got) != 3 || invalid != 0 || got[2].Step != falcon.MinStep || got[2].Endpoint != "my_cluster" || got[2].CounterType != falcon.TypeCounter {
			t.Errorf("%d invalid, and %+v", invalid, got)
		}
	})
}

func TestRefusedElementsDoNotKeepOthersBack(t *testing.T) {
	bubble(t, func(t *testing.T, n network) {
		var requests atomic.Int32
		n.add(t, "a:80", wire(func(c net.Conn) {
			if requests.Add(1) == 1 {
				responding("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 18\r\n\r\nconnot decode body")(c)
				return
			}
			responding("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 7\r\n\r\nsuccess")(c)
		}))
		hook := n.push(t, "http://a/v1/push", 250)
		time.Sleep(30 * time.Second)
		said(t, hook, "connot decode body", "again after 0s: 200 elements were dropped")
		if got := requests.Load(); got != 2 {
			t.Errorf("%d requests, want 2: one for each batch", got)
		}
	})
}

func TestRunEndsWithItsContextDuringACall(t *testing.T) {
	for _, target := range []string{"tcp://a:80", "http://a/v1/push"} {
		bubble(t, func(t *testing.T, n network) {
			n.add(t, "a:80", wire(func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }))
			parsed, err := falcon.ParseTarget(target)
			if err != nil {
				t.Fatal(err)
			}
			pusher := falcon.New(falcon.Config{Target: parsed, Endpoint: "e", Dial: n.dial})
			pusher.Push(time.Now(), []falcon.Element{falcon.Gauge("m", 1, "")})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			began := time.Now()
			if err := pusher.Run(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > time.Second {
				t.Errorf("%s: %v after %s", target, err, time.Since(began))
			}
		})
	}
}
