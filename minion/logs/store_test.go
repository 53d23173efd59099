package logs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/k8sm/k8sm/api/logs"
)

// fakeStore is a log store that keeps the protocol of package api/logs, and loses what it may lose.
type fakeStore struct {
	limits logs.Session

	mu       sync.Mutex // guards all below
	entries  []stored
	sessions int
	session  string
	last     int64 // the last batch taken
	durable  int64
	answered logs.Receipt // to the last batch
	// judge says what to do with entries of a source; nil takes all.
	judge func(logs.Source) (refused, deferred bool)
}

type stored struct {
	source  logs.Source
	entry   logs.Entry
	durable bool
}

func newFakeStore() *fakeStore {
	return &fakeStore{limits: logs.Session{MaxMessage: 256 << 10, MaxBatch: 8 << 20}}
}

func (f *fakeStore) Open(context.Context) (logs.Session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sessions++
	f.session, f.last, f.durable = fmt.Sprintf("s-%d", f.sessions), 0, 0
	s := f.limits
	s.ID = f.session
	return s, nil
}

func (f *fakeStore) check(session string) error {
	if session == "" || session != f.session {
		return errSessionEnded
	}
	return nil
}

func (f *fakeStore) Send(_ context.Context, session string, number int64, batch []byte) (receipt logs.Receipt, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(session); err != nil {
		return receipt, err
	}
	if number != f.last && number != f.last+1 {
		return receipt, fmt.Errorf("%w: batch %d after %d", errSessionEnded, number, f.last)
	}
	var taken []stored
	judged := map[logs.FileID]bool{}
	err = logs.Read(bytes.NewReader(batch), f.limits.MaxBatch, func(source logs.Source, e *logs.Entry) error {
		if len(e.Message) > f.limits.MaxMessage {
			return fmt.Errorf("a message has %d bytes", len(e.Message))
		}
		if f.judge != nil {
			refused, deferred := f.judge(source)
			switch {
			case judged[source.FileID]:
			case refused:
				receipt.Refused = append(receipt.Refused, logs.Refusal{FileID: source.FileID, Why: "it is on another node"})
			case deferred:
				receipt.Deferred = append(receipt.Deferred, source.FileID)
			}
			if judged[source.FileID] = true; refused || deferred {
				return nil
			}
		}
		kept := *e
		kept.Message = append([]byte{}, e.Message...) // it is valid during the call only
		taken = append(taken, stored{source: source, entry: kept})
		return nil
	})
	if err != nil {
		return receipt, errors.Join(errRejected, err)
	}
	if number > f.last {
		f.last, f.answered = number, receipt
		f.entries = append(f.entries, taken...)
	}
	receipt = f.answered
	receipt.Durable = f.durable
	return receipt, nil
}

func (f *fakeStore) Durable(_ context.Context, session string) (logs.Receipt, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return logs.Receipt{Durable: f.durable}, f.check(session)
}

func (f *fakeStore) Held(_ context.Context, session string, questions logs.Questions) (logs.Answers, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(session); err != nil {
		return logs.Answers{}, err
	}
	if len(questions.Files) > logs.MaxQuestions {
		return logs.Answers{}, fmt.Errorf("%w: %d questions", errRejected, len(questions.Files))
	}
	f.flushed()
	held := map[logs.FileID]*ranges{}
	for _, q := range questions.Files {
		held[q.FileID] = &ranges{}
	}
	for _, s := range f.entries {
		if r := held[s.source.FileID]; r != nil {
			for c := range s.entry.Covers {
				r.add(c)
			}
		}
	}
	var a logs.Answers
	for _, q := range questions.Files {
		all := slices.DeleteFunc(slices.Clone(*held[q.FileID]), func(r logs.Range) bool { return r.End <= q.From })
		answer := logs.Answer{Held: all}
		if limit := 1 + f.sessions%3; len(all) > limit { // fewer than MaxRanges, so that this happens
			answer = logs.Answer{Held: all[:limit], Until: all[limit-1].End}
		}
		a.Files = append(a.Files, answer)
	}
	return a, nil
}

func (f *fakeStore) flushed() {
	for i := range f.entries {
		f.entries[i].durable = true
	}
	f.durable = f.last
}

// flush writes everything to disk.
func (f *fakeStore) flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flushed()
}

// crash loses some of what is not on disk, and all sessions.
func (f *fakeStore) crash(random *rand.Rand) {
	f.mu.Lock()
	defer f.mu.Unlock()
	part := random.IntN(3)
	f.entries = slices.DeleteFunc(f.entries, func(s stored) bool { return !s.durable && random.IntN(2) < part })
	f.session = ""
	f.flushed() // what was read from disk is there
}

func (f *fakeStore) all() []stored {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.entries)
}

// run is one run of a container.
type containerRun struct {
	uid, container string
	restart        int
}

// texts returns what each container wrote, by stream, as a reader puts it together. It checks that nothing is there twice.
func (f *fakeStore) texts(t *testing.T) map[containerRun]map[logs.Stream]string {
	t.Helper()
	entries := f.all()
	covered := map[logs.FileID]*ranges{}
	texts := map[containerRun]map[logs.Stream]string{}
	slices.SortStableFunc(entries, func(a, b stored) int {
		return cmp.Or(cmp.Compare(a.source.Number, b.source.Number), cmp.Compare(a.entry.Offset, b.entry.Offset))
	})
	for _, s := range entries {
		if covered[s.source.FileID] == nil {
			covered[s.source.FileID] = &ranges{}
		}
		for r := range s.entry.Covers {
			before := covered[s.source.FileID].size()
			if covered[s.source.FileID].add(r); covered[s.source.FileID].size() != before+r.End-r.Begin {
				t.Errorf("%+v has bytes twice: %+v", s.source, s.entry)
			}
		}
		run := containerRun{s.source.UID, s.source.Container, s.source.Restart}
		if texts[run] == nil {
			texts[run] = map[logs.Stream]string{}
		}
		text := string(s.entry.Message)
		switch {
		case s.entry.Lost != nil:
			text = fmt.Sprintf("<lost %d lines, %d bytes: %s>\n", s.entry.Lost.Lines, s.entry.Lost.Bytes, s.entry.Lost.Why)
		case !s.entry.More:
			text += "\n"
		}
		texts[run][s.entry.Stream] += text
	}
	return texts
}
