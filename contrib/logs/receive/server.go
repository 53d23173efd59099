package receive

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api/logs"
	"github.com/k8sm/k8sm/contrib/logs/store"
)

const (
	// maxMessage is the longest message of an entry, in bytes.
	maxMessage = 256 << 10
	// maxBatch is the largest batch, in bytes before compression.
	maxBatch = 4 << 20
	// maxCompressed bounds a batch as it is sent.
	maxCompressed = maxBatch + 64<<10
	// maxQuestions bounds the body of questions, in bytes.
	maxQuestions = 1 << 20
	// batches is how many batches are read at a time.
	batches = 4
	// patience is how long a batch waits for its turn.
	patience = 10 * time.Second
	// syncEvery is how often entries are written to disk.
	syncEvery = time.Second
)

// Entries is the store of entries.
type Entries interface {
	Add(entries []store.Entry) error
	Sync() error
	Query(ctx context.Context, tenant store.Tenant, labels map[string]string, query string, each func(store.Block) error) error
}

// Places knows which pods are or were on which node.
type Places interface {
	// Place tells whether a node may write entries of a pod.
	Place(ctx context.Context, node, namespace, pod, uid string) Place
}

// Verdict is what becomes of a pod's entries.
type Verdict int

// Verdicts.
const (
	Taken    Verdict = iota
	Refused          // for good
	Deferred         // the node has to send them again later
)

// Place is what is known of a pod.
type Place struct {
	Verdict Verdict
	// Why is why entries are refused, for people.
	Why string
	// Labels and Owner are the pod's. The receiver does not change them.
	Labels map[string]string
	Owner  string
	// Unchecked says that nobody knows any more whether the pod was on the node.
	Unchecked bool
}

// Server takes entries. Its methods may be used concurrently.
type Server struct {
	entries Entries
	places  Places
	limit   *limiter
	reading chan struct{}
	full    atomic.Bool // the disk was full when entries came last
	unsaved atomic.Bool // what was taken could not be written to disk
	dirty   chan struct{}
	counts  counts

	mu    sync.Mutex // guards nodes
	nodes map[sender]*node
}

// sender is who sends: a node, or the control plane itself.
type sender struct {
	name string
	own  bool
}

// node is what a node has sent since the server has started.
type node struct {
	sender

	mu sync.Mutex // guards all below
	// session is the ID of the node's session.
	session string
	// last is the last batch that was taken, and receipt its answer.
	last    int64
	receipt logs.Receipt
	// durable is the last batch that is on disk.
	durable int64
}

// New returns a server. Rate is how many lines a second each namespace may write, over a minute; 0 means any number.
func New(entries Entries, places Places, rate int) *Server {
	return &Server{
		entries: entries, places: places, limit: newLimiter(rate), reading: make(chan struct{}, batches), dirty: make(chan struct{}, 1),
		counts: newCounts(), nodes: map[sender]*node{},
	}
}

// Collectors returns the server's metrics.
func (s *Server) Collectors() []prometheus.Collector { return s.counts.all() }

// Run writes what was taken to disk every second, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.dirty:
		}
		err := s.sync()
		if s.unsaved.Store(err != nil); err != nil {
			logrus.WithError(err).Error("cannot write logs to disk; trying again")
			s.wrote()
		}
	}
}

// Ready returns an error while what was taken cannot be written to disk.
func (s *Server) Ready() error {
	if s.unsaved.Load() {
		return errors.New("logs cannot be written to disk")
	}
	return nil
}

// wrote tells Run that there is something to write.
func (s *Server) wrote() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// sync writes everything to disk, and remembers what.
func (s *Server) sync() error {
	type state struct {
		session string
		last    int64
	}
	taken := map[*node]state{}
	s.mu.Lock()
	nodes := make([]*node, 0, len(s.nodes))
	for _, n := range s.nodes {
		nodes = append(nodes, n)
	}
	s.mu.Unlock()
	for _, n := range nodes {
		n.mu.Lock()
		taken[n] = state{n.session, n.last}
		n.mu.Unlock()
	}
	if err := s.entries.Sync(); err != nil {
		return err
	}
	for n, then := range taken {
		n.mu.Lock()
		if n.session == then.session {
			n.durable = max(n.durable, then.last)
		}
		n.mu.Unlock()
	}
	return nil
}

// node returns the record of a node.
func (s *Server) node(name string, own bool) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := sender{name, own}
	n := s.nodes[from]
	if n == nil {
		n = &node{sender: from}
		s.nodes[from] = n
	}
	return n
}

// failure is an error with a status code.
type failure struct {
	code int
	text string
}

// Error implements error.
func (f *failure) Error() string { return f.text }

func fail(code int, format string, values ...any) error {
	return &failure{code, fmt.Sprintf(format, values...)}
}

// Serve answers a request below logs.PathSessions from the node of this name, whose certificate was checked.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, name string) {
	s.respond(w, r, s.node(name, false))
}

// ServeOwn answers the control plane, which sends what it tells itself under a name that no node has.
func (s *Server) ServeOwn(w http.ResponseWriter, r *http.Request, name string) {
	s.respond(w, r, s.node(name, true))
}

func (s *Server) respond(w http.ResponseWriter, r *http.Request, n *node) {
	answer, err := s.serve(w, r, n)
	if err == nil {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			logrus.WithError(err).WithField("node", n.name).Debug("cannot answer a node")
		}
		return
	}
	code := http.StatusInternalServerError
	var f *failure
	switch {
	case errors.As(err, &f):
		code = f.code
	case errors.Is(err, store.ErrFull):
		code = http.StatusServiceUnavailable
	default:
		logrus.WithError(err).WithField("node", n.name).Warn("cannot take the logs of a node; it tries again")
	}
	switch code {
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", "1")
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "10")
	}
	s.counts.refusedRequests.WithLabelValues(strconv.Itoa(code)).Inc()
	http.Error(w, err.Error(), code)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request, n *node) (any, error) {
	parts := strings.Split(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, logs.PathSessions), "/"), "/")
	switch {
	case r.Method == http.MethodPost && len(parts) == 1 && parts[0] == "":
		return n.open(), nil
	case r.Method == http.MethodGet && len(parts) == 1 && parts[0] != "":
		n.mu.Lock()
		defer n.mu.Unlock()
		return logs.Receipt{Durable: n.durable}, n.check(parts[0])
	case r.Method == http.MethodPost && len(parts) == 3 && parts[1] == "batches":
		number, err := strconv.ParseInt(parts[2], 10, 64)
		if err != nil || number < 1 {
			return nil, fail(http.StatusBadRequest, "%q is no number of a batch", parts[2])
		}
		return s.batch(w, r, n, parts[0], number)
	case r.Method == http.MethodPost && len(parts) == 2 && parts[1] == "held":
		return s.held(w, r, n, parts[0])
	}
	return nil, fail(http.StatusBadRequest, "there is no %s %s", r.Method, r.URL.Path)
}

// open opens a session, and ends the one before it.
func (n *node) open() logs.Session {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.session, n.last, n.durable, n.receipt = rand.Text(), 0, 0, logs.Receipt{}
	return logs.Session{ID: n.session, MaxMessage: maxMessage, MaxBatch: maxBatch}
}

// check checks that a session is the node's. n.mu is locked.
func (n *node) check(session string) error {
	if session != n.session {
		return fail(http.StatusConflict, "the session has ended: open another")
	}
	return nil
}

// again returns the answer to a batch that was taken before, and an error if the batch is not the next one either. n.mu is locked.
func (n *node) again(session string, number int64) (receipt logs.Receipt, taken bool, err error) {
	if err := n.check(session); err != nil {
		return receipt, false, err
	}
	switch {
	case number == n.last:
		receipt = n.receipt
		receipt.Durable = n.durable
		return receipt, true, nil
	case number != n.last+1:
		return receipt, false, fail(http.StatusConflict, "batch %d does not follow batch %d: open another session", number, n.last)
	}
	return receipt, false, nil
}

// batch takes a batch.
func (s *Server) batch(w http.ResponseWriter, r *http.Request, n *node, session string, number int64) (any, error) {
	n.mu.Lock()
	receipt, taken, err := n.again(session, number)
	n.mu.Unlock()
	if taken || err != nil {
		return receipt, err
	}
	wait := time.NewTimer(patience)
	defer wait.Stop()
	select {
	case s.reading <- struct{}{}:
		defer func() { <-s.reading }()
	case <-r.Context().Done():
		return nil, fail(http.StatusBadRequest, "the client has gone")
	case <-wait.C:
		return nil, fail(http.StatusTooManyRequests, "the log store is busy: try again")
	}
	b := s.newReader(r.Context(), n)
	err = logs.Read(http.MaxBytesReader(w, r.Body, maxCompressed), maxBatch, b.add)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, logs.ErrTooLarge), errors.As(err, &tooLarge):
		return nil, fail(http.StatusRequestEntityTooLarge, "%s", err)
	case err != nil:
		return nil, fail(http.StatusBadRequest, "%s", err)
	}
	b.end()
	return s.take(n, session, number, b)
}

