package scheduler

import (
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
)

const (
	// otherPatience is how long a minion that runs may carry another version's name: it may have started a moment ago, and
	// the name be that of the one before.
	otherPatience = 30 * time.Second
	// namelessPatience is how long it may carry none. A minion that can tell its version does so at least so often.
	namelessPatience = 10 * time.Minute
)

// rollout is where the replacement of a node's minion by one of the scheduler's version stands. It is on the node, as
// api.AnnotationRollout says, so that the next scheduler goes on with it.
type rollout struct {
	phase  rolloutPhase
	target string // the version that shall run
	note   string // as the phase says

	asked time.Time // when the minion was asked to end last; zero if it was not
	gone  time.Time // since when the next minion is waited for; zero if it is not
	// failure is how a task for which the next minion was to come ended; "" if none did.
	failure string
}

// rolloutPhase is a kind of rollout.
type rolloutPhase int

const (
	rolloutNone    rolloutPhase = iota
	rolloutRolling              // it is under way; note is when the minion that is replaced was started, or "-"
	rolloutFailed               // it was given up, and the node is as good as before; note is why
	rolloutStuck                // it was given up, and the new minion is not ready; note is why
	rolloutHeld                 // an operator wants none; note is what he wrote
)

// parseRollout reads the annotation.
func parseRollout(text string) rollout {
	target, rest, _ := strings.Cut(text, " ")
	if text == "" {
		return rollout{}
	}
	for prefix, phase := range map[string]rolloutPhase{"replaces ": rolloutRolling, "failed: ": rolloutFailed, "stuck: ": rolloutStuck} {
		if note, ok := strings.CutPrefix(rest, prefix); ok {
			return rollout{phase: phase, target: target, note: note}
		}
	}
	return rollout{phase: rolloutHeld, note: text}
}

// String returns the annotation.
func (r rollout) String() string {
	switch r.phase {
	case rolloutRolling:
		return r.target + " replaces " + r.note
	case rolloutFailed:
		return r.target + " failed: " + r.note
	case rolloutStuck:
		return r.target + " stuck: " + r.note
	}
	return r.note
}

// givenUp tells whether the rollout ended without success.
func (r rollout) givenUp() bool { return r.phase == rolloutFailed || r.phase == rolloutStuck }

// awaitsMinion tells whether a minion has to be brought up although there is no pod for it, to see that it comes up.
func (u *upkeep) awaitsMinion() bool {
	return u.rollout.phase == rolloutStuck || u.rollout.phase == rolloutRolling && !u.rollout.gone.IsZero()
}

// rolloutSeen takes in what the node says of the rollout. What is there and was not written by us is an operator's wish.
func (u *upkeep) rolloutSeen(text string) {
	before := u.shown
	u.shown = text
	if text != before && text != u.rollout.String() && (before == u.rollout.String() || parseRollout(text).phase == rolloutHeld) {
		u.rollout = parseRollout(text)
	}
}

// beginRollouts has the next minions of other versions replaced, as long as no more nodes than allowed are without theirs
// for that, and none was given up.
func (c *Core) beginRollouts(now time.Time, residents func(node string) []*pod) {
	if c.cfg.Version == "" {
		return
	}
	busy, stopped := 0, c.cfg.MaxUnavailable == 0 || !c.connected || now.Sub(c.begun) < c.cfg.RolloutDelay
	for _, u := range c.upkeep {
		if u.rollout.target != c.cfg.Version && u.rollout.givenUp() {
			u.rollout = rollout{}
		}
		if u.rollout.phase == rolloutRolling {
			u.rollout.target = c.cfg.Version
			busy++
		}
		stopped = stopped || u.rollout.givenUp()
	}
	for _, a := range c.agentsInOrder() {
		other := c.seesOther(now, a)
		if stopped || busy >= c.cfg.MaxUnavailable || !other || c.keepsMinion(a, residents) != "" {
			continue
		}
		started := c.nodeOf(a).Annotations[api.AnnotationMinionStarted]
		if started == "" {
			started = "-"
		}
		c.keep(now, a.id).rollout = rollout{phase: rolloutRolling, target: c.cfg.Version, note: started}
		c.fleet.touch(a)
		busy++
	}
}

// seesOther tells whether the agent's minion has been of another version for long enough to be sure.
func (c *Core) seesOther(now time.Time, a *agent) bool {
	node := c.nodeOf(a)
	if !a.alive || !a.hasExecutor || node == nil || node.Annotations[api.AnnotationKMVersion] == c.cfg.Version {
		a.otherSince = time.Time{}
		return false
	}
	if a.otherSince.IsZero() {
		a.otherSince = now
	}
	patience := otherPatience
	if node.Annotations[api.AnnotationKMVersion] == "" {
		patience = namelessPatience
	}
	return now.Sub(a.otherSince) >= patience
}

