package localmesos

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/k8sm/k8sm/api/connlimit"
	"github.com/k8sm/k8sm/contrib/localmesos/wire"
)

// maxBody is the largest size of a call. The largest is an executor's SUBSCRIBE with unacknowledged tasks.
const maxBody = 64 << 20

// endpoint serves one of the two streaming APIs (scheduler, executor) over HTTP
// (https://mesos.apache.org/documentation/latest/scheduler-http-api/, …/executor-http-api/).
type endpoint[C any, M interface {
	*C
	wire.Message
}] struct {
	owner    *owner
	streams  *streams
	faults   *Faults
	path     Path
	streamID bool // whether the answer to SUBSCRIBE has a Mesos-Stream-Id
	// recovering is what Mesos answers while it recovers.
	recovering string
	// problem returns why a call is malformed or not allowed to the authenticated principal, or "".
	problem func(call M, principal string) string
	// event converts a call to an event of the state machine. stream is the call's stream, or the new one for SUBSCRIBE.
	event func(call M, stream string, who identity) event
	// kind returns a call's type, and whether it is SUBSCRIBE.
	kind func(M) (kind string, subscribes bool)
}

func (p endpoint[C, M]) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	call, codec, refusal := p.read(r)
	if refusal.status != 0 {
		http.Error(w, refusal.text, refusal.status)
		return
	}
	kind, subscribes := p.kind(call)
	v := p.faults.judge(p.path, kind)
	if v.delay > 0 {
		select {
		case <-time.After(v.delay):
		case <-r.Context().Done():
			return
		}
	}
	switch {
	case v.status != 0:
		http.Error(w, p.recovering, v.status)
		return
	case subscribes && v.times > 0 && !v.silent:
		p.subscribe(w, r, call, codec)
		return
	case subscribes:
		v.times = 0
	}
	a := accepted
	for range v.times {
		a = p.owner.ask(p.event(call, r.Header.Get("Mesos-Stream-Id"), identityOf(r)))
	}
	if v.silent {
		select {
		case <-r.Context().Done():
		case <-p.owner.quit:
		}
		panic(http.ErrAbortHandler) // closes the connection without an answer
	}
	if subscribes {
		return
	}
	if a.text != "" {
		http.Error(w, a.text, a.status)
		return
	}
	w.WriteHeader(a.status)
}

// read returns the call, or an HTTP status and the reason.
func (p endpoint[C, M]) read(r *http.Request) (M, wire.Codec, answer) {
	call := M(new(C))
	codec, refusal := readCall(r, call)
	if refusal.status != 0 {
		return nil, 0, refusal
	}
	if problem := p.problem(call, identityOf(r).principal); problem != "" {
		return nil, 0, refused(problem)
	}
	return call, codec, answer{}
}

// readCall reads the call of a request and returns its encoding, or an HTTP status and the reason.
func readCall(r *http.Request, call wire.Message) (wire.Codec, answer) {
	if r.Method != http.MethodPost {
		return 0, answer{http.StatusMethodNotAllowed, fmt.Sprintf("405 Method Not Allowed. Expecting one of { 'POST' }, but received '%s'.", r.Method)}
	}
	contentType := r.Header.Get("Content-Type")
	if contentType == "" {
		return 0, refused("Expecting 'Content-Type' to be present")
	}
	codec, ok := wire.CodecOf(contentType)
	if !ok {
		return 0, answer{http.StatusUnsupportedMediaType, "Expecting 'Content-Type' of application/json or application/x-protobuf"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		return 0, refused("Failed to read the body: " + err.Error())
	}
	if err := codec.Decode(body, call); err != nil {
		return 0, refused(err.Error())
	}
	return codec, answer{}
}

// subscribe answers with a stream, in the encoding of the Accept header or, without one, of the call.
func (p endpoint[C, M]) subscribe(w http.ResponseWriter, r *http.Request, call M, codec wire.Codec) {
	if c, ok := wire.CodecOf(r.Header.Get("Accept")); ok {
		codec = c
	}
	if p.streamID && r.Header.Get("Mesos-Stream-Id") != "" {
		http.Error(w, "Subscribe calls should not include the 'Mesos-Stream-Id' header", http.StatusBadRequest)
		return
	}
	p.streams.hold(w, r, p.owner, holding{
		codec: codec, encode: wire.Codec.Encode, streamID: p.streamID,
		subscribe: func(stream string) event { return p.event(call, stream, identityOf(r)) },
	})
}

// server is a listener with its HTTP server.
type server struct {
	listener net.Listener
	http     *http.Server
	wg       sync.WaitGroup
}

// listen binds the address at once, so that a used port is an error before anything runs.
func listen(ip string, port int, what string) (net.Listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(ip, fmt.Sprint(port)))
	if err != nil {
		return nil, fmt.Errorf("the %s cannot listen on %s:%d (stop what uses that port, or choose another with --port): %w", what, ip, port, err)
	}
	return l, nil
}

// serve serves h, by TLS if configured. Like Mesos, it speaks only HTTP/1.1.
func serve(l net.Listener, h http.Handler, secure *tls.Config) *server {
	if secure != nil {
		l = tls.NewListener(l, secure)
	}
	s := &server{listener: l, http: &http.Server{Handler: connlimit.Requests(h), ReadTimeout: 30 * time.Second, ErrorLog: stdlog.New(handshakes{}, "", 0)}}
	s.wg.Go(func() {
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.WithError(err).Error("an HTTP server of the local Mesos ended")
		}
	})
	return s
}

// close ends the server. Call it after the owner has ended: no call or stream is left then. It disconnects clients that do not
// read their answer.
func (s *server) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close() // the deadline has passed: drop the other connections
	}
	s.wg.Wait()
}

func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }
