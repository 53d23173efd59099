package state

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// hose passes bytes to a server until it is pinched: then its connections stay, new ones are accepted, and nothing flows.
type hose struct {
	net.Listener
	to string

	mu      sync.Mutex // guards pinched
	pinched chan struct{}
}

// lay returns the URL of a hose to HOST:PORT.
func lay(t *testing.T, to string) (h *hose, endpoint string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h = &hose{Listener: l, to: to}
	go h.serve()
	t.Cleanup(func() { _ = l.Close() })
	return h, "http://" + l.Addr().String()
}

func (h *hose) pinch(t *testing.T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	pinched := make(chan struct{})
	h.pinched = pinched
	t.Cleanup(func() { close(pinched) })
}

func (h *hose) serve() {
	for {
		near, err := h.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", h.to)
		if err != nil {
			_ = near.Close()
			continue
		}
		for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
			go func() {
				defer way[0].Close()
				_, _ = io.Copy(way[0], reader{way[1], h})
			}()
		}
	}
}

// reader passes nothing on while the hose is pinched.
type reader struct {
	io.Reader
	hose *hose
}

func (r reader) Read(data []byte) (int, error) {
	n, err := r.Reader.Read(data)
	r.hose.mu.Lock()
	pinched := r.hose.pinched
	r.hose.mu.Unlock()
	if pinched != nil {
		<-pinched
		return 0, io.EOF
	}
	return n, err
}

// TestCandidateLeadsWhenTheMemberThatItWatchesHangs has many candidates: each of them watches the leader at a member that it has chosen
// by chance.
func TestCandidateLeadsWhenTheMemberThatItWatchesHangs(t *testing.T) {
	t.Parallel()
	server := etcd(t)
	var endpoints []string
	var hoses []*hose
	for range 3 {
		h, endpoint := lay(t, server[len("http://"):])
		hoses, endpoints = append(hoses, h), append(endpoints, endpoint)
	}
	direct := open(t, server, "leaders")
	const candidates = 8
	won := make(chan time.Time, candidates)
	for i := range candidates {
		s, err := Open(t.Context(), Config{Endpoints: endpoints, Name: fmt.Sprint("cluster-", i)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		if _, err := direct.client.Put(t.Context(), s.leaderPrefix()+"/0", "leader"); err != nil {
			t.Fatal(err)
		}
		one := standBy(t, s)
		go func() { won <- <-one }()
	}
	hoses[0].pinch(t)
	hoses[1].pinch(t)
	for i := range candidates {
		if _, err := direct.client.Delete(t.Context(), LeaderPrefix(fmt.Sprint("cluster-", i))+"0"); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	from := time.Now()
	for range candidates {
		select {
		case at := <-won:
			t.Logf("a candidate leads after %s", at.Sub(from).Round(time.Millisecond))
		case <-ctx.Done():
			t.Fatal("a candidate waits for the member that hangs")
		}
	}
}