// keepsMinion tells why the agent's minion is not replaced now although it is of another version; "" if it may be.
func (c *Core) keepsMinion(a *agent, residents func(node string) []*pod) string {
	node := c.nodeOf(a)
	switch u := c.upkeep[a.id]; {
	case u != nil && u.rollout.phase == rolloutHeld:
		return "an operator holds it"
	case u != nil && (u.window != nil || u.draining || u.rollout.phase != rolloutNone):
		return "other plans with its agent come first"
	case node.Spec.Unschedulable:
		return "somebody has cordoned the node"
	case a.health.failures > 0:
		return "its agent fails tasks before they run"
	case !ready(node):
		return "the node is not ready"
	}
	for _, p := range residents(a.node) {
		if metav1.GetControllerOf(p.obj) == nil && !finished(p.obj) {
			return fmt.Sprintf("pod %s has no controller that would replace it: delete it", refOf(p.obj).Key)
		}
	}
	return ""
}

// replace takes the replacement of an agent's minion one step on: the node is cordoned and drained as for maintenance,
// the minion ends, and a new one comes, for a task without a pod if for no other.
func (c *Core) replace(now time.Time, a *agent, node *v1.Node, residents []*pod) []Action {
	u := c.upkeep[a.id]
	r := &u.rollout
	cordoned := node.Annotations[api.AnnotationCordoned] == cordonedForRollout
	started := node.Annotations[api.AnnotationMinionStarted]
	switch {
	case u.draining: // its minion ends with its last task
		return nil
	case cordoned && !node.Spec.Unschedulable:
		return r.giveUp(rolloutFailed, a.node, "somebody has uncordoned the node")
	case r.phase == rolloutStuck, a.hasExecutor && started != "" && started != r.note:
		return c.newMinion(now, a, node)
	case !r.gone.IsZero():
		return c.noMinion(now, a)
	case !a.hasExecutor:
		r.gone = now
	case node.Spec.Unschedulable && c.drained(a, residents) && now.Sub(r.asked) >= killAgain:
		r.asked = now
		return []Action{ShutdownExecutor{Agent: a.id, Executor: api.MinionExecutorID}}
	}
	return nil
}

// newMinion looks at the minion that has come.
func (c *Core) newMinion(now time.Time, a *agent, node *v1.Node) []Action {
	r := &c.upkeep[a.id].rollout
	if r.gone.IsZero() {
		r.gone = now
	}
	version := node.Annotations[api.AnnotationKMVersion]
	switch {
	case version == r.target && a.hasExecutor && kubeletReady(node):
		*r = rollout{}
		return nil
	case r.phase == rolloutStuck:
		return nil
	case version != r.target && c.cfg.KMPath != "":
		return r.giveUp(rolloutFailed, a.node, fmt.Sprintf("%s there is still km %s: install %s, then run kubectl annotate node %s %s-",
			c.cfg.KMPath, version, r.target, a.node, api.AnnotationRollout))
	case version != r.target:
		return r.giveUp(rolloutFailed, a.node, fmt.Sprintf("the new minion is km %s", version))
	}
	return c.noMinion(now, a)
}

// noMinion waits for a minion that is not ready yet, but not for ever.
func (c *Core) noMinion(now time.Time, a *agent) []Action {
	r := &c.upkeep[a.id].rollout
	if now.Sub(r.gone) < c.cfg.RolloutTimeout {
		return nil
	}
	if !a.hasExecutor && len(c.owners[a.id]) == 0 && r.failure == "" {
		text := fmt.Sprintf("node %s: nothing was offered there for its new minion within %s; it comes with the next pod", a.node, c.cfg.RolloutTimeout)
		*r = rollout{}
		return []Action{Complain{Text: text}}
	}
	return r.giveUp(rolloutStuck, a.node, fmt.Sprintf("the new minion was not ready within %s%s", c.cfg.RolloutTimeout, with("; its task ended: ", r.failure)))
}

// noteFailure remembers how a task ended that should have brought the next minion.
func (c *Core) noteFailure(t *task, s TaskStatus, f fate) {
	u := c.upkeep[t.agent]
	if u != nil && !u.rollout.gone.IsZero() && !f.running && !t.killed && !t.since.Before(u.rollout.gone) {
		u.rollout.failure = s.String()
	}
}

// giveUp stops the rollout, here and everywhere, until an operator or the new minion says otherwise.
func (r *rollout) giveUp(phase rolloutPhase, node, why string) []Action {
	*r = rollout{phase: phase, target: r.target, note: why}
	return []Action{Complain{Text: fmt.Sprintf("the rollout of km %s has stopped at node %s: %s", r.target, node, why)}}
}

// drained tells whether nothing is left on the agent but what ends with its minion and comes back with the next one: pods
// of DaemonSets, and static ones.
func (c *Core) drained(a *agent, residents []*pod) bool {
	for _, p := range residents {
		if !daemon(p.obj) && !finished(p.obj) {
			return false
		}
	}
	for _, t := range c.owners[a.id] {
		if t.warm && c.uncharged(a) {
			continue
		}
		if p := c.pods[t.pod]; p == nil || !daemon(p.obj) {
			return false
		}
	}
	return true
}

// kubeletReady tells whether the kubelet of the minion that has reported has said itself that it is ready.
func kubeletReady(node *v1.Node) bool {
	started, err := time.Parse(time.RFC3339Nano, node.Annotations[api.AnnotationMinionStarted])
	if err != nil {
		return false
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == v1.NodeReady && condition.Status == v1.ConditionTrue && condition.Reason != ReadyWithoutKubelet().Reason {
			return !condition.LastHeartbeatTime.Time.Before(started.Truncate(time.Second))
		}
	}
	return false
}
