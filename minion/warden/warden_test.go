package warden

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// programVariable is the environment variable with the path of the small program.
const programVariable = "WARDEN_TEST_PROGRAM"

// TestMain makes the test binary act as km: a warden executes it to clean up.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 7 && os.Args[1] == Command:
		waitAsBefore()
	case len(os.Args) > 1 && os.Args[1] == Command:
		os.Exit(cleanUp())
	case os.Getenv(minionVariable) != "":
		beMinion()
	}
	os.Exit(withProgram(m.Run))
}

// withProgram builds the small program from the current source; the file that make built may be older.
func withProgram(run func() int) int {
	dir, err := os.MkdirTemp("", "warden")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "warden")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./program")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "cannot build the warden: %v: %s", err, out)
		return 1
	}
	os.Setenv(programVariable, program)
	return run()
}

// cleanUp removes the marker, unless there is a file that makes it fail.
func cleanUp() (status int) {
	w, err := Resume(os.Args[2:])
	if err == nil {
		err = bothHeld(w.Watch)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if exists(w.Marker + ".fail") {
		err := os.WriteFile(w.Marker+".failed", nil, 0o600)
		fmt.Fprintln(os.Stderr, errors.Join(err, w.Again(os.Getenv(programVariable), time.Second)))
		return 1
	}
	if err := os.Remove(w.Marker); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	w.Leave()
	return 0
}

// bothHeld reports whether both locks are taken, so that a new minion would have to wait.
func bothHeld(w Watch) error {
	for _, path := range []string{w.Post, w.Node} {
		if held, err := isHeld(path); err != nil || !held {
			return fmt.Errorf("nobody has the lock %s, %w", path, err)
		}
	}
	return nil
}

// watch creates the files of a node. The test acts as its minion and holds the lock until it calls release.
func watch(t *testing.T) (w Watch, release func()) {
	t.Helper()
	w = watchIn(t.TempDir())
	if err := os.WriteFile(w.Marker, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Dismiss(); err != nil {
			t.Error(err)
		}
	})
	return w, take(t, w)
}

func watchIn(dir string) Watch {
	return Watch{
		Node: filepath.Join(dir, "lock"), Post: filepath.Join(dir, "warden"), Marker: filepath.Join(dir, "left"),
		Build: "this", Patience: 2 * time.Second,
	}
}

// take takes the node's lock, as a new minion does.
func take(t *testing.T, w Watch) (release func()) {
	t.Helper()
	lock, err := tryLock(w.Node)
	if err != nil || lock == nil {
		t.Fatalf("the node's lock is not to be had: %v", err)
	}
	t.Cleanup(func() { lock.Close() })
	return func() { lock.Close() }
}

func start(t *testing.T, w Watch) (pid int) { return startIn(t, w, "none") }

func startIn(t *testing.T, w Watch, container string) (pid int) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(filepath.Dir(w.Marker), "log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if err := w.Start(Launch{Program: os.Getenv(programVariable), Container: container, Log: log, Env: os.Environ()}); err != nil {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("%v\n%s", err, text)
	}
	return w.holder()
}

// await waits until ok returns true.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func (w Watch) isOver() bool { return !exists(w.Marker) }

func runs(pid int) bool { return syscall.Kill(pid, 0) == nil }

func TestWardenCleansUpIfNoMinionFollows(t *testing.T) {
	w, release := watch(t)
	start(t, w)
	began := time.Now()
	release()
	await(t, "the marker is gone", w.isOver)
	if took := time.Since(began); took < w.Patience {
		t.Errorf("it waited for %s only", took)
	}
}

func TestWardenDoesNothingWhileAMinionRuns(t *testing.T) {
	w, release := watch(t)
	pid := start(t, w)
	release()
	release = take(t, w)
	if again := start(t, w); again != pid {
		t.Errorf("the warden was %d and is %d: there may be one only", pid, again)
	}
	timer := time.NewTimer(2 * w.Patience)
	<-timer.C
	if w.isOver() || !runs(pid) {
		t.Fatalf("it worked although a minion ran: marker gone %v, warden there %v", w.isOver(), runs(pid))
	}
	release()
	await(t, "the marker is gone", w.isOver)
}

func TestWardenSeesAMinionWhoseLockIsAnotherFile(t *testing.T) {
	w, release := watch(t)
	pid := start(t, w)
	if err := os.Remove(w.Node); err != nil {
		t.Fatal(err)
	}
	next := take(t, w)
	release()
	timer := time.NewTimer(2 * w.Patience)
	<-timer.C
	if w.isOver() || !runs(pid) {
		t.Fatalf("it worked although a minion ran: marker gone %v, warden there %v", w.isOver(), runs(pid))
	}
	next()
	await(t, "the marker is gone", w.isOver)
}

