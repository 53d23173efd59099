package mesos_test

import (
	"context"
	"testing"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler/run"
)

// warm waits until so many nodes are kept warm, and their tasks are all that run.
func (c *cluster) warm(nodes int) {
	c.t.Helper()
	c.eventually("nodes that are kept warm", func(ctx context.Context) bool {
		live, err := c.window.Nodes(ctx)
		tasks, _ := c.window.Tasks(ctx)
		warm, running := 0, 0
		for _, node := range live {
			if node.Warm && node.Minion {
				warm++
			}
		}
		for _, task := range tasks {
			if task.Warm && task.State == "TASK_RUNNING" {
				running++
			}
		}
		return err == nil && warm == nodes && running == nodes && len(tasks) == nodes
	})
}

func (c *cluster) keepingWarm(nodes string) {
	c.change = func(cfg *run.Config) {
		if err := cfg.WarmNodes.Set(nodes); err != nil {
			c.t.Error(err)
		}
	}
}

func TestMinionsRunWithoutPodsAsTheFlagSaysAlsoAfterARestart(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.keepingWarm("all")
	stop := c.schedule()
	c.warm(3)
	stop()
	c.keepingWarm("1") // the others are ended
	stop = c.schedule()
	c.warm(1)
	stop()
	c.keepingWarm("2")
	stop = c.schedule()
	c.warm(2)
	for i := range 3 { // whichever they are
		_ = c.mesos.KillExecutor(i, c.store.framework, api.MinionExecutorID) // some have none
	}
	c.warm(2)
	c.createPod("big", "3750m") // all that there is beside an executor
	c.wait("big", "a node", bound)
	stop()
	c.keepingWarm("0")
	c.schedule()
	c.eventually("the end of what kept nodes warm", func(ctx context.Context) bool {
		tasks, err := c.window.Tasks(ctx)
		return err == nil && len(tasks) == 1 && tasks[0].Pod == "default/big"
	})
}
