package scheduler

import (
	"time"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler/match"
)

// With --mesos-revocable executors are charged no cpus: Mesos rejects tasks with revocable cpus if their executor has others,
// and the reverse (validateRevocableAndNonRevocableResources in src/master/validation.cpp). But an agent with the isolator
// cgroups/cpu cannot launch a container without cpus, and destroys one when its last task with cpus ends, because the
// update fails (CpuSubsystemProcess::update in src/slave/containerizer/mesos/isolators/cgroups/subsystems/cpu.cpp,
// Slave::__statusUpdate in src/slave/slave.cpp). So a task without a pod, the companion, holds the minion's cpus. It is
// launched before the first pod's task and runs as long as the executor. Because of it the executor never sees itself idle:
// the scheduler shuts it down after IdleTimeout without pods.

// warmDemand returns what a task without a pod is charged.
func (c *Config) warmDemand() match.Demand {
	var d match.Demand
	d.Scalars[match.Memory] = warmMem
	if c.Revocable {
		d.Scalars[match.CPUs] = offers.MilliOf(c.ExecutorCPUs)
	}
	return d
}

// minionOf returns what the agent's minion is charged: its executor and companion.
func (as *agents) minionOf(a *agent) match.Demand {
	d := as.core.cfg.executor(a.Total.Scalars[match.Disk])
	if as.core.cfg.Revocable {
		for i, amount := range as.core.cfg.warmDemand().Scalars {
			d.Scalars[i] += amount
		}
	}
	return d
}

// uncharged reports whether the agent's current or next executor has no cpus of its own.
func (wm *warming) uncharged(a *agent) bool {
	return wm.core.cfg.Revocable && (a.executor.record == nil || a.executor.charge.Sum(offers.CPUs) == 0)
}

// needsCompanion reports whether the agent's executor needs a companion: it has pods, or had some within IdleTimeout.
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

// endMinion shuts the executor down instead of killing its companion, without which the agent would destroy it.
func (wm *warming) endMinion(now time.Time, a *agent) []Action {
	if now.Sub(a.askedToEnd) < killRetry {
		return nil
	}
	a.askedToEnd, a.warm.killed = now, true
	return []Action{ShutdownExecutor{Agent: a.ID, Executor: api.MinionExecutorID}}
}

// alone reports whether the companion is the agent's only task.
func (wm *warming) alone(a *agent) bool {
	return a.warm != nil && len(wm.core.tasks.on(a.ID)) == 1
}
