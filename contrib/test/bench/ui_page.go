package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api/profiling"
	"github.com/k8sm/k8sm/contrib/ui"
)

// pageVariable has a kubeconfig and the address of a scheduler's status, separated by a space, in the process that serves the web page:
// its memory is that of the page alone.
const pageVariable = "K8SM_BENCH_PAGE"

// serving is what the process of the web page uses, without garbage.
type serving struct {
	Heap       uint64 // bytes
	Goroutines int
	Watches    int64 // requests at the API server that are going on
	Lists      int64 // requests that have ended
	Bytes      int64 // that the API server sent
	Relisted   int64 // pages of lists
}

// servePage serves the web page of a kubeconfig, as km ui does, until it is interrupted. It prints the page's link, and the address at
// which it tells what it uses.
func servePage(text string) error {
	kubeconfig, scheduler, _ := strings.Cut(text, " ")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	user, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	var counted traffic
	user.Wrap(func(next http.RoundTripper) http.RoundTripper { return &counting{next, &counted} })
	server, err := ui.Listen(ui.Config{Address: "127.0.0.1:0", StatusAddress: scheduler})
	if err != nil {
		return err
	}
	if err := server.ConnectAlone(user); err != nil {
		return errors.Join(err, server.Close())
	}
	link, err := server.Link(ctx, user)
	if err != nil {
		return errors.Join(err, server.Close())
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return errors.Join(err, server.Close())
	}
	tells := http.NewServeMux()
	tells.Handle(profiling.Path, profiling.Handler())
	tells.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(counted.serving()) })
	go func() { _ = http.Serve(l, tells) }() //nolint:gosec // until the process ends
	fmt.Printf("%s %s\n", link, l.Addr())
	return server.Run(ctx)
}

// traffic is what goes between the page's server and the API server.
type traffic struct{ open, ended, lists, bytes atomic.Int64 }

func (t *traffic) serving() serving {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return serving{
		Heap: stats.HeapAlloc, Goroutines: runtime.NumGoroutine(),
		Watches: t.open.Load(), Lists: t.ended.Load(), Bytes: t.bytes.Load(), Relisted: t.lists.Load(),
	}
}

// counting counts requests and the bytes of their answers.
type counting struct {
	next http.RoundTripper
	*traffic
}

// RoundTrip implements http.RoundTripper.
func (c *counting) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := c.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if r.URL.Query().Has("continue") {
		c.lists.Add(1)
	}
	c.open.Add(1)
	response.Body = &countingBody{ReadCloser: response.Body, traffic: c.traffic}
	return response, nil
}

type countingBody struct {
	io.ReadCloser
	*traffic
	closed atomic.Bool
}

// Read implements io.Reader.
func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.bytes.Add(int64(n))
	return n, err
}

// Close implements io.Closer.
func (b *countingBody) Close() error {
	if b.closed.CompareAndSwap(false, true) {
		b.open.Add(-1)
		b.ended.Add(1)
	}
	return b.ReadCloser.Close()
}

// pageServer is the process of the web page.
type pageServer struct {
	*program
	link, tells string
}

// startPage starts this program anew to serve the page.
func startPage(h *hollow, scheduler string) (*pageServer, error) {
	p, says, err := startRole(h.log, pageVariable, h.dir.AdminKubeconfig()+" "+scheduler)
	if err != nil {
		return nil, err
	}
	link, tells, _ := strings.Cut(says, " ")
	return &pageServer{program: p, link: link, tells: tells}, nil
}

// serving asks what the server uses.
func (p *pageServer) serving(ctx context.Context) (s serving, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.tells, nil)
	if err != nil {
		return s, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return s, err
	}
	defer response.Body.Close()
	return s, json.NewDecoder(response.Body).Decode(&s)
}
