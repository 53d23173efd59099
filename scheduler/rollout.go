package scheduler

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
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

// rollout is where the replacement of a node's minion by one of the scheduler's version stands. What has to outlive the scheduler
// is on the node, as api.AnnotationRollout, so that the next one goes on with it.
type rollout struct {
	api.Rollout

	asked time.Time // when the minion was asked to end last; zero if it was not
	gone  time.Time // since when the next minion is waited for; zero if it is not
	// failure is how a task for which the next minion was to come ended; "" if none did.
	failure string
}

// RolloutDirection says which minions a scheduler replaces.
type RolloutDirection string

// Directions of rollouts.
const (
	RolloutForward RolloutDirection = "forward" // those that are older
	RolloutAny     RolloutDirection = "any"     // all of another version
	RolloutOff     RolloutDirection = "off"     // none
)

// Set implements pflag.Value.
func (d *RolloutDirection) Set(text string) error {
	switch RolloutDirection(text) {
	case RolloutForward, RolloutAny, RolloutOff:
		*d = RolloutDirection(text)
		return nil
	}
	return errors.New("give forward, any or off")
}

// String implements pflag.Value.
func (d *RolloutDirection) String() string { return string(*d) }

// Type implements pflag.Value.
func (d *RolloutDirection) Type() string { return "forward|any|off" }

// awaitsMinion tells whether a minion has to be brought up although there is no pod for it, to see that it comes up.
func (u *disruption) awaitsMinion() bool {
	return u.rollout.State == api.RolloutStuck || u.rollout.State == api.RolloutRolling && !u.rollout.gone.IsZero()
}

// rolloutSeen takes in what the node says of the rollout. What is there and was not written by us is an operator's wish.
func (u *disruption) rolloutSeen(seen api.Rollout) {
	before := u.shown
	u.shown = seen
	if !seen.Equal(before) && !seen.Equal(u.rollout.Rollout) && (before.Equal(u.rollout.Rollout) || seen.State == api.RolloutHeld) {
		u.rollout = rollout{Rollout: seen}
	}
}

// rollouts replace minions of other versions.
type rollouts struct {
	core     *Core
	toldKept bool // that minions of other versions are kept
}

// begin has the next minions of other versions replaced, as long as no more nodes than allowed are without theirs
// for that, and none was given up.
func (rs *rollouts) begin(now time.Time, residents func(node string) []*pod) []Action {
	own := api.KMVersion(rs.core.cfg.Version)
	if own == "" {
		return nil
	}
	busy, early := 0, !rs.core.session.connected() || now.Sub(rs.core.session.begun()) < rs.core.cfg.RolloutDelay
	stopped := early || rs.core.cfg.MaxUnavailable == 0
	for id, u := range rs.core.disruptions.all() {
		rs.takeOver(rs.core.agents.get(id), u)
		if u.rollout.State == api.RolloutRolling {
			busy++
		}
		stopped = stopped || u.rollout.GivenUp()
	}
	kept := ""
	for _, a := range rs.core.agents.inOrder() {
		if full := stopped || busy >= rs.core.cfg.MaxUnavailable; !rs.seesOther(now, a) || full && rs.toldKept {
			continue
		}
		if why := rs.forbids(a); why != "" {
			kept = cmp.Or(kept, fmt.Sprintf("node %s: %s", a.Node, why))
			continue
		}
		if stopped || busy >= rs.core.cfg.MaxUnavailable || rs.keepsMinion(a, residents) != "" {
			continue
		}
		annotations, r := rs.core.agents.nodeOf(a).Annotations, &rs.core.disruptions.keep(now, a.ID).rollout
		*r = rollout{Rollout: r.Leave(api.KMVersion(annotations[api.AnnotationKMVersion]), own)}
		r.State, r.Target, r.Replaces = api.RolloutRolling, own, annotations[api.AnnotationMinionStarted]
		rs.core.disruptions.changed(a.ID)
		busy++
	}
	if early || kept == "" || rs.toldKept || rs.core.cfg.Rollout == RolloutOff {
		return nil
	}
	rs.toldKept = true
	return []Action{Complain{Text: kept + "; km nodes shows all minions that are kept"}}
}

