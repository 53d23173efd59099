package localmesos

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/k8sm/k8sm/api"
)

// isolated runs a command in a container with the isolators. It returns its framework and sandbox.
func isolated(t *testing.T, isolation, line string) (*testFramework, string) {
	t.Helper()
	c := testConfig(t)
	c.Isolation = isolation
	return commandIn(t, c, line)
}

func commandIn(t *testing.T, c Config, line string) (*testFramework, string) {
	t.Helper()
	f := subscribeWith(t, startCluster(t, c), nil)
	o := f.mustOffer()
	f.accept(o, commandTask("t", o, line, nil))
	f.mustUpdate("t", "TASK_RUNNING")
	return f, sandboxOf(t, c.WorkDir)
}

// sandboxOf returns the only sandbox in a work directory.
func sandboxOf(t *testing.T, workDir string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(workDir, "agents/*/slaves/*/frameworks/*/executors/*/runs/latest"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("sandboxes: %v %v", paths, err)
	}
	path, err := filepath.EvalSymlinks(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// written waits until a file ends with a line feed, and returns its words.
func written(t *testing.T, path string) []string {
	t.Helper()
	var data []byte
	eventually(t, path, func() bool {
		data, _ = os.ReadFile(path)
		return strings.HasSuffix(string(data), "\n")
	})
	return strings.Fields(string(data))
}

func mountsBelow(t *testing.T, dir string) (points []string) {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		points = append(points, m.Mountpoint)
	}
	return points
}

func TestMountsPropagateIntoContainerButNotOut(t *testing.T) {
	c := testConfig(t)
	c.Isolation = "filesystem/linux"
	t.Run("", func(t *testing.T) {
		_, sandbox := commandIn(t, c, `mkdir in out && mount -t tmpfs none in && readlink /proc/self/ns/mnt >in/ns && cp in/ns ns;
			while ! [ -e out/file ]; do sleep 0.1; done; pwd >seen; sleep 600`)
		own, err := os.Readlink("/proc/self/ns/mnt")
		if err != nil {
			t.Fatal(err)
		}
		if theirs := written(t, filepath.Join(sandbox, "ns")); theirs[0] == own {
			t.Error("the container is in the machine's mount namespace")
		}
		if left, _ := os.ReadDir(filepath.Join(sandbox, "in")); len(left) > 0 {
			t.Errorf("what the container has mounted is on the machine: %v", left)
		}
		out := filepath.Join(sandbox, "out")
		if err := unix.Mount("none", out, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(out, unix.MNT_DETACH) })
		if err := os.WriteFile(filepath.Join(out, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if seen := written(t, filepath.Join(sandbox, "seen")); seen[0] != sandbox {
			t.Errorf("the sandbox %s is %s in the container", sandbox, seen[0])
		}
	})
	if left := mountsBelow(t, c.WorkDir); len(left) > 0 {
		t.Errorf("these mounts are left: %v", left)
	}
}

func TestMountsOfLockedWorkDirAreKept(t *testing.T) {
	c := testConfig(t)
	c.Isolation = "filesystem/linux"
	startCluster(t, c)
	before := mountsBelow(t, c.WorkDir)
	if _, err := Start(t.Context(), c); err == nil || !strings.Contains(err.Error(), "--work-dir") {
		t.Errorf("in a used directory: %v", err)
	}
	if after := mountsBelow(t, c.WorkDir); !slices.Equal(before, after) {
		t.Errorf("of the mounts %v are left %v", before, after)
	}
}

func TestPIDNamespaceOfContainerEndsAsAWhole(t *testing.T) {
	f, sandbox := isolated(t, "filesystem/linux,namespaces/pid", `(setsid sh -c 'echo $$ >daemon; readlink /proc/self/ns/pid >ns; sleep 600' &)
		for i in 1 2 3; do (sh -c 'sleep 0.1' &); done; sleep 0.5
		echo $$ $(cat /proc/1/comm) $(cat /proc/[0-9]*/stat | grep -c ' Z ') $(ls -d /proc/[0-9]* | wc -l) >inside; sleep 600`)
	inside := written(t, filepath.Join(sandbox, "inside"))
	if pid := number(t, inside[0]); pid == 1 || pid > 10 || inside[1] != "sh" {
		t.Errorf("the command is process %d, and process 1 is %s", pid, inside[1])
	}
	if inside[2] != "0" {
		t.Errorf("%s orphans are not reaped", inside[2])
	}
	if n := number(t, inside[3]); n > 12 {
		t.Errorf("its /proc has %d processes: it is the machine's", n)
	}
	namespace := written(t, filepath.Join(sandbox, "ns"))[0]
	if own, _ := os.Readlink("/proc/self/ns/pid"); own == namespace {
		t.Error("the container is in the machine's PID namespace")
	}
	if n := membersOf(t, namespace); n < 4 {
		t.Errorf("%d processes are in the PID namespace", n)
	}
	f.call("KILL", object{"kill": object{"task_id": named("t")}})
	f.mustUpdate("t", "TASK_KILLED")
	eventually(t, "all in the PID namespace is gone", func() bool { return membersOf(t, namespace) == 0 })
}

// membersOf counts the processes in a PID namespace.
func membersOf(t *testing.T, namespace string) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if to, _ := os.Readlink(link); to == namespace {
			n++
		}
	}
	return n
}

