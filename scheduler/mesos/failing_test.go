package mesos_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/localmesos"
	"github.com/k8sm/k8sm/scheduler/match"
	"github.com/k8sm/k8sm/scheduler/run"
)

// brokenEnv names, in the environment of an agent's executors, a file: as long as it exists, no minion starts there.
const brokenEnv = "TEST_BROKEN"

// refuseToStart is what the minion does when it is started where none can run.
func refuseToStart() error {
	if file := os.Getenv(brokenEnv); file != "" {
		if _, err := os.Stat(file); err == nil {
			return fmt.Errorf("%s exists", file)
		}
	}
	return nil
}

// TestPodsRunElsewhereWhileAnAgentFailsAndThereAgainWhenItHasRecovered: with --scheduler-algorithm=spread it is the agent that runs
// nothing that is always the emptiest.
func TestPodsRunElsewhereWhileAnAgentFailsAndThereAgainWhenItHasRecovered(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	environment, err := json.Marshal(map[string]string{brokenEnv: file})
	if err != nil {
		t.Fatal(err)
	}
	c := newClusterWith(t, func(cfg *localmesos.Config) {
		cfg.Own = []localmesos.Agent{
			{Hostname: "bad", IP: "127.0.0.2", ExecutorEnvironmentVariables: string(environment)}, {Hostname: "good", IP: "127.0.0.3"},
		}
	})
	c.change = func(cfg *run.Config) { cfg.Algorithm = match.Spread }
	c.schedule()
	c.createPod("pinned", "100m", func(spec *v1.PodSpec) { spec.NodeSelector = map[string]string{v1.LabelHostname: "bad"} })
	c.eventOf("bad", "TASK_FAILED REASON_EXECUTOR_TERMINATED", "no pod is placed there for 10s")
	c.wait("pinned", "to be told why it waits", waitsBecause("failed tasks before they ran"))
	for i := range 10 {
		c.createPod(fmt.Sprintf("pod-%d", i), "300m")
	}
	tried := 0
	for i := range 10 {
		pod := c.wait(fmt.Sprintf("pod-%d", i), "a node", bound)
		if pod.Spec.NodeName != "good" {
			t.Errorf("%s runs on %s", pod.Name, pod.Spec.NodeName)
		}
		if !hasTask(string(pod.UID) + ".1")(pod) {
			tried++
		}
	}
	if tried > 1 { // one may be, when the ten seconds are over
		t.Errorf("%d of the pods were tried where none can run", tried)
	}
	c.eventually("the agent to be shown as failing", func(ctx context.Context) bool {
		nodes, err := c.window.Nodes(ctx)
		return err == nil && len(nodes) == 2 && nodes[0].Failing != "" && nodes[1].Failing == ""
	})
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	c.eventually("the end of the failures", func(ctx context.Context) bool {
		nodes, err := c.window.Nodes(ctx)
		return err == nil && nodes[0].Failing == ""
	})
	c.eventOf("bad", "a task runs there again")
	c.createPod("more", "3")
	if pod := c.wait("more", "a node", bound); pod.Spec.NodeName != "bad" || pod.Annotations[api.AnnotationTaskID] != "uid-more.1" {
		t.Errorf("the next one runs on %s, as %v", pod.Spec.NodeName, pod.Annotations)
	}
}
