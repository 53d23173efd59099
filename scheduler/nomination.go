package scheduler

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
)

// nominationPatience is how long a pod stays nominated for a node where its place is not seen coming any more.
// The offers of what ended tasks have left come within it.
const nominationPatience = 10 * time.Second

// nominate keeps a place on a node for a pod, or takes back what is kept for it if the node is "": see match.Index.Nominate.
func (ps *pods) nominate(now time.Time, p *pod, node string) {
	if node != "" {
		p.hoped = now
	}
	ps.core.index.Nominate(&p.Pod, node)
}

// readNomination takes over the nomination that an earlier scheduler, or somebody else, has made.
func (ps *pods) readNomination(now time.Time, p *pod) {
	if node := p.Obj.Status.NominatedNodeName; node != "" && p.Node == "" && needsTask(p) {
		ps.nominate(now, p, node)
	}
}

// Nominate writes to the API which node a pod is nominated for, and tells why by an event and by the pod's condition
// PodScheduled. An empty node takes the nomination back.
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
