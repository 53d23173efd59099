package scheduler

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
)

// nominationPatience is how long a pod stays nominated without a prospect of its place. The offers of ended tasks' resources
// arrive earlier.
const nominationPatience = 10 * time.Second

// nominate nominates a pod for a node, or withdraws its nomination if node is "": see match.Index.Nominate.
func (ps *pods) nominate(now time.Time, p *pod, node string) {
	if node != "" {
		p.lastProspect = now
	}
	ps.core.index.Nominate(&p.Pod, node)
}

// readNomination adopts the nomination in the pod's status, made by an earlier scheduler or somebody else.
func (ps *pods) readNomination(now time.Time, p *pod) {
	if node := p.Obj.Status.NominatedNodeName; node != "" && p.Node == "" && needsTask(p) {
		ps.nominate(now, p, node)
	}
}

// Nominate writes a pod's nominatedNodeName, and says why in an event and in the pod's condition PodScheduled. An empty node
// withdraws the nomination.
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

// Preempt sets a pod's condition DisruptionTarget and deletes it with its grace period, to make room for another pod.
type Preempt struct {
	Victim, By *v1.Pod
	Node       string
}

func (a Preempt) String() string {
	return fmt.Sprintf("preempt %s/%s on %s for %s/%s", a.Victim.Namespace, a.Victim.Name, a.Node, a.By.Namespace, a.By.Name)
}

// Object implements ClusterAction. It names the preemptor, so that its nomination is written before any pod is preempted.
func (a Preempt) Object() string { return "pod/" + string(a.By.UID) }
