package executor

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
)

var update = flag.Bool("update", false, "write what the core answers into the scripts of testdata")

// TestCoreFollowsScripts plays testdata/*.txt: "config", then events, each with its time and the actions that answer it
// indented below. Updates are called #1, #2 … in the order in which they arise.
func TestCoreFollowsScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("answers differ (-script +core):\n%s", diff)
			}
		})
	}
}

type player struct {
	t     *testing.T
	core  *Core
	ids   []uuid.UUID
	begin time.Time
}

func play(t *testing.T, script string) string {
	p := &player{t: t, begin: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	var out strings.Builder
	for lines := bufio.NewScanner(strings.NewReader(script)); lines.Scan(); {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "\t"): // an action: the core says it anew
		case line == "" || strings.HasPrefix(line, "#"):
			fmt.Fprintln(&out, line)
		case strings.HasPrefix(line, "config"):
			fmt.Fprintln(&out, line)
			p.core = NewCore(p.config(strings.Fields(line)[1:]))
		default:
			fmt.Fprintln(&out, line)
			fields := strings.Fields(line)
			for _, action := range p.core.Step(p.begin.Add(p.duration(fields[0])), p.event(fields[1:])) {
				fmt.Fprintf(&out, "\t%s\n", p.describe(action))
			}
		}
	}
	return out.String()
}

func (p *player) config(fields []string) CoreConfig {
	cfg := CoreConfig{Run: uuid.NameSpaceOID}
	for _, field := range fields {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "checkpoint":
			cfg.Checkpoint = true
		case "recovery":
			cfg.RecoveryTimeout = p.duration(value)
		case "suicide":
			cfg.IdleTimeout = p.duration(value)
		default:
			p.t.Fatalf("unknown config %q", field)
		}
	}
	return cfg
}

func (p *player) duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		p.t.Fatal(err)
	}
	return d
}

func (p *player) event(fields []string) Event {
	args := append(fields[1:], "", "")
	switch fields[0] {
	case "started":
		return Started{}
	case "subscribed":
		return Subscribed{Registration: Registration{Agent: "agent-1"}}
	case "disconnected":
		return Disconnected{Reason: "connection reset"}
	case "configured":
		return Configured{IdleTimeout: p.duration(args[0])}
	case "shutdown":
		return Shutdown{}
	case "unfit":
		return Unfit{Reason: strings.TrimSpace(strings.Join(args, " "))}
	case "tick":
		return Tick{}
	case "launch":
		uid, _, err := api.TaskID(args[0]).Parse()
		if err != nil {
			p.t.Fatal(err)
		}
		pod := fmt.Sprintf(`{"metadata":{"namespace":"default","name":"pod-%s","uid":"%s"}}`, uid, uid)
		if args[1] == "broken" {
			pod = "{"
		}
		return NewLaunch(api.TaskID(args[0]), []byte(pod), []byte("info of "+args[0]))
	case "kill":
		kill := Kill{Task: api.TaskID(args[0])}
		if seconds, err := strconv.ParseInt(args[1], 10, 64); err == nil {
			kill.Grace = &seconds
		}
		return kill
	case "ack":
		n, err := strconv.Atoi(args[1][1:])
		if err != nil {
			p.t.Fatal(err)
		}
		return Acknowledged{Task: api.TaskID(args[0]), Update: p.ids[n-1]}
	case "pod":
		return p.podChanged(args)
	case "gone":
		return PodGone{UID: types.UID(args[0])}
	}
	p.t.Fatalf("unknown event %q", fields[0])
	return nil
}

