package mesos

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	log "github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api/heldport"
	"github.com/k8sm/k8sm/api/mesoshttp/mesoshttptest"
	"github.com/k8sm/k8sm/executor"
)

// secured is an agent with LIBPROCESS_SSL_ENABLED, under a certificate for the host.
func secured(a *mesoshttptest.Authority, change func(*tls.Config), host string) func(*fakeAgent) Config {
	return func(f *fakeAgent) Config {
		cfg := f.config()
		cfg.AgentEndpoint = a.Server(f.Config.Handler, change, host).Listener.Addr().String()
		return cfg
	}
}

// plain is an agent without TLS.
func plain(f *fakeAgent) Config { return f.config() }

// registers subscribes to a new agent and returns why that failed, or "".
func registers(t *testing.T, ssl SSL, reach func(*fakeAgent) Config) string {
	t.Helper()
	f := newFakeAgent(t)
	f.token = "secret"
	cfg := reach(f)
	cfg.SSL = ssl
	agent, events := runWith(t, cfg)
	f.events <- subscribed()
	agent.Subscribe(executor.Subscribe{})
	switch e := receive(t, events).(type) {
	case executor.Subscribed:
		if err := agent.Update(t.Context(), executor.Update{Task: "u.1", State: executor.Running}); err != nil {
			return err.Error()
		}
		return ""
	case executor.Disconnected:
		return e.Reason
	default:
		t.Fatalf("got %+v", e)
		return ""
	}
}

// environment sets the variables, and returns what is read of them.
func environment(t *testing.T, variables ...string) SSL {
	t.Helper()
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	ssl, err := sslFromEnv()
	if err != nil {
		t.Fatal(err)
	}
	return ssl
}

func TestAgentIsSpokenToByTLSOrNotWhateverTheEnvironmentLeavesUnsaid(t *testing.T) {
	byTLS := secured(mesoshttptest.NewAuthority(t), nil, "10.0.0.1")
	for _, c := range []struct {
		environment string
		agent       func(*fakeAgent) Config
		want        string // of the error; "" for none
	}{
		{"", byTLS, ""},
		{"", plain, ""},
		{"LIBPROCESS_SSL_ENABLED=true", byTLS, ""},
		{"SSL_ENABLED=1", byTLS, ""},
		{"SSL_ENABLED=1", plain, "does not speak TLS"},
		{"LIBPROCESS_SSL_ENABLED=0", plain, ""},
		{"LIBPROCESS_SSL_ENABLED=0", byTLS, "cannot subscribe"},
	} {
		t.Run(c.environment, func(t *testing.T) {
			ssl := SSL{}
			if c.environment != "" {
				ssl = environment(t, c.environment)
			}
			if why := registers(t, ssl, c.agent); (why == "") != (c.want == "") || !strings.Contains(why, c.want) {
				t.Errorf("got %q, want %q", why, c.want)
			}
		})
	}
}

// counter counts the connections that it takes.
type counter struct {
	net.Listener
	taken atomic.Int32
}

func (c *counter) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.taken.Add(1)
	}
	return conn, err
}

func TestAgentIsAskedForTLSAgainOnlyWhenItMayBeAnother(t *testing.T) {
	listen := func(address string) *counter {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		return &counter{Listener: l}
	}
	f := newFakeAgent(t)
	cfg := f.config()
	cfg.AgentEndpoint = fmt.Sprintf("127.0.0.1:%d", heldport.OfTest(t))
	first := listen(cfg.AgentEndpoint)
	before := &http.Server{Handler: f.Config.Handler}
	go func() { _ = before.Serve(first) }()
	agent, events := runWith(t, cfg)
	update := func() {
		if err := agent.Update(t.Context(), executor.Update{Task: "u.1", State: executor.Running}); err != nil {
			t.Error(err)
		}
	}
	f.events <- subscribed()
	agent.Subscribe(executor.Subscribe{})
	receive(t, events)
	update()
	if got := first.taken.Load(); got != 3 {
		t.Errorf("%d connections, not one for TLS, one for the subscription and one for the update", got)
	}

	_ = before.Close() // and then it is started again with TLS
	receive(t, events)
	second := listen(cfg.AgentEndpoint)
	authority := mesoshttptest.NewAuthority(t)
	cert, key := authority.Pair("127.0.0.1")
	after := &http.Server{Handler: f.Config.Handler}
	go func() { _ = after.ServeTLS(second, cert, key) }()
	defer after.Close()
	f.events <- subscribed()
	for range 2 {
		agent.Subscribe(executor.Subscribe{})
		if _, ok := receive(t, events).(executor.Subscribed); ok {
			update()
			return
		}
	}
	t.Error("not subscribed by TLS")
}

