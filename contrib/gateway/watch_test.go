package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/contrib/test/pipenet"
)

// events reads a watch.
type watched struct {
	t     *testing.T
	lines *bufio.Scanner
	body  io.Closer
}

func (g *running) watch(t *testing.T, path string) watched {
	t.Helper()
	response, err := g.try("GET /api/v1beta1/watch/"+path, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != http.StatusOK {
		data, _ := io.ReadAll(response.Body)
		t.Fatalf("%s: %d %s", path, response.StatusCode, data)
	}
	return watched{t, bufio.NewScanner(response.Body), response.Body}
}

// next is the type, id and version of the next event, and the whole line.
func (w watched) next() (summary, line string) {
	w.t.Helper()
	if !w.lines.Scan() {
		w.t.Fatalf("the watch has ended: %v", w.lines.Err())
	}
	line = w.lines.Text()
	var e struct {
		Type   string
		Object struct {
			ID              string
			ResourceVersion int
		}
	}
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		w.t.Fatalf("%v: %s", err, line)
	}
	return fmt.Sprintf("%s %s %d", e.Type, e.Object.ID, e.Object.ResourceVersion), line
}

func (w watched) wants(want ...string) {
	w.t.Helper()
	var got []string
	for range want {
		summary, _ := w.next()
		got = append(got, summary)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("events: -want +got\n%s", diff)
	}
}

func aPod(namespace, name string, labels map[string]string) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}}
}

func TestWatchTellsWhatChangesFromNowOn(t *testing.T) {
	api := newFakeAPI(t)
	api.put(aPod("default", "old", nil))
	g := start(t, api, nil)
	all, some := g.watch(t, "pods"), g.watch(t, "pods?labels=app%3Dweb&namespace=default&resourceVersion=0")
	api.put(aPod("default", "web", map[string]string{"app": "web"}), aPod("other", "web", map[string]string{"app": "web"}), aPod("default", "old", nil))
	api.drop("pods/default/web")
	all.wants("ADDED web 12", "ADDED web 13", "MODIFIED old 14", "DELETED web 15")
	some.wants("ADDED web 12", "DELETED web 15")
	late := g.watch(t, "pods?resourceVersion=12")
	late.wants("ADDED web 13", "MODIFIED old 14", "DELETED web 15")
	_, line := g.watch(t, "pods?resourceVersion=11").next()
	if want := `{"type":"ADDED","object":{"kind":"Pod","id":"web","creationTimestamp":null,"resourceVersion":12,"apiVersion":"v1beta1","namespace":"default","labels":{"app":"web"},*`; !matches(want, line) {
		t.Errorf("a line is %s", line)
	}
}

func TestWatchThatCannotBeginSaysWhy(t *testing.T) {
	g := start(t, newFakeAPI(t), nil)
	for _, e := range []exchange{
		{"GET /api/v1beta1/watch/pods?resourceVersion=new", "", 400, `*resourceVersion \"new\" is not a number*`},
		{"GET /api/v1beta1/watch/pods?resourceVersion=1", "", 410, `*"status":"Failure","message":"too old resource version","reason":"Expired"*`},
		{"GET /api/v1beta1/watch/pods?fields=a%3Db", "", 400, `*cannot be selected by*`},
		{"GET /api/v1beta1/watch/pods?labels=%3D%3D%3D", "", 400, `*`},
		{"GET /api/v1beta1/watch/widgets", "", 404, `Not Found: "/api/v1beta1/watch/widgets"`},
		{"POST /api/v1beta1/watch/pods", "", 404, `Not Found: "/api/v1beta1/watch/pods"`},
	} {
		if response, body := g.ask(e.line, e.body); response.StatusCode != e.code || !matches(e.want, body) {
			t.Errorf("%s: %d %s\nwant %d %s", e.line, response.StatusCode, body, e.code, e.want)
		}
	}
}

func TestWatchesAreLimited(t *testing.T) {
	g := start(t, newFakeAPI(t), func(c *Config) { c.MaxWatches = 2 })
	first := g.watch(t, "pods")
	g.watch(t, "services")
	response, body := g.ask("GET /api/v1beta1/watch/minions", "")
	if response.StatusCode != http.StatusTooManyRequests || !strings.Contains(body, "2 watches are open already") || response.Header.Get("Retry-After") == "" {
		t.Errorf("the third: %d %s", response.StatusCode, body)
	}
	if response, body := g.ask("GET /api/v1beta1/pods", ""); response.StatusCode != http.StatusOK {
		t.Errorf("other requests: %d %s", response.StatusCode, body)
	}
	first.body.Close()
	for began := time.Now(); ; {
		if response, body = g.head("GET /api/v1beta1/watch/minions"); response.StatusCode == http.StatusOK {
			return
		}
		if time.Since(began) > 10*time.Second {
			t.Fatalf("a watch that has ended keeps its place: %s", body)
		}
	}
}

// head makes a request and closes the answer.
func (g *running) head(line string) (heard, string) {
	response, err := g.try(line, "")
	if err != nil {
		g.tb.Fatal(err)
	}
	response.Body.Close()
	return heard{response.StatusCode, response.Header}, response.Status
}

func aService(name string) *v1.Service {
	return &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: v1.ServiceSpec{Ports: []v1.ServicePort{{Port: 80}}}}
}

// endless is an API server that answers every watch with events without end.
type endless struct{ closed chan struct{} }

func (e endless) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := func(body io.ReadCloser) *http.Response {
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: body, Request: r}
	}
	if r.URL.Query().Get("watch") == "" {
		return answer(io.NopCloser(strings.NewReader(`{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1"}}`))), nil
	}
	reader, writer := io.Pipe()
	go func() {
		defer close(e.closed)
		for n := 1; ; n++ {
			if _, err := fmt.Fprintf(writer, `{"type":"MODIFIED","object":{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web","resourceVersion":"%d"}}}`, n); err != nil {
				return
			}
		}
	}()
	context.AfterFunc(r.Context(), func() { reader.CloseWithError(r.Context().Err()) })
	return answer(reader), nil
}

// onLoopback makes the connections of a network in memory come to loopback.
type onLoopback struct{ net.Listener }

func (l onLoopback) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return local{conn}, nil
}

type local struct{ net.Conn }

func (local) LocalAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

// inMemory serves in a bubble until the test calls stop. Its API server is upstream, for everybody.
func inMemory(t *testing.T, upstream http.RoundTripper) (network *pipenet.Listener, stop func()) {
	t.Helper()
	who := &callers{server: &rest.Config{Host: "http://api", QPS: -1}, plain: upstream, admin: upstream, verifier: nobody, insecure: true}
	network = pipenet.New()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- serve(ctx, onLoopback{network}, nil, newGateway(who, nil, 10)) }()
	return network, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestWatcherThatDoesNotReadIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		upstream := endless{make(chan struct{})}
		network, stop := inMemory(t, upstream)
		defer stop()
		conn, err := network.Dial("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET /api/v1beta1/watch/pods HTTP/1.1\r\nHost: localhost\r\n\r\n")
		for range 20 { // as long as it reads, it is served
			time.Sleep(sendTimeout / 2)
			if _, err := conn.Read(make([]byte, 64<<10)); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		<-upstream.closed
		if took := time.Since(began); took > 2*sendTimeout {
			t.Errorf("the watch was open for another %s", took)
		}
	})
}

func TestWatchEndsWithItsClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		upstream := endless{make(chan struct{})}
		network, stop := inMemory(t, upstream)
		defer stop()
		conn, err := network.Dial("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "GET /api/v1beta1/watch/pods HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		<-upstream.closed
	})
}
