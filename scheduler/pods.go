package scheduler

import (
	"iter"
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler/match"
)

const (
	goneKillAfter     = 5 * time.Second  // the executor ends the task of a deleted pod by itself, mostly
	finishedKillAfter = 30 * time.Second // and that of a finished one
)

// pods are those that are ours to place or bound to one of our nodes, and how they wait.
type pods struct {
	core  *Core
	byUID map[types.UID]*pod
	order int // of arrival, of the youngest pod
	queue queue
}

// all goes through the pods, in no order.
func (ps *pods) all() iter.Seq2[types.UID, *pod] { return maps.All(ps.byUID) }

// get returns the pod; nil if it does not exist, or does not concern us.
func (ps *pods) get(uid types.UID) *pod { return ps.byUID[uid] }

func newPods(c *Core) pods { return pods{core: c, byUID: map[types.UID]*pod{}, queue: newQueue()} }

// pod is a pod that is ours to place, or that is bound to one of our nodes.
type pod struct {
	match.Pod
	since    time.Time // when it began to wait
	attempt  int       // of its youngest task
	launched time.Time // when that was
	// disowned is the attempt whose task was ended before it could be the pod's; it is not to be taken back.
	disowned int
	task     *task // nil while it has none
	backoff  backoff
	report   report
	claimsAt time.Time // when its claims began to be bound
	hoped    time.Time // when the place that is kept for it was last seen coming
	claimed  claimed
	waits    bool // it is in the queue
}

func (ps *pods) seen(now time.Time, obj *v1.Pod) []Action {
	if !concernsUs(obj) {
		ps.core.index.OtherSeen(obj, finished(obj))
		return nil
	}
	p := ps.byUID[obj.UID]
	isNew := p == nil
	if isNew {
		ps.order++
		p = &pod{Pod: match.Pod{Order: ps.order}, since: now}
		p.Owner = p
		ps.byUID[obj.UID] = p
		ps.core.offering.reviveSoon()
	}
	acts := ps.core.health.admissionSeen(now, p, obj)
	p.Seen(obj, p.task == nil)
	if obj.Spec.NodeName != "" {
		p.Node = obj.Spec.NodeName
		ps.nominate(now, p, "")
	}
	ps.occupy(p)
	if p.task == nil {
		ps.appraise(p)
		if a := ps.core.agents.ofNode(p.Nominated()); a != nil {
			ps.core.index.Refresh(&a.Agent) // the pod may need more or less than is kept for it
		}
		if isNew && p.claimed.address != "" {
			ps.core.addresses.has(obj.UID) // an earlier scheduler gave it
		}
		acts = append(acts, p.tellUnaddressed()...)
		ps.core.tasks.adoptAnnotated(now, p)
	}
	if isNew {
		ps.readNomination(now, p)
	}
	if p.task == nil {
		if !needsTask(p) {
			ps.core.claims.leave(p)
		}
		ps.requeue(now, p)
		if needsTask(p) {
			ps.core.stir()
			if isNew {
				ps.core.offering.arrived(now)
			}
		}
		return acts
	}
	p.task.bound = p.task.bound || obj.Annotations[api.AnnotationTaskID] == string(p.task.id)
	switch {
	case finished(obj):
		p.task.killLater(now.Add(finishedKillAfter))
	case obj.DeletionTimestamp != nil && p.Node == "":
		p.task.killLater(now)
		return append(acts, ps.core.tasks.tick(now, p.task)...)
	}
	return acts
}

func (ps *pods) gone(now time.Time, uid types.UID) {
	p := ps.byUID[uid]
	if p == nil {
		ps.core.index.OtherGone(uid)
		return
	}
	delete(ps.byUID, uid)
	ps.core.preemption.podGone(uid)
	ps.core.addresses.podGone(uid, p.task)
	ps.nominate(now, p, "")
	ps.dequeue(p)
	ps.core.index.Occupy(&p.Pod, "")
	if p.task != nil {
		p.task.killLater(now.Add(goneKillAfter))
	}
}

func needsTask(p *pod) bool {
	return p.task == nil && p.Obj.DeletionTimestamp == nil && !finished(p.Obj) && len(p.Obj.Spec.SchedulingGates) == 0
}

// concernsUs tells whether a pod is ours to place, or placed already: then it takes part of a node. Pods that a kubelet
// made by itself have no task (https://kubernetes.io/docs/tasks/configure-pod-container/static-pod/).
func concernsUs(pod *v1.Pod) bool {
	if _, mirror := pod.Annotations[v1.MirrorPodAnnotationKey]; mirror {
		return false
	}
	return pod.Spec.NodeName != "" || pod.Spec.SchedulerName == api.SchedulerName ||
		pod.Spec.SchedulerName == v1.DefaultSchedulerName || pod.Spec.SchedulerName == ""
}

func finished(pod *v1.Pod) bool {
	return pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
}

func refOf(pod *v1.Pod) PodRef {
	return PodRef{Key: api.PodKey{Namespace: pod.Namespace, Name: pod.Name}, UID: pod.UID}
}

// appraise finds out what a pod demands and asks for.
func (ps *pods) appraise(p *pod) {
	problem := ""
	if len(p.Obj.Annotations) > 0 || p.Asks != nil || p.claimed.claim != nil {
		problem = p.readClaim()
	}
	ps.core.index.Appraise(&p.Pod, problem)
}

// with puts words behind others if there are any.
func with(between, words string) string {
	if words == "" {
		return ""
	}
	return between + words
}
