// Package falcontest has a receiver of open-falcon's elements for tests: the answers of an agent and of a transfer. The tests of package
// falcon hold it to what the real ones answered.
package falcontest

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/rpc"
	"net/rpc/jsonrpc"
	"strconv"
	"sync"
	"testing"

	"github.com/k8sm/k8sm/api/falcon"
)

// Receiver keeps the valid elements that it gets. Its methods may be called concurrently.
type Receiver struct {
	rpc *rpc.Server

	mu       sync.Mutex // guards the rest
	elements []falcon.Element
	invalid  int
	calls    int
	news     chan struct{} // closed at the next call
}

// New returns a receiver that listens nowhere yet.
func New() *Receiver {
	r := &Receiver{rpc: rpc.NewServer(), news: make(chan struct{})}
	if err := r.rpc.RegisterName("Transfer", &transfer{r}); err != nil {
		panic(err) // a mistake in this package
	}
	return r
}

// Listen serves HTTP and JSON-RPC on free ports of 127.0.0.1 until the test ends, and returns the targets.
func (r *Receiver) Listen(t testing.TB) (http, tcp string) {
	t.Helper()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	forHTTP, forRPC := listen(), listen()
	go func() { _ = r.ServeHTTP(forHTTP) }()
	go r.ServeRPC(forRPC)
	return "http://" + forHTTP.Addr().String() + "/v1/push", "tcp://" + forRPC.Addr().String()
}

// ServeRPC answers as port 8433 of a transfer until the listener is closed.
func (r *Receiver) ServeRPC(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go r.rpc.ServeCodec(jsonrpc.NewServerCodec(conn))
	}
}

// ServeHTTP answers as port 1988 of an agent at /v1/push, and as port 6060 of a transfer at /api/push, until the listener is closed.
func (r *Receiver) ServeHTTP(l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/push", func(w http.ResponseWriter, request *http.Request) {
		if _, ok := r.read(w, request); ok {
			_, _ = io.WriteString(w, "success")
		}
	})
	mux.HandleFunc("/api/push", func(w http.ResponseWriter, request *http.Request) {
		if answer, ok := r.read(w, request); ok {
			_ = json.NewEncoder(w).Encode(map[string]any{"msg": "success", "data": answer})
		}
	})
	return (&http.Server{Handler: mux}).Serve(l) //nolint:gosec // a test's
}

func (r *Receiver) read(w http.ResponseWriter, request *http.Request) (Answer, bool) {
	if request.ContentLength == 0 {
		http.Error(w, "body is blank", http.StatusBadRequest)
		return Answer{}, false
	}
	var list []*Sent
	if err := json.NewDecoder(request.Body).Decode(&list); err != nil {
		http.Error(w, "connot decode body", http.StatusBadRequest) // as the real one spells it
		return Answer{}, false
	}
	return r.take(list), true
}

// Sent is an element as it comes: its value may be anything.
type Sent struct {
	falcon.Element
	Value any `json:"value"`
}

// Answer is what a transfer says of elements.
type Answer struct {
	Message                 string
	Total, Invalid, Latency int
}

// take keeps the valid elements.
func (r *Receiver) take(list []*Sent) Answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	answer := Answer{Message: "ok", Total: len(list)}
	for _, sent := range list {
		if e, ok := sent.valid(); ok {
			r.elements = append(r.elements, e)
		} else {
			answer.Invalid++
		}
	}
	r.invalid += answer.Invalid
	r.calls++
	close(r.news)
	r.news = make(chan struct{})
	return answer
}

// valid returns the element with its value as a number, if it has one and the rest is valid, too.
func (s *Sent) valid() (e falcon.Element, ok bool) {
	if s == nil {
		return e, false
	}
	e = s.Element
	switch value := s.Value.(type) {
	case float64:
		e.Value = value
	case string:
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return e, false
		}
		e.Value = number
	default:
		return e, false
	}
	return e, e.Validate() == nil
}

// Elements returns the valid elements so far, and how many invalid ones came. News is closed when more of either come.
func (r *Receiver) Elements() (valid []falcon.Element, invalid int, news <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.elements[:len(r.elements):len(r.elements)], r.invalid, r.news
}

// Calls returns how many calls brought elements.
func (r *Receiver) Calls() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls
}

// transfer has the methods of a transfer's JSON-RPC.
type transfer struct{ r *Receiver }

// Update takes elements.
func (t *transfer) Update(list []*Sent, answer *Answer) error {
	*answer = t.r.take(list)
	return nil
}

// Pong is the answer to Ping.
type Pong struct {
	Code int `json:"code"`
}

// Ping answers.
func (*transfer) Ping(_ struct{}, _ *Pong) error { return nil }
