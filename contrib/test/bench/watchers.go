package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/framer"
	"k8s.io/client-go/rest"
)

// watchers are clients, each with a connection of its own, that read the events of a watch and decode none: what they cost is little
// beside what they cost the API server.
type watchers struct {
	events, bytes atomic.Int64 // that all have read; bytes are those on the connections
	opened        atomic.Int64
	opening       chan struct{} // has an element for each that opens its connection
	cancel        context.CancelFunc
	group         sync.WaitGroup
	failed        atomic.Pointer[error] // of the first watch that ended by itself
}

// watchQuery is what each of the watchers asks for.
type watchQuery struct {
	path   string // of the resource, with a query or without
	accept string
}

// watch starts a watcher for each query, from now on, and returns when the API server has answered all.
func (h *hollow) watch(ctx context.Context, queries []watchQuery) (*watchers, error) {
	first, err := h.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return nil, err
	}
	w := &watchers{opening: make(chan struct{}, hollowParallel)} // a thousand handshakes at once would take too long for each
	watching, cancel := context.WithCancel(ctx)
	w.cancel = cancel
	for _, q := range queries {
		w.group.Go(func() {
			if err := w.read(watching, h.rest, q, first.ResourceVersion); err != nil && watching.Err() == nil {
				err = fmt.Errorf("a watch of %s ended: %w", q.path, err)
				w.failed.CompareAndSwap(nil, &err)
			}
		})
	}
	poll(ctx, func() bool { return w.opened.Load() == int64(len(queries)) || w.failed.Load() != nil })
	if err := w.problem(ctx); err != nil {
		w.stop()
		return nil, err
	}
	return w, nil
}

// problem returns why the watchers cannot be relied on, if so.
func (w *watchers) problem(ctx context.Context) error {
	if err := w.failed.Load(); err != nil {
		return *err
	}
	return ctx.Err()
}

// read reads a watch until it ends.
func (w *watchers) read(ctx context.Context, config *rest.Config, q watchQuery, since string) error {
	client, host, err := w.client(config)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, host+q.path, nil)
	if err != nil {
		return err
	}
	values := request.URL.Query()
	values.Set("watch", "true")
	values.Set("timeoutSeconds", "3600")
	values.Set("resourceVersion", since)
	request.URL.RawQuery = values.Encode()
	request.Header.Set("Accept", q.accept)
	w.opening <- struct{}{}
	response, err := client.Do(request)
	<-w.opening
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	w.opened.Add(1)
	frames := framer.NewLengthDelimitedFrameReader(response.Body)
	for buffer := make([]byte, 4096); ; {
		switch _, err := frames.Read(buffer); {
		case err == nil:
			w.events.Add(1)
		case !errors.Is(err, io.ErrShortBuffer): // the rest of the event follows
			return err
		}
	}
}

// client returns a client with a connection that no other has, of which the bytes are counted.
func (w *watchers) client(config *rest.Config) (client *http.Client, host string, err error) {
	config = rest.CopyConfig(config)
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) { // it also keeps connections from being shared
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		return countedConn{conn, &w.bytes}, err
	}
	client, err = rest.HTTPClientFor(config)
	return client, config.Host, err
}

// await returns when the watchers have read as many events in all.
func (w *watchers) await(ctx context.Context, events int64) error {
	poll(ctx, func() bool { return w.events.Load() >= events || w.failed.Load() != nil })
	if err := w.problem(ctx); err != nil {
		return fmt.Errorf("%d of %d events came: %w", w.events.Load(), events, err)
	}
	return nil
}

// calmTime is for how long nothing comes when all has come.
const calmTime = 300 * time.Millisecond

// calm returns when nothing more comes.
func (w *watchers) calm(ctx context.Context) {
	last, since := w.bytes.Load(), time.Now()
	poll(ctx, func() bool {
		if now := w.bytes.Load(); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > calmTime
	})
}

// rest returns when nothing more comes, and the next change has another time than those before: the API has times in seconds.
func (w *watchers) rest(ctx context.Context) {
	w.calm(ctx)
	time.Sleep(time.Second)
}

// stop returns when all have ended.
func (w *watchers) stop() {
	w.cancel()
	w.group.Wait()
}

// countedConn adds what is read from it.
type countedConn struct {
	net.Conn
	bytes *atomic.Int64
}

func (c countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.bytes.Add(int64(n))
	return n, err
}

// spent is what something took.
type spent struct {
	time time.Duration
	cpu  float64 // seconds, of the control plane
}

// spend returns what the control plane spends on something.
func (h *hollow) spend(do func() error) (s spent, err error) {
	before, err := readUsage(h.control.pid())
	if err != nil {
		return s, err
	}
	begin := time.Now()
	if err := do(); err != nil {
		return s, err
	}
	s.time = time.Since(begin)
	after, err := readUsage(h.control.pid())
	s.cpu = after.cpu - before.cpu
	return s, err
}

// rate is how many a second there were.
func (s spent) rate(count int) float64 { return float64(count) / s.time.Seconds() }

// each is the processor time of one of count, in microseconds.
func (s spent) each(count int) float64 { return s.cpu * 1e6 / float64(count) }