// take stores a batch that was read.
func (s *Server) take(n *node, session string, number int64, b *reader) (logs.Receipt, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	// Another request may have come in the meantime.
	if receipt, taken, err := n.again(session, number); taken || err != nil {
		return receipt, err
	}
	if len(b.entries) > 0 {
		if err := s.add(b.entries); err != nil {
			return logs.Receipt{}, err
		}
		s.wrote()
	} else if n.durable == n.last {
		n.durable = number
	}
	n.last, n.receipt = number, b.receipt
	b.count()
	receipt := n.receipt
	receipt.Durable = n.durable
	return receipt, nil
}

// add adds entries. It logs when the disk becomes full, and when there is room again.
func (s *Server) add(entries []store.Entry) error {
	err := s.entries.Add(entries)
	switch full := errors.Is(err, store.ErrFull); {
	case full && !s.full.Swap(true):
		logrus.WithError(err).Error("the log store takes nothing more: nodes keep their logs, as long as they can")
	case err == nil && s.full.Swap(false):
		logrus.Info("there is room on the log store's disk again")
	}
	return err
}

// held answers what the store holds of files.
func (s *Server) held(w http.ResponseWriter, r *http.Request, n *node, session string) (any, error) {
	var questions logs.Questions
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxQuestions)).Decode(&questions); err != nil {
		return nil, fail(http.StatusBadRequest, "cannot read the questions: %s", err)
	}
	if len(questions.Files) > logs.MaxQuestions {
		return nil, fail(http.StatusBadRequest, "%d questions are too many", len(questions.Files))
	}
	n.mu.Lock() // nothing is taken from the node meanwhile
	defer n.mu.Unlock()
	if err := n.check(session); err != nil {
		return nil, err
	}
	if err := s.entries.Sync(); err != nil {
		return nil, err
	}
	n.durable = n.last
	answers := logs.Answers{Files: make([]logs.Answer, 0, len(questions.Files))}
	for _, q := range questions.Files {
		a, err := s.heldOf(r.Context(), n.name, q)
		if err != nil {
			return nil, err
		}
		answers.Files = append(answers.Files, a)
	}
	return answers, nil
}

// heldOf answers what the store holds of a file.
func (s *Server) heldOf(ctx context.Context, node string, q logs.Question) (logs.Answer, error) {
	tenant, labels := store.Pods, map[string]string{FieldNode: node, FieldUID: q.UID, FieldContainer: q.Container}
	if q.IsComponent() {
		tenant, labels = store.Components, map[string]string{FieldNode: node, FieldComponent: q.Container}
	}
	query := fmt.Sprintf("%s:=%d %s:=%s %s:>%d | fields %s, %s, %s", FieldRestart, q.Restart, FieldFile, store.Quote(q.File), FieldEnd, q.From,
		FieldOffset, FieldEnd, FieldHoles)
	var ranges []logs.Range
	err := s.entries.Query(ctx, tenant, labels, query, func(b store.Block) error {
		offsets, ends, holes := b.Column(FieldOffset), b.Column(FieldEnd), b.Column(FieldHoles)
		for i := range b.Len() {
			e, err := parseCover(offsets, ends, holes, i)
			if err != nil {
				return fmt.Errorf("cannot read an entry of pod %s/%s: %w", q.Namespace, q.Pod, err)
			}
			for r := range e.Covers {
				if r.End > q.From {
					ranges = append(ranges, r)
				}
			}
		}
		if len(ranges) > 1<<16 {
			ranges = merge(ranges)
		}
		return nil
	})
	if err != nil {
		return logs.Answer{}, err
	}
	ranges = merge(ranges)
	if len(ranges) > logs.MaxRanges {
		return logs.Answer{Held: ranges[:logs.MaxRanges], Until: ranges[logs.MaxRanges-1].End}, nil
	}
	return logs.Answer{Held: ranges}, nil
}

// parseCover returns an entry with the bytes of a file that row i covers.
func parseCover(offsets, ends, holes []string, i int) (e logs.Entry, err error) {
	if offsets == nil || ends == nil {
		return e, errors.New("it has no place in a file")
	}
	if e.Offset, err = strconv.ParseInt(offsets[i], 10, 64); err != nil {
		return e, err
	}
	if e.End, err = strconv.ParseInt(ends[i], 10, 64); err != nil {
		return e, err
	}
	if holes != nil {
		e.Holes, err = parseHoles(holes[i])
	}
	return e, err
}

// counts are the server's metrics.
type counts struct {
	lines, bytes, dropped *prometheus.CounterVec
	refusedRequests       *prometheus.CounterVec
	refusedSources        prometheus.Counter
}
