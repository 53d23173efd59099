package ui

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestSessionsEndInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSessions()
		begin := func(who *caller) string {
			id, err := s.begin(t.Context(), who)
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		idle, busy, short := begin(&caller{user: "idle"}), begin(&caller{user: "busy"}), begin(&caller{user: "short", expires: time.Now().Add(time.Hour)})
		busySession := s.find(busy)
		for began := time.Now(); time.Since(began) < sessionLife-time.Minute; time.Sleep(time.Minute) {
			if s.find(busy) == nil {
				t.Fatalf("a session in use ends after %s", time.Since(began))
			}
			if past := time.Since(began) >= time.Hour; past != (s.find(short) == nil) {
				t.Fatalf("a token of an hour: session %v after %s", !past, time.Since(began))
			}
		}
		if s.find(idle) != nil {
			t.Error("an idle session goes on")
		}
		time.Sleep(2 * time.Minute)
		if s.find(busy) != nil || busySession.ctx.Err() == nil {
			t.Error("a session goes on for ever")
		}
	})
}

func TestSessionWithASocketIsNotIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSessions()
		id, err := s.begin(t.Context(), &caller{user: "ann"})
		if err != nil {
			t.Fatal(err)
		}
		disconnect := s.find(id).connect(1)
		time.Sleep(2 * sessionIdle)
		if s.find(id) == nil {
			t.Fatal("it is over")
		}
		disconnect()
		time.Sleep(sessionIdle)
		if s.find(id) != nil {
			t.Error("it goes on")
		}
	})
}

func TestSessionsAreBounded(t *testing.T) {
	s := newSessions()
	var first string
	for i := range maxUserSessions + 1 {
		id, err := s.begin(context.Background(), &caller{user: "ann"})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = id
		}
	}
	if s.find(first) != nil || len(s.open) != maxUserSessions {
		t.Errorf("a user has %d sessions", len(s.open))
	}
	for i := len(s.open); i < maxSessions; i++ {
		if _, err := s.begin(context.Background(), &caller{user: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.begin(context.Background(), &caller{user: "one more"}); !errors.Is(err, errFull) {
		t.Errorf("one session more: %v", err)
	}
	s.finishAll()
	if len(s.open) != 0 {
		t.Errorf("%d sessions are left", len(s.open))
	}
}

func TestKeysEndInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSessions()
		early, late := s.addKey(&caller{user: "ann"}), s.addKey(&caller{user: "ann"})
		time.Sleep(keyLife - time.Second)
		if _, err := s.useKey(early); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if _, err := s.useKey(late); !errors.Is(err, errKey) {
			t.Errorf("an old key: %v", err)
		}
	})
}