func TestWaitStatusFromPIDNamespace(t *testing.T) {
	c := testConfig(t)
	c.Isolation = "filesystem/linux,namespaces/pid"
	f := subscribeWith(t, startCluster(t, c), nil)
	for line, says := range map[string]string{"exit 3": "exited with status 3", "kill -KILL $$": "terminated with signal Killed"} {
		o := f.mustOffer()
		f.accept(o, commandTask(line[:4], o, line, nil))
		if u := f.mustUpdate(line[:4], "TASK_FAILED"); !strings.Contains(text(u, "update", "status", "message"), says) {
			t.Errorf("%q: %v", line, at(u, "update", "status", "message"))
		}
	}
}

func TestContainerOpensOnlyDevicesThatMesosAllows(t *testing.T) {
	if f, err := os.Open("/dev/kmsg"); err != nil {
		t.Skip("not even this program may open /dev/kmsg")
	} else {
		f.Close()
	}
	_, sandbox := isolated(t, "cgroups/devices", `for d in kmsg null zero urandom tty; do (: </dev/$d) 2>/dev/null && echo $d; done >opened
		mknod made c 1 11 && echo made >>opened; echo . >>opened; sleep 600`)
	var opened string
	eventually(t, "it has tried all", func() bool {
		opened = strings.Join(written(t, filepath.Join(sandbox, "opened")), " ")
		return strings.HasSuffix(opened, ".")
	})
	if opened = strings.Replace(opened, " tty", "", 1); opened != "null zero urandom made ." { // without a terminal
		t.Errorf("it could open %s", opened)
	}
}

