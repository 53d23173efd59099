package minion

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/client"
	"github.com/prometheus/procfs"
	"github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api"
)

// parseCgroups reads the text of a /proc/PID/cgroup.
func parseCgroups(t *testing.T, text string) []procfs.Cgroup {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "1"), 0o755), os.WriteFile(filepath.Join(dir, "1", "cgroup"), []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	proc, err := procfs.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	process, err := proc.Proc(1)
	if err != nil {
		t.Fatal(err)
	}
	all, err := process.Cgroups()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestPodsRunBelowTheMesosContainersCgroup(t *testing.T) {
	const id = "5c7a4b0e-1111-2222-3333-444455556666"
	for name, test := range map[string]struct{ memberships, want string }{
		"cgroup v1, cpu and memory": {
			"9:name=systemd:/mesos/" + id + "\n6:freezer:/mesos/" + id + "\n5:devices:/system.slice/mesos-agent.service\n" +
				"4:memory:/mesos/" + id + "\n2:cpu,cpuacct:/mesos/" + id + "\n0::/system.slice/mesos-agent.service\n", "/mesos/" + id},
		"cgroup v1, cpu alone; memory is where the agent is": {
			"6:freezer:/mesos/" + id + "\n4:memory:/system.slice/mesos-agent.service\n2:cpu,cpuacct:/mesos/" + id + "\n", "/mesos/" + id},
		"cgroup v1, memory alone, in another root": {
			"4:memory:/a/b/" + id + "\n2:cpu,cpuacct:/\n", "/a/b/" + id},
		"cgroup v1, no isolator: the freezer is the launcher's": {
			"6:freezer:/mesos/" + id + "\n4:memory:/\n2:cpu,cpuacct:/\n0::/\n", ""},
		"cgroup v2: not in the leaf":       {"0::/mesos/" + id + "/leaf\n", "/mesos/" + id},
		"cgroup v2, no isolator":           {"0::/system.slice/mesos-agent.service\n", ""},
		"another container's cgroup":       {"0::/mesos/other/leaf\n", ""},
		"a container whose id is a prefix": {"0::/mesos/" + id[:8] + "\n", ""},
	} {
		if got := containerCgroup(parseCgroups(t, test.memberships), id); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	if got := containerCgroup(parseCgroups(t, "0::/\n"), ""); got != "" {
		t.Errorf("without an id: %q", got)
	}
}

// engineWith returns a client of a Docker Engine that only reports its cgroup driver.
func engineWith(t *testing.T, driver string) *client.Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"CgroupDriver":%q}`, driver)
	}))
	t.Cleanup(server.Close)
	docker, err := client.NewClientWithOpts(client.WithHost("tcp://"+server.Listener.Addr().String()), client.WithVersion("1.41"))
	if err != nil {
		t.Fatal(err)
	}
	return docker
}

func TestPodsAreContainedIfAgentAndEngineCan(t *testing.T) {
	contain := true
	for name, test := range map[string]struct{ memberships, driver, parent, refusal, log string }{
		"isolators":      {memberships: "4:memory:/mesos/ID\n", driver: "cgroupfs", parent: "/mesos/ID", log: "Mesos container's cgroup"},
		"no isolators":   {memberships: "4:memory:/\n", driver: "cgroupfs", log: "--isolation=cgroups/cpu,cgroups/mem"},
		"systemd driver": {memberships: "4:memory:/mesos/ID\n", driver: "systemd", refusal: "native.cgroupdriver=cgroupfs"},
	} {
		var log bytes.Buffer
		logger := logrus.New()
		logger.SetOutput(&log)
		n := &node{cluster: api.MinionConfig{ContainPods: &contain}, files: layout{t.TempDir()}, docker: engineWith(t, test.driver), log: logger}
		n.env.Directory = "/sandboxes/runs/ID"
		err := n.containAs(t.Context(), parseCgroups(t, test.memberships))
		if (err == nil) != (test.refusal == "") || err != nil && !strings.Contains(err.Error(), test.refusal) {
			t.Errorf("%s: %v", name, err)
		}
		if noted, err := n.notedCgroups(); n.cgroupParent != test.parent || strings.Join(noted, " ") != test.parent || err != nil {
			t.Errorf("%s: parent %q, recorded %v, %v", name, n.cgroupParent, noted, err)
		}
		if !strings.Contains(log.String(), test.log) {
			t.Errorf("%s: logged %s", name, log.String())
		}
		if told := slices.Contains(n.problems, uncontained); told != (name == "no isolators") {
			t.Errorf("%s: the node's problems are %q", name, n.problems)
		}
	}
}

func TestHierarchiesAreWhereTheyAreMounted(t *testing.T) {
	all := parseCgroups(t, "9:name=systemd:/\n2:cpu,cpuacct:/\n0::/\n")
	for i, want := range []string{"/sys/fs/cgroup/systemd", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/unified"} {
		if got := hierarchyDir(all[i], onlyV2(all)); got != want {
			t.Errorf("%v is at %s, want %s", all[i], got, want)
		}
	}
	if v2 := parseCgroups(t, "0::/x\n"); hierarchyDir(v2[0], onlyV2(v2)) != "/sys/fs/cgroup" {
		t.Errorf("v2 is at %s", hierarchyDir(v2[0], onlyV2(v2)))
	}
}

func TestEmptyCgroupIsRemovedWithEmptyParents(t *testing.T) {
	root := t.TempDir() // rmdir works there as in a cgroup hierarchy
	for _, dir := range []string{"mesos/gone", "mesos/full/container"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if !removeCgroup(root, "/mesos/gone") || !removeCgroup(root, "/mesos/never-was") || removeCgroup(root, "/mesos/full") {
		t.Error("an empty cgroup is left, or one with children was removed")
	}
	if _, err := os.Stat(filepath.Join(root, "mesos/full/container")); err != nil {
		t.Error(err)
	}
	if !removeCgroup(root, "/mesos/full/container") {
		t.Error("an empty cgroup is left")
	}
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}
