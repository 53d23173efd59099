package run

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/blake2b"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler"
)

func newTestPreparer(path string) (*preparer, *records, tokens) {
	cfg := testConfig()
	cfg.Cluster, cfg.APIServer, cfg.CA, cfg.KMPath = "test", "https://127.0.0.1:6443", func() ([]byte, error) { return []byte("pem"), nil }, path
	cfg.APIServers = func() []string { return []string{"192.0.2.1:6443", "192.0.2.2:6443"} }
	store, armed := &records{byAgent: map[api.AgentID][]byte{}}, tokens{}
	return newPreparer(cfg, Parts{Store: store, Tokens: armed, Codec: jsonCodec{}}), store, armed
}

func prepareA1(mayReplace bool) scheduler.PrepareExecutor {
	return scheduler.PrepareExecutor{
		Framework: "fw", Agent: "a1", Node: "n1", MayReplace: mayReplace,
		Resources: offers.Resources{{Name: offers.CPUs, Scalar: 100, Role: "*"}},
	}
}

func TestEachStartHasATokenOfItsOwn(t *testing.T) {
	k, store, issued := newTestPreparer("/opt/it's/km")
	first, err := k.prepare(t.Context(), prepareA1(true))
	if err != nil {
		t.Fatal(err)
	}
	executor, _ := jsonCodec{}.DecodeExecutor(first.Record)
	if executor.Command != `exec '/opt/it'\''s/km' minion` {
		t.Errorf("command %s", executor.Command)
	}
	bootstrap, err := api.ParseBootstrap(executor.Data)
	want := api.Bootstrap{Cluster: "test", Node: "n1", APIServer: "https://127.0.0.1:6443", CA: []byte("pem"), Token: "0.n1",
		APIServers: []string{"192.0.2.1:6443", "192.0.2.2:6443"}}
	if diff := cmp.Diff(want, bootstrap); err != nil || diff != "" {
		t.Error(err, diff)
	}
	issued["0.n1"] = false // the control plane has ended it, because the minion has a certificate
	running, err := k.prepare(t.Context(), prepareA1(false))
	if err != nil || !bytes.Equal(first.Record, running.Record) {
		t.Errorf("the record of a running executor was changed: %v", err)
	}
	if diff := cmp.Diff(tokens{"0.n1": false}, issued); diff != "" {
		t.Errorf("tokens while the executor runs (-want +got):\n%s", diff)
	}
	for range 2 {
		again, err := k.prepare(t.Context(), prepareA1(true))
		if err != nil || bytes.Equal(first.Record, again.Record) || !bytes.Equal(store.byAgent["a1"], again.Record) {
			t.Errorf("the next start has the same record or another than is stored: %v", err)
		}
	}
	if diff := cmp.Diff(tokens{"0.n1": false, "1.n1": false, "2.n1": true}, issued); diff != "" {
		t.Errorf("tokens for the third start (-want +got):\n%s", diff)
	}
}

func TestNewConfigurationIsUsedAfterTheExecutorHasEnded(t *testing.T) {
	old, store, _ := newTestPreparer("/old/km")
	first, err := old.prepare(t.Context(), prepareA1(true))
	if err != nil {
		t.Fatal(err)
	}
	k, _, _ := newTestPreparer("/new/km")
	k.records = store
	running, err := k.prepare(t.Context(), prepareA1(false))
	if err != nil || !bytes.Equal(first.Record, running.Record) {
		t.Errorf("the record of a running executor was changed: %v", err)
	}
	gone, err := k.prepare(t.Context(), prepareA1(true))
	if err != nil || !bytes.Contains(gone.Record, []byte("/new/km")) {
		t.Errorf("the new path is not used: %v", err)
	}
}

func TestMinionCommandHasTheEngineAddress(t *testing.T) {
	for _, km := range []string{"/opt/km", ""} {
		k, store, _ := newTestPreparer(km)
		k.cfg.Artifact = Artifact{URL: "http://here:1/km"}
		prepare := prepareA1(true)
		prepare.Engine = scheduler.Engine{Host: "unix:///it's/d.sock", CertPath: "/etc/docker/tls"}
		if _, err := k.prepare(t.Context(), prepare); err != nil {
			t.Fatal(err)
		}
		executor, err := jsonCodec{}.DecodeExecutor(store.byAgent["a1"])
		if want := ` minion --engine='unix:///it'\''s/d.sock' --engine-cert-path='/etc/docker/tls'`; err != nil || !strings.HasSuffix(executor.Command, want) {
			t.Errorf("the command is %s (%v)", executor.Command, err)
		}
	}
}

