package match

import (
	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// Executor is the state of our executor on an agent, and its cost for the next task in a view.
type Executor struct {
	// Prepared says that tasks can be launched. If it is false, the executor must be prepared first.
	Prepared bool
	// Coming says that the executor is being launched already, in offers of another role.
	Coming bool
	// Failed says that preparing it failed, and that it is too early to retry.
	Failed bool
	// Held says that none may be launched now: its kubelet would be newer than an API server.
	Held bool
	// Foreign is another executor of the framework on the agent; "" for none.
	Foreign api.ExecutorID
	// Charge is charged for the executor when it is launched with the first task; nil if it runs already.
	Charge offers.Resources
	// NewCharge is the charge of an executor that is prepared now.
	NewCharge offers.Resources
	// Companion is the demand of the task without a pod that must be launched with the executor; nil if none must.
	Companion *Demand
}

// checkExecutor checks that the agent takes tasks, that it runs no executor but ours, and that we know how ours was launched.
func (v *View) checkExecutor() refusal {
	e := &v.executor
	switch {
	case v.drains:
		return refusal{reason: draining}
	case e.Held:
		return refusal{reason: kubeletNewer}
	case e.Charge != nil && v.index.Installs.full(v.Agent):
		return refusal{reason: installing}
	case len(v.Offers) == 0:
		return refusal{reason: offersNothing}
	case e.Foreign != "":
		return refusal{reason: otherExecutor, executor: e.Foreign}
	case e.Coming:
		return refusal{reason: beingPrepared}
	case !e.Prepared && e.Failed:
		return refusal{reason: noExecutor}
	case !e.Prepared:
		return refusal{reason: beingPrepared, reserve: true}
	}
	return refusal{}
}

// lacksForCompanion tells whether the offers have too little for the executor and its companion.
func (v *View) lacksForCompanion() bool {
	e := &v.executor
	if e.Companion == nil {
		return false
	}
	for i, name := range ScalarNames {
		if v.Free.Sum(name) < e.Charge.Sum(name)+e.Companion.Scalars[i] {
			return true
		}
	}
	return false
}

// FindWarm returns the first view of the agent that a task without a pod fits in, perhaps after its executor has been prepared;
// nil if it fits in none.
func (x *Index) FindWarm(a *Agent, demand Demand) *View {
	for _, v := range a.views {
		if v.obj == nil || len(a.nominees) > 0 || v.lacksForCompanion() {
			continue
		}
		if r := v.checkExecutor(); !r.ok() && !r.reserve {
			continue
		}
		fits := true
		for i, name := range ScalarNames {
			fits = fits && v.Free.Sum(name) >= v.executor.Charge.Sum(name) && (v.executor.Companion != nil || v.have[i] >= demand.Scalars[i])
		}
		if fits {
			return v
		}
	}
	return nil
}

// TakeWarm takes the resources of a task without a pod out of the view. The companion's were kept for it.
func (v *View) TakeWarm(d *Demand) offers.Resources {
	if companion := v.executor.Companion; companion != nil {
		for i, amount := range companion.Scalars {
			v.have[i] += amount
		}
		v.executor.Companion = nil
	}
	return v.take(d)
}