// podChanged reads "TASK PHASE [MORE...]": a pod that the named task's binding brought here, or "UID.- PHASE" for one
// that no task is named for. More is deleting, ready, preempted, and of a trouble kind=KIND, restarts and memory.
func (p *player) podChanged(args []string) Event {
	uid, attempt, _ := strings.Cut(args[0], ".")
	pod := Pod{
		Key:   api.PodKey{Namespace: "default", Name: "pod-" + uid},
		UID:   types.UID(uid),
		Phase: corev1.PodPhase(args[1]),
	}
	if pod.Phase == corev1.PodFailed {
		pod.Trouble.Message = "container main exited with code 1"
	}
	for _, more := range args[2:] {
		kind, isKind := strings.CutPrefix(more, "kind=")
		switch {
		case isKind:
			pod.Trouble.Kind, pod.Trouble.Message = kind, "something about its "+kind
		case more == "deleting":
			pod.Deleting = true
		case more == "ready":
			pod.Ready = true
		case more == "preempted":
			pod.Disruption = "PreemptionByScheduler"
		case more == "restarts":
			pod.Trouble.restarts = true
		case more == "memory":
			pod.Trouble.Cause = OutOfMemory
		case more != "":
			p.t.Fatalf("unknown %q of a pod", more)
		}
	}
	if attempt != "-" {
		pod.Task = api.TaskID(args[0])
	}
	return PodChanged{Pod: pod}
}

func (p *player) describe(action Action) string {
	switch a := action.(type) {
	case Subscribe:
		var parts []string
		for _, info := range a.Tasks {
			parts = append(parts, string(info))
		}
		for _, u := range a.Updates {
			parts = append(parts, p.number(u.ID))
		}
		return strings.TrimSpace("subscribe " + strings.Join(parts, ", "))
	case SendUpdate:
		u := a.Update
		said := joinNonEmpty(" ", "send", p.number(u.ID), string(u.Task), u.State.String(), u.Health.String())
		if u.Cause != NoCause {
			said += " (" + u.Cause.String() + ")"
		}
		return joinNonEmpty(": ", said, u.Message)
	case DeletePod:
		if a.Grace != nil {
			return fmt.Sprintf("delete %s (%s) within %ds", a.Pod, a.UID, *a.Grace)
		}
		return fmt.Sprintf("delete %s (%s)", a.Pod, a.UID)
	case StartNode:
		return fmt.Sprintf("start the node of %s", a.Registration.Agent)
	case Leave:
		return "leave: " + a.Reason
	}
	p.t.Fatalf("unknown action %T", action)
	return ""
}

func (p *player) number(id uuid.UUID) string {
	for i, known := range p.ids {
		if known == id {
			return "#" + strconv.Itoa(i+1)
		}
	}
	p.ids = append(p.ids, id)
	return "#" + strconv.Itoa(len(p.ids))
}

func TestUpdateIDsOfTwoRunsDiffer(t *testing.T) {
	seen := map[uuid.UUID]bool{}
	for range 2 {
		core := NewCore(CoreConfig{Run: uuid.New()})
		core.update("u.1", Starting, Report{})
		seen[core.unacked[0].update.ID] = true
	}
	if len(seen) != 2 {
		t.Error("the first updates of two runs have the same id")
	}
}

func TestDeadlineIsTheNextThingThatTimeBrings(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	core := NewCore(CoreConfig{Checkpoint: true, RecoveryTimeout: time.Minute, IdleTimeout: time.Hour})
	if _, ok := core.Deadline(); ok {
		t.Error("a core without events has a deadline")
	}
	core.Step(now, Started{})
	if at, ok := core.Deadline(); !ok || !at.Equal(now.Add(time.Minute)) {
		t.Errorf("while not connected the deadline is %v %v, want the recovery timeout's", at, ok)
	}
	core.Step(now, Subscribed{})
	if at, ok := core.Deadline(); !ok || !at.Equal(now.Add(time.Hour)) {
		t.Errorf("while idle the deadline is %v %v, want the suicide timeout's", at, ok)
	}
	core.Step(now, NewLaunch("u.1", []byte(`{"metadata":{"namespace":"n","name":"p","uid":"u"}}`), nil))
	if at, ok := core.Deadline(); ok {
		t.Errorf("while there is a task the deadline is %v, want none", at)
	}
}
