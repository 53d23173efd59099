package match

import (
	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// Executor is what launching a task in a view takes for our executor.
type Executor struct {
	// Prepared says that tasks can be launched; without it the executor has to be prepared first.
	Prepared bool
	// Coming says that the executor is on its way there already, launched in offers of another role.
	Coming bool
	// Failed says that it could not be prepared, and that it is too early to try again.
	Failed bool
	// Stranger is an executor on the agent that is none of ours; "" for none.
	Foreign api.ExecutorID
	// Charge is what the executor takes when it is launched with the first task; nil if it runs already.
	Charge offers.Resources
	// Anew is what an executor would be charged that is prepared anew.
	NewCharge offers.Resources
	// Companion is what the task without a pod is charged that has to come with the executor; nil if none has to.
	Companion *Demand
}

// checkExecutor: does the agent take tasks, does no executor run there, or ours, and do we know how it was launched?
func (v *View) checkExecutor() refusal {
	e := &v.executor
	switch {
	case v.drains:
		return refusal{reason: draining}
	case e.Charge != nil && v.index.Installs.full(v.Agent):
		return refusal{reason: installing}
	case len(v.Offers) == 0:
		return refusal{reason: offersNothing}
	case e.Foreign != "":
		return refusal{reason: otherExecutor, runs: e.Foreign}
	case e.Coming:
		return refusal{reason: beingPrepared}
	case !e.Prepared && e.Failed:
		return refusal{reason: noExecutor}
	case !e.Prepared:
		return refusal{reason: beingPrepared, reserve: true}
	}
	return refusal{}
}

// lacksForCompanion tells whether there is too little for the executor and its companion.
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

// FindWarm returns the view of the agent that a task without a pod fits in, or would if its executor were prepared; nil if
// there is none now.
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

// TakeWarm takes what a task without a pod has out of the view. If it is the companion, that was kept for it.
func (v *View) TakeWarm(d *Demand) offers.Resources {
	if companion := v.executor.Companion; companion != nil {
		for i, amount := range companion.Scalars {
			v.have[i] += amount
		}
		v.executor.Companion = nil
	}
	return v.take(d)
}
