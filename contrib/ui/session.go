package ui

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	sessionLife = 12 * time.Hour // of a session, whatever it does
	sessionIdle = 2 * time.Hour  // without a request
	keyLife     = 12 * time.Hour // of a one-time key that nobody uses

	maxSessions     = 1000 // in all
	maxUserSessions = 20   // of one user; the oldest ends
)

var (
	errKey  = errors.New("this link was used or is too old: start km ui for another, or log in with a token")
	errFull = errors.New("too many people are logged in: try again later")
)

// random returns 256 random bits as text.
func random() string { return rand.Text() + rand.Text() }

// secret is the hash of a random text that a caller shows. Only hashes are kept.
type secret [sha256.Size]byte

func secretOf(text string) secret { return sha256.Sum256([]byte(text)) }

// session is a caller who has logged in.
type session struct {
	who     *caller
	ctx     context.Context // ends with the session
	end     context.CancelFunc
	expires time.Time

	mu   sync.Mutex // guards used and open
	used time.Time
	open int // WebSockets
}

// touch notes a request.
func (s *session) touch(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = now
}

func (s *session) over(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !now.Before(s.expires) || s.open == 0 && now.Sub(s.used) >= sessionIdle
}

// connect counts a WebSocket; the caller must call the function it returns at its end. It returns nil if there are too many.
func (s *session) connect(most int) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open >= most {
		return nil
	}
	s.open++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open--
		s.used = time.Now()
	}
}

// key is a one-time key.
type key struct {
	who     *caller
	expires time.Time
}

// sessions are those who have logged in, and the keys to do so. Its methods may be called concurrently.
type sessions struct {
	mu   sync.Mutex // guards the maps
	open map[secret]*session
	keys map[secret]key
}

func newSessions() *sessions {
	return &sessions{open: map[secret]*session{}, keys: map[secret]key{}}
}

// addKey returns a key that logs the caller in once.
func (s *sessions) addKey(who *caller) string {
	text := random()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[secretOf(text)] = key{who, time.Now().Add(keyLife)}
	return text
}

// useKey returns whom a key logs in. The key is void then.
func (s *sessions) useKey(text string) (*caller, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, there := s.keys[secretOf(text)]
	delete(s.keys, secretOf(text))
	if !there || !time.Now().Before(k.expires) {
		return nil, errKey
	}
	return k.who, nil
}

// begin starts a session and returns its id.
func (s *sessions) begin(ctx context.Context, who *caller) (id string, err error) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clean(now)
	own := []secret{}
	for id, other := range s.open {
		if other.who.user == who.user {
			own = append(own, id)
		}
	}
	if len(own) >= maxUserSessions {
		oldest := slices.MinFunc(own, func(a, b secret) int { return s.open[a].expires.Compare(s.open[b].expires) })
		s.remove(oldest)
	}
	if len(s.open) >= maxSessions {
		return "", errFull
	}
	expires := now.Add(sessionLife)
	if !who.expires.IsZero() && who.expires.Before(expires) {
		expires = who.expires
	}
	ctx, end := context.WithDeadline(context.WithoutCancel(ctx), expires)
	id = random()
	s.open[secretOf(id)] = &session{who: who, ctx: ctx, end: end, expires: expires, used: now}
	return id, nil
}

// find returns the session of an id, or nil.
func (s *sessions) find(id string) *session {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.open[secretOf(id)]
	if found == nil {
		return nil
	}
	if found.over(now) {
		s.remove(secretOf(id))
		return nil
	}
	found.touch(now)
	return found
}

// count returns how many have logged in, and are not over.
func (s *sessions) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clean(time.Now())
	return len(s.open)
}

// finish ends a session and all that is under way in it.
func (s *sessions) finish(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(secretOf(id))
}

// finishAll ends all sessions.
func (s *sessions) finishAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.open {
		s.remove(id)
	}
}

func (s *sessions) clean(now time.Time) {
	for id, one := range s.open {
		if one.over(now) {
			s.remove(id)
		}
	}
}

// remove needs mu.
func (s *sessions) remove(id secret) {
	if one := s.open[id]; one != nil {
		one.end()
		delete(s.open, id)
	}
}
