package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/k8sm/k8sm/scheduler"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

var someTasks = []scheduler.LiveTask{
	{ID: "u1.1", State: "TASK_RUNNING", Since: noon, Killing: true, Agent: "a1"},
	{ID: "u2.1", Pod: "default/web", Node: "one", State: "TASK_RUNNING", Since: noon, Bound: true, Agent: "a1"},
	{ID: "warm-a1.1", Node: "one", State: "TASK_RUNNING", Since: noon.Add(90 * time.Minute), Warm: true, Agent: "a1"},
	{ID: "u3.12", Pod: "shop/zoo", Node: "one", State: "TASK_STAGING", Since: noon.Add(90 * time.Minute), Agent: "a2", Message: "is being started"},
}

var someQueue = []scheduler.WaitingPod{
	{Pod: "default/big", Since: noon, Attempts: 2, Reasons: []string{"1 is cordoned", "2 are busy"}},
	{Pod: "shop/gated", Since: noon.Add(89 * time.Minute), Reasons: []string{"Scheduling is blocked due to non-empty scheduling gates: x"}},
}

var someNodes = []scheduler.LiveNode{
	{Node: "one", Agent: "a1", Minion: true, KM: "v1", Since: &noon, Kubelet: "v1.36.3", Tasks: 2, Warm: true, Ready: true},
	{Node: "two", Agent: "a2", CordonedFor: "rollout", Rollout: &scheduler.NodeRollout{State: scheduler.StepDraining, Target: "v2"}},
	{Node: "new", Agent: "a3", Minion: true, Tasks: 1, Failing: "TASK_FAILED: full"},
}

var someOffers = []scheduler.LiveOffer{
	{ID: "o1", Hostname: "one.example", Role: "*", Resources: "cpus:0.5;mem:64", Until: noon.Add(90*time.Minute + 4600*time.Millisecond), Agent: "a1", Node: "one"},
	{ID: "o22", Hostname: "two", Role: "prod", Resources: "cpus:16", Until: noon, Unavailable: "2026-01-01T12:00:00Z/..", Agent: "a2"},
}

// shown is what a command prints of a list, an hour and a half after noon.
func shown[T any](t *testing.T, k kind[T], list []T, s showing, selected ...string) (out, errs string, err error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	v := newViewer(k, s, selected)
	v.out, v.errs = &stdout, &stderr
	v.now = func() time.Time { return noon.Add(90 * time.Minute) }
	err = v.show(t.Context(), func(context.Context) ([]T, error) { return list, nil })
	return stdout.String(), stderr.String(), err
}

func TestTablesAreAsKubectlPrintsThem(t *testing.T) {
	check := func(name, out, errs string, err error, want string) {
		t.Helper()
		var lines []string
		for line := range strings.Lines(out) {
			lines = append(lines, strings.TrimRight(line, " \n")+"\n")
		}
		if diff := cmp.Diff(want, strings.Join(lines, "")); diff != "" || err != nil || errs != "" {
			t.Errorf("%s: err %v, %s -want +got:\n%s", name, err, errs, diff)
		}
	}
	out, errs, err := shown(t, tasks, someTasks, showing{})
	check("tasks", out, errs, err, `NAMESPACE   POD      TASK        STATE          NODE     AGE   NOTE
<none>      <none>   u1.1        TASK_RUNNING   <none>   90m   its pod is gone, asked to end
default     web      u2.1        TASK_RUNNING   one      90m   <none>
<none>      <none>   warm-a1.1   TASK_RUNNING   one      0s    keeps its node warm
shop        zoo      u3.12       TASK_STAGING   one      0s    its pod is not bound yet
`)
	out, errs, err = shown(t, tasks, someTasks, showing{output: "wide", namespace: "shop"})
	check("wide", out, errs, err, `NAMESPACE   POD   TASK    STATE          NODE   AGE   NOTE                       AGENT   MESSAGE
shop        zoo   u3.12   TASK_STAGING   one    0s    its pod is not bound yet   a2      is being started
`)
	out, errs, err = shown(t, queue, someQueue, showing{})
	check("queue", out, errs, err, `NAMESPACE   POD     AGE   ATTEMPTS   REASON
default     big     90m   2          1 is cordoned
                                     2 are busy
shop        gated   60s   0          Scheduling is blocked due to non-empty scheduling gates: x
`)
	out, errs, err = shown(t, nodes, someNodes, showing{output: "wide"})
	check("nodes", out, errs, err, `NAME   STATUS                        TASKS   MINION         AGE         KM          ROLLOUT           FAILING             CORDONED FOR   SETTINGS   KUBELET   AGENT
one    Ready                         2       Running,Warm   90m         v1          <none>            <none>              <none>         <none>     v1.36.3   a1
two    NotReady,SchedulingDisabled   0       <none>         <none>      <none>      to v2: draining   <none>              rollout        <none>     <none>    a2
new    NotReady                      1       Running        <unknown>   <unknown>   <none>            TASK_FAILED: full   <none>         <none>     <none>    a3
`)
	out, errs, err = shown(t, offers, someOffers, showing{noHeaders: true})
	check("offers without a header", out, errs, err, `o1    one.example   *      4s    cpus:0.5;mem:64   <none>
o22   two           prod   0s    cpus:16           2026-01-01T12:00:00Z/..
`)
}