func TestCommandReportsASandboxMountedNoexec(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a file system")
	}
	program := "#!/bin/sh\n"
	sum := sha256.Sum256([]byte(program))
	command := Artifact{SHA256: hex.EncodeToString(sum[:])}.command("minion")
	script := `mount -t tmpfs -o noexec none "$1" && cd "$1" && printf '%s\n' '#!/bin/sh' >km && chmod 755 km && exec /bin/sh -c "$2"`
	out, err := exec.CommandContext(t.Context(), "unshare", "--mount", "/bin/sh", "-c", script, "sh", t.TempDir(), command).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "noexec") || !strings.Contains(string(out), "--work_dir") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestExecutorWithoutKMPathFetchesTheProgramAndChecksItsHash(t *testing.T) {
	dir, program := t.TempDir(), "#!/bin/sh\necho ran as $1\n"
	sum := sha256.Sum256([]byte(program))
	hash := hex.EncodeToString(sum[:])
	k, store, _ := newTestPreparer("")
	k.cfg.Artifact = Artifact{URL: "http://it's.here:1/km/" + hash + "/km.tar.gz", SHA256: hash}
	if _, err := k.prepare(t.Context(), prepareA1(true)); err != nil {
		t.Fatal(err)
	}
	executor, err := jsonCodec{}.DecodeExecutor(store.byAgent["a1"])
	if want := []string{k.cfg.Artifact.URL}; err != nil || !cmp.Equal(want, executor.Archives) {
		t.Errorf("it fetches %v, %v", executor.Archives, err)
	}
	for content, want := range map[string]string{program: "ran as minion", program + "#": "it's.here:1/km/" + hash, "": "not the scheduler's"} {
		if err := os.WriteFile(filepath.Join(dir, "km"), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
		archive := filepath.Join(dir, "km.tar.gz") // a fetcher with a full cache leaves it there
		if err := os.WriteFile(archive, []byte("packed"), 0o644); err != nil {
			t.Fatal(err)
		}
		command := exec.CommandContext(t.Context(), "/bin/sh", "-c", executor.Command)
		command.Dir, command.Env = dir, []string{} // agents set no environment
		out, err := command.CombinedOutput()
		if _, err := os.Stat(archive); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the archive is still in the sandbox: %v", err)
		}
		if (err == nil) != (content == program) || !strings.Contains(string(out), want) || strings.Contains(string(out), "ran") != (content == program) {
			t.Errorf("%q: %v, %s", content, err, out)
		}
	}
}

func TestProgramIsCheckedByTheFasterHashThatTheAgentKnows(t *testing.T) {
	program := []byte("#!/bin/sh\necho ran\n")
	sum, quick := sha256.Sum256(program), blake2b.Sum512(program)
	right, other := hex.EncodeToString(sum[:]), hex.EncodeToString(make([]byte, len(sum)))
	rightQuick, otherQuick := hex.EncodeToString(quick[:]), hex.EncodeToString(make([]byte, len(quick)))
	old := t.TempDir() // what an agent has whose coreutils are older
	for _, name := range []string{"sha256sum", "rm"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(old, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		artifact Artifact
		path     string
		runs     bool
	}{
		"both are right":              {Artifact{SHA256: right, BLAKE2b: rightQuick}, "/usr/bin:/bin", true},
		"the faster one is wrong":     {Artifact{SHA256: right, BLAKE2b: otherQuick}, "/usr/bin:/bin", false},
		"the slower one is not read":  {Artifact{SHA256: other, BLAKE2b: rightQuick}, "/usr/bin:/bin", true},
		"there is no b2sum":           {Artifact{SHA256: right, BLAKE2b: otherQuick}, old, true},
		"there is none, and it fails": {Artifact{SHA256: other, BLAKE2b: rightQuick}, old, false},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "km"), program, 0o755); err != nil {
			t.Fatal(err)
		}
		command := exec.CommandContext(t.Context(), "/bin/sh", "-c", test.artifact.command("minion"))
		command.Dir, command.Env = dir, []string{"PATH=" + test.path}
		if out, err := command.CombinedOutput(); (err == nil) != test.runs || strings.HasPrefix(string(out), "km: OK\n") != test.runs {
			t.Errorf("%s: %v, %s", name, err, out)
		}
	}
}

