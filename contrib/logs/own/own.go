// Package own puts into the log store what the control plane itself tells: the cluster's events, the API server's audit log, and the log of
// km up. It goes the way of a node's components: see package minion/logs.
//
// Start reading at Run.
package own

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/minion/logs"
)

// Events is the name under which events are stored, as a component.
const Events = "events"

// Config says what is stored.
type Config struct {
	// Kube follows the cluster's events.
	Kube kubernetes.Interface
	// Dir is a directory of the package's own.
	Dir string
	// Files are log files that somebody writes and rotates by renaming them, by the names under which they are stored.
	Files map[string]string
	// Serve is the store's side of the protocol of minions, for one that is called Node.
	Serve func(w http.ResponseWriter, r *http.Request, node string)
	// Node is where the lines come from: no name of a node.
	Node string
	// Registry gets the metrics of shipping.
	Registry prometheus.Registerer
}

// Run stores until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	components, none := filepath.Join(cfg.Dir, "components"), filepath.Join(cfg.Dir, "pods") // there are no pods
	for _, dir := range []string{components, none} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("cannot keep the control plane's logs: %w", err)
		}
	}
	parts, ctx := errgroup.WithContext(ctx)
	parts.Go(func() error {
		return logs.Run(ctx, logs.Config{
			Components: components, Logs: none, Dir: filepath.Join(cfg.Dir, "spool"), Log: logrus.StandardLogger(),
			Store: logs.NewClient("http://store", &http.Client{Transport: direct{cfg}}), Metrics: logs.NewMetrics(cfg.Registry),
		})
	})
	for name, path := range cfg.Files {
		f := &follower{path: path, position: filepath.Join(cfg.Dir, name+".json"), to: logs.NewComponent(components, name)}
		parts.Go(func() error { return f.run(ctx) })
	}
	e := &events{kube: cfg.Kube, position: filepath.Join(cfg.Dir, Events+".json"), to: logs.NewComponent(components, Events)}
	parts.Go(func() error { return e.run(ctx) })
	return parts.Wait()
}

// direct calls the store in this process.
type direct struct{ cfg Config }

// RoundTrip implements http.RoundTripper.
func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	a := &answer{code: http.StatusOK, header: http.Header{}}
	d.cfg.Serve(a, r, d.cfg.Node)
	return &http.Response{
		StatusCode: a.code, Status: http.StatusText(a.code), Header: a.header, Body: io.NopCloser(&a.body), Request: r, Proto: r.Proto,
	}, nil
}

// answer keeps an answer.
type answer struct {
	code   int
	header http.Header
	once   sync.Once
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(code int) { a.once.Do(func() { a.code = code }) }

// Write implements http.ResponseWriter.
func (a *answer) Write(part []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(part)
}
