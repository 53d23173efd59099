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

// rejection says that an agent's kubelet did not admit a pod. The pod has failed for good and its controller creates another
// one like it. Such pods stay away for a while, so that they are not rejected again and again.
type rejection struct {
	breaker
	reason   string          // the kubelet's, such as OutOfcpu
	resource v1.ResourceName // that was insufficient; "" for another cause
	amount   int64           // requested of it; pods that request less may fit
	requests match.Requests  // of the pod; if resource is "", pods with equal requests stay away
	extended match.Extended
}

// outOf is the prefix, before the resource's name, of a kubelet's reason when a resource is insufficient
// (pkg/kubelet/lifecycle/predicate.go of Kubernetes).
const outOf = "OutOf"

// isRejected reports whether the kubelet did not admit the pod: it has failed with a reason and without any container status
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
		r.resource = "" // the pod requests none of it, so there is no amount to compare
	}
	return r
}

// concerns reports whether pods with these requests would probably be rejected, too.
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

// String returns why pods stay away, in kube-scheduler's words where it has some.
func (r *rejection) String() string {
	if r.resource == "" {
		return fmt.Sprintf("node(s) rejected such a pod (%s)", r.reason)
	}
	return fmt.Sprintf("Insufficient %s (the kubelet has rejected such a pod: %s)", r.resource, r.reason)
}

// admissionSeen learns from a pod's new state obj whether the kubelet has admitted or rejected it.
func (hs *health) admissionSeen(now time.Time, p *pod, obj *v1.Pod) []Action {
	switch t := p.task; {
	case p.Obj == nil: // seen for the first time: it may have been rejected long ago
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

// refusedByMesos notes that Mesos refused the pod's task in the agent's offers. Another agent's may do.
func (hs *health) refusedByMesos(now time.Time, t *task, p *pod) {
	if a := hs.core.agents.get(t.agent); a != nil {
		hs.staysAway(now, a, p, newRejection(p, Errored.String()), breakerFirst)
	}
}

// staysAway keeps pods like this one off the agent for a while.
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

// admitted notes that the agent's kubelet has admitted the pod, so that more pods like it may be tried.
func (hs *health) admitted(a *agent, p *pod) {
	for _, r := range a.failures.rejections {
		if r.concerns(&p.Requests, p.Extended) && !p.launched.Before(r.since) {
			r.failures, r.trial = r.failures/2, ""
			hs.changed(a)
		}
	}
	a.failures.rejections = slices.DeleteFunc(a.failures.rejections, func(r *rejection) bool { return r.failures == 0 })
}

// tickRejections ends pauses that are over, and forgets old rejections.
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
