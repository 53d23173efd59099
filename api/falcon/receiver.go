package falcon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/rpc"
	"net/rpc/jsonrpc"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// callTimeout bounds one call, and connecting before it.
	callTimeout = 5 * time.Second
	// maxAnswer is how many bytes of an answer are read. An answer has fewer than 100.
	maxAnswer = 16 << 10
)

// dialer connects as net.Dialer.DialContext does.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// receiver takes elements. One goroutine uses it.
type receiver interface {
	// send returns how many of the elements the receiver counts as invalid. After an error they may or may not have arrived.
	send(ctx context.Context, batch []Element) (invalid int, err error)
	close()
}

// errRefused is an answer that would be the same for the same elements again.
var errRefused = errors.New("it refuses the elements")

func (t Target) receiver(dial dialer) receiver {
	if t.URL != "" {
		return newHTTPReceiver(t.URL, dial)
	}
	// A random first one spreads the machines over the transfers.
	return &transfers{addresses: t.Addresses, at: rand.IntN(len(t.Addresses)), dial: dial}
}

// httpReceiver is an agent, or the HTTP server of a transfer.
type httpReceiver struct {
	url    string
	client http.Client
}

func newHTTPReceiver(url string, dial dialer) *httpReceiver {
	return &httpReceiver{url: url, client: http.Client{
		Transport: &http.Transport{DialContext: dial, DisableCompression: true, MaxResponseHeaderBytes: maxAnswer, IdleConnTimeout: MinStep * time.Second / 2},
		// A redirect would turn the POST into a GET.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (r *httpReceiver) send(ctx context.Context, batch []Element) (invalid int, err error) {
	body, err := json.Marshal(batch)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errRefused, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := r.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return 0, err
	}
	return readAnswer(response.StatusCode, answer)
}

// readAnswer reads the answer of an agent, the word success, or that of a transfer, which is JSON.
func readAnswer(status int, answer []byte) (invalid int, err error) {
	text := strings.TrimSpace(string(answer))
	switch status {
	case http.StatusOK:
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		return 0, fmt.Errorf("%w: status %d: %q", errRefused, status, text)
	default:
		return 0, fmt.Errorf("status %d: %q", status, text)
	}
	if text == "success" {
		return 0, nil
	}
	var transfer struct {
		Msg  string  `json:"msg"`
		Data summary `json:"data"`
	}
	if err := json.Unmarshal(answer, &transfer); err != nil || transfer.Msg == "" {
		return 0, fmt.Errorf("it does not answer as open-falcon does, but %q", text)
	}
	if transfer.Msg != "success" {
		return 0, fmt.Errorf("it says %q", transfer.Msg)
	}
	return transfer.Data.Invalid, nil
}

func (r *httpReceiver) close() { r.client.CloseIdleConnections() }

// transfers are transfers of which one at a time takes the elements, on a connection that is kept.
type transfers struct {
	addresses []string
	at        int // the one in use, or to try first
	dial      dialer
	session   *session // nil without a connection
}

// send tries each transfer once. A connection that has been kept may have ended meanwhile, so its transfer gets another chance.
func (t *transfers) send(ctx context.Context, batch []Element) (invalid int, err error) {
	if t.session != nil {
		if invalid, err = t.session.update(ctx, batch); err == nil {
			return invalid, nil
		}
		t.close()
	}
	var failures []string
	for range t.addresses {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if invalid, err = t.connect(ctx, batch); err == nil {
			return invalid, nil
		}
		failures = append(failures, fmt.Sprintf("%s: %s", t.addresses[t.at], err))
		t.at = (t.at + 1) % len(t.addresses)
	}
	return 0, errors.New(strings.Join(failures, "; "))
}

// connect connects to the transfer in turn, and keeps the connection if it takes the elements.
func (t *transfers) connect(ctx context.Context, batch []Element) (invalid int, err error) {
	dialing, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := t.dial(dialing, "tcp", t.addresses[t.at])
	if err != nil {
		return 0, err
	}
	t.session = newSession(conn)
	if invalid, err = t.session.update(ctx, batch); err != nil {
		t.close()
	}
	return invalid, err
}

func (t *transfers) close() {
	if t.session != nil {
		_ = t.session.client.Close()
		t.session = nil
	}
}

// session is a connection to a transfer.
type session struct {
	conn   *bounded
	client *rpc.Client
}

func newSession(conn net.Conn) *session {
	s := &session{conn: &bounded{Conn: conn}}
	s.conn.left.Store(maxAnswer) // the client reads from now on
	s.client = jsonrpc.NewClient(s.conn)
	return s
}

// bounded is a connection of which no more than the bound is read.
type bounded struct {
	net.Conn
	left atomic.Int64 // bytes
}

func (b *bounded) Read(p []byte) (int, error) {
	left := b.left.Load()
	if left <= 0 {
		return 0, fmt.Errorf("it answers more than %d bytes", maxAnswer)
	}
	n, err := b.Conn.Read(p[:min(int64(len(p)), left)])
	b.left.Add(int64(-n))
	return n, err
}

// summary is a transfer's answer: how many of the elements it dropped.
type summary struct{ Invalid int }

func (s *session) update(ctx context.Context, batch []Element) (invalid int, err error) {
	defer context.AfterFunc(ctx, func() { s.conn.Close() })()
	s.conn.left.Store(maxAnswer)
	if err := s.conn.SetDeadline(time.Now().Add(callTimeout)); err != nil {
		return 0, err
	}
	var answer summary
	if err := s.client.Call("Transfer.Update", batch, &answer); err != nil {
		return 0, err
	}
	return answer.Invalid, s.conn.SetDeadline(time.Time{})
}
