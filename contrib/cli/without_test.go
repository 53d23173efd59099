package cli

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/k8sm/k8sm/api/heldport"
	"github.com/k8sm/k8sm/api/statedir"
)

// plane is a km apiserver on loopback.
type plane struct {
	dir     statedir.Dir
	address string // of its API server
	args    []string
	cmd     *exec.Cmd
}

func newPlane(t *testing.T, args ...string) *plane {
	t.Helper()
	p := &plane{dir: statedir.Dir(t.TempDir()), address: fmt.Sprintf("127.0.0.1:%d", heldport.OfTest(t))}
	p.args = append([]string{"--state-dir", string(p.dir), "apiserver", "--secure-port=" + strings.Split(p.address, ":")[1]}, args...)
	return p
}

// start returns when it is ready. It is gone when the test ends.
func (p *plane) start(t *testing.T) {
	t.Helper()
	p.cmd = exec.Command(os.Args[0], p.args...)
	p.cmd.Env = append(os.Environ(), "K8SM_TEST_KM=1")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	ready, ended := make(chan struct{}), make(chan string)
	go func() {
		var said strings.Builder
		for lines := bufio.NewScanner(log); lines.Scan(); {
			if strings.Contains(lines.Text(), "the control plane is ready") {
				close(ready)
			}
			fmt.Fprintln(&said, lines.Text())
		}
		ended <- said.String()
	}()
	select {
	case <-ready:
		go func() { <-ended }()
	case said := <-ended:
		t.Fatalf("the control plane at %s ended:\n%s", p.address, said)
	case <-time.After(2 * time.Minute):
		t.Fatalf("the control plane at %s is not ready after two minutes", p.address)
	}
}

// kill ends it as a crash would.
func (p *plane) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// restart ends it in order and starts it again.
func (p *plane) restart(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	p.start(t)
}

// answers returns what is wrong unless a command on the plane's machine succeeds, or fails with an error that says this.
func (p *plane) answers(fails string, args ...string) string {
	var out, errs bytes.Buffer
	status := Run(append([]string{"--state-dir", string(p.dir)}, args...), &out, &errs)
	if status == 0 && fails == "" || status == exitFailed && fails != "" && strings.Contains(errs.String(), fails) {
		return ""
	}
	return fmt.Sprintf("km %s: %d, %s%swant %q", strings.Join(args, " "), status, out.String(), errs.String(), fails)
}

func (p *plane) must(t *testing.T, fails string, args ...string) {
	t.Helper()
	if problem := p.answers(fails, args...); problem != "" {
		t.Error(problem)
	}
}

// The first has etcd in it, and starts again while the second is dead: that one must not be forgotten. Nodes reach neither, so there is
// no lease of an API server.
func TestKeysChangeWithoutAControlPlaneOnlyWhenItIsGone(t *testing.T) {
	etcdPort := heldport.OfTest(t)
	first := newPlane(t, fmt.Sprintf("--etcd-port=%d", etcdPort))
	second := newPlane(t, fmt.Sprintf("--etcd-servers=https://127.0.0.1:%d", etcdPort))
	first.start(t)
	files, err := first.dir.Authorities()
	if err != nil {
		t.Fatal(err)
	}
	if err := second.dir.ImportAuthorities(files, time.Now()); err != nil {
		t.Fatal(err)
	}
	second.start(t)
	first.must(t, "", "certs", "rotate-sa-key", "begin")
	for _, step := range [][]string{{"secrets", "rotate-key"}, {"certs", "rotate-sa-key", "issue"}, {"certs", "rotate-ca", "issue"}} {
		first.must(t, "the API server at "+second.address+" runs, or ran some seconds ago: it is not gone", append(step, "--without="+second.address)...)
		first.must(t, "no control plane has said that it is at 127.0.0.1:1: there are ", append(step, "--without=127.0.0.1:1")...)
	}

	second.kill()
	first.restart(t)
	first.must(t, "cannot ask the API server at https://"+second.address, "certs", "rotate-sa-key", "issue")
	first.must(t, "", "certs", "rotate-ca", "begin", "front-proxy-ca")
	first.must(t, "the API server at https://"+second.address, "certs", "rotate-ca", "issue", "front-proxy-ca")
	for begin := time.Now(); ; <-time.After(time.Second) {
		problem := first.answers("", "secrets", "rotate-key", "--without="+second.address)
		if problem == "" {
			break
		}
		if !strings.Contains(problem, "ran some seconds ago") || time.Since(begin) > 30*time.Second {
			t.Fatal(problem)
		}
	}
	first.must(t, "", "certs", "rotate-sa-key", "issue", "--without="+second.address)
	for range 2 { // whoever calls a step again gives the same flags
		first.must(t, "", "certs", "rotate-ca", "issue", "front-proxy-ca", "--without="+second.address)
	}

	second.start(t) // it is back after all
	first.must(t, "signs with the former key still", "certs", "rotate-sa-key", "finish", "--after=0s")
	first.must(t, "the API server at "+second.address+" runs", "certs", "rotate-sa-key", "finish", "--after=0s", "--without="+second.address)
}