// takeOver goes on with a rollout that a scheduler of another version has begun, or has given up, as far as this one may roll its
// own version out there: else nothing is drained for it, and a minion that is gone comes back as the one that leads has it.
func (rs *rollouts) takeOver(a *agent, u *disruption) {
	r, own := &u.rollout, api.KMVersion(rs.core.cfg.Version)
	node := rs.core.agents.nodeOf(a)
	if r.GivenUp() && rs.allows(r.Rollout, r.Target) {
		*r = rollout{Rollout: r.Leave(r.Target, own).Over(own)}
	}
	if r.State != api.RolloutRolling || node == nil {
		return
	}
	version, started := api.KMVersion(node.Annotations[api.AnnotationKMVersion]), node.Annotations[api.AnnotationMinionStarted]
	switch came := started != "" && started != r.Replaces; {
	case !a.hasExecutor:
		r.Target = own
	case !came && !rs.allows(r.Rollout, version):
		*r = rollout{Rollout: r.Stay(version)}
	case !came:
		r.Rollout = r.Leave(version, own)
		r.Target = own
	case version == own:
		r.Target = own
	}
}

// allows tells whether a minion of this version may be replaced by one of the scheduler's on a node with this rollout.
func (rs *rollouts) allows(r api.Rollout, version api.KMVersion) bool {
	own := api.KMVersion(rs.core.cfg.Version)
	return rs.core.cfg.Rollout != RolloutOff && own != version && r.Allows(version, own, rs.core.cfg.Rollout == RolloutAny)
}

// forbids tells why the agent's minion may never be replaced by one of the scheduler's version; "" if it may.
func (rs *rollouts) forbids(a *agent) string {
	own, version := api.KMVersion(rs.core.cfg.Version), api.KMVersion(rs.core.agents.nodeOf(a).Annotations[api.AnnotationKMVersion])
	var r api.Rollout
	if u := rs.core.disruptions.of(a.ID); u != nil {
		r = u.rollout.Rollout
	}
	order := own.Compare(version)
	switch {
	case rs.core.cfg.Rollout == RolloutOff:
		return "the scheduler replaces none (--rollout=off)"
	case rs.allows(r, version):
		return ""
	case order == api.VersionNewer || rs.core.cfg.Rollout == RolloutAny:
		return fmt.Sprintf("km %s was rolled back there: kubectl annotate node %s %s- lets it be rolled out again", own, a.Node, api.AnnotationRollout)
	case order == api.VersionOlder:
		return fmt.Sprintf("km %s is newer than the scheduler's %s: --rollout=any replaces it", version, own)
	}
	return fmt.Sprintf("neither km %s nor the scheduler's %s is known to be newer: --rollout=any replaces it", version, own)
}

