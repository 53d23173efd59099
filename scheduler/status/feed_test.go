package status

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/mesosstate"
	"github.com/k8sm/k8sm/scheduler/run"
)

// reader is a ResponseWriter whose lines a test reads. It takes a line only when somebody reads it, until its deadline.
type reader struct {
	header   http.Header
	code     int
	lines    chan string
	deadline time.Time
}

func newReaderOf(lines int) *reader {
	return &reader{header: http.Header{}, lines: make(chan string, lines)}
}

func (r *reader) Header() http.Header                { return r.header }
func (r *reader) WriteHeader(code int)               { r.code = code }
func (r *reader) FlushError() error                  { return nil }
func (r *reader) SetWriteDeadline(d time.Time) error { r.deadline = d; return nil }

func (r *reader) Write(b []byte) (int, error) {
	timeout := time.NewTimer(time.Until(r.deadline))
	defer timeout.Stop()
	select {
	case r.lines <- string(b):
		return len(b), nil
	case <-timeout.C:
		return 0, errors.New("timed out")
	}
}

// watching is a request for a stream.
func watching(ctx context.Context) *http.Request {
	return (&http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/x", RawQuery: "watch=true"}}).WithContext(ctx)
}

func TestStreamSendsWhatHasChangedAtMostOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var value, reads atomic.Int32
		value.Store(1)
		f := newFeed(func(context.Context) (any, error) { reads.Add(1); return value.Load(), nil })
		ctx, cancel := context.WithCancel(t.Context())
		r := newReaderOf(100)
		ended := make(chan struct{})
		go func() { f.ServeHTTP(r, watching(ctx)); close(ended) }()
		next := func() (string, time.Duration) {
			began := time.Now()
			return <-r.lines, time.Since(began)
		}
		if line, _ := next(); line != "1\n" {
			t.Errorf("first %q", line)
		}
		value.Store(2)
		if line, after := next(); line != "2\n" || after != time.Second {
			t.Errorf("%q after %s", line, after)
		}
		if line, after := next(); line != "\n" || after < aliveEvery || after > aliveEvery+time.Second {
			t.Errorf("when nothing changes: %q after %s", line, after)
		}
		for range 50 {
			value.Add(1)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		if got := len(r.lines); got < 5 || got > 7 {
			t.Errorf("%d lines in 7 s of changes", got)
		}
		cancel()
		<-ended
		if reads.Load() > 30 {
			t.Errorf("read %d times", reads.Load())
		}
	})
}

func TestManyReadersCostOneReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads := 0
		f := newFeed(func(context.Context) (any, error) { reads++; time.Sleep(100 * time.Millisecond); return reads, nil })
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var all sync.WaitGroup
		var lines, refused atomic.Int32
		for range maxStreams + 5 {
			all.Go(func() {
				r := newReaderOf(100)
				f.ServeHTTP(r, watching(ctx))
				if r.code == http.StatusServiceUnavailable {
					refused.Add(1)
				}
				lines.Add(int32(len(r.lines)))
			})
		}
		all.Wait()
		if reads > 12 || int(lines.Load()) < 9*maxStreams || refused.Load() != 5 {
			t.Errorf("%d readings, %d lines, %d refused", reads, lines.Load(), refused.Load())
		}
	})
}

func TestSlowReaderIsCutOffAndHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		value := 0
		f := newFeed(func(context.Context) (any, error) { value++; return value, nil })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var all sync.WaitGroup
		began := time.Now()
		slow, quick := newReaderOf(0), newReaderOf(100)
		var took time.Duration
		all.Go(func() { f.ServeHTTP(slow, watching(ctx)); took = time.Since(began) })
		all.Go(func() { f.ServeHTTP(quick, watching(ctx)) })
		all.Wait()
		if took != lineTimeout {
			t.Errorf("the slow reader was cut off after %s", took)
		}
		if len(quick.lines) < 59 {
			t.Errorf("the other one has %d lines", len(quick.lines))
		}
	})
}

func TestLargeDocumentComesLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		value := 0
		f := newFeed(func(context.Context) (any, error) {
			value++
			return fmt.Sprint(value) + strings.Repeat("x", 4*feedRate), nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r := newReaderOf(100)
		f.ServeHTTP(r, watching(ctx))
		if got := len(r.lines); got < 14 || got > 16 {
			t.Errorf("%d documents of 4 s each in a minute", got)
		}
	})
}

func TestDocumentThatTakesLongComesLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		value := 0
		f := newFeed(func(context.Context) (any, error) { value++; time.Sleep(time.Second); return value, nil })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r := newReaderOf(100)
		f.ServeHTTP(r, watching(ctx))
		if got := len(r.lines); got != 6 {
			t.Errorf("%d documents that take 1 s each in a minute", got)
		}
	})
}

func TestStreamEndsSoThatItsReaderIsAuthorizedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFeed(func(context.Context) (any, error) { return 1, nil })
		began := time.Now()
		f.ServeHTTP(newReaderOf(100), watching(t.Context()))
		if took := time.Since(began); took != streamTime {
			t.Errorf("it ended after %s", took)
		}
	})
}

func TestStreamEndsWithTheLeadership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lost atomic.Bool
		f := newFeed(func(context.Context) (any, error) {
			if lost.Load() {
				return nil, run.ErrNotLeading
			}
			return 1, nil
		})
		time.AfterFunc(5*time.Second, func() { lost.Store(true) })
		began := time.Now()
		f.ServeHTTP(newReaderOf(100), watching(t.Context()))
		if took := time.Since(began); took > 7*time.Second {
			t.Errorf("it ended after %s", took)
		}
		w := httptest.NewRecorder()
		if f.ServeHTTP(w, watching(t.Context())); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "does not lead") {
			t.Errorf("then: %d %s", w.Code, w.Body)
		}
	})
}

func TestAnswerThatTookLongIsGoodForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads, slow := 0, 200*time.Millisecond
		f := newFeed(func(context.Context) (int, error) { reads++; time.Sleep(slow); return reads, nil })
		ask := func() string {
			r := newReaderOf(1)
			f.ServeHTTP(r, httptest.NewRequest(http.MethodGet, "/x", nil))
			return strings.TrimSpace(<-r.lines)
		}
		for range 10 {
			if got := ask(); got != "1" {
				t.Fatalf("got %s", got)
			}
			time.Sleep(slow - time.Millisecond)
		}
		time.Sleep(slow)
		if got := ask(); got != "2" {
			t.Errorf("later: got %s", got)
		}
		slow = 0
		time.Sleep(time.Minute)
		if a, b := ask(), ask(); a != "3" || b != "4" {
			t.Errorf("answers that are quick: %s, %s", a, b)
		}
	})
}

func TestWatchIsTrueOrFalse(t *testing.T) {
	f := newFeed(func(context.Context) (any, error) { return 1, nil })
	w := httptest.NewRecorder()
	r := watching(t.Context())
	r.URL.RawQuery = "watch=maybe"
	if f.ServeHTTP(w, r); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), `watch="maybe": give true or false`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestStateIsJoinedWithTheNodes(t *testing.T) {
	d := cluster(t)
	code, body, err := ask(t, serve(t, d, fakeSource{}), "/mesos/state", "", d.AdminKubeconfig())
	var got mesosstate.Document
	if err == nil {
		err = json.Unmarshal([]byte(body), &got)
	}
	if err != nil || code != http.StatusOK || len(got.Agents) != 2 {
		t.Fatalf("%d %s %v", code, body, err)
	}
	one, two := got.Agents[0], got.Agents[1]
	if one.ID != "a1" || !one.Active || one.Missing || one.Node == nil || one.Node.KM != "v1" {
		t.Errorf("agent %+v", one)
	}
	if two.ID != "a2" || !two.Missing || two.Node == nil || two.Node.CordonedFor != "rollout" {
		t.Errorf("an agent that the master does not know: %+v", two)
	}
}

// TestStreamOverTheWire also holds that the server's limits for a request do not end a stream.
func TestStreamOverTheWire(t *testing.T) {
	before := limits
	limits.Request, limits.Answer = time.Second, 2*time.Second
	defer func() { limits = before }()
	d := cluster(t)
	c := client(t, d.AdminKubeconfig(), serve(t, d, &growing{}))
	body, err := c.open(t.Context(), "/debug/queue/reasons?watch=true")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	lines := bufio.NewScanner(body)
	for i := range 5 {
		if !lines.Scan() {
			t.Fatalf("the stream ended after %d lines: %v", i, lines.Err())
		}
		if want := fmt.Sprintf(`{"pods":%d,`, i+1); !strings.HasPrefix(lines.Text(), want) {
			t.Errorf("line %q, want %q", lines.Text(), want)
		}
	}
}

// growing is a source whose queue grows.
type growing struct {
	fakeSource
	pods atomic.Int32
}

func (g *growing) Queue(context.Context) ([]scheduler.WaitingPod, error) {
	return make([]scheduler.WaitingPod, g.pods.Add(1)), nil
}
