package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
)

func shortDir(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a Docker Engine needs root")
	}
	dir, err := os.MkdirTemp("/tmp", "e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("the Engine left something mounted or running: %v", err)
		}
	})
	return dir
}

func start(t *testing.T, dir string) *Engine {
	t.Helper()
	e, err := Start(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEngineAnswersAndLeavesNothingBehind(t *testing.T) {
	dir := shortDir(t)
	e := start(t, dir)
	if err := e.ping(t.Context()); err != nil {
		t.Errorf("ping: %v", err)
	}
	if err := e.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := mountsBelow(dir); len(left) > 0 || err != nil {
		t.Errorf("still mounted: %v, %v", left, err)
	}
	for _, p := range []*process{e.containerd, e.dockerd} {
		if pid := p.pid(); pid != 0 {
			t.Errorf("%s still runs as %d", p.name, pid)
		}
	}
}

// The helper process below starts an Engine and is killed; see TestEngineOutlivesTheProcessThatStartedIt.
func TestMain(m *testing.M) {
	if dir := os.Getenv("ENGINE_TEST_START_AND_DIE"); dir != "" {
		if _, err := Start(context.Background(), Config{Dir: dir}); err != nil {
			fmt.Fprint(os.Stderr, err)
			os.Exit(1)
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	os.Exit(m.Run())
}

func TestEngineOutlivesTheProcessThatStartedIt(t *testing.T) {
	dir := shortDir(t)
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), "ENGINE_TEST_START_AND_DIE="+dir)
	out, err := child.CombinedOutput()
	if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Fatalf("the helper ended with %v: %s", err, out)
	}
	e := start(t, dir)
	t.Cleanup(func() {
		if err := e.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if !e.containerd.adopted || !e.dockerd.adopted {
		t.Errorf("adopted containerd %v, dockerd %v; want both", e.containerd.adopted, e.dockerd.adopted)
	}
}

func TestDockerdThatDiedIsStartedBesideTheLivingContainerd(t *testing.T) {
	dir := shortDir(t)
	e := start(t, dir)
	if err := e.dockerd.stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := start(t, dir)
	if !again.containerd.adopted || again.dockerd.adopted {
		t.Errorf("adopted containerd %v, dockerd %v; want containerd only", again.containerd.adopted, again.dockerd.adopted)
	}
	// The first Engine knows of no other dockerd than its own, which is gone; it ends the new one all the same.
	if err := e.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if pid := again.dockerd.pid(); pid != 0 {
		t.Errorf("dockerd still runs as %d", pid)
	}
}

func TestProgramThatIsKilledIsStartedAgain(t *testing.T) {
	e := start(t, shortDir(t))
	pids := map[*process]int{e.dockerd: e.dockerd.pid(), e.containerd: e.containerd.pid()}
	ctx, cancel := context.WithCancel(t.Context())
	told, ended := make(chan string, 10), make(chan struct{})
	go func() { defer close(ended); e.Keep(ctx, func(what string) { told <- what }) }()
	for _, p := range []*process{e.dockerd, e.containerd} {
		if err := syscall.Kill(pids[p], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		select {
		case what := <-told:
			if !strings.Contains(what, p.name+" of the Docker Engine in "+e.dir+" had ended") {
				t.Errorf("it tells: %s", what)
			}
		case <-time.After(startTimeout):
			t.Fatalf("%s was killed, and is not started again", p.name)
		}
		// dockerd finds the new containerd by itself.
		err := poll(within(t, time.Minute), func() (bool, error) { _, err := e.running(t.Context()); return err == nil, nil })
		if err != nil {
			t.Errorf("after %s was killed, the Engine does not answer", p.name)
		}
	}
	cancel()
	<-ended
	if err := e.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*process{e.containerd, e.dockerd} {
		if pid := p.pid(); pid != 0 {
			t.Errorf("%s still runs as %d", p.name, pid)
		}
	}
}

func within(t *testing.T, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func TestPidFileOfACrashThatNamesALivingProcessIsNoHindrance(t *testing.T) {
	dir := shortDir(t)
	for _, name := range []string{"d.pid", "dockerd.pid", "containerd.pid"} {
		// After a reboot the number may be anybody's, such as this test's.
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e := start(t, dir)
	if e.containerd.adopted || e.dockerd.adopted {
		t.Error("a stranger was taken for the Engine")
	}
	if err := e.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestFailedStartSaysWhyAndLeavesNothingRunning(t *testing.T) {
	dir := shortDir(t)
	// A file stands where dockerd wants a directory.
	if err := os.WriteFile(filepath.Join(dir, "data"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Config{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "data") {
		t.Fatalf("Start returned %v; want dockerd's own reason", err)
	}
	if conn, err := net.Dial("unix", filepath.Join(dir, "c.sock")); err == nil {
		conn.Close()
		t.Error("containerd still runs")
	}
}

func TestSettingsWinOverTheEnginesOwn(t *testing.T) {
	dir := t.TempDir()
	if _, err := newEngine(Config{Dir: dir, Settings: map[string]any{"bridge": "mine", "debug": true}}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "dockerd.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if got["bridge"] != "mine" || got["debug"] != true || got["iptables"] != false {
		t.Errorf("dockerd is configured with %s", data)
	}
}

func TestDirectoryTooLongForASocketIsRefused(t *testing.T) {
	_, err := Start(t.Context(), Config{Dir: filepath.Join(t.TempDir(), strings.Repeat("x", 100))})
	if err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("Start returned %v", err)
	}
}

func TestMissingProgramNamesThePackageToInstall(t *testing.T) {
	_, err := find("no-such-dockerd")
	if err == nil || !strings.Contains(err.Error(), "apt-get install docker.io") {
		t.Errorf("find returned %v", err)
	}
}

func TestMountsAreFoundInnermostFirst(t *testing.T) {
	const table = `27 1 254:0 / / rw - ext4 /dev/vda rw
42 27 254:0 /tmp/e/data /tmp/e/data rw shared:1 - ext4 /dev/vda rw
43 42 0:4 net:[4026] /tmp/e/data/a\040b rw - nsfs nsfs rw
44 27 254:0 / /tmp/e2 rw - ext4 /dev/vda rw
`
	want := []string{"/tmp/e/data/a b", "/tmp/e/data"}
	mounts, err := mountinfo.GetMountsFromReader(strings.NewReader(table), below("/tmp/e"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, innermostFirst(mounts)); diff != "" {
		t.Error(diff)
	}
}
