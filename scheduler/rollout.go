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
	"github.com/k8sm/k8sm/api/skew"
)

const (
	// otherPatience is how long a node may show another version before that counts: a new minion may have started a moment ago,
	// and not have replaced the old one's annotation yet.
	otherPatience = 30 * time.Second
	// namelessPatience is how long a node may show no version. A minion that knows its version writes it at least this often.
	namelessPatience = 10 * time.Minute
)

// rollout is the progress of replacing a node's minion by one of the scheduler's version with the cluster's settings. The node's
// annotation api.AnnotationRollout keeps what the next scheduler needs to continue.
type rollout struct {
	api.Rollout

	asked time.Time // when the minion was last asked to end; zero for never
	gone  time.Time // since when we wait for the new minion; zero if we do not
	// failure is how the last task that should have started the new minion ended; "" for none.
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

// awaitsMinion reports whether the new minion has to be started even without a pod, to see that it becomes ready.
func (u *disruption) awaitsMinion() bool {
	return u.rollout.State == api.RolloutStuck || u.rollout.State == api.RolloutRolling && !u.rollout.gone.IsZero()
}

// rolloutSeen reads the rollout from the node's annotation. What we did not write there comes from an operator, and is obeyed.
func (u *disruption) rolloutSeen(seen api.Rollout) {
	before := u.shown
	u.shown = seen
	if !seen.Equal(before) && !seen.Equal(u.rollout.Rollout) && (before.Equal(u.rollout.Rollout) || seen.State == api.RolloutHeld) {
		u.rollout = rollout{Rollout: seen}
	}
}

// newSettings is the reason of a rollout of settings alone.
const newSettings = "new settings"

// rollouts replace minions of other versions, or with other settings. rolloutskew.go says when none may start.
type rollouts struct {
	core         *Core
	keptReported bool          // it was reported that minions of other versions are kept
	waitReported string        // why rollouts wait for API servers, as reported; "" if they do not
	settings     string        // those that minions are to take, an api.MinionConfig.Settings; "" if unknown
	engine       Engine        // that minions are to use
	servers      []skew.Server // the cluster's API servers; nil if unknown
}

// begin starts the replacement of the next minions of other versions, or with other settings, within MaxUnavailable and unless a rollout
// was given up.
func (rs *rollouts) begin(now time.Time, residents func(node string) []*pod) []Action {
	if rs.core.cfg.Version == "" {
		return nil
	}
	busy, early := 0, !rs.core.session.connected() || now.Sub(rs.core.session.begun()) < rs.core.cfg.RolloutDelay
	waits := rs.waitsForServers()
	if waits == "" {
		rs.waitReported = ""
	}
	stopped := early || rs.core.cfg.MaxUnavailable == 0 || waits != ""
	for id, u := range rs.core.disruptions.all() {
		rs.takeOver(rs.core.agents.get(id), u)
		if u.rollout.State == api.RolloutRolling {
			busy++
		}
		stopped = stopped || u.rollout.GivenUp()
	}
	kept := ""
	var acts []Action
	for _, a := range rs.core.agents.inOrder() {
		if full := stopped || busy >= rs.core.cfg.MaxUnavailable; !rs.seesOther(now, a) || full && rs.keptReported && rs.waitReported == waits {
			continue
		}
		if why := rs.forbids(a); why != "" {
			kept = cmp.Or(kept, fmt.Sprintf("node %s: %s", a.Node, why))
			continue
		}
		if waits != "" && !early {
			acts = append(acts, rs.reportWait(a, waits)...)
		}
		if stopped || busy >= rs.core.cfg.MaxUnavailable || rs.keepsMinion(a, residents) != "" {
			continue
		}
		rs.start(now, a)
		busy++
	}
	if early || kept == "" || rs.keptReported || rs.core.cfg.Rollout == RolloutOff {
		return acts
	}
	rs.keptReported = true
	return append(acts, Complain{Reason: "MinionsKept", Text: kept + "; km nodes shows all minions that are kept"})
}

// start starts the replacement of the agent's minion.
func (rs *rollouts) start(now time.Time, a *agent) {
	node, own := rs.core.agents.nodeOf(a), api.KMVersion(rs.core.cfg.Version)
	r, version := &rs.core.disruptions.ensure(now, a.ID).rollout, api.KMVersion(node.Annotations[api.AnnotationKMVersion])
	*r = rollout{Rollout: r.Leave(version, own)}
	r.State, r.Target, r.Settings = api.RolloutRolling, own, rs.settings
	r.Replaces = node.Annotations[api.AnnotationMinionStarted]
	if version == own {
		r.Reason = newSettings
	}
	rs.core.agents.changed(a.ID)
}

// takeOver continues a rollout that a scheduler of another version began or gave up, if this scheduler may roll its own version
// out there, and forgets one that was given up with settings that are not the cluster's any more. If not, nothing is drained, and a minion that has ended comes back in the leader's version.
func (rs *rollouts) takeOver(a *agent, u *disruption) {
	r, own := &u.rollout, api.KMVersion(rs.core.cfg.Version)
	node := rs.core.agents.nodeOf(a)
	changed := r.GivenUp() && r.Target == own && rs.changedSince(r.Rollout)
	switch {
	case changed && r.State == api.RolloutStuck && node != nil: // with the settings of now, the node may become ready
		again := r.Rollout
		again.State, again.Settings, again.Reason = api.RolloutRolling, rs.settings, newSettings
		again.Replaces = node.Annotations[api.AnnotationMinionStarted]
		*r = rollout{Rollout: again}
	case changed, r.GivenUp() && rs.allows(r.Rollout, r.Target):
		*r = rollout{Rollout: r.Leave(r.Target, own).Over(own)}
	}
	if r.State != api.RolloutRolling || node == nil {
		return
	}
	version, started := api.KMVersion(node.Annotations[api.AnnotationKMVersion]), node.Annotations[api.AnnotationMinionStarted]
	switch came := started != "" && started != r.Replaces; {
	case !a.hasExecutor:
		r.Target = own
	case !came && !rs.mayReplace(r.Rollout, node):
		*r = rollout{Rollout: r.Stay(version)}
	case !came:
		r.Rollout = r.Leave(version, own)
		r.Target, r.Settings = own, rs.settings
	case version == own:
		r.Target = own
	}
}

// allows reports whether a minion of the given version may be replaced by one of the scheduler's on a node with this rollout.
func (rs *rollouts) allows(r api.Rollout, version api.KMVersion) bool {
	own := api.KMVersion(rs.core.cfg.Version)
	return rs.core.cfg.Rollout != RolloutOff && own != version && r.Allows(version, own, rs.core.cfg.Rollout == RolloutAny)
}

// mayReplace reports whether the minion of a node with this rollout may be replaced, for its version or its settings.
func (rs *rollouts) mayReplace(r api.Rollout, node *v1.Node) bool {
	return rs.core.cfg.Rollout != RolloutOff && rs.oldSettings(node) || rs.allows(r, api.KMVersion(node.Annotations[api.AnnotationKMVersion]))
}

// oldSettings reports whether the node's minion is of the scheduler's version and has taken other settings than the cluster's. What one
// of another version has taken cannot be compared, and neither can what it has not told.
func (rs *rollouts) oldSettings(node *v1.Node) bool {
	taken := node.Annotations[api.AnnotationSettings]
	return rs.settings != "" && taken != "" && taken != rs.settings && node.Annotations[api.AnnotationKMVersion] == rs.core.cfg.Version
}

// changedSince reports whether the cluster's settings are others than those of the rollout.
func (rs *rollouts) changedSince(r api.Rollout) bool {
	return rs.settings != "" && r.Settings != "" && r.Settings != rs.settings
}

// outdated reports whether the node's minion is of another version than the scheduler, or has other settings than the cluster.
func (rs *rollouts) outdated(node *v1.Node) bool {
	return node.Annotations[api.AnnotationKMVersion] != rs.core.cfg.Version || rs.oldSettings(node)
}

// forbids returns why the agent's minion, which is outdated, may never be replaced by one of the scheduler's version; "" if it may.
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
	case rs.allows(r, version) || version == own:
		return ""
	case order == api.VersionNewer || rs.core.cfg.Rollout == RolloutAny:
		return fmt.Sprintf("km %s was rolled back there: run kubectl annotate node %s %s- to roll it out again", own, a.Node, api.AnnotationRollout)
	case order == api.VersionOlder:
		return fmt.Sprintf("km %s is newer than the scheduler's %s: --rollout=any replaces it", version, own)
	}
	return fmt.Sprintf("neither km %s nor the scheduler's %s is known to be newer: --rollout=any replaces it", version, own)
}

