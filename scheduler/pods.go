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
	goneKillAfter     = 5 * time.Second  // usually the executor itself ends the task of a deleted pod before
	finishedKillAfter = 30 * time.Second // likewise that of a finished pod
)

// pods are the pods that we schedule or that are bound to one of our nodes, and the queue of those that wait.
type pods struct {
	core  *Core
	byUID map[types.UID]*pod
	order int // of arrival, of the newest pod
	queue queue
}

// all iterates over the pods, in no order.
func (ps *pods) all() iter.Seq2[types.UID, *pod] { return maps.All(ps.byUID) }

// get returns the pod; nil if it does not exist or does not concern us.
func (ps *pods) get(uid types.UID) *pod { return ps.byUID[uid] }

func newPods(c *Core) pods { return pods{core: c, byUID: map[types.UID]*pod{}, queue: newQueue()} }

// pod is a pod that we schedule, or that is bound to one of our nodes.
type pod struct {
	match.Pod
	since    time.Time // when it began to wait
	attempt  int       // number of its newest task
	launched time.Time // when that task was launched
	// disowned is an attempt whose task is killed; if it turns up again, it is not adopted.
	disowned     int
	task         *task // nil for none
	backoff      backoff
	report       report
	claimsAt     time.Time // when binding of its claims began
	lastProspect time.Time // when its nominated place was last expected to become free
	claimed      claimed
	waits        bool // it counts in queue.waiting
}

// seen handles a pod that is new or changed in the API.
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
			ps.core.index.Refresh(&a.Agent) // the pod may need more or less than before
		}
		if isNew && p.claimed.address != "" {
			ps.core.addresses.has(obj.UID) // assigned by an earlier scheduler
		}
		acts = append(acts, p.reportUnaddressed()...)
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
			ps.core.requestCycle()
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

// gone handles a pod that was removed from the API. Its task is killed if the executor does not end it.
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

// needsTask reports whether a task has to be launched for the pod.
func needsTask(p *pod) bool {
	return p.task == nil && p.Obj.DeletionTimestamp == nil && !finished(p.Obj) && len(p.Obj.Spec.SchedulingGates) == 0
}

// concernsUs reports whether we schedule the pod, or it is already bound and occupies a node. Static pods have no task
// (https://kubernetes.io/docs/tasks/configure-pod-container/static-pod/).
func concernsUs(pod *v1.Pod) bool {
	if _, mirror := pod.Annotations[v1.MirrorPodAnnotationKey]; mirror {
		return false
	}
	return pod.Spec.NodeName != "" || pod.Spec.SchedulerName == api.SchedulerName ||
		pod.Spec.SchedulerName == v1.DefaultSchedulerName || pod.Spec.SchedulerName == ""
}

// finished reports whether all containers of the pod have ended for good.
func finished(pod *v1.Pod) bool {
	return pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
}

func refOf(pod *v1.Pod) PodRef {
	return PodRef{Key: api.PodKey{Namespace: pod.Namespace, Name: pod.Name}, UID: pod.UID}
}

// appraise reads from the pod what it demands and asks for.
func (ps *pods) appraise(p *pod) {
	problem := ""
	if len(p.Obj.Annotations) > 0 || p.Asks != nil || p.claimed.claim != nil {
		problem = p.readClaim()
	}
	ps.core.index.Appraise(&p.Pod, problem)
}

// with returns between+words, or "" if there are no words.
func with(between, words string) string {
	if words == "" {
		return ""
	}
	return between + words
}