func TestWardenOfAnotherMinionIsReplaced(t *testing.T) {
	for name, change := range map[string]func(w *Watch){
		"another patience": func(w *Watch) { w.Patience = 2 * time.Hour },
		"another build":    func(w *Watch) { w.Build = "the next" },
		"another marker":   func(w *Watch) { w.Marker += "-elsewhere" },
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := watch(t)
			w.Patience = time.Hour
			pid := start(t, w)
			change(&w)
			if again := start(t, w); again == pid {
				t.Errorf("the warden %d was left", pid)
			}
			await(t, "the first one is gone", func() bool { return !runs(pid) })
		})
	}
}

func TestWardenThatFailsWaitsAgain(t *testing.T) {
	w, release := watch(t)
	if err := os.WriteFile(w.Marker+".fail", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pid := start(t, w)
	release()
	await(t, "it has failed", func() bool { return exists(w.Marker + ".failed") })
	await(t, "it waits again", func() bool { held, err := isHeld(w.Post); return held && err == nil && w.holder() == pid })
	// A new minion can take the node now.
	await(t, "the node's lock is free", func() bool { held, err := isHeld(w.Node); return !held && err == nil })
	if err := os.Remove(w.Marker + ".fail"); err != nil {
		t.Fatal(err)
	}
	await(t, "the marker is gone", w.isOver)
}

func TestWardenEndsWhenNothingIsLeft(t *testing.T) {
	w, release := watch(t)
	pid := start(t, w)
	if err := os.Remove(w.Marker); err != nil {
		t.Fatal(err)
	}
	release()
	await(t, "the warden is gone", func() bool { return !runs(pid) })
}

func TestDismissedWardenHasEnded(t *testing.T) {
	w, release := watch(t)
	pid := start(t, w)
	if err := w.Dismiss(); err != nil {
		t.Error(err)
	}
	release()
	await(t, "the warden is gone", func() bool { return !runs(pid) })
	if w.isOver() {
		t.Error("it worked nevertheless")
	}
}

func TestWardenSharesNoParentOrSessionWithItsMinion(t *testing.T) {
	w, _ := watch(t)
	pid := start(t, w)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	own, err := syscall.Getpgid(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	parent, group, session := fields[1], fields[2], fields[3]
	if parent == strconv.Itoa(os.Getpid()) || group == strconv.Itoa(own) || session != strconv.Itoa(pid) {
		t.Errorf("its parent is %s, its group %s, its session %s; the minion is %d of group %d", parent, group, session, os.Getpid(), own)
	}
	if dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || dir != "/" {
		t.Errorf("it stands in %s, %v: the sandbox has to be free to go", dir, err)
	}
}

// An agent destroys a container by its cgroup. On machines with a v1 freezer hierarchy, the test creates one there.
func TestWardenIsInNoCgroupOfTheContainer(t *testing.T) {
	const hierarchy = "/sys/fs/cgroup/freezer"
	if !exists(filepath.Join(hierarchy, "cgroup.procs")) {
		t.Skip("this machine has no freezer cgroups of version 1")
	}
	w, _ := watch(t)
	container := fmt.Sprintf("k8sm-test-%d", os.Getpid())
	group := filepath.Join(hierarchy, container)
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	enter := func(group string) error {
		return os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
	}
	t.Cleanup(func() {
		if err := errors.Join(enter(hierarchy), os.Remove(group)); err != nil {
			t.Error(err)
		}
	})
	if err := enter(group); err != nil {
		t.Fatal(err)
	}
	pid := startIn(t, w, container)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || strings.Contains(string(text), container) {
		t.Errorf("it is in %s, %v", text, err)
	}
}

func TestCgroupsOfTheContainerAreFound(t *testing.T) {
	const (
		version1 = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
`
		version2 = `31 23 0:28 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate
`
	)
	for name, test := range map[string]struct {
		memberships, mounts string
		roots, unmounted    []string
	}{
		"version 1": {"9:name=systemd:/mesos_executors.slice\n6:freezer:/mesos/c1\n1:cpu,cpuacct:/mesos/c1\n0::/\n", version1,
			[]string{"/sys/fs/cgroup/freezer", "/sys/fs/cgroup/cpu,cpuacct"}, nil},
		"version 2":         {"0::/mesos/c1/leaf\n", version2, []string{"/sys/fs/cgroup"}, nil},
		"another container": {"0::/mesos/c11/leaf\n", version2, nil, nil},
		"no container":      {"0::/\n", version2, nil, nil},
		"not mounted":       {"3:memory:/mesos/c1\n0::/mesos/c1\n", version1, nil, []string{"memory", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			roots, unmounted := rootsToEnter(test.memberships, test.mounts, "c1")
			if diff := cmp.Diff([2][]string{test.roots, test.unmounted}, [2][]string{roots, unmounted}); diff != "" {
				t.Error(diff)
			}
		})
	}
}
