package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/test/pipenet"
)

// nobody verifies no certificate.
var nobody = x509.New(x509.DefaultVerifyOptions(), x509.CommonNameUserConversion)

func TestFlagsAreChecked(t *testing.T) {
	for line, want := range map[string]string{
		"":                                                                       "",
		"--v1beta1-address=127.0.0.1:8080":                                       "",
		"--v1beta1-address=[::1]:0":                                              "",
		"--v1beta1-address=:8080":                                                "",
		"--v1beta1-address=old.example:443":                                      "",
		"--v1beta1-address=8080":                                                 "cannot use --v1beta1-address=8080: give host:port, such as 127.0.0.1:8080",
		"--v1beta1-address=localhost:http":                                       "cannot use --v1beta1-address=localhost:http: give host:port",
		"--v1beta1-address=localhost:70000":                                      "give host:port",
		"--v1beta1-insecure":                                                     "cannot use --v1beta1-insecure without --v1beta1-address",
		"--v1beta1-insecure --v1beta1-address=127.0.0.1:8080":                    "",
		"--v1beta1-insecure --v1beta1-address=127.0.0.9:8080":                    "",
		"--v1beta1-insecure --v1beta1-address=localhost:8080":                    "",
		"--v1beta1-insecure --v1beta1-address=[::1]:8080":                        "",
		"--v1beta1-insecure --v1beta1-address=[::ffff:127.0.0.1]:8080":           "",
		"--v1beta1-insecure --v1beta1-address=:8080":                             "everybody who reaches it would be the administrator",
		"--v1beta1-insecure --v1beta1-address=0.0.0.0:8080":                      "everybody who reaches it would be the administrator",
		"--v1beta1-insecure --v1beta1-address=192.0.2.1:8080":                    "everybody who reaches it would be the administrator",
		"--v1beta1-insecure --v1beta1-address=[::ffff:192.0.2.1]:8080":           "everybody who reaches it would be the administrator",
		"--v1beta1-insecure --v1beta1-address=localhost.example:8080":            "everybody who reaches it would be the administrator",
		"--v1beta1-address=127.0.0.1:8080 --v1beta1-max-watches=0":               "cannot use --v1beta1-max-watches=0: give a number from 1",
		"--v1beta1-max-watches=0":                                                "",
		"--v1beta1-address=127.0.0.1:8080 --v1beta1-max-watches=7":               "",
		"--v1beta1-insecure=false --v1beta1-address=0.0.0.0:8080":                "",
		"--v1beta1-insecure --v1beta1-address=127.0.0.1.nip.io:8080":             "everybody who reaches it would be the administrator",
		"--v1beta1-insecure --v1beta1-address=2130706433:8080":                   "everybody who reaches it would be the administrator",
		"--v1beta1-insecure --v1beta1-address=[fe80::1%lo]:8080":                 "everybody who reaches it would be the administrator",
		"--v1beta1-insecure --v1beta1-address=[::]:8080":                         "everybody who reaches it would be the administrator",
		"--v1beta1-address=127.0.0.1:8080 --v1beta1-insecure --v1beta1-address=": "cannot use --v1beta1-insecure without --v1beta1-address",
	} {
		var c Config
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		c.AddFlags(fs)
		if err := fs.Parse(strings.Fields(line)); err != nil {
			t.Fatal(err)
		}
		err := c.Validate()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", line, err, want)
		}
	}
}

// TestFlagsAreTakenOver: what they lead to is seen by TestAddressIsRecordedWhileTheServerRuns, by
// TestOnlyWhoShowsNothingIsTheAdministratorOfAnInsecureServer and by TestWatchesAreLimited.
func TestFlagsAreTakenOver(t *testing.T) {
	var c Config
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	c.AddFlags(fs)
	if want := (Config{MaxWatches: DefaultMaxWatches}); c != want || c.Enabled() {
		t.Errorf("the defaults are %+v", c)
	}
	if err := fs.Parse([]string{"--v1beta1-address=127.0.0.1:1", "--v1beta1-insecure", "--v1beta1-max-watches=7"}); err != nil {
		t.Fatal(err)
	}
	if want := (Config{Address: "127.0.0.1:1", Insecure: true, MaxWatches: 7}); c != want || !c.Enabled() {
		t.Errorf("got %+v", c)
	}
}

