package scheduler

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler/match"
)

// claimsPatience is how long claims may take to be bound for the node that was chosen, before a node is chosen anew: what
// kube-scheduler allows (https://kubernetes.io/docs/reference/config-api/kube-scheduler-config.v1/#kubescheduler-config-k8s-io-v1-VolumeBindingArgs).
const claimsPatience = 10 * time.Minute

// prepareClaims has the claims of a pod bound, or volumes for them made, for the node of the view that was found for it; the
// pod occupies that node meanwhile. It tells whether there is anything to wait for.
func (c *Core) prepareClaims(now time.Time, p *pod, v *match.View) bool {
	claims, needed := c.index.PrepareClaims(&p.Pod, v)
	if !needed {
		return false
	}
	c.dequeue(p)
	p.ClaimsNode, p.claimsAt = v.Node().Name, now
	p.Reread()
	p.waits = true
	c.queue.awaitingClaims[p.Obj.UID] = p
	c.queue.waiting++
	c.occupy(p)
	if len(claims.Volumes)+len(claims.Claims) > 0 {
		c.prepared = append(c.prepared, PrepareClaims{Pod: refOf(p.Obj), Node: p.ClaimsNode, Volumes: claims.Volumes, Claims: claims.Claims})
	}
	return true
}

// claimsPrepared takes in what became of PrepareClaims. If it failed, somebody else has changed the objects.
func (c *Core) claimsPrepared(now time.Time, done ClaimsPrepared) {
	if done.OK {
		return
	}
	c.index.ClaimsFailed(match.Claims{Volumes: done.Action.Volumes, Claims: done.Action.Claims})
	if p := c.pods[done.Action.Pod.UID]; p != nil {
		c.chooseAgain(now, p)
	}
}

// chooseAgain lets a pod choose again, which its claims keep from the node that was chosen.
func (c *Core) chooseAgain(now time.Time, p *pod) {
	if p.ClaimsNode == "" {
		return
	}
	c.dequeue(p)
	c.leaveClaimsNode(p)
	p.backoff.fail(now)
	c.requeue(now, p)
}

// leaveClaimsNode ends what claims meant to the pod's node: it has a task, or chooses again, or needs no node any more.
func (c *Core) leaveClaimsNode(p *pod) {
	if p.ClaimsNode != "" {
		p.ClaimsNode = ""
		p.Reread()
		c.occupy(p)
	}
}

// claimsBound lets a pod have its turn if its claims are all bound now. It still occupies its node, so that nobody comes
// there meanwhile whom it would mind.
func (c *Core) claimsBound(now time.Time, p *pod) {
	if _, missing := c.index.UnboundClaim(p.Obj); missing {
		return
	}
	delete(c.queue.awaitingClaims, p.Obj.UID)
	c.requeue(now, p)
	c.look = true
}

// tickClaims lets those pods choose again that have waited for their claims for too long, or whose node is gone.
func (c *Core) tickClaims(now time.Time) {
	for _, p := range c.queue.awaitingClaims {
		if c.agentOfNode(p.ClaimsNode) == nil || now.Sub(p.claimsAt) >= claimsPatience {
			c.chooseAgain(now, p)
		}
	}
}

func (c *Core) volumeSeen(now time.Time, pv *v1.PersistentVolume) {
	if claim, lost := c.index.VolumeSeen(pv); lost {
		c.claimReset(now, claim)
	}
}

func (c *Core) claimSeen(now time.Time, claim *v1.PersistentVolumeClaim) {
	key := api.PodKey{Namespace: claim.Namespace, Name: claim.Name}
	isBound, isReset := c.index.ClaimSeen(claim)
	if isBound {
		for _, p := range c.awaitingClaim(key) {
			c.claimsBound(now, p)
		}
	}
	if isReset {
		c.claimReset(now, key)
	}
}

func (c *Core) claimGone(now time.Time, key api.PodKey) {
	c.index.ClaimGone(key)
	c.claimReset(now, key)
}

// claimReset lets the pods choose again that wait for the claim.
func (c *Core) claimReset(now time.Time, key api.PodKey) {
	for _, p := range c.awaitingClaim(key) {
		c.chooseAgain(now, p)
	}
}

// awaitingClaim returns the pods that wait for their claims, this one among them.
func (c *Core) awaitingClaim(key api.PodKey) []*pod {
	var pods []*pod
	for _, p := range c.queue.awaitingClaims {
		if slices.Contains(match.ClaimsOf(p.Obj), key) {
			pods = append(pods, p)
		}
	}
	return pods
}

// claimsMessage tells why a pod waits that has a node for its claims already.
func (c *Core) claimsMessage(p *pod) string {
	if name, missing := c.index.UnboundClaim(p.Obj); missing {
		return "its claim " + name + " is being bound for node " + p.ClaimsNode
	}
	return "its claims are bound for node " + p.ClaimsNode
}
