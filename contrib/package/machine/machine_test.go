// Package machine tests the packages on a machine with a real systemd: this machine's own, in namespaces of its own. It tests the image in
// a Docker Engine, likewise.
package machine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// machine is a running systemd.
type machine struct {
	*testing.T
	pid string
}

// boot starts a machine that has the packages at /packages. It is gone when the test ends.
func boot(t *testing.T, packages string) machine {
	cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--net", "--cgroup", "--kill-child", "./boot", packages, t.TempDir())
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
	})
	m := machine{T: t}
	t.Cleanup(func() { _ = exec.Command("kill", "-9", m.pid).Run() }) // unshare does not end systemd
	m.wait("systemd has booted", func() error {
		select {
		case <-ended:
			t.Fatalf("the machine did not boot: %s", said.String())
		default:
		}
		if m.pid == "" {
			children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
			if m.pid = strings.TrimSpace(string(children)); m.pid == "" {
				return fmt.Errorf("no child yet: %v", err)
			}
		}
		return m.try("systemctl", "is-system-running")
	})
	return m
}

// on returns the machine for a subtest.
func (m machine) on(t *testing.T) machine { return machine{T: t, pid: m.pid} }

// wait polls until check is content, for at most two minutes.
func (m machine) wait(what string, check func() error) {
	m.Helper()
	wait(m.T, what, check, func() string {
		log, _ := m.output("journalctl", "--no-pager", "-n", "40")
		return log
	})
}

// wait polls until check is content, for at most two minutes, and then shows a log.
func wait(t *testing.T, what string, check func() error, log func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for tick := time.NewTicker(200 * time.Millisecond); ; {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v\n%s", what, err, log())
		case <-tick.C:
		}
	}
}

// output runs a command on the machine.
func (m machine) output(args ...string) (string, error) {
	out, err := exec.Command("nsenter", append([]string{"-t", m.pid, "-m", "-p", "-u", "-i", "-n", "--"}, args...)...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return strings.TrimSpace(string(out)), err
}

func (m machine) try(args ...string) error {
	_, err := m.output(args...)
	return err
}

func (m machine) run(args ...string) string {
	m.Helper()
	out, err := m.output(args...)
	if err != nil {
		log, _ := m.output("journalctl", "--no-pager", "-n", "40")
		m.Fatalf("%v\n%s", err, log)
	}
	return out
}

// is returns a check that a unit has a property.
func (m machine) is(unit, property, want string) func() error {
	return func() error {
		got, err := m.output("systemctl", "show", "--value", "--property="+property, unit)
		if err == nil && got != want {
			err = fmt.Errorf("%s of %s is %q, not %q", property, unit, got, want)
		}
		return err
	}
}

// kill kills a unit's main process, of which another follows.
func (m machine) kill(unit string) {
	m.Helper()
	before := m.run("systemctl", "show", "--value", "--property=MainPID", unit)
	pid, err := strconv.Atoi(before)
	if err != nil || pid <= 1 {
		m.Fatalf("%s has no process: %q", unit, before)
	}
	m.run("kill", "-9", before)
	m.wait(unit+" runs again", func() error {
		now, err := m.output("systemctl", "show", "--value", "--property=MainPID", unit)
		if err == nil && (now == before || now == "0") {
			err = fmt.Errorf("the process is %s, was %s", now, before)
		}
		return err
	})
	m.wait(unit+" is active again", m.is(unit, "ActiveState", "active"))
}

const km = "/usr/bin/km"

// bootWith starts a machine, and returns where it has the package with this ending.
func bootWith(t *testing.T, ending string) (m machine, file string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("run this test as root")
	}
	packages, err := filepath.Abs("../../../build/packages")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(packages, "*"+ending))
	if err != nil || len(files) != 1 {
		t.Fatalf("build/packages has %d packages *%s, not one: run make packages", len(files), ending)
	}
	return boot(t, packages), "/packages/" + filepath.Base(files[0])
}