// seesOther reports whether the agent's minion has had another version, or other settings, for long enough to be sure.
func (rs *rollouts) seesOther(now time.Time, a *agent) bool {
	node := rs.core.agents.nodeOf(a)
	if !a.Alive || !a.hasExecutor || node == nil || !rs.outdated(node) {
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

// keepsMinion returns why the agent's minion, which is outdated, is not replaced now; "" if it may be.
func (rs *rollouts) keepsMinion(a *agent, residents func(node string) []*pod) string {
	node := rs.core.agents.nodeOf(a)
	switch u := rs.core.disruptions.of(a.ID); {
	case u != nil && u.rollout.State == api.RolloutHeld:
		return "an operator holds it"
	case u != nil && (u.window != nil || u.draining || u.rollout.State != api.RolloutNone && u.rollout.State != api.RolloutReverted):
		return "its agent has maintenance, draining or another rollout"
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

// replace performs the next step of replacing an agent's minion: the node is cordoned and drained as for maintenance, the
// minion is shut down, and a new one is started, by a task without a pod if no pod comes.
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
	case node.Spec.Unschedulable && rs.drained(a, residents) && now.Sub(r.asked) >= killRetry:
		r.asked = now
		return []Action{ShutdownExecutor{Agent: a.ID, Executor: api.MinionExecutorID}}
	}
	return nil
}

// newMinion checks the version and readiness of the new minion.
func (rs *rollouts) newMinion(now time.Time, a *agent, node *v1.Node) []Action {
	r := &rs.core.disruptions.of(a.ID).rollout
	if r.gone.IsZero() {
		r.gone = now
	}
	version := api.KMVersion(node.Annotations[api.AnnotationKMVersion])
	switch wanted := rs.wants(r.Rollout, version); {
	case rs.oldSettings(node) && r.Settings == rs.settings && r.State != api.RolloutStuck:
		return r.giveUp(api.RolloutFailed, a.Node, "the new minion has other settings, too: it may be another build of that version")
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

// wants reports whether a new minion of this version completes the rollout. Another scheduler may have started it meanwhile.
func (rs *rollouts) wants(r api.Rollout, version api.KMVersion) bool {
	return version == r.Target || version == api.KMVersion(rs.core.cfg.Version) ||
		version.Compare(r.Target) == api.VersionNewer && !slices.Contains(r.RevertedFrom, version)
}

// noMinion waits for a minion that is not ready yet, and gives up after RolloutTimeout.
func (rs *rollouts) noMinion(now time.Time, a *agent) []Action {
	r := &rs.core.disruptions.of(a.ID).rollout
	if now.Sub(r.gone) < rs.core.cfg.RolloutTimeout {
		return nil
	}
	if !a.hasExecutor && len(rs.core.tasks.on(a.ID)) == 0 && r.failure == "" {
		text := fmt.Sprintf("node %s: no offer for its new minion came within %s; the next pod will start it", a.Node, rs.core.cfg.RolloutTimeout)
		*r = rollout{Rollout: r.Over(r.Target)}
		return []Action{Complain{Reason: "NoOfferForMinion", Text: text}}
	}
	return r.giveUp(api.RolloutStuck, a.Node, fmt.Sprintf("the new minion was not ready within %s%s", rs.core.cfg.RolloutTimeout, with("; its task ended: ", r.failure)))
}

// noteFailure remembers how a task that should have started the new minion ended.
func (rs *rollouts) noteFailure(t *task, s TaskStatus, r reaction) {
	u := rs.core.disruptions.of(t.agent)
	if u != nil && !u.rollout.gone.IsZero() && !r.running && !t.killed && !t.since.Before(u.rollout.gone) {
		u.rollout.failure = s.String()
	}
}

// giveUp stops the rollout on all nodes, until an operator resumes it or the new minion becomes ready.
func (r *rollout) giveUp(state api.RolloutState, node, why string) []Action {
	*r = rollout{Rollout: api.Rollout{State: state, Target: r.Target, Settings: r.Settings, Reason: why, RevertedFrom: r.RevertedFrom}}
	return []Action{Complain{Reason: "RolloutStopped", Text: fmt.Sprintf("the rollout of km %s has stopped at node %s: %s", r.Target, node, why)}}
}

// drained reports whether only pods of DaemonSets and static pods, which come back with the new minion, are left on the agent.
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

// kubeletReady reports whether the new minion's own kubelet has set the node's condition Ready.
func kubeletReady(node *v1.Node) bool {
	started, err := time.Parse(time.RFC3339Nano, node.Annotations[api.AnnotationMinionStarted])
	if err != nil {
		return false
	}
	ready := api.ReadyCondition(node)
	return ready.Status == v1.ConditionTrue && ready.Reason != ReadyWithoutKubelet().Reason &&
		!ready.LastHeartbeatTime.Time.Before(started.Truncate(time.Second))
}