func TestCertificateIsForTheNameOfTheFlag(t *testing.T) {
	for address, want := range map[string][]string{"": nil, ":8080": nil, "0.0.0.0:8080": nil, "[::]:1": nil, "127.0.0.1:8080": {"127.0.0.1"}, "[::1]:1": {"::1"}, "old.example:443": {"old.example"}} {
		if got := (Config{Address: address}).Names(); !slices.Equal(got, want) {
			t.Errorf("%q: %q", address, got)
		}
	}
}

func TestAddressIsRecordedWhileTheServerRuns(t *testing.T) {
	api := newFakeAPI(t)
	var g *running
	t.Run("while it runs", func(t *testing.T) {
		g = start(t, api, func(c *Config) { c.Insecure = true })
		record, err := api.dir.Gateway()
		if err != nil || record.Address != g.address || !record.Insecure || record.PID == 0 {
			t.Errorf("%+v, %v", record, err)
		}
	})
	if record, err := api.dir.Gateway(); !errors.Is(err, statedir.ErrNoCluster) {
		t.Errorf("afterwards: %+v, %v", record, err)
	}
	if conn, err := net.Dial("tcp", g.address); err == nil {
		conn.Close()
		t.Error("the port is still open")
	}
}

func TestRecordedAddressIsOneThatTheCertificateHas(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for address, want := range map[string]string{":0": "127.0.0.1", "0.0.0.0:0": "127.0.0.1", "[::]:0": "127.0.0.1", "127.0.0.2:0": "127.0.0.2", "old.example:0": "old.example"} {
		s := &Server{cfg: Config{Address: address}, listener: l}
		if host, port, err := net.SplitHostPort(s.reachable()); host != want || port == "0" || err != nil {
			t.Errorf("%s is reached at %s", address, s.reachable())
		}
	}
}

func TestPortInUseIsAnErrorBeforeAnythingStarts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(Config{Address: l.Addr().String(), MaxWatches: 1}); err == nil || !strings.Contains(err.Error(), "give another --v1beta1-address") {
		t.Errorf("got %v", err)
	}
}

// TestOneCallerKeepsOthersFromNothing: a caller who takes answers slowly, or sends many requests, has a quarter of the places.
func TestOneCallerKeepsOthersFromNothing(t *testing.T) {
	s := share(8)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var all []func()
	for i, try := range []struct {
		caller string
		gets   bool
	}{{"a", true}, {"a", true}, {"a", false}, {"b", true}, {"b", true}, {"c", true}, {"c", true}, {"c", false}, {"d", true}, {"d", true}, {"e", false}} {
		ctx := t.Context()
		if !try.gets {
			ctx = ended
		}
		giveBack, err := s.take(ctx, try.caller)
		if (err == nil) != try.gets {
			t.Fatalf("%d: %s gets a place: %v", i, try.caller, err)
		}
		if err == nil {
			all = append(all, giveBack)
		}
	}
	all[0]()
	again, err := s.take(t.Context(), "e")
	if err != nil {
		t.Fatal(err)
	}
	for _, giveBack := range append(all[1:], again) {
		giveBack()
	}
	if len(s.own) > 0 || len(s.all) > 0 {
		t.Errorf("%d callers and %d places are left", len(s.own), len(s.all))
	}
}

