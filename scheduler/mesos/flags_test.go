package mesos

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	mesossched "github.com/mesos/mesos-go/api/v1/lib/scheduler"
	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/mesoshttp/mesoshttptest"
	"github.com/k8sm/k8sm/contrib/localmesos"
	"github.com/k8sm/k8sm/scheduler"
)

// This file is about what becomes of each flag at a master.

// writeFile returns the path of a new file.
func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// strictMesos starts a master that wants to know who subscribes: k8sm, with the secret s3cret.
func strictMesos(t *testing.T) (address string) {
	t.Helper()
	var cfg localmesos.Config
	cfg.AddFlags(pflag.NewFlagSet("", pflag.PanicOnError))
	cfg.Agents, cfg.Port, cfg.WorkDir = 0, 0, t.TempDir()
	cfg.Authentication = localmesos.Authentication{HTTPFrameworks: true, Credentials: writeFile(t, "k8sm s3cret")}
	local, err := localmesos.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(local.Stop)
	return local.MasterAddr()
}

// parsed returns the configuration that the flags make, of a scheduler of the master.
func parsed(t *testing.T, master string, flags ...string) Config {
	t.Helper()
	var cfg Config
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	cfg.AddFlags(fs)
	if err := fs.Parse(append([]string{"--mesos-master=" + master}, flags...)); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// frameworks returns what the master shows of each framework.
func frameworks(t *testing.T, master string) []map[string]any {
	t.Helper()
	response, err := http.Get("http://" + master + "/frameworks")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct{ Frameworks []map[string]any }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return answer.Frameworks
}

// framework waits for the first event, which has to be a subscription.
func framework(t *testing.T, events <-chan scheduler.Event, ended <-chan error) api.FrameworkID {
	t.Helper()
	select {
	case ev := <-events:
		if sub, ok := ev.(scheduler.Subscribed); ok {
			return sub.Framework
		}
		t.Fatalf("got %#v", ev)
	case err := <-ended:
		t.Fatalf("not subscribed: %v", err)
	}
	return ""
}

func TestMasterShowsWhatTheFlagsSay(t *testing.T) {
	master := strictMesos(t)
	cfg := parsed(t, master, "--mesos-roles=a,b", "--mesos-user=nobody", "--mesos-framework-name=f", "--mesos-webui-url=http://w",
		"--mesos-principal=k8sm", "--mesos-secret-file="+writeFile(t, "s3cret\n"), "--mesos-failover-timeout=1m", "--mesos-region-aware", "--mesos-revocable")
	_, events, ended := start(t, cfg, "")
	framework(t, events, ended)
	shown := frameworks(t, master)[0]
	want := map[string]any{
		"name": "f", "user": "nobody", "roles": []any{"a", "b"}, "webui_url": "http://w", "principal": "k8sm",
		"failover_timeout": 60.0, "checkpoint": true,
		"capabilities": []any{"MULTI_ROLE", "PARTITION_AWARE", "TASK_KILLING_STATE", "GPU_RESOURCES", "RESERVATION_REFINEMENT", "REGION_AWARE", "REVOCABLE_RESOURCES"},
	}
	got := map[string]any{}
	for key := range want {
		got[key] = shown[key]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestOffersOfOtherRegionsAreAskedForByAFlagOnly(t *testing.T) {
	cfg := parsed(t, "127.0.0.1:5050")
	for _, c := range cfg.frameworkInfo("").Capabilities {
		if c.Type.String() == "REGION_AWARE" {
			t.Error("without the flag, Mesos keeps agents of other regions from frameworks")
		}
	}
}

func TestMasterThatWantsCredentialsSaysWhatToDo(t *testing.T) {
	master := strictMesos(t)
	for name, test := range map[string]struct {
		flags []string
		says  []string
	}{
		"none":              {nil, []string{"requires authentication", "--mesos-principal", "--mesos-secret-file"}},
		"wrong secret":      {[]string{"--mesos-principal=k8sm", "--mesos-secret-file=" + writeFile(t, "wrong")}, []string{"principal k8sm", "--mesos-secret-file"}},
		"unknown principal": {[]string{"--mesos-principal=other", "--mesos-secret-file=" + writeFile(t, "s3cret")}, []string{"principal other", "--mesos-principal"}},
	} {
		_, _, ended := start(t, parsed(t, master, test.flags...), "")
		err := <-ended // at once, not after --mesos-connect-timeout
		for _, word := range append(test.says, master) {
			if err == nil || !strings.Contains(err.Error(), word) {
				t.Errorf("%s: got %v, want it to say %q", name, err, word)
			}
		}
	}
}

func TestFrameworkThatStayedAwayForTooLongIsToldHowToGoOn(t *testing.T) {
	master, _ := newMesos(t)
	cfg := parsed(t, master, "--mesos-failover-timeout=200ms")
	cfg.Forget = "km etcdctl del KEY"
	var gone api.FrameworkID
	t.Run("one that goes", func(t *testing.T) {
		_, events, ended := start(t, cfg, "")
		gone = framework(t, events, ended)
	})
	for end := time.Now().Add(10 * time.Second); len(frameworks(t, master)) > 0; {
		if time.Now().After(end) {
			t.Fatal("the master keeps the framework")
		}
	}
	_, _, ended := start(t, cfg, gone)
	if err := <-ended; !errors.Is(err, ErrRemoved) || !strings.Contains(err.Error(), "--mesos-failover-timeout") || !strings.HasSuffix(err.Error(), cfg.Forget) {
		t.Errorf("got %v", err)
	}
	_, events, ended := start(t, cfg, "") // as the command makes it
	if again := framework(t, events, ended); again == gone {
		t.Errorf("it is %s again", again)
	}
}

func TestFrameworkOfAnotherPrincipalIsToldHowToGoOn(t *testing.T) {
	master, _ := newMesos(t)
	secret := "--mesos-secret-file=" + writeFile(t, "s3cret")
	var id api.FrameworkID
	t.Run("the first", func(t *testing.T) {
		_, events, ended := start(t, parsed(t, master, "--mesos-principal=first", secret), "")
		id = framework(t, events, ended)
	})
	for _, flags := range [][]string{{"--mesos-principal=second", secret}, nil} {
		cfg := parsed(t, master, flags...)
		cfg.Forget, cfg.ConnectTimeout = "km etcdctl del KEY", time.Hour
		_, _, ended := start(t, cfg, id)
		if err := <-ended; !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "--mesos-principal") || !strings.HasSuffix(err.Error(), cfg.Forget) {
			t.Errorf("%v: got %v", flags, err)
		}
	}
}

func TestHTTPSMasterIsKnownByTheFileOfItsAuthority(t *testing.T) {
	master := newFakeMaster(t, func(_ *mesossched.Call, s stream) {
		s.send(t, subscribedEvent(15))
		hold(s)
	})
	tlsMaster := httptest.NewTLSServer(master.Config.Handler)
	t.Cleanup(tlsMaster.Close)
	tlsMaster.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that fail
	authority := writeFile(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tlsMaster.Certificate().Raw})))
	_, events, ended := start(t, parsed(t, tlsMaster.URL, "--mesos-ca-file="+authority), "")
	framework(t, events, ended)
	_, _, ended = start(t, parsed(t, tlsMaster.URL, "--mesos-connect-timeout=100ms"), "")
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without the file: %v", err)
	}
}

func TestMasterThatWantsCertificatesIsShownTheOneOfTheFlags(t *testing.T) {
	master := newFakeMaster(t, func(_ *mesossched.Call, s stream) {
		s.send(t, subscribedEvent(15))
		hold(s)
	})
	authority := mesoshttptest.NewAuthority(t)
	strict := authority.Server(master.Config.Handler, authority.Clients, "127.0.0.1")
	cert, key := authority.Pair("k8sm")
	_, events, ended := start(t, parsed(t, strict.URL, "--mesos-ca-file="+authority.File, "--mesos-cert-file="+cert, "--mesos-key-file="+key), "")
	framework(t, events, ended)
	_, _, ended = start(t, parsed(t, strict.URL, "--mesos-ca-file="+authority.File, "--mesos-connect-timeout=100ms"), "")
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "--mesos-cert-file") {
		t.Errorf("without them: %v", err)
	}
	_, _, ended = start(t, parsed(t, strings.Replace(strict.URL, "https", "http", 1), "--mesos-connect-timeout=100ms"), "")
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "--mesos-master=https://") {
		t.Errorf("by http: %v", err)
	}
}