// TestDebOnASystemdMachine installs the deb, runs etcd, a control plane and a scheduler as services, upgrades, removes and purges it.
func TestDebOnASystemdMachine(t *testing.T) {
	m, deb := bootWith(t, ".deb")
	m.run("dpkg", "-i", deb)
	units := strings.Fields(m.run("sh", "-c", "cd /lib/systemd/system && ls k8sm-*.service"))
	if len(units) < 4 {
		t.Fatalf("only these units were installed: %s", units)
	}
	t.Run("nothing is started or enabled", func(t *testing.T) {
		m := m.on(t)
		for _, unit := range units {
			m.wait(unit+" is dead", m.is(unit, "ActiveState", "inactive"))
			m.wait(unit+" is disabled", m.is(unit, "UnitFileState", "disabled"))
		}
	})
	t.Run("systemd-analyze finds nothing wrong", func(t *testing.T) {
		m := m.on(t)
		for _, unit := range units {
			if said := m.run("systemd-analyze", "verify", unit); said != "" {
				t.Errorf("%s: %s", unit, said)
			}
			if said, err := m.output("systemd-analyze", "security", "--no-pager", "--threshold=40", unit); err != nil {
				t.Errorf("%v\n%s", err, said)
			}
		}
	})
	t.Run("manual pages and completions are there", func(t *testing.T) {
		m := m.on(t)
		for _, page := range []string{"km", "km-apiserver", "km-scheduler", "km-logs"} {
			m.run("sh", "-c", "zcat /usr/share/man/man1/"+page+".1.gz | grep -q '^.TH '")
		}
		m.run("bash", "-c", ". /usr/share/bash-completion/completions/km && complete -p km")
	})
	t.Run("a wrong configuration fails at once", func(t *testing.T) {
		m := m.on(t)
		m.run("sh", "-c", "cp /etc/k8sm/scheduler.yaml /tmp && echo 'mesos-mastr: x' >>/etc/k8sm/scheduler.yaml")
		if err := m.try("systemctl", "start", "k8sm-scheduler"); err == nil {
			t.Error("it started")
		}
		m.wait("it failed", m.is("k8sm-scheduler", "ActiveState", "failed"))
		m.wait("it was tried once", m.is("k8sm-scheduler", "NRestarts", "0"))
		if said := m.run("journalctl", "--no-pager", "-u", "k8sm-scheduler"); !strings.Contains(said, "no such flag: mesos-mastr") {
			t.Errorf("the journal does not say why: %s", said)
		}
		m.run("mv", "/tmp/scheduler.yaml", "/etc/k8sm/scheduler.yaml")
	})
	t.Run("services start, and start again", func(t *testing.T) { m.on(t).testServices(deb) })
	t.Run("what is removed stops, what is purged keeps its data", func(t *testing.T) {
		m := m.on(t)
		m.run("dpkg", "-r", "k8sm")
		if said, err := m.output("pgrep", "-a", "km"); err == nil {
			t.Errorf("these run still: %s", said)
		}
		m.run("test", "-e", "/etc/k8sm/apiserver.yaml")
		m.run("dpkg", "-P", "k8sm")
		if said, err := m.output("ls", "/etc/k8sm", km); err == nil {
			t.Errorf("these are left: %s", said)
		}
		m.run("test", "-e", "/var/lib/k8sm/pki/ca.crt")
	})
}

