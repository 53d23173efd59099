package logs

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/k8sm/k8sm/api/backoff"
	"github.com/k8sm/k8sm/api/logs"
)

const (
	// batchSize is how large a batch becomes before it is sent, in bytes before compression.
	batchSize = 1 << 20
	// linger is how long to wait for more lines before a small batch is sent.
	linger = 100 * time.Millisecond
	// statusInterval is how long to wait before asking what is on disk.
	statusInterval = 500 * time.Millisecond
	// deferral is how long to wait before sending again what the store has deferred.
	deferral = 5 * time.Second
	// smallestMessage is the least that a store must take.
	smallestMessage = 1 << 10
)

var (
	// errSessionEnded says that the store does not know the session.
	errSessionEnded = errors.New("the session has ended")
	// errRejected says that the store will never take this request.
	errRejected = errors.New("the log store rejects this")
)

// courier is a session with the store, and what is under way. One request at a time is made; it is repeated if it fails.
type courier struct {
	session *logs.Session
	limit   int   // the longest message
	number  int64 // of the last batch that was built
	// queue are batches to be sent: the one that is being sent, and the next one.
	queue []*batch
	// taken are batches that the store has taken, and that are not on disk, as far as is known.
	taken []*batch
	// asking are chains about a file of which the store is to be asked.
	asking   []*chain
	statusAt time.Time

	pauses  backoff.Pauses
	retryAt time.Time
	failing bool
}

// batch is a batch of a session.
type batch struct {
	number int64
	body   []byte
	marks  []mark
}

// mark is how much of a file is sent with a batch.
type mark struct {
	chain        *chain
	file         *file
	epoch        int
	next         int64 // up to where the file is sent, with this batch and those before it
	lines, bytes int64
}

// request is what to ask the store. It has a batch, or questions, or asks for a session, or for what is on disk.
type request struct {
	session   string // "" to open one
	batch     *batch
	questions logs.Questions
	asked     []asked
}

type asked struct {
	chain *chain
	file  *file
}

// reply is what the store answered.
type reply struct {
	session logs.Session
	receipt logs.Receipt
	answers logs.Answers
	err     error
}

// next returns the next request, or when to come again. No request may be under way.
func (s *shipping) next(now time.Time) (*request, time.Time) {
	switch {
	case now.Before(s.retryAt):
		return nil, s.retryAt
	case s.session == nil:
		return &request{}, time.Time{}
	}
	due := s.prepare(now)
	switch {
	case len(s.queue) > 0:
		return &request{session: s.session.ID, batch: s.queue[0]}, time.Time{}
	case len(s.asking) > 0:
		return s.ask(), time.Time{}
	case len(s.taken) > 0 && !now.Before(s.statusAt):
		return &request{session: s.session.ID}, time.Time{}
	case len(s.taken) > 0:
		due = earlier(due, s.statusAt)
	}
	return nil, due
}

// earlier returns the earlier time that is not zero.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// prepare builds the next batch, unless there is nothing for it. It may be called while another one is being sent. It returns when to
// come again to build one.
func (s *shipping) prepare(now time.Time) time.Time {
	if s.session == nil || len(s.queue) > 1 || len(s.taken) >= logs.MaxUndurable {
		return time.Time{}
	}
	// What the answers say must include all that was built.
	for len(s.asking) == 0 && len(s.fresh)+len(s.stale) > 0 {
		if s.since.IsZero() {
			s.since = now
		}
		if due := s.since.Add(linger); len(s.stale) == 0 && now.Before(due) {
			return due
		}
		s.since = time.Time{}
		if s.build(now) {
			break
		}
	}
	return time.Time{}
}

// build fills a batch from the queues of chains, and reports whether it has something.
func (s *shipping) build(now time.Time) bool {
	b := &batch{number: s.number + 1}
	for turn := 0; s.writer.Size() < batchSize; turn++ {
		c := s.pick(turn)
		if c == nil {
			break
		}
		switch result := s.turn(c, b, now); result {
		case unknown:
			if !c.isAsking {
				c.isAsking = true
				s.asking = append(s.asking, c)
			}
		case more, full:
			s.stale = append(s.stale, c)
			c.queued = true
			if result == full {
				return s.seal(b)
			}
		case idle:
			if !c.due.IsZero() && !c.isWaiting {
				c.isWaiting = true
				s.waiting = append(s.waiting, c)
			}
		}
	}
	return s.seal(b)
}

// seal ends the batch.
func (s *shipping) seal(b *batch) bool {
	if s.writer.Size() == 0 {
		return false
	}
	for i := range b.marks {
		b.marks[i].next = b.marks[i].file.next
	}
	b.body = s.writer.Batch()
	s.number = b.number
	s.queue = append(s.queue, b)
	return true
}

// ask returns the questions about the files that are to be read.
func (s *shipping) ask() *request {
	r := &request{session: s.session.ID}
	for len(s.asking) > 0 && len(r.asked) < logs.MaxQuestions {
		c := s.asking[0]
		s.asking = s.asking[1:]
		c.isAsking = false
		if i := c.reading(); i >= 0 && c.files[i].id != "" && !c.files[i].known {
			f := c.files[i]
			r.asked = append(r.asked, asked{chain: c, file: f})
			r.questions.Files = append(r.questions.Files, logs.Question{Source: c.sourceOf(f), From: f.held})
		} else {
			s.wake(c)
		}
	}
	return r
}

// answer takes the reply to a request.
func (s *shipping) answer(r *request, a reply, now time.Time) {
	if a.err == nil {
		a.err = s.take(r, a, now)
	}
	if a.err != nil {
		s.fail(r, a.err, now)
		return
	}
	if s.failing {
		s.log.Info("the log store answers again")
	}
	s.failing, s.pauses = false, pauses
}

