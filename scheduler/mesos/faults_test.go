package mesos_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"

	mesossched "github.com/mesos/mesos-go/api/v1/lib/scheduler"

	"github.com/k8sm/k8sm/contrib/localmesos"
)

// proxy stands before a master and lets one call of a kind fail.
type proxy struct {
	*httptest.Server
	kind mesossched.Call_Type
	fail func(w http.ResponseWriter, pass func(http.ResponseWriter))

	once sync.Once
	hit  chan struct{} // is closed when the call has failed
	seen sync.Map      // by kind, that there was such a call
}

func newProxy(t *testing.T, master string, kind mesossched.Call_Type, fail func(http.ResponseWriter, func(http.ResponseWriter))) *proxy {
	forward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: master})
	forward.FlushInterval = -1
	p := &proxy{kind: kind, fail: fail, hit: make(chan struct{})}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var call mesossched.Call
		if err != nil || call.Unmarshal(body) != nil {
			http.Error(w, "not a call in protobuf", http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		p.seen.Store(call.GetType(), true)
		failed := false
		if call.GetType() == p.kind {
			p.once.Do(func() {
				failed = true
				p.fail(w, func(w http.ResponseWriter) { forward.ServeHTTP(w, r) })
				close(p.hit)
			})
		}
		if !failed {
			forward.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		p.CloseClientConnections()
		p.Close()
	})
	return p
}

// await waits until there was such a call.
func (p *proxy) await(t *testing.T, kind mesossched.Call_Type) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		if _, seen := p.seen.Load(kind); seen {
			return
		}
	}
	t.Fatalf("there was no %s", kind)
}

// broken ends the connection without an answer.
func broken(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}

// faults are the ways in which a call fails.
var faults = map[string]func(http.ResponseWriter, func(http.ResponseWriter)){
	"unavailable": func(w http.ResponseWriter, _ func(http.ResponseWriter)) {
		http.Error(w, "Master has not finished recovery", http.StatusServiceUnavailable)
	},
	"broken before": func(w http.ResponseWriter, _ func(http.ResponseWriter)) { broken(w) },
	"broken after": func(w http.ResponseWriter, pass func(http.ResponseWriter)) {
		pass(httptest.NewRecorder())
		broken(w)
	},
}

// TestFailedCallCostsNeitherOffersNorPods goes through all calls of a pod's life: once one of them has failed, the pod runs
// and ends all the same, and all else of the agent is there for the next one.
func TestFailedCallCostsNeitherOffersNorPods(t *testing.T) {
	for _, kind := range []mesossched.Call_Type{
		mesossched.Call_ACCEPT, mesossched.Call_DECLINE, mesossched.Call_REVIVE, mesossched.Call_RECONCILE,
		mesossched.Call_ACKNOWLEDGE, mesossched.Call_KILL,
	} {
		for name, fail := range faults {
			t.Run(kind.String()+" "+name, func(t *testing.T) {
				t.Parallel()
				c := newClusterWith(t, func(cfg *localmesos.Config) { cfg.AllocationInterval = 200 * time.Millisecond })
				p := newProxy(t, c.mesos.MasterAddr(), kind, fail)
				c.master = p.URL
				c.schedule()
				p.await(t, mesossched.Call_DECLINE) // nobody wanted the offer
				c.createPod("first", "1")
				c.wait("first", "a node", bound)
				c.awaitNoTaskBut(1)
				rest, left := "2750m", 2
				if kind == mesossched.Call_KILL { // else it takes only time
					c.deletePod("first")
					c.awaitNoTaskBut(0)
					rest, left = "3750m", 1
				}
				c.createPod("rest", rest)
				c.wait("rest", "a node", bound)
				c.awaitNoTaskBut(left)
				select {
				case <-p.hit:
				default:
					t.Error("no call has failed")
				}
			})
		}
	}
}

// awaitNoTaskBut waits until the master has so many tasks, which all run.
func (c *cluster) awaitNoTaskBut(want int) {
	c.t.Helper()
	var seen []seenTask
	for end := time.Now().Add(time.Minute); time.Now().Before(end); <-time.After(20 * time.Millisecond) {
		seen = c.tasks()
		running := 0
		for _, task := range seen {
			if task.State == "TASK_RUNNING" {
				running++
			}
		}
		if len(seen) == want && running == want {
			return
		}
	}
	c.t.Fatalf("there are not %d tasks but %v", want, seen)
}