func TestAgentThatCannotReachTheProgramIsNotGivenAnExecutor(t *testing.T) {
	for _, test := range []struct {
		url, agent string
		ok         bool
	}{
		{"http://127.0.0.1:1/km", "10.0.0.1:5051", false},
		{"http://localhost:1/km", "10.0.0.1:5051", false},
		{"http://[::1]:1/km", "10.0.0.1:5051", false},
		{"http://127.0.0.1:1/km", "127.0.0.1:5051", true},
		{"http://10.0.0.2:1/km", "10.0.0.1:5051", true},
		{"http://scheduler.example:1/km", "10.0.0.1:5051", true},
		{"http://127.0.0.1:1/km", "", true}, // unknown
	} {
		k, _, _ := newTestPreparer("")
		k.cfg.Artifact = Artifact{URL: test.url}
		act := prepareA1(true)
		act.Address = test.agent
		_, err := k.prepare(t.Context(), act)
		if (err == nil) != test.ok || err != nil && !strings.Contains(err.Error(), "--artifact-address") {
			t.Errorf("%s for %s: %v", test.url, test.agent, err)
		}
	}
}

func TestRunningExecutorKeepsItsRecordWhenTheArtifactURLChanges(t *testing.T) {
	first, store, _ := newTestPreparer("")
	first.cfg.Artifact = Artifact{URL: "http://one:1/km"}
	before, err := first.prepare(t.Context(), prepareA1(true))
	if err != nil {
		t.Fatal(err)
	}
	second, _, _ := newTestPreparer("")
	second.cfg.Artifact, second.records = Artifact{URL: "http://two:1/km"}, store
	running, err := second.prepare(t.Context(), prepareA1(false))
	if err != nil || !bytes.Equal(before.Record, running.Record) {
		t.Errorf("the record of an executor that runs was changed: %v", err)
	}
	gone, err := second.prepare(t.Context(), prepareA1(true))
	if err != nil || !bytes.Contains(gone.Record, []byte("http://two:1/km")) {
		t.Errorf("an executor that starts anew fetches from elsewhere: %v, %s", err, gone.Record)
	}
}

func TestRunningExecutorWithoutRecordIsAnError(t *testing.T) {
	k, store, _ := newTestPreparer("/km")
	if _, err := k.prepare(t.Context(), prepareA1(false)); err == nil || store.puts != 0 {
		t.Errorf("got %v, %d records stored", err, store.puts)
	}
}

// A record that cannot be read, or is lost, must not keep an agent from us for ever: without an executor there, it gets another; with
// one, the scheduler is told what to do.
func TestRecordThatCannotBeReadIsReplacedOrTold(t *testing.T) {
	for what, damaged := range map[string][]byte{"record": []byte("{"), "bootstrap data": []byte(`{"Data":"e30="}`)} {
		k, store, issued := newTestPreparer("/km")
		store.byAgent["a1"] = damaged
		ready, err := k.prepare(t.Context(), prepareA1(true))
		if err != nil || len(ready.Record) == 0 || !bytes.Equal(store.byAgent["a1"], ready.Record) || len(issued) != 1 {
			t.Errorf("damaged %s: %+v, %v, tokens %v", what, ready, err, issued)
		}
	}
	for why, damaged := range map[string][]byte{"its record is lost: stop that executor first": nil, "its record cannot be read: stop that executor first": []byte("{")} {
		k, store, _ := newTestPreparer("/km")
		if damaged != nil {
			store.byAgent["a1"] = damaged
		}
		told := make(chan scheduler.Event, 1)
		k.sink = func(ev scheduler.Event) error { told <- ev; return nil }
		k.perform(t.Context(), prepareA1(false))
		if ready := (<-told).(scheduler.ExecutorReady); ready.Record != nil || !strings.Contains(ready.Why, why) {
			t.Errorf("told %+v, want %q", ready, why)
		}
	}
}