// pauses are those between attempts.
var pauses = backoff.Between(200*time.Millisecond, 30*time.Second)

// take takes a reply without an error.
func (s *shipping) take(r *request, a reply, now time.Time) error {
	switch {
	case r.session == "":
		return s.opened(a.session)
	case r.batch != nil:
		s.queue = s.queue[1:]
		r.batch.body = nil // up to MaxUndurable batches wait for the store's disk; if that loses one, its files are read again
		s.taken = append(s.taken, r.batch)
		s.judge(r.batch, a.receipt, now)
		s.durable(a.receipt.Durable, now)
	case r.asked != nil:
		if len(a.answers.Files) != len(r.asked) {
			return fmt.Errorf("%w: it has %d answers to %d questions", errRejected, len(a.answers.Files), len(r.asked))
		}
		for i, q := range r.asked {
			if until := a.answers.Files[i].Until; until != 0 && until <= q.file.held {
				return fmt.Errorf("%w: it answers what it holds up to %d, asked from %d on", errRejected, until, q.file.held)
			}
			s.held(q, a.answers.Files[i], now)
		}
	default:
		s.durable(a.receipt.Durable, now)
	}
	return nil
}

// opened begins a session.
func (s *shipping) opened(session logs.Session) error {
	limit := min(longestMessage, session.MaxMessage)
	for limit >= smallestMessage && logs.MaxEntrySize(limit) > session.MaxBatch {
		limit /= 2
	}
	if session.ID == "" || limit < smallestMessage {
		return fmt.Errorf("%w: it takes messages of %d bytes in batches of %d", errRejected, session.MaxMessage, session.MaxBatch)
	}
	s.session, s.limit, s.number = &session, limit, 0
	return nil
}

// fail decides what to do about a request that failed.
func (s *shipping) fail(r *request, err error, now time.Time) {
	s.retryAt = now.Add(s.pauses.Step())
	var busy *busyError
	if errors.As(err, &busy) {
		s.retryAt = now.Add(max(s.retryAt.Sub(now), busy.after))
	}
	for _, q := range r.asked {
		s.wake(q.chain)
	}
	switch {
	case errors.Is(err, errSessionEnded): // the store has restarted
		s.begin()
		return
	case errors.Is(err, errRejected):
		s.log.WithError(err).Error("cannot ship logs; trying again")
		s.begin()
	case !s.failing:
		s.log.WithError(err).Warn("cannot ship logs; keeping them until the log store answers")
	}
	s.failing = true
}

// begin forgets the session, and all that is not known to be on the store's disk.
func (s *shipping) begin() {
	s.courier = courier{pauses: s.pauses, retryAt: s.retryAt, failing: s.failing}
	if s.writer.Size() > 0 {
		s.writer.Batch()
	}
	for c := range s.logs.all() {
		c.isAsking = false
		for _, f := range c.files {
			if f.next > f.commit || len(f.ahead) > 0 {
				f.doubt()
			}
		}
		if c.reading() >= 0 {
			s.wake(c)
		}
	}
}

// judge takes what the store says of a batch that it has taken.
func (s *shipping) judge(b *batch, receipt logs.Receipt, now time.Time) {
	for _, m := range b.marks {
		id := m.chain.sourceOf(m.file).FileID
		refusal := slices.IndexFunc(receipt.Refused, func(r logs.Refusal) bool { return r.FileID == id })
		switch {
		case slices.Contains(receipt.Deferred, id):
			if m.epoch == m.file.epoch {
				m.file.doubt()
			}
			m.chain.notBefore = now.Add(deferral)
			s.wake(m.chain)
		case refusal >= 0:
			s.dropped(droppedRefused, m.lines, m.bytes)
			if !m.chain.refused {
				m.chain.refused = true
				s.logOf(m.chain).WithField("reason", receipt.Refused[refusal].Why).Error("the log store does not take the logs of a container")
			}
		default:
			s.Metrics.shipped(m.lines, m.bytes)
		}
	}
}

// durable commits what is on the store's disk.
func (s *shipping) durable(number int64, now time.Time) {
	s.statusAt = now.Add(statusInterval)
	for len(s.taken) > 0 && s.taken[0].number <= number {
		for _, m := range s.taken[0].marks {
			if m.epoch == m.file.epoch {
				m.file.commits(m.next, now)
				s.dirty = true
			}
		}
		s.taken = s.taken[1:]
	}
}

// held takes what the store holds of a file.
func (s *shipping) held(q asked, answer logs.Answer, now time.Time) {
	c, f := q.chain, q.file
	s.wake(c)
	for _, r := range answer.Held {
		f.ahead.add(r)
	}
	if answer.Until != 0 {
		f.held = answer.Until
		return
	}
	f.known = true
	if n := len(f.ahead); n > 0 && f.ahead[n-1].End > f.size {
		s.excess(c, f, f.ahead[n-1].End, now)
	}
	f.next = f.ahead.advance(f.next)
	f.commits(f.next, now)
	s.dirty = true
}

// excess takes that the store holds more of the file than it had when it was last seen.
func (s *shipping) excess(c *chain, f *file, end int64, now time.Time) {
	if f.lost == nil {
		if info, err := s.spool.stat(c.place, f.number); err == nil {
			f.seen(info, now)
		}
	}
	switch {
	case f.lost != nil:
		f.size = end
	case end > f.size: // they are of another file, which had the same inode and began in the same way
		c.past = append(c.past, f.id)
		c.nameFile(f, f.id)
		f.doubt()
	}
}