// testServices runs an etcd, a control plane and a scheduler, kills and upgrades them.
func (m machine) testServices(deb string) {
	m.run("sh", "-c", "echo 'advertise-address: 127.0.0.1' >>/etc/k8sm/etcd.yaml")
	m.run("ip", "address", "add", "192.0.2.10/32", "dev", "lo") // DNS, metrics and logs run for API servers that others reach
	m.run("sh", "-c", "echo 'bind-address: 192.0.2.10' >>/etc/k8sm/apiserver.yaml; echo 'snapshot-dir: /var/backups/k8sm' >>/etc/k8sm/apiserver.yaml")
	m.run("systemctl", "enable", "--now", "k8sm-etcd")
	m.run("systemctl", "enable", "--now", "k8sm-apiserver")
	if members := m.run(km, "etcd", "status", "--no-headers"); len(strings.Split(members, "\n")) != 1 {
		m.Errorf("the control plane does not use the member: %s", members)
	}
	if got := m.run(km, "kubectl", "get", "--raw", "/readyz"); got != "ok" {
		m.Errorf("the API server is active, but not ready: %s", got)
	}
	m.wait("the log store answers", func() error { return m.try(km, "logs", "--query=*") })
	m.wait("there is a snapshot", func() error { return m.try("sh", "-c", "ls /var/backups/k8sm/k8sm-*.tar") })
	if said := m.run("journalctl", "--no-pager", "-u", "k8sm-apiserver"); strings.Contains(said, "bad system call") {
		m.Errorf("its SystemCallFilter= is too narrow: %s", said)
	}
	m.run("systemctl", "enable", "--now", "k8sm-scheduler")
	for _, unit := range []string{"k8sm-etcd", "k8sm-apiserver", "k8sm-scheduler"} {
		m.kill(unit)
	}
	m.wait("the API server is ready", func() error { return m.try(km, "kubectl", "get", "--raw", "/readyz") })
	m.run("sh", "-c", "echo '# mine' >>/etc/k8sm/apiserver.yaml")
	before := m.run("systemctl", "show", "--value", "--property=MainPID", "k8sm-apiserver")
	m.run("dpkg", "-i", deb)
	m.wait("the upgrade restarted it", func() error { return m.is("k8sm-apiserver", "ActiveState", "active")() })
	if after := m.run("systemctl", "show", "--value", "--property=MainPID", "k8sm-apiserver"); after == before {
		m.Errorf("the old version runs on as process %s", after)
	}
	m.run("grep", "-q", "# mine", "/etc/k8sm/apiserver.yaml")
	m.wait("the DNS unit stayed dead", m.is("k8sm-dns", "ActiveState", "inactive"))
}

// TestRpmOnASystemdMachine does the same with rpm, whose scripts get other arguments. Its database has nothing else of this machine.
func TestRpmOnASystemdMachine(t *testing.T) {
	m, rpm := bootWith(t, ".rpm")
	m.run("rpm", "--install", "--nodeps", rpm)
	if said := m.run("rpm", "--verify", "--nodeps", "k8sm"); said != "" {
		t.Errorf("what is installed differs from the package: %s", said)
	}
	for _, unit := range strings.Fields(m.run("sh", "-c", "cd /lib/systemd/system && ls k8sm-*.service")) {
		m.wait(unit+" is dead", m.is(unit, "ActiveState", "inactive"))
		m.wait(unit+" is disabled", m.is(unit, "UnitFileState", "disabled"))
	}
	m.run("sh", "-c", "echo 'advertise-address: 127.0.0.1' >>/etc/k8sm/etcd.yaml")
	m.run("systemctl", "enable", "--now", "k8sm-etcd")
	before := m.run("systemctl", "show", "--value", "--property=MainPID", "k8sm-etcd")
	m.run("rpm", "--upgrade", "--nodeps", "--force", rpm)
	m.wait("it runs after an upgrade", m.is("k8sm-etcd", "ActiveState", "active"))
	if after := m.run("systemctl", "show", "--value", "--property=MainPID", "k8sm-etcd"); after == before {
		t.Errorf("the old version runs on as process %s", after)
	}
	m.run("grep", "-q", "advertise-address: 127.0.0.1", "/etc/k8sm/etcd.yaml")
	m.run("rpm", "--erase", "k8sm")
	if said, err := m.output("pgrep", "-a", "km"); err == nil {
		t.Errorf("these run still: %s", said)
	}
	if said, err := m.output("ls", km, "/etc/k8sm/etcd.yaml"); err == nil {
		t.Errorf("these are left: %s", said)
	}
	m.run("test", "-e", "/etc/k8sm/etcd.yaml.rpmsave")
	m.run("test", "-e", "/var/lib/k8sm/pki/etcd-ca.crt")
}
