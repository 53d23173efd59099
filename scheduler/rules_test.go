package scheduler

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler/match"
)

func TestPodThatIsSeenAgainWaitsOnce(t *testing.T) {
	c := NewCore(testConfig())
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	obj := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}}
	for range 3 {
		c.Step(now, PodSeen{Pod: obj})
	}
	for class := range c.index.Classes() {
		if got := len(slices.Collect(class.Pods())); got != 1 {
			t.Errorf("it stands in the queue %d times", got)
		}
	}
}

func TestClassThatNoPodHasAnyMoreIsForgotten(t *testing.T) {
	c := NewCore(testConfig())
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c.Step(now, Subscribed{Framework: "fw"})
	for i := range 300 {
		priority := int32(i)
		c.Step(now, PodSeen{Pod: &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}, Spec: v1.PodSpec{Priority: &priority}}})
	}
	c.Step(now, PodGone{UID: "u"})
	c.Step(now, Tick{})
	if got := len(slices.Collect(c.index.Classes())); got != 0 {
		t.Errorf("%d classes are remembered", got)
	}
}

func TestSameReportIsRepeatedEveryFiveMinutesAndAnotherOneWithPauses(t *testing.T) {
	var r report
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	told := 0
	for range 3600 { // an hour of the same
		if r.due(now, "the same") {
			told++
		}
		now = now.Add(time.Second)
	}
	if told != 12 {
		t.Errorf("the same was told %d times in an hour, want 12", told)
	}
	told = 0
	for i := range 3600 { // an hour in which it changes every second
		if r.due(now, strings.Repeat("x", i%2+1)) {
			told++
		}
		now = now.Add(time.Second)
	}
	if told > 13 {
		t.Errorf("changing messages were told %d times in an hour", told)
	}
}

func TestEveryTaskStateHasARowAndAName(t *testing.T) {
	for s := range numStates {
		if parsed, ok := ParseTaskState(s.String()); !ok || parsed != s {
			t.Errorf("%s is parsed as %v, %v", s, parsed, ok)
		}
		if f := reactions[s]; f == (reaction{}) {
			t.Errorf("%s has no row", s)
		} else if !f.running && f.unbound != unboundRetry {
			t.Errorf("%s: the task has ended, but its pod does not wait again", s)
		}
	}
}

func TestConfigSaysWhichFlagIsWrong(t *testing.T) {
	for _, args := range [][]string{
		{"--offer-ttl=0s"}, {"--decline-offer-duration=-1s"}, {"--task-launch-timeout=0s"}, {"--cordon-lead-time=0s"}, {"--drain-lead-time=-1s"}, {"--drain-lead-time=2h"}, {"--agent-removal-timeout=0s"},
		{"--default-pod-cpus=0"}, {"--default-pod-mem=-1"}, {"--executor-cpus=0"}, {"--executor-mem=0"}, {"--km-path=km"},
	} {
		var cfg Config
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		cfg.AddFlags(fs)
		if err := fs.Parse(args); err != nil {
			t.Fatal(err)
		}
		flag, _, _ := strings.Cut(args[0], "=")
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestAlgorithmThatDoesNotExistIsRefused(t *testing.T) {
	var cfg Config
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	cfg.AddFlags(fs)
	if cfg.Algorithm != match.FCFS {
		t.Errorf("the default is %q", cfg.Algorithm)
	}
	if err := fs.Parse([]string{"--algorithm=best"}); err == nil || !strings.Contains(err.Error(), "fcfs|spread|binpack") {
		t.Errorf("got %v", err)
	}
}

func TestFlagsOfChargesHaveAnEffect(t *testing.T) {
	cfg := testConfig()
	cfg.DefaultPodCPUs, cfg.DefaultPodMem, cfg.ExecutorCPUs, cfg.ExecutorMem = 0.2, 32, 0.3, 256
	c := NewCore(cfg)
	now := time.Now()
	c.Step(now, PodSeen{Pod: &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}}})
	want := [match.NumScalars]offers.Milli{200, 32_000}
	if got := c.pods.byUID["u"].Demand.Scalars; got != want {
		t.Errorf("the pod is charged %v", got)
	}
	cfg.ExecutorDisk = 100
	c = NewCore(cfg)
	free := offers.Resources{{Name: offers.CPUs, Scalar: 4000}, {Name: offers.Mem, Scalar: 4096_000}, {Name: offers.Disk, Scalar: 1000_000}}
	if got := c.agents.charge(free[:2]).String(); got != "cpus:0.3;mem:256" {
		t.Errorf("the executor on an agent without disk is charged %s", got)
	}
	if got := c.agents.charge(free).String(); got != "cpus:0.3;mem:256;disk:100" {
		t.Errorf("the executor is charged %s", got)
	}
	a := &agent{Agent: match.Agent{Total: match.Totals{Scalars: [match.NumScalars]offers.Milli{match.Disk: 1000_000}}}}
	if node := c.agents.newNode(a); !node.Status.Allocatable.StorageEphemeral().Equal(resource.MustParse("900Mi")) {
		t.Errorf("pods may have %v of disk", node.Status.Allocatable.StorageEphemeral())
	}
}