func TestCgroupsAllUsesEveryMountedHierarchy(t *testing.T) {
	c := testConfig(t)
	c.Isolation = "cgroups/all"
	_, sandbox := commandIn(t, c, `cat /proc/self/cgroup >cgroups; sleep 600`)
	container := filepath.Base(sandbox)
	want := append(mountedSubsystems(), "freezer")
	if len(want) < 5 {
		t.Fatalf("this machine has only %v", want)
	}
	written(t, filepath.Join(sandbox, "cgroups"))
	all, err := os.ReadFile(filepath.Join(sandbox, "cgroups"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range want {
		found := false
		for _, line := range strings.Split(string(all), "\n") {
			fields := strings.SplitN(line, ":", 3)
			found = found || len(fields) == 3 && strings.Contains(","+fields[1]+",", ","+name+",") && fields[2] == "/mesos/"+container
		}
		if !found {
			t.Errorf("the container has no cgroup of %s:\n%s", name, all)
		}
	}
}

func TestCFSQuotaMatchesCPUsWithMinimum(t *testing.T) {
	c := testConfig(t)
	c.Isolation, c.CgroupsEnableCFS = "cgroups/cpu", true
	f := subscribeWith(t, startCluster(t, c), nil)
	line, env := asProgram(t, "executor", object{"name": "LOCALMESOS_TEST_NOTES", "value": filepath.Join(t.TempDir(), "notes")})
	x := executorOf(f, "bounded", line, env...)
	x["resources"] = []any{scalarOf("cpus", 0.001), scalarOf("mem", 32)}
	o := f.mustOffer()
	f.accept(o, executorTask("t", o, x))
	f.mustUpdate("t", "TASK_RUNNING")
	container := containerOf(t, c.WorkDir)
	if period, quota := cgroupFile(t, "cpu", container, "cpu.cfs_period_us"), cgroupFile(t, "cpu", container, "cpu.cfs_quota_us"); period != "100000" || quota != "10100" {
		t.Errorf("with 0.101 cpus it has %s of %s µs", quota, period)
	}
	f.call("KILL", object{"kill": object{"task_id": named("t")}})
	f.mustUpdate("t", "TASK_KILLED")
	eventually(t, "the least quota", func() bool { return cgroupFile(t, "cpu", container, "cpu.cfs_quota_us") == "1000" })
}

func TestContainerWithoutCPUsEndsWithItsTasksGone(t *testing.T) {
	c := testConfig(t)
	c.Isolation = "cgroups/cpu"
	f := subscribeWith(t, startCluster(t, c), nil)
	line, env := asProgram(t, "executor", object{"name": "LOCALMESOS_TEST_NOTES", "value": filepath.Join(t.TempDir(), "notes")})
	x := executorOf(f, "idle", line, env...)
	x["resources"] = []any{scalarOf("mem", 32)}
	o := f.mustOffer()
	poor := executorTask("poor", o, x)
	poor["resources"] = []any{scalarOf("mem", 32)}
	f.accept(o, poor)
	if u := f.mustUpdate("poor", "TASK_FAILED"); text(u, "update", "status", "reason") != "REASON_CONTAINER_LAUNCH_FAILED" ||
		!strings.HasSuffix(text(u, "update", "status", "message"), "Failed to update subsystem 'cpu': No cpus resource given") {
		t.Errorf("it could not start: %v", at(u, "update", "status"))
	}
	o = f.mustOffer()
	poor["task_id"], poor["agent_id"] = named("poor-2"), o["agent_id"]
	f.accept(o, executorTask("rich", o, x), poor)
	f.mustUpdate("rich", "TASK_RUNNING")
	f.mustUpdate("poor-2", "TASK_RUNNING")
	f.call("KILL", object{"kill": object{"task_id": named("rich")}})
	f.mustUpdate("rich", "TASK_KILLED")
	if u := f.mustUpdate("poor-2", "TASK_GONE"); text(u, "update", "status", "reason") != "REASON_CONTAINER_UPDATE_FAILED" ||
		text(u, "update", "status", "message") != "Failed to update resources for container: Failed to update subsystems: Failed to update subsystem 'cpu': No cpus resource given" {
		t.Errorf("it ended with %v", at(u, "update", "status"))
	}
}

func TestRevocableCPUsHaveLowPriority(t *testing.T) {
	c := testConfig(t)
	c.Isolation = "cgroups/cpu"
	i, err := parseIsolation(c.Isolation)
	if err != nil {
		t.Fatal(err)
	}
	const container = "localmesos-test-revocable"
	t.Cleanup(func() { _ = i.destroy(container); i.removeRoot() })
	for text, want := range map[string]string{"cpus:2;mem:64": "2048", "cpus:0.001": "2"} {
		if _, err := i.prepare(container, mustPool(t, text)); err != nil || cgroupFile(t, "cpu", container, "cpu.shares") != want {
			t.Errorf("%s: %s, %v", text, cgroupFile(t, "cpu", container, "cpu.shares"), err)
		}
	}
	revocable, err := parseOversubscribed("cpus:2")
	if err != nil {
		t.Fatal(err)
	}
	if err := i.limit(container, revocable); err != nil || cgroupFile(t, "cpu", container, "cpu.shares") != "20" {
		t.Errorf("2 revocable cpus have %s shares, %v", cgroupFile(t, "cpu", container, "cpu.shares"), err)
	}
}

func TestInvalidIsolatorsAreRefused(t *testing.T) {
	for isolation, says := range map[string]string{
		"cgroups/gpu": "cgroups/gpu", "gpu/nvidia": "gpu/nvidia", "namespaces/pid": "filesystem/linux",
		"filesystem/linux,filesystem/posix": "only one of the isolators", "disk/du,disk/du": "twice", "volume/csi": "volume/csi",
	} {
		if _, err := parseIsolation(isolation); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", isolation, err)
		}
	}
	for _, isolation := range []string{"", "process", "posix/cpu,posix/mem,posix/disk", " cgroups , filesystem/linux ,namespaces/pid"} {
		if _, err := parseIsolation(isolation); err != nil {
			t.Errorf("%s: %v", isolation, err)
		}
	}
}

func TestExecutorsDoNotGetAgentEnvironment(t *testing.T) {
	t.Setenv("LOCALMESOS_TEST_LEAK", "1")
	for _, given := range []string{"", `{"GIVEN":"by the operator","MESOS_SLAVE_ID":"not his to say"}`} {
		has := environmentWith(t, given)
		want := map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LIBPROCESS_PORT": "0"}
		if given != "" {
			want["GIVEN"] = "by the operator"
		}
		for name, value := range want {
			if has[name] != value {
				t.Errorf("with %q it has %s=%s", given, name, has[name])
			}
		}
		if has["MESOS_SLAVE_ID"] == "not his to say" {
			t.Error("what the operator gives is stronger than what Mesos says")
		}
		for name := range has {
			if want[name] == "" && !strings.HasPrefix(name, "MESOS_") && !strings.HasPrefix(name, "LIBPROCESS_") {
				t.Errorf("with %q it has the agent's %s", given, name)
			}
		}
	}
}

// environmentWith returns a command's environment, without variables of the shell, with these --executor-environment-variables.
func environmentWith(t *testing.T, given string) map[string]string {
	t.Helper()
	c := testConfig(t)
	c.ExecutorEnvironmentVariables = given
	_, sandbox := commandIn(t, c, `env | sort >environment; echo >>environment; sleep 600`)
	var data []byte
	eventually(t, "the environment", func() bool {
		data, _ = os.ReadFile(filepath.Join(sandbox, "environment"))
		return strings.HasSuffix(string(data), "\n\n")
	})
	has := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && name != "PWD" && name != "_" && name != "SHLVL" && name != "OLDPWD" {
			has[name] = value
		}
	}
	return has
}

