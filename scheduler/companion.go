package scheduler

import (
	"time"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler/match"
)

// With --mesos-revocable executors are charged no cpus: Mesos lets no task have revocable cpus whose executor has others, nor
// others whose executor has revocable ones (validateRevocableAndNonRevocableResources in src/master/validation.cpp). But an agent
// with the isolator cgroups/cpu launches no container without cpus, and destroys one whose last task with cpus ends: its
// update fails (CpuSubsystemProcess::update in src/slave/containerizer/mesos/isolators/cgroups/subsystems/cpu.cpp,
// Slave::__statusUpdate in src/slave/slave.cpp). So the minion's cpus are those of a task without a pod, the companion. It is
// launched before the first pod's task, and stays as long as the executor does. An executor that has a task does not leave
// by itself: the scheduler asks it to when there was no pod for as long.

// warmDemand is what a task without a pod is charged.
func (c *Config) warmDemand() match.Demand {
	var d match.Demand
	d.Scalars[match.Memory] = warmMem
	if c.Revocable {
		d.Scalars[match.CPUs] = offers.MilliOf(c.ExecutorCPUs)
	}
	return d
}

// minionOf is what the agent's minion takes: what its executor is charged, and its companion.
func (as *agents) minionOf(a *agent) match.Demand {
	d := as.core.cfg.executor(a.Total.Scalars[match.Disk])
	if as.core.cfg.Revocable {
		for i, amount := range as.core.cfg.warmDemand().Scalars {
			d.Scalars[i] += amount
		}
	}
	return d
}

// uncharged tells whether the agent's executor, as it runs or would run, has no cpus of its own.
func (wm *warming) uncharged(a *agent) bool {
	return wm.core.cfg.Revocable && (a.executor.record == nil || a.executor.charge.Sum(offers.CPUs) == 0)
}

// needsCompanion tells whether the agent's executor runs for pods, or did a while ago, and needs a companion for that.
func (wm *warming) needsCompanion(now time.Time, a *agent) bool {
	if !a.Alive || !wm.uncharged(a) {
		return false
	}
	pods := false
	for _, t := range wm.core.tasks.on(a.ID) {
		pods = pods || !t.warm
	}
	if pods || a.busy.IsZero() {
		a.busy = now
	}
	idle := now.Sub(a.busy)
	return (pods || a.hasExecutor) && (wm.core.cfg.IdleTimeout == 0 || idle < wm.core.cfg.IdleTimeout)
}

// endMinion has the executor end whose companion is not needed any more: without that, the agent would kill it.
func (wm *warming) endMinion(now time.Time, a *agent) []Action {
	if now.Sub(a.askedToEnd) < killAgain {
		return nil
	}
	a.askedToEnd, a.warm.killed = now, true
	return []Action{ShutdownExecutor{Agent: a.ID, Executor: api.MinionExecutorID}}
}

// alone tells whether the agent has no task but its companion.
func (wm *warming) alone(a *agent) bool {
	return a.warm != nil && len(wm.core.tasks.on(a.ID)) == 1
}
