package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/scheduler/match"
)

// rejection is that an agent's kubelet did not admit a pod. The pod has failed for good, and its controller makes another one
// like it: such pods stay away for a while, so that they are not rejected without end.
type rejection struct {
	breaker
	reason   string          // the kubelet's, such as OutOfcpu
	resource v1.ResourceName // of which there was too little; "" if it was something else
	amount   int64           // of that; pods that want less may fit
	requests match.Requests  // of the pod; without a resource, it is pods with equal requests that stay away
	extended match.Extended
}

// outOf is how the reasons begin with which a kubelet rejects pods for want of a resource, whose name follows
// (pkg/kubelet/lifecycle/predicate.go of Kubernetes).
const outOf = "OutOf"

// isRejected tells whether the kubelet has not admitted the pod: it has failed, for a reason, and no container was ever made
// (rejectPod in pkg/kubelet/kubelet.go of Kubernetes).
func isRejected(obj *v1.Pod) bool {
	status := &obj.Status
	return status.Phase == v1.PodFailed && status.Reason != "" && obj.Spec.NodeName != "" &&
		len(status.ContainerStatuses) == 0 && len(status.InitContainerStatuses) == 0
}

func newRejection(p *pod, reason string) *rejection {
	r := &rejection{reason: reason, requests: p.Requests, extended: p.Extended}
	name, short := strings.CutPrefix(r.reason, outOf)
	if !short {
		return r
	}
	r.resource = v1.ResourceName(name)
	if i := slices.Index(match.RequestNames[:], r.resource); i >= 0 {
		r.amount = p.Requests[i]
	} else if r.resource != v1.ResourcePods {
		r.amount = p.Extended[r.resource]
	}
	if r.amount == 0 && r.resource != v1.ResourcePods {
		r.resource = "" // nobody can tell who would fare better
	}
	return r
}

// concerns tells whether pods with these requests have to expect to be rejected, too.
func (r *rejection) concerns(q *match.Requests, e match.Extended) bool {
	switch r.resource {
	case "":
		return r.requests == *q && maps.Equal(r.extended, e)
	case v1.ResourcePods:
		return true
	}
	if i := slices.Index(match.RequestNames[:], r.resource); i >= 0 {
		return q[i] >= r.amount
	}
	return e[r.resource] >= r.amount
}

// String is why pods stay away, in the words of kube-scheduler where it has some.
func (r *rejection) String() string {
	if r.resource == "" {
		return fmt.Sprintf("node(s) rejected such a pod (%s)", r.reason)
	}
	return fmt.Sprintf("Insufficient %s (the kubelet has rejected such a pod: %s)", r.resource, r.reason)
}

// admissionSeen takes in what the kubelet has made of a pod, whose new state is obj: it has admitted it, or has not.
func (hs *health) admissionSeen(now time.Time, p *pod, obj *v1.Pod) []Action {
	switch t := p.task; {
	case p.Obj == nil: // the past of a pod that is seen for the first time says nothing of today
	case isRejected(obj):
		if a := hs.core.agents.ofNode(obj.Spec.NodeName); a != nil && !finished(p.Obj) {
			hs.reject(now, a, p, &obj.Status)
		}
	case t != nil && t.fresh && !t.ran && obj.Status.StartTime != nil:
		if a := hs.core.agents.get(t.agent); a != nil {
			return hs.noteRan(now, a, t)
		}
	}
	return nil
}

// reject notes that the agent's kubelet did not admit the pod.
func (hs *health) reject(now time.Time, a *agent, p *pod, status *v1.PodStatus) {
	hs.count++
	hs.staysAway(now, a, p, newRejection(p, status.Reason), breakerFirst)
}

// refusedByMesos notes that Mesos did not take the pod's task in the agent's offers: it may take it in others'.
func (hs *health) refusedByMesos(now time.Time, t *task, p *pod) {
	if a := hs.core.agents.get(t.agent); a != nil {
		hs.staysAway(now, a, p, newRejection(p, Errored.String()), breakerFirst)
	}
}

// staysAway keeps such pods off the agent.
func (hs *health) staysAway(now time.Time, a *agent, p *pod, came *rejection, first time.Duration) {
	i := slices.IndexFunc(a.failures.rejections, func(r *rejection) bool {
		return r.resource == came.resource && (came.resource != "" || r.reason == came.reason && r.concerns(&came.requests, came.extended))
	})
	if i < 0 {
		i = len(a.failures.rejections)
		a.failures.rejections = append(a.failures.rejections, came)
	}
	r := a.failures.rejections[i]
	r.amount = min(r.amount, came.amount)
	r.fail(now, p.launched, first, "such a pod was rejected: "+r.reason)
	hs.changed(a)
}

// admitted notes that the agent's kubelet has admitted the pod: more such pods may be tried.
func (hs *health) admitted(a *agent, p *pod) {
	for _, r := range a.failures.rejections {
		if r.concerns(&p.Requests, p.Extended) && !p.launched.Before(r.since) {
			r.failures, r.trial = r.failures/2, ""
			hs.changed(a)
		}
	}
	a.failures.rejections = slices.DeleteFunc(a.failures.rejections, func(r *rejection) bool { return r.failures == 0 })
}

// tickRejections lets pods try again where their like were rejected, and forgets what is long ago.
func (hs *health) tickRejections(now time.Time, a *agent) {
	for _, r := range a.failures.rejections {
		if r.due(now) {
			hs.changed(a)
			hs.core.offering.reviveSoon()
		}
	}
	a.failures.rejections = slices.DeleteFunc(a.failures.rejections, func(r *rejection) bool {
		return !r.open && r.trial == "" && now.Sub(r.until) >= breakerForget
	})
}