// isolatedCrash kills a local Mesos with isolators while an executor runs, and returns its configuration to restart it.
func isolatedCrash(t *testing.T) (c Config, framework string, executor process) {
	t.Helper()
	c = testConfig(t)
	c.Isolation, c.CgroupsEnableCFS = "cgroups/all,filesystem/linux,namespaces/pid", true
	first := startKillable(t, c)
	c.Port = portOf(t, first.addr)
	f := subscribeWith(t, &Cluster{port: c.Port, plan: plan{Config: c}}, nil)
	runExecutorTask(t, f, "r-1", "survivor")
	executor = pidsIn(t, c.WorkDir)[0]
	first.kill()
	t.Cleanup(func() { executor.destroy() })
	return c, f.id, executor
}

func TestIsolatedContainerSurvivesAgentRestart(t *testing.T) {
	var c Config
	t.Run("", func(t *testing.T) {
		var id string
		var executor process
		c, id, executor = isolatedCrash(t)
		namespace, err := os.Readlink("/proc/" + strconv.Itoa(executor.PID) + "/ns/pid")
		if err != nil {
			t.Fatal(err)
		}
		cluster := startCluster(t, c)
		f := subscribeAs(t, cluster, id)
		eventually(t, "the executor is subscribed again", func() bool {
			f.call("MESSAGE", object{"message": object{
				"agent_id": named(string(cluster.AgentIDs()[0])), "executor_id": named("survivor"), "data": "aGk=",
			}})
			return at(f.stream.next(patience/20, ofType("MESSAGE")), "none") == nil
		})
		container := containerOf(t, c.WorkDir)
		if !executor.alive() || cgroupFile(t, "cpu", container, "cpu.cfs_quota_us") != "20000" {
			t.Error("the executor is not as before")
		}
		if err := cluster.KillExecutor(0, api.FrameworkID(id), "survivor"); err != nil {
			t.Fatal(err)
		}
		f.mustUpdate("r-1", "TASK_FAILED")
		eventually(t, "all in the PID namespace is gone", func() bool { return membersOf(t, namespace) == 0 })
		for _, dir := range cluster.plan.isolation.cgroups(container) {
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("%s is left: %v", dir, err)
			}
		}
	})
	if left := mountsBelow(t, c.WorkDir); len(left) > 0 {
		t.Errorf("these mounts are left: %v", left)
	}
}

