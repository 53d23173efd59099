package localmesos

import (
	mesos "github.com/mesos/mesos-go/api/v1/lib"
)

// recovered has the checkpoints of the previous agent. It comes before all other events.
type recovered struct {
	runs     []savedRun
	draining *mesos.DrainConfig
}

// savedRun is the checkpoint of an executor's run.
type savedRun struct {
	framework mesos.FrameworkInfo
	run       *executorRun
}

// recover follows https://mesos.apache.org/documentation/latest/agent-recovery/: executors of checkpointing frameworks
// keep running; others are killed.
func (a *agent) recover(e recovered) {
	for _, saved := range e.runs {
		run := saved.run
		if !saved.framework.GetCheckpoint() {
			a.do(destroy{run.process, run.container})
			a.do(removeRun{run.container})
			continue
		}
		a.frameworks[run.key.framework] = saved.framework
		a.runs[run.container] = run
		if run.phase == ended {
			if a.executors[run.key] == nil {
				a.executors[run.key] = run
			}
			continue
		}
		a.executors[run.key] = run
		run.phase = running
		if run.command {
			a.do(limit{run})
		} else {
			run.phase = recovering
			a.timers.add(a.now.Add(a.plan.ExecutorReregistrationTimeout), registrationDue{run.container})
		}
		a.do(watch{run.container, run.process})
	}
	if len(a.frameworks) > 0 {
		a.draining = e.draining
	}
}