// TestObjectsAreReadOneAfterTheOther: each may become hundreds of times as large in memory.
func TestObjectsAreReadOneAfterTheOther(t *testing.T) {
	who := &callers{server: &rest.Config{Host: "http://api", QPS: -1}, admin: roundTrip(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
	}), verifier: nobody, insecure: true}
	g := newGateway(who, nil, 1)
	post := func(size int) int {
		r := httptest.NewRequest(http.MethodPost, "http://localhost/api/v1beta1/services?timeout=10ms", strings.NewReader(`{"id":"`+strings.Repeat("x", size)+`"}`))
		r.RemoteAddr = "127.0.0.1:1"
		r = r.WithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, net.Addr(&net.TCPAddr{IP: net.IPv6loopback, Port: 80})))
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		return w.Code
	}
	const large = maxObject - 100
	for _, free := range []int64{maxDecoding, large, 1000, 0} {
		g.decoding.TryAcquire(maxDecoding - free)
		for _, size := range []int{large, 100} {
			if code, refused := post(size), int64(size) >= free; (code == http.StatusTooManyRequests) != refused {
				t.Errorf("with room for %d bytes, one of %d is answered %d", free, size, code)
			}
		}
		g.decoding.Release(maxDecoding - free)
	}
}

// TestBodiesAreLimited: 1.5 MiB, whether the length is told or not.
func TestBodiesAreLimited(t *testing.T) {
	g := start(t, newFakeAPI(t), nil)
	body := func(size int) string {
		return `{"id":"x","port":1,"annotations":{"a":"` + strings.Repeat("x", size) + `"}}`
	}
	if response, answer := g.ask("POST /api/v1beta1/services", body(1<<20)); response.StatusCode != http.StatusOK {
		t.Errorf("1 MiB: %d %s", response.StatusCode, answer[:min(len(answer), 500)])
	}
	for name, length := range map[string]int64{"told": 4 << 20, "not told": -1} {
		r, err := http.NewRequest(http.MethodPost, "http://"+g.address+"/api/v1beta1/services", io.MultiReader(strings.NewReader(body(4<<20))))
		if err != nil {
			t.Fatal(err)
		}
		r.Header, r.ContentLength = g.header, length
		if length > 0 {
			r.ContentLength = int64(len(body(4 << 20)))
		}
		response, err := g.client.Do(r)
		if err != nil {
			t.Fatalf("length %s: %v", name, err)
		}
		answer, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(string(answer), "larger than 1572864 bytes") {
			t.Errorf("length %s: %d %s", name, response.StatusCode, answer)
		}
	}
}

// TestBodiesOfStrangersAreNotRead: a token that nobody has is refused before megabytes are read and parsed.
func TestBodiesOfStrangersAreNotRead(t *testing.T) {
	g := start(t, newFakeAPI(t), nil)
	conn, err := net.Dial("tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST /api/v1beta1/pods HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer unknown\r\nContent-Length: 3000000\r\n\r\n{")
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusUnauthorized {
		t.Errorf("%v", response)
	}
}

func TestClientThatSendsItsRequestSlowlyIsCutOff(t *testing.T) {
	for name, beginning := range map[string]string{
		"nothing": "", "header": "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", "handshake": "\x16\x03\x01",
		"body": "POST /api/v1beta1/pods HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			network, stop := inMemory(t, endless{})
			defer stop()
			took, err := network.Trickle(beginning)
			if took > 2*requestTimeout {
				t.Errorf("slow %s: it was connected for %s, %v", name, took, err)
			}
		})
	}
}

// TestSilentConnectionKeepsNoOtherWaiting: what a connection speaks is found out beside the others.
func TestSilentConnectionKeepsNoOtherWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, stop := inMemory(t, endless{})
		defer stop()
		for range 100 {
			silent, err := network.Dial("127.0.0.1")
			if err != nil {
				t.Fatal(err)
			}
			defer silent.Close()
		}
		began := time.Now()
		conn, err := network.Dial("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK || time.Since(began) > 0 {
			t.Errorf("%v after %s", response, time.Since(began))
		}
	})
}

func TestSnifferClosesWhatNobodyServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := pipenet.New()
		s := sniff(network, nil, time.Hour)
		silent, err := network.Dial("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		speaking, err := network.Dial("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(speaking, "G")
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		for _, conn := range []net.Conn{silent, speaking} {
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("a connection is open: %v", err)
			}
		}
		if conn, err := s.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accepted %v, %v", conn, err)
		}
	})
}

// failing is a listener whose next connections fail in a way that passes.
type failing struct {
	net.Listener
	times int
}

func (f *failing) Accept() (net.Conn, error) {
	if f.times--; f.times >= 0 {
		return nil, passing{}
	}
	return f.Listener.Accept()
}

type passing struct{}

func (passing) Error() string   { return "too many open files" }
func (passing) Timeout() bool   { return false }
func (passing) Temporary() bool { return true }

func TestServerOutlivesALackOfFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := pipenet.New()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			ended <- serve(ctx, &failing{Listener: onLoopback{network}, times: 3}, nil, newGateway(&callers{}, nil, 1))
		}()
		conn, err := network.Dial("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
		if answer, err := io.ReadAll(conn); err != nil || !bytes.Contains(answer, []byte("200 OK")) {
			t.Errorf("%q %v", answer, err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// FuzzRequests holds that no request makes the server panic, and that one without credentials gets nothing of the API server.
func FuzzRequests(f *testing.F) {
	for _, seed := range []string{
		"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", "GET /api/v1beta1/pods?labels=a%3Db&fields=name%3Dx HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"POST /api/v1beta1/services HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{\"id\":\"\"}", "PUT /api/v1beta2/pods/X HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 2\r\n\r\n{}",
		"GET /api/v1beta1/proxy/pods/x:80/../%2e%2e/y HTTP/1.1\r\nHost: localhost\r\n\r\n", "GET /api/v1/namespaces/a/pods/b/proxy/c HTTP/1.1\r\nHost: localhost\r\nX-Remote-User: admin\r\n\r\n",
		"GET /api/v1beta1/redirect/minions/%2f HTTP/1.1\r\nHost: localhost\r\n\r\n", "DELETE /api/v1beta1/pods/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /api/v1beta1/operations/1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \r\n\r\n", "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, insecure := range []bool{false, true} {
			asked := 0
			upstream := roundTrip(func(r *http.Request) (*http.Response, error) {
				asked++
				return &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
			})
			g := newGateway(&callers{server: &rest.Config{Host: "http://api", QPS: -1}, plain: upstream, admin: upstream, verifier: nobody, insecure: insecure, url: mustURL("http://api")}, nil, 1)
			r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
			if err != nil {
				return
			}
			_, shows := bearerToken(r)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			r = r.WithContext(context.WithValue(ctx, http.LocalAddrContextKey, net.Addr(&net.TCPAddr{IP: net.IPv6loopback, Port: 80})))
			r.RemoteAddr = "127.0.0.1:1"
			g.ServeHTTP(httptest.NewRecorder(), r)
			if asked > 0 && !insecure && !shows {
				t.Errorf("the API server was asked for nobody: %q", raw)
			}
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestTLSIsOfTheVersionsAndSuitesOfTheCluster(t *testing.T) {
	g := start(t, newFakeAPI(t), nil)
	for name, config := range map[string]*tls.Config{
		"TLS 1.1":      {MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10},
		"a weak suite": {MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}},
	} {
		config.InsecureSkipVerify = true
		if conn, err := tls.Dial("tcp", g.address, config); err == nil {
			conn.Close()
			t.Errorf("%s is accepted", name)
		}
	}
	conn, err := tls.Dial("tcp", g.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if p := conn.ConnectionState().NegotiatedProtocol; p != "http/1.1" {
		t.Errorf("it speaks %q, in which one connection has many requests", p)
	}
}
