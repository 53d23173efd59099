package machine

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// engine is a Docker Engine that runs.
type engine struct {
	*testing.T
	host string
}

const (
	// address is one that the Engine's network has, and no other.
	address = "192.0.2.10"
	// begin starts containerd and dockerd in the directory $0. What they leave in /run and as mounts goes with the namespace.
	begin = `set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
ip link set lo up
ip address add ` + address + `/32 dev lo
printf 'version = 2\nroot = "%s/containerd"\nstate = "%s/state"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "%s/c.sock"\n' "$0" "$0" "$0" >"$0/containerd.toml"
echo '{"bridge": "none", "iptables": false, "ip6tables": false}' >"$0/dockerd.json"
containerd --config "$0/containerd.toml" &
exec dockerd --config-file "$0/dockerd.json" --containerd "$0/c.sock" --data-root "$0/data" --exec-root "$0/exec" --pidfile "$0/d.pid" --host "unix://$0/d.sock"`
)

// startEngine returns when the Engine answers. It and its containers are gone when the test ends.
func startEngine(t *testing.T) engine {
	dir := t.TempDir()
	cmd := exec.Command("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", begin, dir)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		removeGroups(t)
		if t.Failed() {
			t.Logf("the Engine said:\n%s", said.Bytes()[max(0, said.Len()-4000):])
		}
	})
	e := engine{T: t, host: "unix://" + filepath.Join(dir, "d.sock")}
	wait(t, "the Engine answers", func() error {
		select {
		case <-ended:
			t.Fatal("the Engine has ended")
		default:
		}
		_, err := e.docker("version")
		return err
	}, func() string { return "" }) // it says what it said when the test ends
	return e
}

// group is the cgroup of the containers. The Engine makes it in each hierarchy, and leaves it.
const group = "k8sm-image-test"

func removeGroups(t *testing.T) {
	for _, pattern := range []string{"/sys/fs/cgroup/" + group, "/sys/fs/cgroup/*/" + group} {
		for _, below := range []string{"/*", ""} {
			dirs, err := filepath.Glob(pattern + below)
			if err != nil {
				t.Fatal(err)
			}
			for _, dir := range dirs {
				if info, err := os.Stat(dir); err != nil || !info.IsDir() {
					continue
				}
				if err := syscall.Rmdir(dir); err != nil && err != syscall.ENOENT { // two names of one hierarchy
					t.Errorf("cannot remove the cgroup %s: %v", dir, err)
				}
			}
		}
	}
}

func (e engine) command(args ...string) *exec.Cmd {
	return exec.CommandContext(e.Context(), "docker", append([]string{"--host", e.host}, args...)...)
}

// docker calls the Engine, and returns what that says. Libraries in km may say more on its other output.
func (e engine) docker(args ...string) (string, error) {
	cmd := e.command(args...)
	var problem bytes.Buffer
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(problem.Bytes()))
	}
	return strings.TrimSpace(string(out)), err
}

func (e engine) must(args ...string) string {
	e.Helper()
	out, err := e.docker(args...)
	if err != nil {
		e.Fatal(err)
	}
	return out
}

// TestImageInADockerEngine does what docs/install.md says, and then what an operator does next: stop, replace and look.
func TestImageInADockerEngine(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("run this test as root")
	}
	files, err := filepath.Glob("../../../build/packages/*.oci.tar")
	if err != nil || len(files) != 1 {
		t.Fatalf("build/packages has %d images, not one: run make packages", len(files))
	}
	e := startEngine(t)
	said := e.must("load", "--input", files[0])
	_, image, ok := strings.Cut(said, "Loaded image: ")
	if !ok || !strings.HasPrefix(image, "k8sm/km:") {
		t.Fatalf("docker load: %s", said)
	}
	want, err := exec.Command("../../../km", "version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := e.must("run", "--rm", "--network=none", image, "version"); got != strings.TrimSpace(string(want)) {
		t.Errorf("km version in the image says %q, and here %q", got, want)
	}

	const name = "apiserver"
	data := "--volume=" + t.TempDir() + ":/var/lib/k8sm"
	log := func() string {
		said, _ := e.command("logs", "--tail=40", name).CombinedOutput()
		return string(said)
	}
	run := func() {
		t.Helper()
		e.must("run", "--detach", "--name="+name, "--network=host", "--cgroup-parent=/"+group, data, image, "apiserver", "--bind-address="+address)
		wait(t, "the API server is ready", func() error {
			out, err := e.docker("exec", name, "km", "kubectl", "get", "--raw", "/readyz")
			if err == nil && out != "ok" {
				err = fmt.Errorf("/readyz says %q", out)
			}
			if state, stateErr := e.docker("inspect", "--format={{.State.Status}}", name); stateErr != nil || state != "running" {
				t.Fatalf("the container is %s: %s", state, log())
			}
			return err
		}, log)
	}
	run()
	e.must("exec", name, "km", "kubectl", "create", "configmap", "kept")
	wait(t, "the log store answers", func() error {
		_, err := e.docker("exec", name, "km", "logs", "--query=*")
		return err
	}, log)
	e.must("stop", "--time=60", name)
	if status := e.must("inspect", "--format={{.State.ExitCode}} {{.State.OOMKilled}}", name); status != "0 false" {
		t.Errorf("docker stop: it ended with %s", status)
	}
	e.must("rm", name)
	run()
	e.must("exec", name, "km", "kubectl", "get", "configmap", "kept")
	e.must("rm", "--force", name)
}
