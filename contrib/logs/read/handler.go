package read

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/contrib/logs/receive"
	"github.com/k8sm/k8sm/contrib/logs/store"
)

const (
	// followEvery is how often new lines are looked for, among those of the last followWindow. Once in followAll rounds, all are.
	followEvery  = time.Second
	followWindow = 10 * time.Minute
	followAll    = 30
)

// atOnce is how many requests for lines are answered at a time: each has up to budget bytes in memory. Those that only wait for new lines do
// not count.
const atOnce = 8

// Handler answers requests. It may be used concurrently.
type Handler struct {
	store *store.Store
	turns chan struct{}
}

// New returns a handler of requests for what the store has.
func New(entries *store.Store) *Handler {
	return &Handler{store: entries, turns: make(chan struct{}, atOnce)}
}

// Scope is what a request may read.
type Scope struct {
	Tenant store.Tenant
	// Namespace and Pod are those of all lines that may be read; "" for any.
	Namespace, Pod string
}

// labels are those of the streams that may be read.
func (s Scope) labels() map[string]string {
	l := map[string]string{}
	if s.Namespace != "" {
		l[receive.FieldNamespace] = s.Namespace
	}
	if s.Pod != "" {
		l[receive.FieldPod] = s.Pod
	}
	return l
}

// Serve answers a request of a scope. Path is the rest of its path: "" for lines, else one of VictoriaLogs' HTTP API. That has a user
// interface for who may read all namespaces.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request, scope Scope, path string) {
	switch {
	case path == "" || path == "/":
		h.lines(w, r, scope)
	case strings.HasPrefix(path, store.UIPath) && scope.Namespace != "":
		http.Error(w, "the user interface is for who may read the logs of all namespaces", http.StatusForbidden)
	default:
		h.store.Select(w, r, path, scope.Tenant, scope.labels())
	}
}

// HeaderWriters is a header of an answer with lines: of how many containers and components they are.
const HeaderWriters = "K8sm-Log-Writers"

// Failure is a last line of an answer, if not all could be read.
type Failure struct {
	Error string `json:"error"`
}

// lines answers with lines as JSON, one in each line.
func (h *Handler) lines(w http.ResponseWriter, r *http.Request, scope Scope) {
	if r.Method != http.MethodGet {
		http.Error(w, "lines are read by GET", http.StatusMethodNotAllowed)
		return
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		http.Error(w, "cannot read the parameters: "+err.Error(), http.StatusBadRequest)
		return
	}
	s, err := parseSelection(values)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	a := &answer{
		header: w.Header(), turns: h.turns,
		selected: s, reached: map[run]int64{},
		queries: func(ctx context.Context, query string, each func(store.Block) error) error {
			return h.store.Query(ctx, scope.Tenant, scope.labels(), query, each)
		},
		write: func(l Line) error { return encoder.Encode(l) },
		flush: func() { _ = http.NewResponseController(w).Flush() },
	}
	if err := a.run(r.Context()); err != nil && r.Context().Err() == nil {
		logrus.WithError(err).Warn("cannot answer who reads logs")
		_ = encoder.Encode(Failure{Error: err.Error()})
	}
}

// run is a file of a writer.
type run struct {
	writer
	restart, number int64
	file            string
}

func (c chunk) run(w writer) run { return run{w, c.restart, c.number, c.file} }

// answer answers a request for lines.
type answer struct {
	selected
	header  http.Header
	turns   chan struct{}
	queries queries
	write   func(Line) error
	flush   func()
	// reached is the offset of the last line of each file that was written.
	reached map[run]int64
}

func (a *answer) run(ctx context.Context) error {
	if err := a.history(ctx); err != nil {
		return err
	}
	a.flush()
	if !a.follow {
		return nil
	}
	return a.goOn(ctx)
}

// history writes the lines that there are.
func (a *answer) history(ctx context.Context) error {
	select {
	case a.turns <- struct{}{}:
		defer func() { <-a.turns }()
	case <-ctx.Done():
		return ctx.Err()
	}
	writers, err := count(ctx, a.queries, a.filter)
	if err != nil {
		return err
	}
	a.header.Set(HeaderWriters, strconv.FormatInt(writers, 10))
	found, err := list(ctx, a.queries, a.filter, sizeFor(writers))
	if err != nil {
		return err
	}
	var all sources
	for w, chunks := range found {
		a.reach(w, chunks)
		if a.previous {
			chunks = beforeLast(chunks)
		}
		s := &source{w: w, chunks: chunks}
		if a.tail >= 0 {
			s.chunks = last(chunks, a.tail)
			have := 0
			for _, c := range s.chunks {
				have += c.count
			}
			s.skip = max(0, have-a.tail)
		}
		if len(s.chunks) > 0 && a.tail != 0 {
			all = append(all, s)
		}
	}
	return merge(ctx, a.queries, a.filter, all, a.write)
}

// reach takes that chunks are written, and returns the parts of them that were not before.
func (a *answer) reach(w writer, all []chunk) []chunk {
	var fresh []chunk
	for _, c := range all {
		key := c.run(w)
		before, known := a.reached[key]
		if known && c.reached <= before {
			continue
		}
		a.reached[key] = c.reached
		if known && c.begin <= before {
			c.begin = before + 1
		}
		fresh = append(fresh, c)
	}
	return fresh
}

// goOn writes lines that arrive, until the client is gone.
func (a *answer) goOn(ctx context.Context) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for round := 1; ; round++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		filter := a.filter
		if round%followAll != 0 {
			filter += fmt.Sprintf(" _time:>=%s", time.Now().Add(-followWindow).UTC().Format(time.RFC3339Nano))
		}
		found, err := list(ctx, a.queries, filter, maxChunk)
		if err != nil {
			return err
		}
		var all sources
		for w, chunks := range found {
			if fresh := a.reach(w, chunks); len(fresh) > 0 {
				all = append(all, &source{w: w, chunks: fresh})
			}
		}
		if len(all) == 0 {
			continue
		}
		if err := merge(ctx, a.queries, a.filter, all, a.write); err != nil {
			return err
		}
		a.flush()
	}
}
