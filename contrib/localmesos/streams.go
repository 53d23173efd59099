package localmesos

import (
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/k8sm/k8sm/contrib/localmesos/wire"
)

// streams are the open subscriptions of one master or agent.
type streams struct {
	mu   sync.Mutex // guards open
	open map[string]*stream
}

// stream is one subscription: an endless HTTP answer. Its handler writes it; send may be called concurrently.
type stream struct {
	id     string
	events mailbox[wire.Message] // nil ends the stream
	most   int                   // how many events may wait; 0 is any number
	cut    chan struct{}         // closed to end the stream at once
	cutOff func()                // closes cut
}

func newStreams() *streams { return &streams{open: map[string]*stream{}} }

// add opens a stream. If more than most events wait for its client, it is cut off; 0 is any number.
func (ss *streams) add(most int) *stream {
	s := &stream{id: uuid.NewString(), events: newMailbox[wire.Message](), most: most, cut: make(chan struct{})}
	s.cutOff = sync.OnceFunc(func() { close(s.cut) })
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.open[s.id] = s
	return s
}

func (ss *streams) remove(s *stream) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	delete(ss.open, s.id)
}

func (ss *streams) find(id string) *stream {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return ss.open[id]
}

// send adds an event to a stream if it is open.
func (ss *streams) send(id string, m wire.Message) {
	if s := ss.find(id); s != nil && s.events.put(m) > s.most && s.most > 0 {
		s.cutOff()
	}
}

// end ends a stream at once if it is open, even while its client does not read.
func (ss *streams) end(id string) {
	if s := ss.find(id); s != nil {
		s.cutOff()
	}
}

// holding says how a stream is opened and written.
type holding struct {
	most   int // as add has it
	codec  wire.Codec
	encode func(wire.Codec, wire.Message) ([]byte, error)
	// subscribe is the event that the machine answers with status 200 if the stream may open.
	subscribe func(stream string) event
	streamID  bool // whether the answer has a Mesos-Stream-Id
}

// hold answers with a stream until it ends.
func (ss *streams) hold(w http.ResponseWriter, r *http.Request, o *owner, h holding) {
	s := ss.add(h.most)
	defer ss.remove(s)
	if a := o.ask(h.subscribe(s.id)); a.status != http.StatusOK {
		http.Error(w, a.text, a.status)
		return
	}
	defer o.post(streamClosed{s.id})
	w.Header().Set("Content-Type", h.codec.String())
	if h.streamID {
		w.Header().Set("Mesos-Stream-Id", s.id)
	}
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	var watcher sync.WaitGroup
	served := make(chan struct{})
	watcher.Go(func() {
		select {
		case <-s.cut:
			_ = flush.SetWriteDeadline(time.Now()) // for a write that waits for the client
		case <-served:
		}
	})
	s.serve(w, r, h, o.quit)
	close(served)
	watcher.Wait()
}

// serve writes events until the stream is ended, the client goes away, or quit is closed.
func (s *stream) serve(w http.ResponseWriter, r *http.Request, h holding, quit <-chan struct{}) {
	flush := http.NewResponseController(w)
	// Flush now: an answer that ends before a flush has a Content-Length, and clients refuse that as a stream.
	if flush.Flush() != nil {
		return
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case <-quit:
			return
		case <-s.cut:
			return
		case <-s.events.ready:
		}
		for _, m := range s.events.take() {
			if m == nil {
				return
			}
			record, err := h.encode(h.codec, m)
			if err == nil {
				err = wire.WriteRecord(w, record)
			}
			if err != nil {
				return
			}
		}
		if flush.Flush() != nil {
			return
		}
	}
}
