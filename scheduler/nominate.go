package scheduler

import (
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// nominationPatience is how long a pod waits for a place that was promised to it and that is not seen coming any more.
// The offers of what ended tasks have left come within it.
const nominationPatience = 10 * time.Second

// promise is a place that is kept for a pod.
type promise struct {
	node  string
	hoped time.Time // when it was last seen coming
}

// nominated returns the node on which a place is promised to the pod; "" if there is none.
func (p *pod) nominated() string {
	if p.promise == nil {
		return ""
	}
	return p.promise.node
}

// nominate promises a place on a node to a pod, which keeps it from all pods that are not more important
// (https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/#user-exposed-information). It takes
// back what was promised to the pod before, which is all that it does if the node is "".
func (c *Core) nominate(now time.Time, p *pod, node string) {
	before := p.nominated()
	if before == node {
		if p.promise != nil {
			p.promise.hoped = now
		}
		return
	}
	p.promise = nil
	if before != "" { // an agent may have the slice: it stays as it is
		left := slices.DeleteFunc(slices.Clone(c.nominees[before]), func(other *pod) bool { return other == p })
		if c.nominees[before] = left; len(left) == 0 {
			delete(c.nominees, before)
		}
	}
	if node != "" {
		p.promise = &promise{node: node, hoped: now}
		c.nominees[node] = append(slices.Clip(c.nominees[node]), p)
	}
	for _, changed := range [...]string{before, node} {
		if a := c.agentOfNode(changed); a != nil {
			a.promises = c.nominees[changed]
			c.fleet.touch(a)
		}
	}
}

// readNomination takes over what an earlier scheduler, or somebody else, has promised.
func (c *Core) readNomination(now time.Time, p *pod) {
	if node := p.obj.Status.NominatedNodeName; node != "" && p.node == "" && needsTask(p) {
		c.nominate(now, p, node)
	}
}

// promised returns what of the view the pods of the shape have to leave to others: what was promised to more important
// pods, or to equally important ones. Of two equally important pods with a promise there, the later one stands back.
//
// A promise holds in the offers of all roles that the pod may use: nobody knows in which what it is waiting for will come.
func (v *view) promised(s *shape) holding {
	var sum holding
	for _, p := range v.agent.promises {
		mine := s.nominee
		behind := mine != nil && mine.nominated() == v.agent.node && beforeInQueue(mine, p) < 0
		taken := slices.Contains(v.parked, p) // out of the view already
		elsewhere := p.wish != nil && !p.wish.takes(v)
		if p == mine || elsewhere || p.nominated() != v.agent.node || taken || priority(p.obj) < s.key.priority || behind {
			continue
		}
		sum.add(p.needs())
	}
	return sum
}

// checkPromises: is there enough beside what was promised to others?
func (v *view) checkPromises(s *shape) refused {
	if sum := v.promised(s); !v.hasBeside(s, &sum) {
		return refused{reason: promisedAway}
	}
	return refused{}
}

// findNominated looks for the place that was promised.
func (c *Core) findNominated(s *shape) *view {
	a := c.agentOfNode(s.nominee.nominated())
	if a == nil {
		return nil
	}
	v, _ := c.best(s, a)
	return v
}

// freed notes that resources of an agent which a task of ours had are on their way back. Who was promised them wants to
// be offered them soon.
func (c *Core) freed(now time.Time, s TaskStatus) {
	a := c.agents[s.Agent]
	if a == nil {
		return
	}
	a.returning = now
	if len(c.nominees) > 0 {
		c.reviveSoon()
	}
}

// Nominate writes to the API which node is promised to a pod, and tells why by an event and by the pod's condition
// PodScheduled. An empty node takes a promise back.
type Nominate struct {
	Pod     *v1.Pod
	Node    string
	Message string
}

func (a Nominate) String() string {
	if a.Node == "" {
		return fmt.Sprintf("nominate %s/%s for no node: %s", a.Pod.Namespace, a.Pod.Name, a.Message)
	}
	return fmt.Sprintf("nominate %s/%s for %s: %s", a.Pod.Namespace, a.Pod.Name, a.Node, a.Message)
}

// Object implements ClusterAction.
func (a Nominate) Object() string { return "pod/" + string(a.Pod.UID) }

// Preempt ends a pod on a node so that another one can have its place: it gets the condition DisruptionTarget and is
// deleted with its grace period.
type Preempt struct {
	Victim, By *v1.Pod
	Node       string
}

func (a Preempt) String() string {
	return fmt.Sprintf("preempt %s/%s on %s for %s/%s", a.Victim.Namespace, a.Victim.Name, a.Node, a.By.Namespace, a.By.Name)
}

// Object implements ClusterAction. It is the pod that gets the place: its nomination is written first, so that nobody
// is preempted for a place that is not kept.
func (a Preempt) Object() string { return "pod/" + string(a.By.UID) }
