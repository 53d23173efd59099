package minion

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus/hooks/test"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api/falcon"
	"github.com/k8sm/k8sm/api/falcon/falcontest"
	"github.com/k8sm/k8sm/contrib/test/pipenet"
	"github.com/k8sm/k8sm/executor/kube"
	"github.com/k8sm/k8sm/minion/cri"
	"github.com/k8sm/k8sm/minion/figures"
)

// measured runs the meter for ten minutes, and returns how often each metric arrived.
func measured(t *testing.T, m *meter) map[string]int {
	t.Helper()
	receiver, listener := falcontest.New(), pipenet.New()
	defer listener.Close()
	go receiver.ServeRPC(listener)
	target, err := falcon.ParseTarget("tcp://transfer:8433")
	if err != nil {
		t.Fatal(err)
	}
	pusher := falcon.New(falcon.Config{Target: target, Endpoint: "node-1", Step: time.Minute,
		Dial: func(context.Context, string, string) (net.Conn, error) { return listener.Dial("192.0.2.1") }})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute-time.Second)
	defer cancel()
	done := make(chan error)
	go func() { done <- pusher.Run(ctx) }()
	if err := m.run(ctx, pusher); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the meter ended with %v", err)
	}
	<-done
	elements, invalid, _ := receiver.Elements()
	if invalid > 0 {
		t.Errorf("%d elements are invalid", invalid)
	}
	counts := map[string]int{}
	for _, e := range elements {
		counts[e.Metric]++
		if e.Endpoint != "node-1" || e.Step != 60 {
			t.Errorf("%+v: want the node's name and step", e)
		}
	}
	return counts
}

func TestNodeIsMeasuredEachStep(t *testing.T) {
	pods := func() []*corev1.Pod {
		return []*corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}}
	}
	for _, whole := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			log, hook := test.NewNullLogger()
			reading := 0
			counts := measured(t, &meter{machine: figures.NewMachine(), whole: whole, pods: pods, log: log,
				usage: func(context.Context) ([]cri.PodUsage, error) {
					reading++
					c := cri.ContainerUsage{ID: "c", Name: "main", At: time.Now(), CPU: time.Duration(reading) * time.Second}
					return []cri.PodUsage{{Namespace: "default", Name: "web", Containers: []cri.ContainerUsage{c}}}, nil
				}})
			for metric, want := range map[string]int{"container.mem.usage": 10, "container.cpu.usage.busy": 9, "pod.ready": 10} {
				if counts[metric] != want {
					t.Errorf("%s came %d times in ten minutes, want %d", metric, counts[metric], want)
				}
			}
			if counts["cpu.busy"] != 9 && whole || counts["agent.alive"] != 10 && whole || counts["agent.alive"] > 0 && !whole {
				t.Errorf("with the machine's metrics: %v: %v", whole, counts)
			}
			if lines := hook.AllEntries(); len(lines) != 0 {
				t.Errorf("the log has %v", lines)
			}
		})
	}
}

func TestRuntimeThatHangsCostsItsOwnMetricsAndOneLogLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, hook := test.NewNullLogger()
		counts := measured(t, &meter{machine: figures.NewMachine(), whole: true, log: log, pods: func() []*corev1.Pod { return nil },
			usage: func(ctx context.Context) ([]cri.PodUsage, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}})
		if counts["agent.alive"] != 10 {
			t.Errorf("%v: the machine's metrics wait for the pods'", counts)
		}
		if lines := hook.AllEntries(); len(lines) != 1 || !strings.Contains(lines[0].Message, "some metrics are missing") {
			t.Errorf("the log has %v", lines)
		}
	})
}

func TestNodeWithoutTargetSendsNothing(t *testing.T) {
	n := &node{}
	if part := n.startFalcon(t.Context(), kube.NewPods()); part != nil {
		part.Stop()
		t.Error("it sends metrics somewhere")
	}
	if _, err := n.usage(t.Context()); err == nil || !strings.Contains(err.Error(), "CRI server does not run") {
		t.Errorf("got %v", err)
	}
}