func TestOutputForPrograms(t *testing.T) {
	if out, _, err := shown(t, queue, someQueue, showing{output: "name"}); err != nil || out != "pod/big\npod/gated\n" {
		t.Errorf("names: %v %q", err, out)
	}
	out, _, err := shown(t, queue, someQueue, showing{output: "json"})
	var list []scheduler.WaitingPod
	if err != nil || json.Unmarshal([]byte(out), &list) != nil || !cmp.Equal(list, someQueue) {
		t.Errorf("JSON: %v\n%s", err, out)
	}
	if out, _, err = shown(t, queue, nil, showing{output: "json"}); err != nil || out != "[]\n" {
		t.Errorf("JSON of nothing: %v %q", err, out)
	}
	want := "attempts: 2\npod: default/big\nreasons:\n- 1 is cordoned\n- 2 are busy\nsince: \"2026-01-01T12:00:00Z\"\n"
	if out, _, err = shown(t, queue, someQueue, showing{output: "yaml"}, "big"); err != nil || out != want {
		t.Errorf("YAML of one: %v\n%s", err, out)
	}
}

func TestNamesSelect(t *testing.T) {
	for name, want := range map[string]string{"web": "task/u2.1\n", "shop/zoo": "task/u3.12\n", "u1.1": "task/u1.1\n"} {
		if out, _, err := shown(t, tasks, someTasks, showing{output: "name"}, name); err != nil || out != want {
			t.Errorf("%s: %v %q", name, err, out)
		}
	}
	out, _, err := shown(t, nodes, someNodes, showing{output: "name"}, "one", "three")
	if out != "node/one\n" || err == nil || err.Error() != `node "three" not found` {
		t.Errorf("one of two is there: %v %q", err, out)
	}
	if _, _, err := shown(t, queue, someQueue, showing{namespace: "default"}, "gated"); err == nil || err.Error() != `pod "gated" not found` {
		t.Errorf("in another namespace: %v", err)
	}
}

func TestNothingToShowIsToldOnStderr(t *testing.T) {
	out, errs, err := shown(t, queue, nil, showing{})
	if out != "" || errs != "No waiting pods found.\n" || err != nil {
		t.Errorf("queue: %q %q %v", out, errs, err)
	}
	if _, errs, _ := shown(t, offers, nil, showing{output: "wide"}); errs != "No offers found.\n" {
		t.Errorf("offers: %q", errs)
	}
}

// TestWatchPrintsWhatChanges: lines that are as they were are not printed again.
func TestWatchPrintsWhatChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lists := [][]scheduler.LiveTask{
			someTasks[1:2], someTasks[1:2], {someTasks[1], someTasks[3]},
			{{ID: "u2.1", Pod: "default/web", Node: "one", State: "TASK_FAILED", Since: noon, Bound: true, Agent: "a1"}},
		}
		for _, events := range []bool{false, true} {
			ctx, cancel := context.WithCancel(t.Context())
			var out bytes.Buffer
			looks := 0
			v := newViewer(tasks, showing{watch: true, events: events, noHeaders: true}, nil)
			v.out, v.errs = &out, &out
			v.now = func() time.Time { return noon }
			if err := v.follow(ctx, func(context.Context) ([]scheduler.LiveTask, error) {
				looks++
				if looks == len(lists) {
					cancel()
				}
				return lists[looks-1], nil
			}); err != nil {
				t.Error(err)
			}
			var got []string
			for line := range strings.Lines(out.String()) {
				fields := strings.Fields(line)
				if events {
					got = append(got, fields[0]+" "+fields[3]+" "+fields[4])
				} else {
					got = append(got, fields[2]+" "+fields[3])
				}
			}
			want := []string{"u2.1 TASK_RUNNING", "u3.12 TASK_STAGING", "u2.1 TASK_FAILED", "u3.12 TASK_STAGING"}
			if events {
				want = []string{"ADDED u2.1 TASK_RUNNING", "ADDED u3.12 TASK_STAGING", "MODIFIED u2.1 TASK_FAILED", "DELETED u3.12 TASK_STAGING"}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("events %v: -want +got:\n%s", events, diff)
			}
			if looks != 4 {
				t.Errorf("it looked %d times", looks)
			}
		}
	})
}

func TestVersionsForPrograms(t *testing.T) {
	status, out, errs := km(t, "version", "-o", "json")
	var v versions
	if status != 0 || errs != "" || json.Unmarshal([]byte(out), &v) != nil || !strings.HasPrefix(v.Kubernetes, "v1.") || v.Etcd == "" || v.KM == "" || v.Go == "" {
		t.Errorf("JSON: exit status %d, %s%s", status, out, errs)
	}
	if status, out, _ := km(t, "version", "-o", "yaml"); status != 0 || !strings.Contains(out, "kubernetes: "+v.Kubernetes+"\n") {
		t.Errorf("YAML: exit status %d, %s", status, out)
	}
	if status, out, _ := km(t, "--version"); status != 0 || !strings.HasPrefix(out, "km "+v.KM) {
		t.Errorf("km --version: exit status %d, %s", status, out)
	}
	if status, out, _ := km(t, "version"); status != 0 || !strings.Contains(out, "Kubernetes "+v.Kubernetes+"\n") || !strings.HasPrefix(out, "km "+v.KM) {
		t.Errorf("text: exit status %d, %s", status, out)
	}
}
