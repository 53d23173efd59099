package scheduler

import (
	"iter"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler/match"
)

// claimsPatience is how long binding claims for the chosen node may take before another node is chosen, as in kube-scheduler (https://kubernetes.io/docs/reference/config-api/kube-scheduler-config.v1/#kubescheduler-config-k8s-io-v1-VolumeBindingArgs).
const claimsPatience = 10 * time.Minute

// claims holds the pods that wait until their PersistentVolumeClaims are bound for the chosen node.
type claims struct {
	core    *Core
	waiting map[types.UID]*pod
	actions []Action // of this cycle
}

func newClaims(c *Core) claims { return claims{core: c, waiting: map[types.UID]*pod{}} }

// all iterates over the waiting pods, in no order.
func (cl *claims) all() iter.Seq2[types.UID, *pod] { return maps.All(cl.waiting) }

// decided returns the actions of this cycle, once.
func (cl *claims) decided() []Action {
	acts := cl.actions
	cl.actions = nil
	return acts
}

// awaits reports whether the pod waits for its claims.
func (cl *claims) awaits(p *pod) bool { return cl.waiting[p.Obj.UID] == p }

// drop ends the pod's wait.
func (cl *claims) drop(p *pod) { delete(cl.waiting, p.Obj.UID) }

// prepare has a pod's claims bound, or volumes provisioned, for the node of the view that was found for it; the pod occupies
// that node meanwhile. It reports whether the pod has to wait for that.
func (cl *claims) prepare(now time.Time, p *pod, v *match.View) bool {
	claims, needed := cl.core.index.PrepareClaims(&p.Pod, v)
	if !needed {
		return false
	}
	cl.core.pods.dequeue(p)
	p.ClaimsNode, p.claimsAt = v.Node().Name, now
	p.Reread()
	cl.waiting[p.Obj.UID] = p
	cl.core.pods.await(p)
	cl.core.pods.occupy(p)
	if len(claims.Volumes)+len(claims.Claims) > 0 {
		cl.actions = append(cl.actions, PrepareClaims{Pod: refOf(p.Obj), Node: p.ClaimsNode, Volumes: claims.Volumes, Claims: claims.Claims})
	}
	return true
}

// written handles the result of PrepareClaims. If it failed, somebody else changed the objects.
func (cl *claims) written(now time.Time, done ClaimsPrepared) {
	if done.OK {
		return
	}
	cl.core.index.ClaimsFailed(match.Claims{Volumes: done.Action.Volumes, Claims: done.Action.Claims})
	if p := cl.core.pods.get(done.Action.Pod.UID); p != nil {
		cl.chooseAgain(now, p)
	}
}

// chooseAgain requeues a pod to choose another node, because its claims could not be bound for the chosen one.
func (cl *claims) chooseAgain(now time.Time, p *pod) {
	if p.ClaimsNode == "" {
		return
	}
	cl.core.pods.dequeue(p)
	cl.leave(p)
	p.backoff.fail(now)
	cl.core.pods.requeue(now, p)
}

// leave forgets the node chosen for the pod's claims: the pod has a task, chooses again, or needs no node any more.
func (cl *claims) leave(p *pod) {
	if p.ClaimsNode != "" {
		p.ClaimsNode = ""
		p.Reread()
		cl.core.pods.occupy(p)
	}
}

// bound requeues a pod if all its claims are bound now. It still occupies its node, so that no conflicting pod is placed there
// meanwhile.
func (cl *claims) bound(now time.Time, p *pod) {
	if _, missing := cl.core.index.UnboundClaim(p.Obj); missing {
		return
	}
	delete(cl.waiting, p.Obj.UID)
	cl.core.pods.requeue(now, p)
	cl.core.requestCycle()
}

// tick makes pods choose another node if theirs was removed, or binding their claims took too long.
func (cl *claims) tick(now time.Time) {
	for _, p := range cl.waiting {
		if cl.core.agents.ofNode(p.ClaimsNode) == nil || now.Sub(p.claimsAt) >= claimsPatience {
			cl.chooseAgain(now, p)
		}
	}
}

// volumeSeen handles a PersistentVolume that is new or changed.
func (cl *claims) volumeSeen(now time.Time, pv *v1.PersistentVolume) {
	if claim, lost := cl.core.index.VolumeSeen(pv); lost {
		cl.reset(now, claim)
	}
}

// claimSeen handles a PersistentVolumeClaim that is new or changed.
func (cl *claims) claimSeen(now time.Time, claim *v1.PersistentVolumeClaim) {
	key := api.PodKey{Namespace: claim.Namespace, Name: claim.Name}
	isBound, isReset := cl.core.index.ClaimSeen(claim)
	if isBound {
		for _, p := range cl.awaiting(key) {
			cl.bound(now, p)
		}
	}
	if isReset {
		cl.reset(now, key)
	}
}

// claimGone handles a PersistentVolumeClaim that was removed from the API.
func (cl *claims) claimGone(now time.Time, key api.PodKey) {
	cl.core.index.ClaimGone(key)
	cl.reset(now, key)
}

// reset makes the pods that wait for the claim choose another node.
func (cl *claims) reset(now time.Time, key api.PodKey) {
	for _, p := range cl.awaiting(key) {
		cl.chooseAgain(now, p)
	}
}

// awaiting returns the waiting pods that use the claim.
func (cl *claims) awaiting(key api.PodKey) []*pod {
	var pods []*pod
	for _, p := range cl.waiting {
		if slices.Contains(match.ClaimsOf(p.Obj), key) {
			pods = append(pods, p)
		}
	}
	return pods
}

// message returns why the pod waits for its claims.
func (cl *claims) message(p *pod) string {
	if name, missing := cl.core.index.UnboundClaim(p.Obj); missing {
		return "its claim " + name + " is being bound for node " + p.ClaimsNode
	}
	return "its claims have been bound for node " + p.ClaimsNode
}
