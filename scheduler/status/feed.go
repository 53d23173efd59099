package status

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	log "github.com/sirupsen/logrus"
)

const (
	// feedPause is the shortest time between two lines of a stream. After one of more than feedRate bytes it is longer, so that a stream
	// has feedRate bytes a second at most.
	feedPause = time.Second
	feedRate  = 1 << 20
	// feedEffort is for how many times the time that it took to make a document nobody gets a newer one, so that the scheduler spends a
	// tenth of its time for a feed at most, however many read.
	feedEffort = 10
	// lineTimeout is how long a reader may take for a document. Together with the pause, it bounds how many documents slow readers can
	// keep in memory: those of lineTimeout × feedRate bytes, and one more.
	lineTimeout = 30 * time.Second
	// aliveEvery is how often a stream says that nothing has changed.
	aliveEvery = 15 * time.Second
	// streamTime is how long a stream goes on: then its reader has to show again that it may read.
	streamTime = 10 * time.Minute
	// maxStreams is how many streams a feed has.
	maxStreams = 200
)

// feed serves a document that is made when somebody asks for it, and once for all who ask at about the same time. It implements
// http.Handler.
type feed struct {
	read    func(context.Context) (any, error)
	streams chan struct{} // has a token for each stream
	turn    chan struct{} // has room for one: who reads, and uses the field below
	last    *issue        // nil before the first
}

// issue is what was read. It is immutable.
type issue struct {
	line    []byte // the document, with a newline
	at      time.Time
	took    time.Duration
	edition int // grows when the document changes
}

func newFeed[T any](read func(context.Context) (T, error)) *feed {
	return &feed{read: func(ctx context.Context) (any, error) { return read(ctx) }, turn: make(chan struct{}, 1), streams: make(chan struct{}, maxStreams)}
}

// fresh is how long after the issue it is good for all who ask.
func (i *issue) fresh() time.Duration { return min(feedEffort*i.took, aliveEvery) }

// pause is how long after the issue the next line of a stream follows.
func (i *issue) pause() time.Duration {
	return max(feedPause, time.Duration(len(i.line))*time.Second/feedRate, i.fresh())
}

// get returns the present issue.
func (f *feed) get(ctx context.Context) (*issue, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	last := f.last
	if last != nil && time.Since(last.at) < last.fresh() {
		return last, nil
	}
	began := time.Now()
	state, err := f.read(ctx)
	if err != nil {
		return nil, err
	}
	line, err := json.Marshal(state)
	if err != nil {
		return nil, err
	}
	next := &issue{line: append(line, '\n'), at: time.Now(), took: time.Since(began), edition: 1}
	if last != nil && bytes.Equal(last.line, next.line) {
		next.line, next.edition = last.line, last.edition
	} else if last != nil {
		next.edition = last.edition + 1
	}
	f.last = next
	return next, nil
}

// ServeHTTP implements http.Handler.
func (f *feed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	watch := false
	if asked := r.URL.Query().Get("watch"); asked != "" {
		var err error
		if watch, err = strconv.ParseBool(asked); err != nil {
			http.Error(w, "cannot use watch="+strconv.Quote(asked)+": give true or false", http.StatusBadRequest)
			return
		}
	}
	first, err := f.get(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	if !watch {
		w.Header().Set("Content-Type", "application/json")
		f.write(w, first.line)
		return
	}
	select {
	case f.streams <- struct{}{}:
		defer func() { <-f.streams }()
	default:
		http.Error(w, "too many others watch this: try again later, or ask without watch=true", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	f.stream(w, r, first)
}

// stream writes an issue, and each that differs from the one before.
func (f *feed) stream(w http.ResponseWriter, r *http.Request, next *issue) {
	ctx, cancel := context.WithTimeout(r.Context(), streamTime)
	defer cancel()
	written := 0 // the edition
	var wrote time.Time
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		line := next.line
		switch {
		case next.edition != written:
		case time.Since(wrote) >= aliveEvery:
			line = []byte{'\n'}
		default:
			line = nil
		}
		if line != nil {
			if !f.write(w, line) {
				return
			}
			written, wrote = next.edition, time.Now()
		}
		pause := next.pause()
		next = nil // it may be large, and the others have newer ones
		timer.Reset(pause)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		var err error
		if next, err = f.get(ctx); err != nil {
			return // the reader asks again, and is told why
		}
	}
}

// write sends a line at once. It returns false for a reader that has gone, or is too slow.
func (f *feed) write(w http.ResponseWriter, line []byte) bool {
	control := http.NewResponseController(w)
	err := control.SetWriteDeadline(time.Now().Add(lineTimeout))
	if err == nil {
		_, err = w.Write(line)
	}
	if err == nil {
		err = control.Flush()
	}
	if err != nil {
		log.WithError(err).Debug("cannot send the status to the client")
	}
	return err == nil
}