func TestAgentIsVerifiedAsTheEnvironmentSays(t *testing.T) {
	authority, other := mesoshttptest.NewAuthority(t), mesoshttptest.NewAuthority(t)
	byIP := secured(authority, nil, "127.0.0.1")
	byName := secured(authority, nil, "localhost") // which 127.0.0.1 is by /etc/hosts
	wrong := secured(authority, nil, "other.example")
	trust := []string{"LIBPROCESS_SSL_ENABLED=true", "LIBPROCESS_SSL_VERIFY_SERVER_CERT=true", "LIBPROCESS_SSL_CA_FILE=" + authority.File}
	for _, c := range []struct {
		name        string
		agent       func(*fakeAgent) Config
		environment []string
		want        string // of the error; "" for none
	}{
		{"address", byIP, trust, ""},
		{"name of the address", byName, trust, ""},
		{"name, where addresses are wanted", byName, append(trust[:3:3], "LIBPROCESS_SSL_HOSTNAME_VALIDATION_SCHEME=openssl"), "127.0.0.1"},
		{"another name", wrong, trust, "127.0.0.1"},
		{"another authority", byIP, append(trust[:2:2], "LIBPROCESS_SSL_CA_FILE="+other.File), "--executor_environment_variables"},
		{"by the older name", wrong, []string{"LIBPROCESS_SSL_VERIFY_CERT=1", "LIBPROCESS_SSL_CA_FILE=" + authority.File}, "127.0.0.1"},
		{"not to be verified", wrong, []string{"LIBPROCESS_SSL_CA_FILE=" + other.File}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if why := registers(t, environment(t, c.environment...), c.agent); (why == "") != (c.want == "") || !strings.Contains(why, c.want) {
				t.Errorf("got %q, want %q", why, c.want)
			}
		})
	}
}

func TestAgentThatWantsACertificateIsShownTheOneOfTheEnvironment(t *testing.T) {
	authority := mesoshttptest.NewAuthority(t)
	agent := secured(authority, authority.Clients, "127.0.0.1")
	if why := registers(t, SSL{}, agent); !strings.Contains(why, "LIBPROCESS_SSL_CERT_FILE") || !strings.Contains(why, "--executor_environment_variables") {
		t.Errorf("without one: %s", why)
	}
	cert, key := authority.Pair("executor")
	if why := registers(t, environment(t, "LIBPROCESS_SSL_CERT_FILE="+cert, "LIBPROCESS_SSL_KEY_FILE="+key), agent); why != "" {
		t.Error(why)
	}
}

func TestUnverifiedAgentIsWarnedOfOnce(t *testing.T) {
	var said bytes.Buffer
	before := log.StandardLogger().Out
	log.SetOutput(&said)
	defer log.SetOutput(before)
	agent := secured(mesoshttptest.NewAuthority(t), nil, "127.0.0.1")
	t.Run("until what it starts has ended", func(t *testing.T) {
		if why := registers(t, SSL{}, agent); why != "" {
			t.Error(why)
		}
	})
	if strings.Count(said.String(), "LIBPROCESS_SSL_VERIFY_SERVER_CERT") != 1 {
		t.Errorf("it said %s", said.String())
	}
}

func TestWrongVariablesAreToldBeforeAnythingStarts(t *testing.T) {
	for variable, others := range map[string][]string{
		"LIBPROCESS_SSL_ENABLED=yes":        nil,
		"LIBPROCESS_SSL_CA_FILE=/nowhere":   {"LIBPROCESS_SSL_ENABLED=true"},
		"LIBPROCESS_SSL_CERT_FILE=/nowhere": {"LIBPROCESS_SSL_ENABLED=true"},
		"LIBPROCESS_SSL_CA_DIR=/nowhere":    {"SSL_ENABLED=1"},
	} {
		t.Run(variable, func(t *testing.T) {
			for _, v := range append(others, variable) {
				name, value, _ := strings.Cut(v, "=")
				t.Setenv(name, value)
			}
			name, _, _ := strings.Cut(variable, "=")
			if _, err := sslFromEnv(); err == nil || !strings.Contains(err.Error(), strings.Replace(name, "_DIR", "_FILE", 1)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestVariablesOfTLSAreRead(t *testing.T) {
	yes := true
	want := SSL{Enabled: &yes, VerifyServer: true, RequireClient: true, ByAddress: true}
	dir := t.TempDir()
	authority := mesoshttptest.NewAuthority(t)
	want.CAFile, want.CADir = authority.File, dir
	want.CertFile, want.KeyFile = authority.Pair("a")
	got := environment(t, "SSL_CERT_FILE="+os.DevNull, "SSL_ENABLED=0", "LIBPROCESS_SSL_ENABLED=1", "LIBPROCESS_SSL_CA_FILE="+want.CAFile, "LIBPROCESS_SSL_CA_DIR="+dir,
		"LIBPROCESS_SSL_CERT_FILE="+want.CertFile, "LIBPROCESS_SSL_KEY_FILE="+want.KeyFile, "LIBPROCESS_SSL_REQUIRE_CERT=1",
		"LIBPROCESS_SSL_HOSTNAME_VALIDATION_SCHEME=openssl")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestProxiesOfTheEnvironmentAreNotForTheAgent(t *testing.T) {
	transport := newTransport(newDialer(SSL{}))
	if transport.Proxy != nil {
		t.Error("the agent is asked through a proxy")
	}
}