func TestContainerAboveItsDiskIsKilled(t *testing.T) {
	c := testConfig(t)
	c.Isolation, c.EnforceContainerDiskQuota, c.ContainerDiskWatchInterval = "disk/du", true, 10*time.Millisecond
	f := subscribeWith(t, startCluster(t, c), nil)
	line, env := asProgram(t, "executor", object{"name": "LOCALMESOS_TEST_NOTES", "value": filepath.Join(t.TempDir(), "notes")})
	o := f.mustOffer()
	x := executorOf(f, "large", "dd if=/dev/zero of=large bs=1M count=3 2>/dev/null; "+line, env...)
	f.accept(o, executorTask("free", o, x))
	f.mustUpdate("free", "TASK_RUNNING")
	sandbox := sandboxOf(t, c.WorkDir)
	if used, err := diskUsage(t.Context(), sandbox); err != nil || used < 3<<20 {
		t.Errorf("the sandbox has %d bytes, %v", used, err)
	}
	o = f.mustOffer() // no disk resources yet, so no limit
	enough := executorTask("enough", o, x)
	enough["resources"] = []any{scalarOf("cpus", 0.1), scalarOf("mem", 32), scalarOf("disk", 4)}
	f.accept(o, enough)
	f.mustUpdate("enough", "TASK_RUNNING")
	if u := f.update("enough", 200*time.Millisecond); at(u, "none") == nil {
		t.Fatalf("within its disk: %v", u)
	}
	if err := os.WriteFile(filepath.Join(sandbox, "more"), make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, task := range []string{"free", "enough"} {
		u := f.mustUpdate(task, "TASK_FAILED")
		says := text(u, "update", "status", "message")
		if text(u, "update", "status", "reason") != "REASON_CONTAINER_LIMITATION_DISK" || !strings.HasPrefix(says, "Disk usage (") || !strings.HasSuffix(says, ") exceeds quota (4MB)") {
			t.Errorf("%s: %v", task, at(u, "update", "status"))
		}
	}
}

func TestSandboxesAreMeasuredInTurn(t *testing.T) {
	w := newDiskWatch(time.Hour, nil)
	for _, container := range []string{"a", "b", "c", "d"} {
		w.set(container, "/"+container, mustPool(t, "disk:1"))
	}
	w.set("b", "/b", mustPool(t, "disk:2"))
	w.set("c", "/c", mustPool(t, "cpus:1"))
	var turns string
	for range 5 {
		container, _, _ := w.next()
		turns += container
	}
	w.forget("a")
	container, _, _ := w.next()
	if turns+container != "abdabd" {
		t.Errorf("the turns were %s", turns+container)
	}
	for n, want := range map[int64]string{0: "0B", 1: "1B", 1 << 10: "1KB", 1025 << 10: "1025KB", 3 << 30: "3GB"} {
		if got := mesosBytes(n); got != want {
			t.Errorf("%d bytes are %s", n, got)
		}
	}
}

func TestContainerListeningOnForeignPortIsKilled(t *testing.T) {
	c := testConfig(t)
	c.Isolation, c.EnforceContainerPorts, c.ContainerPortsWatchInterval = "network/ports", true, 10*time.Millisecond
	cluster := startCluster(t, c)
	f := subscribeWith(t, cluster, nil)
	line, env := asProgram(t, "executor", object{"name": "LOCALMESOS_TEST_NOTES", "value": filepath.Join(t.TempDir(), "notes")},
		object{"name": "LOCALMESOS_TEST_LISTEN", "value": "127.0.0.1:31000"})
	o := f.mustOffer()
	x := executorOf(f, "listener", line, env...)
	task := executorTask("t", o, x)
	task["resources"] = []any{scalarOf("cpus", 0.1), scalarOf("mem", 32), object{"name": "ports", "type": "RANGES", "allocation_info": object{"role": "*"},
		"ranges": object{"range": []any{object{"begin": 31000, "end": 31001}}}}}
	f.accept(o, task)
	f.mustUpdate("t", "TASK_RUNNING")
	o = f.mustOffer()
	f.accept(o, executorTask("other", o, x))
	f.mustUpdate("other", "TASK_RUNNING")
	if u := f.update("other", 200*time.Millisecond); at(u, "none") == nil {
		t.Fatalf("on a port of its own: %v", u)
	}
	container := containerOf(t, c.WorkDir)
	f.call("KILL", object{"kill": object{"task_id": named("t")}})
	f.mustUpdate("t", "TASK_KILLED")
	u := f.mustUpdate("other", "TASK_FAILED")
	if text(u, "update", "status", "reason") != "REASON_CONTAINER_LIMITATION" ||
		text(u, "update", "status", "message") != "Container "+container+" is listening on unallocated port(s): [31000-31000]" {
		t.Errorf("it ended with %v", at(u, "update", "status"))
	}
}

func TestRestartedAgentEnforcesDisk(t *testing.T) {
	c := testConfig(t)
	c.Isolation, c.EnforceContainerDiskQuota, c.ContainerDiskWatchInterval = "disk/du", true, 10*time.Millisecond
	cluster := startCluster(t, c)
	f := subscribeWith(t, cluster, nil)
	line, env := asProgram(t, "executor", object{"name": "LOCALMESOS_TEST_NOTES", "value": filepath.Join(t.TempDir(), "notes")})
	o := f.mustOffer()
	oneMB := []any{scalarOf("cpus", 0.1), scalarOf("mem", 32), scalarOf("disk", 1)}
	command := commandTask("command", o, "sleep 600", func(task object) { task["resources"] = oneMB })
	other := executorTask("executor", o, executorOf(f, "large", line, env...))
	other["resources"] = oneMB
	f.accept(o, command, other)
	f.mustUpdate("command", "TASK_RUNNING")
	f.mustUpdate("executor", "TASK_RUNNING")
	cluster.KillAgent(0)
	sandboxes, err := filepath.Glob(filepath.Join(c.WorkDir, "agents/*/slaves/*/frameworks/*/executors/*/runs/latest"))
	if err != nil || len(sandboxes) != 2 {
		t.Fatalf("%v, %v", sandboxes, err)
	}
	for _, sandbox := range sandboxes {
		if err := os.WriteFile(filepath.Join(sandbox, "more"), make([]byte, 2<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := cluster.RestartAgent(0); err != nil {
		t.Fatal(err)
	}
	for _, task := range []string{"command", "executor"} {
		if u := f.mustUpdate(task, "TASK_FAILED"); text(u, "update", "status", "reason") != "REASON_CONTAINER_LIMITATION_DISK" {
			t.Errorf("%s: %v", task, at(u, "update", "status"))
		}
	}
}

// onNewThread runs a function on a thread that ends after it. It is never the main thread, whose namespaces are the process's.
func onNewThread(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			done <- onNewThread(do)
			return
		}
		done <- do()
	}()
	return <-done
}

// networkNamespace creates a network namespace with a loopback device, and returns a function that runs others in it.
func networkNamespace(t *testing.T) (enter func(do func() error) error) {
	t.Helper()
	var made netns.NsHandle
	err := onNewThread(func() (err error) {
		if made, err = netns.New(); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = made.Close() })
	return func(do func() error) error {
		return onNewThread(func() error {
			if err := netns.Set(made); err != nil {
				return err
			}
			return do()
		})
	}
}

func TestIsolatorsInNetworkNamespaceOfAgent(t *testing.T) {
	c := testConfig(t)
	c.Isolation, c.EnforceContainerPorts, c.ContainerPortsWatchInterval = "cgroups/all,filesystem/linux,namespaces/pid,network/ports", true, 10*time.Millisecond
	enter := networkNamespace(t)
	c.Own = []Agent{{Hostname: "node-1", IP: "127.0.0.1", Enter: enter}}
	f := subscribeWith(t, startCluster(t, c), nil)
	o := f.mustOffer()
	f.accept(o, commandTask("t", o, "readlink /proc/self/ns/net /proc/self/ns/pid /proc/self/ns/mnt >spaces; sleep 600", nil))
	f.mustUpdate("t", "TASK_RUNNING")
	spaces := written(t, filepath.Join(sandboxOf(t, c.WorkDir), "spaces"))
	want := ""
	if err := enter(func() (err error) { want, err = os.Readlink("/proc/thread-self/ns/net"); return err }); err != nil || len(spaces) != 3 || spaces[0] != want {
		t.Errorf("it is in %v, its agent in %s, %v", spaces, want, err)
	}
	for i, name := range []string{"net", "pid", "mnt"} {
		if own, _ := os.Readlink("/proc/self/ns/" + name); own == spaces[i] {
			t.Errorf("it shares the namespace %s with the machine", own)
		}
	}
	line, env := asProgram(t, "executor", object{"name": "LOCALMESOS_TEST_NOTES", "value": filepath.Join(t.TempDir(), "notes")},
		object{"name": "LOCALMESOS_TEST_LISTEN", "value": "127.0.0.1:31000"})
	o = f.mustOffer()
	f.accept(o, executorTask("listener", o, executorOf(f, "listener", line, env...)))
	if u := f.mustUpdate("listener", "TASK_FAILED"); text(u, "update", "status", "reason") != "REASON_CONTAINER_LIMITATION" {
		t.Errorf("it ended with %v", at(u, "update", "status"))
	}
}
