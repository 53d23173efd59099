package mesos

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	mesosmaster "github.com/mesos/mesos-go/api/v1/lib/master"

	"github.com/k8sm/k8sm/contrib/test/pipenet"
	"github.com/k8sm/k8sm/scheduler/mesosmetrics"
)

// measured is a master's answer with its uptime.
func measured(t testing.TB, uptime float64) []byte {
	t.Helper()
	answer, err := (&mesosmaster.Response{Type: mesosmaster.Response_GET_METRICS, GetMetrics: &mesosmaster.Response_GetMetrics{
		Metrics: []mesos.Metric{{Name: "master/uptime_secs", Value: &uptime}, {Name: "master/elected"}},
	}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// subscribedTo returns a connection that is subscribed at the master.
func subscribedTo(t *testing.T, url string) *Master {
	t.Helper()
	m, err := New(withSecret(t, configFor(url)))
	if err != nil {
		t.Fatal(err)
	}
	m.masters, m.session = newCandidates(), &session{endpoint: url + schedulerPath}
	return m
}

// textOf returns samples as "mesos_up 1, mesos_master_uptime_seconds 5".
func textOf(samples []mesosmetrics.Sample) string {
	var texts []string
	for _, s := range samples {
		texts = append(texts, fmt.Sprintf("%s %v", s.Family.Name, s.Value))
	}
	return strings.Join(texts, ", ")
}

func TestMetricsAreAskedForAsOperatorsDo(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var call mesosmaster.Call
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = call.Unmarshal(body)
		}
		principal, secret, _ := r.BasicAuth()
		if err != nil || r.Method != http.MethodPost || r.URL.Path != "/api/v1" || r.Header.Get("Accept") != "application/x-protobuf" ||
			call.Type != mesosmaster.Call_GET_METRICS || call.GetMetrics.Timeout.Nanoseconds != 3e9 || principal+secret != "k8sms3cret" {
			t.Errorf("%s %s %v: %v (%v)", r.Method, r.URL, r.Header, &call, err)
		}
		_, _ = w.Write(measured(t, 5))
	}))
	defer server.Close()
	if got, want := textOf(subscribedTo(t, server.URL).Metrics(t.Context())), "mesos_up 1, mesos_master_uptime_seconds 5"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestWithoutAMasterTheRestGoesOn(t *testing.T) {
	m, err := New(configFor("127.0.0.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Metrics(t.Context()); got != nil {
		t.Errorf("a scheduler that does not lead has %s", textOf(got))
	}
	m.masters = newCandidates()
	if got := textOf(m.Metrics(t.Context())); got != "mesos_up 0" {
		t.Errorf("one that is not subscribed has %s", got)
	}
	m.session = &session{endpoint: "http://127.0.0.1:1" + schedulerPath}
	if got := textOf(m.Metrics(t.Context())); got != "mesos_up 0" {
		t.Errorf("one whose master is away has %s", got)
	}
}

func TestAnswerThatIsNoneSaysWhy(t *testing.T) {
	cut := measured(t, 5)
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"another leads": {func(w http.ResponseWriter, r *http.Request) { redirector("192.0.2.1:5050").ServeHTTP(w, r) }, "it does not lead"},
		"it recovers": {func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "recovering", http.StatusServiceUnavailable)
		}, "503 Service Unavailable to GET_METRICS: recovering"},
		"it does not know us": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }, "--credentials"},
		"it forbids it":       {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, "--mesos-principal"},
		"HTML":                {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }, "cannot read the answer"},
		"half an answer":      {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(cut[:len(cut)-3]) }, "cannot read the answer"},
		"groups":              {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bytes.Repeat([]byte{0x0b}, 1<<20)) }, "group"},
		"too much": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.Copy(w, io.LimitReader(neverEnding('x'), maxMetrics+1))
		}, "too large"},
		"a long complaint": {func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, strings.Repeat("x", 1<<20), http.StatusBadRequest)
		}, "400 Bad Request"},
	} {
		server := httptest.NewServer(test.answer)
		m := subscribedTo(t, server.URL)
		_, err := m.askMetrics(t.Context(), m.session.endpoint)
		if err == nil || !strings.Contains(err.Error(), test.want) || len(err.Error()) > 500 {
			t.Errorf("%s: %v; want %q", name, err, test.want)
		}
		if got := textOf(m.Metrics(t.Context())); got != "mesos_up 0" {
			t.Errorf("%s: %s", name, got)
		}
		server.Close()
	}
}

type neverEnding byte

func (n neverEnding) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(n)
	}
	return len(p), nil
}

// overPipes lets the connection reach its master on a network in memory.
func overPipes(m *Master, network *pipenet.Listener) {
	m.caller.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) { return network.Dial("192.0.2.2") }
}

func TestMetricsCostTheMasterOneCallEveryFewSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		network := pipenet.New()
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second)
			_, _ = w.Write(measured(t, float64(asked.Add(1))))
		})}
		go func() { _ = server.Serve(network) }()
		m := subscribedTo(t, "http://192.0.2.1:5050")
		overPipes(m, network)
		var scrapes sync.WaitGroup
		for range 10 {
			scrapes.Go(func() {
				if got := textOf(m.Metrics(t.Context())); !strings.HasSuffix(got, " 1") {
					t.Errorf("got %s", got)
				}
			})
		}
		scrapes.Wait()
		time.Sleep(metricsKept)
		if got := textOf(m.Metrics(t.Context())); !strings.HasSuffix(got, " 2") {
			t.Errorf("later: %s", got)
		}
		m.session = &session{endpoint: m.session.endpoint} // another subscription, perhaps at another master
		if got := textOf(m.Metrics(t.Context())); !strings.HasSuffix(got, " 3") {
			t.Errorf("of another subscription: %s", got)
		}
		m.caller.CloseIdleConnections()
		server.Close()
	})
}

func TestMasterThatDoesNotAnswerCostsFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := pipenet.New()
		ended := make(chan struct{})
		server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-ended })}
		go func() { _ = server.Serve(network) }()
		m := subscribedTo(t, "http://192.0.2.1:5050")
		overPipes(m, network)
		scrape := func(ctx context.Context, want time.Duration) {
			t.Helper()
			began := time.Now()
			got := textOf(m.Metrics(ctx))
			if took := time.Since(began); got != "mesos_up 0" || took != want {
				t.Errorf("%s after %s, want %s", got, took, want)
			}
		}
		gone, cancel := context.WithTimeout(t.Context(), time.Second)
		scrape(gone, time.Second)
		scrape(t.Context(), metricsTimeout) // the other's end is no answer
		scrape(t.Context(), 0)
		cancel()
		close(ended)
		server.Close()
	})
}

// FuzzMetricsMessage reads what a master answers.
func FuzzMetricsMessage(f *testing.F) {
	f.Add(measured(f, 5))
	f.Add(measured(f, 5)[:9])
	f.Add([]byte{})
	f.Add([]byte("\x2a\x04\x0a\x02\x0a\x00"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		values, err := readMetrics(answer)
		if err != nil {
			return
		}
		for _, s := range mesosmetrics.Translate(values) {
			if len(s.Labels) != len(s.Family.Labels) {
				t.Errorf("%q gives %v", answer, s)
			}
		}
	})
}
