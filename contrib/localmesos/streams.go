package localmesos

import (
	"net/http"
	"sync"

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
}

func newStreams() *streams { return &streams{open: map[string]*stream{}} }

func (ss *streams) add() *stream {
	s := &stream{id: uuid.NewString(), events: newMailbox[wire.Message]()}
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

// send adds an event to a stream if it is open.
func (ss *streams) send(id string, m wire.Message) {
	ss.mu.Lock()
	s := ss.open[id]
	ss.mu.Unlock()
	if s != nil {
		s.events.put(m)
	}
}

// serve writes events until the stream is ended, the client goes away, or quit is closed.
func (s *stream) serve(w http.ResponseWriter, r *http.Request, codec wire.Codec, quit <-chan struct{}) {
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
		case <-s.events.ready:
		}
		for _, m := range s.events.take() {
			if m == nil {
				return
			}
			record, err := codec.Encode(m)
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