// seesOther tells whether the agent's minion has been of another version for long enough to be sure.
func (rs *rollouts) seesOther(now time.Time, a *agent) bool {
	node := rs.core.agents.nodeOf(a)
	if !a.Alive || !a.hasExecutor || node == nil || node.Annotations[api.AnnotationKMVersion] == rs.core.cfg.Version {
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
func (rs *rollouts) keepsMinion(a *agent, residents func(node string) []*pod) string {
	node := rs.core.agents.nodeOf(a)
	switch u := rs.core.disruptions.of(a.ID); {
	case u != nil && u.rollout.State == api.RolloutHeld:
		return "an operator holds it"
	case u != nil && (u.window != nil || u.draining || u.rollout.State != api.RolloutNone && u.rollout.State != api.RolloutReverted):
		return "other plans with its agent come first"
	case node.Spec.Unschedulable:
		return "somebody has cordoned the node"
	case a.failures.health.failures > 0:
		return "its agent fails tasks before they run"
	case !api.NodeReady(node):
		return "the node is not ready"
	}
	for _, p := range residents(a.Node) {
		if metav1.GetControllerOf(p.Obj) == nil && !finished(p.Obj) {
			return fmt.Sprintf("pod %s has no controller that would replace it: delete it", refOf(p.Obj).Key)
		}
	}
	return ""
}

// replace takes the replacement of an agent's minion one step on: the node is cordoned and drained as for maintenance,
// the minion ends, and a new one comes, for a task without a pod if for no other.
func (rs *rollouts) replace(now time.Time, a *agent, node *v1.Node, residents []*pod) []Action {
	u := rs.core.disruptions.of(a.ID)
	r := &u.rollout
	cordoned := node.Annotations[api.AnnotationCordoned] == api.CordonedForRollout
	started := node.Annotations[api.AnnotationMinionStarted]
	switch {
	case u.draining: // its minion ends with its last task
		return nil
	case cordoned && !node.Spec.Unschedulable:
		return r.giveUp(api.RolloutFailed, a.Node, "somebody has uncordoned the node")
	case r.State == api.RolloutStuck, a.hasExecutor && started != "" && started != r.Replaces:
		return rs.newMinion(now, a, node)
	case !r.gone.IsZero():
		return rs.noMinion(now, a)
	case !a.hasExecutor:
		r.gone = now
	case node.Spec.Unschedulable && rs.drained(a, residents) && now.Sub(r.asked) >= killAgain:
		r.asked = now
		return []Action{ShutdownExecutor{Agent: a.ID, Executor: api.MinionExecutorID}}
	}
	return nil
}

// newMinion looks at the minion that has come.
func (rs *rollouts) newMinion(now time.Time, a *agent, node *v1.Node) []Action {
	r := &rs.core.disruptions.of(a.ID).rollout
	if r.gone.IsZero() {
		r.gone = now
	}
	version := api.KMVersion(node.Annotations[api.AnnotationKMVersion])
	switch wanted := rs.wants(r.Rollout, version); {
	case wanted && a.hasExecutor && kubeletReady(node):
		*r = rollout{Rollout: r.Over(version)}
		return nil
	case r.State == api.RolloutStuck:
		return nil
	case !wanted && rs.core.cfg.KMPath != "":
		return r.giveUp(api.RolloutFailed, a.Node, fmt.Sprintf("%s there is still km %s: install %s, then run kubectl annotate node %s %s-",
			rs.core.cfg.KMPath, version, r.Target, a.Node, api.AnnotationRollout))
	case !wanted:
		return r.giveUp(api.RolloutFailed, a.Node, fmt.Sprintf("the new minion is km %s", version))
	}
	return rs.noMinion(now, a)
}

// wants tells whether the version of a minion that has come ends the rollout: another scheduler may have started it meanwhile.
func (rs *rollouts) wants(r api.Rollout, version api.KMVersion) bool {
	return version == r.Target || version == api.KMVersion(rs.core.cfg.Version) ||
		version.Compare(r.Target) == api.VersionNewer && !slices.Contains(r.RevertedFrom, version)
}

// noMinion waits for a minion that is not ready yet, but not for ever.
func (rs *rollouts) noMinion(now time.Time, a *agent) []Action {
	r := &rs.core.disruptions.of(a.ID).rollout
	if now.Sub(r.gone) < rs.core.cfg.RolloutTimeout {
		return nil
	}
	if !a.hasExecutor && len(rs.core.tasks.on(a.ID)) == 0 && r.failure == "" {
		text := fmt.Sprintf("node %s: nothing was offered there for its new minion within %s; it comes with the next pod", a.Node, rs.core.cfg.RolloutTimeout)
		*r = rollout{Rollout: r.Over(r.Target)}
		return []Action{Complain{Text: text}}
	}
	return r.giveUp(api.RolloutStuck, a.Node, fmt.Sprintf("the new minion was not ready within %s%s", rs.core.cfg.RolloutTimeout, with("; its task ended: ", r.failure)))
}

// noteFailure remembers how a task ended that should have brought the next minion.
func (rs *rollouts) noteFailure(t *task, s TaskStatus, f fate) {
	u := rs.core.disruptions.of(t.agent)
	if u != nil && !u.rollout.gone.IsZero() && !f.running && !t.killed && !t.since.Before(u.rollout.gone) {
		u.rollout.failure = s.String()
	}
}

// giveUp stops the rollout, here and everywhere, until an operator or the new minion says otherwise.
func (r *rollout) giveUp(state api.RolloutState, node, why string) []Action {
	*r = rollout{Rollout: api.Rollout{State: state, Target: r.Target, Reason: why, RevertedFrom: r.RevertedFrom}}
	return []Action{Complain{Text: fmt.Sprintf("the rollout of km %s has stopped at node %s: %s", r.Target, node, why)}}
}

// drained tells whether nothing is left on the agent but what ends with its minion and comes back with the next one: pods
// of DaemonSets, and static ones.
func (rs *rollouts) drained(a *agent, residents []*pod) bool {
	for _, p := range residents {
		if !daemon(p.Obj) && !finished(p.Obj) {
			return false
		}
	}
	for _, t := range rs.core.tasks.on(a.ID) {
		if t.warm && rs.core.warm.uncharged(a) {
			continue
		}
		if p := rs.core.pods.get(t.pod); p == nil || !daemon(p.Obj) {
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
	ready := api.ReadyCondition(node)
	return ready.Status == v1.ConditionTrue && ready.Reason != ReadyWithoutKubelet().Reason &&
		!ready.LastHeartbeatTime.Time.Before(started.Truncate(time.Second))
}
