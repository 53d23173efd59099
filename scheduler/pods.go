package scheduler

import (
	"slices"
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

func (c *Core) podSeen(now time.Time, obj *v1.Pod) []Action {
	if !concernsUs(obj) {
		c.index.OtherSeen(obj, finished(obj))
		return nil
	}
	p := c.pods[obj.UID]
	isNew := p == nil
	if isNew {
		c.order++
		p = &pod{Pod: match.Pod{Order: c.order}, since: now}
		c.pods[obj.UID] = p
		c.reviveSoon()
	}
	acts := c.admissionSeen(now, p, obj)
	p.Seen(obj, p.task == nil)
	if obj.Spec.NodeName != "" {
		p.Node = obj.Spec.NodeName
		c.nominate(now, p, "")
	}
	c.occupy(p)
	if p.task == nil {
		c.appraise(p)
		if a := c.agentOfNode(p.Nominated()); a != nil {
			c.index.Refresh(&a.Agent) // the pod may need more or less than was promised
		}
		if isNew && p.claimed.address != "" {
			c.addresses.holders[obj.UID] = nil // an earlier scheduler gave it
		}
		acts = append(acts, p.tellUnaddressed()...)
		c.adoptAnnotated(now, p)
	}
	if isNew {
		c.readNomination(now, p)
	}
	if p.task == nil {
		if !needsTask(p) {
			c.leaveClaimsNode(p)
		}
		c.requeue(now, p)
		if needsTask(p) {
			c.look = true
			if isNew {
				c.gather.arrive(now, c.cfg.Gather)
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
		return append(acts, c.tickTask(now, p.task)...)
	}
	return acts
}

func (c *Core) podGone(now time.Time, uid types.UID) {
	p := c.pods[uid]
	if p == nil {
		c.index.OtherGone(uid)
		return
	}
	delete(c.pods, uid)
	delete(c.preempted.pods, uid)
	if _, holds := c.addresses.holders[uid]; holds {
		c.addresses.holders[uid], c.addresses.moved = p.task, true
	}
	c.nominate(now, p, "")
	c.dequeue(p)
	c.index.Occupy(&p.Pod, "")
	if p.task != nil {
		p.task.killLater(now.Add(goneKillAfter))
	}
}

// adoptAnnotated gives a bound pod the task that the API says it has. It is how a restarted scheduler learns its tasks.
func (c *Core) adoptAnnotated(now time.Time, p *pod) {
	id := api.TaskID(p.Obj.Annotations[api.AnnotationTaskID])
	if id == "" {
		return
	}
	uid, attempt, err := id.Parse()
	if err != nil || uid != p.Obj.UID || attempt <= p.attempt {
		return
	}
	p.attempt = attempt
	if finished(p.Obj) || p.Node == "" {
		return
	}
	agent := api.AgentID(p.Obj.Annotations[api.AnnotationAgentID])
	t := c.newTask(now, p, agent)
	t.offer = api.OfferID(p.Obj.Annotations[api.AnnotationOfferID])
	t.mapped = p.Asks.Mapped()
	t.bound, t.ran = true, !t.fresh
	if c.connected {
		c.reconcile.add(now, t.id)
	}
}

// newTask makes the task of the pod's present attempt.
func (c *Core) newTask(now time.Time, p *pod, agent api.AgentID) *task {
	t := &task{
		id: api.NewTaskID(p.Obj.UID, p.attempt), agent: agent, pod: p.Obj.UID, demand: p.Demand,
		since: now, askAt: now.Add(silentAfter), fresh: p.Obj.Status.StartTime == nil,
	}
	c.tasks[t.id] = t
	c.owners[agent] = append(c.owners[agent], t)
	p.task, p.launched = t, now
	c.leaveClaimsNode(p)
	c.nominate(now, p, "")
	c.dequeue(p)
	c.occupy(p)
	return t
}

// dropTask forgets a task.
func (c *Core) dropTask(t *task) {
	delete(c.tasks, t.id)
	if a := c.agents[t.agent]; a != nil {
		if a.warm == t {
			a.warm = nil
		}
		c.triedInVain(a, t.who())
	}
	c.reconcile.done(t.id)
	left := slices.DeleteFunc(c.owners[t.agent], func(other *task) bool { return other == t })
	if c.owners[t.agent] = left; len(left) == 0 {
		delete(c.owners, t.agent)
	}
}

// who is the task's pod, or itself if it has none.
func (t *task) who() types.UID {
	if t.warm {
		return types.UID(t.id)
	}
	return t.pod
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
func (c *Core) appraise(p *pod) {
	problem := ""
	if len(p.Obj.Annotations) > 0 || p.Asks != nil || p.claimed.claim != nil {
		problem = p.readClaim()
	}
	c.index.Appraise(&p.Pod, problem)
}

// with puts words behind others if there are any.
func with(between, words string) string {
	if words == "" {
		return ""
	}
	return between + words
}
