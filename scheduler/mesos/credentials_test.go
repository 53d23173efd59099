package mesos

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	mesossched "github.com/mesos/mesos-go/api/v1/lib/scheduler"
	log "github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/k8sm/k8sm/api/mesoshttp/mesoshttptest"
	"github.com/k8sm/k8sm/scheduler"
)

// withSecret gives a configuration the principal k8sm with the secret s3cret.
func withSecret(t *testing.T, cfg Config) Config {
	t.Helper()
	cfg.Principal, cfg.SecretFile = "k8sm", writeFile(t, "s3cret\n")
	return cfg
}

// redirector is a handler that redirects to a host as a master does that does not lead.
func redirector(host string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "//"+host)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
}

// eavesdropper is a server that passes on the header Authorization of each request.
func eavesdropper(t *testing.T) (host string, heard <-chan string) {
	t.Helper()
	all := make(chan string, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all <- r.Header.Get("Authorization")
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), all
}

func TestRedirectElsewhereGetsNoSecret(t *testing.T) {
	foreign, heard := eavesdropper(t)
	authority := mesoshttptest.NewAuthority(t)
	for name, test := range map[string]struct {
		master *httptest.Server
		listed []string // beside it
	}{
		"of a host that is not listed":        {httptest.NewServer(redirector(foreign)), nil},
		"from https to http, though listed":   {authority.Server(redirector(foreign), nil, "127.0.0.1"), []string{"http://" + foreign}},
		"of another port of a listed machine": {httptest.NewServer(redirector(foreign)), []string{"127.0.0.1:1"}},
	} {
		t.Cleanup(test.master.Close)
		cfg := withSecret(t, configFor(test.master.URL))
		cfg.CAFile = authority.File
		m, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		c := &connection{master: m, endpoint: test.master.URL + schedulerPath, known: []string{test.master.URL + schedulerPath}}
		for _, listed := range test.listed {
			at, err := endpoint(listed)
			if err != nil {
				t.Fatal(err)
			}
			c.known = append(c.known, at)
		}
		err = c.follow(t.Context())
		if len(heard) > 0 {
			t.Errorf("a redirect %s: the other server got %q", name, <-heard)
		}
		if err == nil || !strings.Contains(err.Error(), foreign) || !strings.Contains(err.Error(), "--mesos-master") {
			t.Errorf("a redirect %s: %v", name, err)
		}
	}
}

func TestRedirectElsewhereIsExplainedAtTheStart(t *testing.T) {
	foreign, heard := eavesdropper(t)
	master := httptest.NewServer(redirector(foreign))
	t.Cleanup(master.Close)
	_, _, ended := start(t, withSecret(t, configFor(master.URL)), "")
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "--mesos-master") || !strings.Contains(err.Error(), foreign) {
		t.Errorf("got %v", err)
	}
	if len(heard) > 0 {
		t.Errorf("the other server got %q", <-heard)
	}
}

func TestRedirectToAListedMasterGetsTheSecret(t *testing.T) {
	secrets := make(chan string, 100)
	leader := newFakeMaster(t, func(_ *mesossched.Call, s stream) {
		s.send(t, subscribedEvent(15))
		hold(s)
	})
	handler := leader.Config.Handler
	leader.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, secret, _ := r.BasicAuth()
		secrets <- secret
		handler.ServeHTTP(w, r)
	})
	address := leader.Listener.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	for _, listed := range []string{address, "localhost:" + port} { // masters redirect by addresses, operators list names
		master := httptest.NewServer(redirector(address))
		t.Cleanup(master.Close)
		_, events, ended := start(t, withSecret(t, configFor(master.URL, listed)), "")
		framework(t, events, ended)
		if got := <-secrets; got != "s3cret" {
			t.Errorf("the master listed as %s got the secret %q", listed, got)
		}
	}
}

func TestSecretsThatGoUnencryptedAreWarnedOfOnce(t *testing.T) {
	master := newFakeMaster(t, func(_ *mesossched.Call, s stream) { s.send(t, subscribedEvent(15)) }) // and ends at once
	for address, want := range map[string]int{"192.0.2.1:5050": 1, "127.0.0.1:5050": 0, "localhost": 0, "[::1]:5050": 0} {
		warnings := logged(t)
		m, err := New(withSecret(t, configFor(address)))
		if err != nil {
			t.Fatal(err)
		}
		for _, client := range []*http.Client{m.subscriber, m.caller} {
			client.Transport.(*http.Transport).DialContext = (&dialTo{master.Listener.Addr().String()}).dial
		}
		subscribed := 0
		err = m.Run(t.Context(), "", func(ev scheduler.Event) error {
			if _, ok := ev.(scheduler.Subscribed); ok {
				subscribed++
			}
			if subscribed == 3 {
				return http.ErrAbortHandler
			}
			return nil
		})
		if err == nil {
			t.Fatal("it ended without the error of its scheduler")
		}
		got := slices.DeleteFunc(warnings(), func(line string) bool { return !strings.Contains(line, "unencrypted") })
		if len(got) != want {
			t.Errorf("%s: %q, want %d warnings", address, got, want)
		}
		for _, line := range got {
			if !strings.Contains(line, "--mesos-master=https://") || strings.Contains(line, "s3cret") {
				t.Errorf("%s: %s", address, line)
			}
		}
	}
}

func TestMastersTakeNoPasswordInTheirURL(t *testing.T) {
	for _, master := range []string{"http://k8sm:s3cret@127.0.0.1:5050", "k8sm:s3cret@127.0.0.1:5050", "ftp://k8sm:s3cret@127.0.0.1", "http://k8sm:s3cret@127.0.0.1:%zz"} {
		_, err := New(configFor(master))
		if err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "--mesos-secret-file") {
			t.Errorf("%s: %v", master, err)
		}
	}
}

func TestEmptySecretFileIsNamed(t *testing.T) {
	cfg := configFor("127.0.0.1:5050")
	cfg.Principal, cfg.SecretFile = "k8sm", writeFile(t, "\n")
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), cfg.SecretFile+" is empty") {
		t.Errorf("got %v", err)
	}
}

// dialTo connects to one address, whatever the address of the request.
type dialTo struct{ address string }

func (d *dialTo) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, d.address)
}

// logged collects the log from now on, and returns a function that returns its lines so far.
func logged(t *testing.T) (lines func() []string) {
	t.Helper()
	hook := new(logtest.Hook)
	before := log.StandardLogger().ReplaceHooks(log.LevelHooks{})
	log.AddHook(hook)
	t.Cleanup(func() { log.StandardLogger().ReplaceHooks(before) })
	return func() []string {
		var all []string
		for _, entry := range hook.AllEntries() {
			text, err := entry.String()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, text)
		}
		return all
	}
}
