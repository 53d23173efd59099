package scheduler

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
)

// LiveNode is an agent's node.
type LiveNode struct {
	Node  string      `json:"node"`
	Agent api.AgentID `json:"agent"`
	// Minion says that the minion runs, as far as the scheduler knows. KM and Since are empty if it does not.
	Minion bool `json:"minion"`
	// KM is the version of the minion; empty, too, until the minion has written it.
	KM string `json:"km,omitempty"`
	// Since is when the minion started.
	Since *time.Time `json:"since,omitempty"`
	// Settings says whether the minion has taken the cluster's settings: SettingsCurrent or SettingsOld, or empty if it is not known,
	// as for a minion of another version.
	Settings string `json:"settings,omitempty"`
	// Kubelet is the version of the last kubelet there; empty if none has run yet.
	Kubelet string `json:"kubelet,omitempty"`
	// Tasks counts the tasks there, with and without pods.
	Tasks int `json:"tasks"`
	// Warm says that one of them has no pod and keeps the minion running.
	Warm  bool `json:"warm,omitempty"`
	Ready bool `json:"ready"`
	// CordonedFor is "maintenance", "draining" or "rollout" if the scheduler cordoned the node, "somebody" if somebody else did,
	// and empty if it is not cordoned.
	CordonedFor string `json:"cordonedFor,omitempty"`
	// Rollout is the progress of replacing a minion of another version; nil for none.
	Rollout *NodeRollout `json:"rollout,omitempty"`
	// Failing says how tasks failed on the agent before they ran, or were rejected by its kubelet, and when the next one is
	// tried; empty if the last one ran.
	Failing string `json:"failing,omitempty"`
}

// Values of LiveNode.Settings.
const (
	SettingsCurrent = "current"
	SettingsOld     = "old"
)

// live implements Core.LiveNodes.
func (as *agents) live(now time.Time) []LiveNode {
	live := []LiveNode{}
	residents, pause := as.core.disruptions.residents(), as.core.rollouts.pause(now)
	for _, a := range as.inOrder() {
		node := as.nodes[a.Node]
		if node == nil {
			continue
		}
		seen := LiveNode{
			Node: a.Node, Agent: a.ID, Minion: a.hasExecutor, Kubelet: node.Status.NodeInfo.KubeletVersion,
			Tasks: len(as.core.tasks.on(a.ID)), Warm: a.warm != nil, Ready: api.NodeReady(node), Failing: a.failing(),
		}
		if node.Spec.Unschedulable {
			seen.CordonedFor = cmp.Or(node.Annotations[api.AnnotationCordoned], "somebody")
		}
		if a.hasExecutor {
			seen.KM = node.Annotations[api.AnnotationKMVersion]
			seen.Settings = as.core.rollouts.settingsOf(node)
			if since, err := time.Parse(time.RFC3339Nano, node.Annotations[api.AnnotationMinionStarted]); err == nil {
				seen.Since = &since
			}
		}
		seen.Rollout = as.core.rollouts.step(a, residents, pause)
		live = append(live, seen)
	}
	slices.SortFunc(live, func(a, b LiveNode) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Agent, b.Agent)) })
	return live
}

// NodeRollout is the progress of replacing a node's minion.
type NodeRollout struct {
	State RolloutStep `json:"state"`
	// Target is the new version; "" if the minion is kept.
	Target api.KMVersion `json:"target,omitempty"`
	// Settings says that only the settings are new.
	Settings bool `json:"settings,omitempty"`
	// Reason is what it waits for, why it was given up, or why the minion is kept; "" for none.
	Reason string `json:"reason,omitempty"`
}

// RolloutStep is a step in replacing a node's minion.
type RolloutStep string

// Steps of the replacement.
const (
	StepWaits    RolloutStep = "Waits"    // it has not begun
	StepDraining RolloutStep = "Draining" // pods are being evicted
	StepEnding   RolloutStep = "Ending"   // the minion was asked to end
	StepStarting RolloutStep = "Starting" // the new minion is starting
	StepFailed   RolloutStep = "Failed"   // it was given up, and the node works as before
	StepStuck    RolloutStep = "Stuck"    // it was given up, and the new minion is not ready
	StepKept     RolloutStep = "Kept"     // this scheduler does not replace the minion
)

// String describes the rollout for people; "" for nil.
func (r *NodeRollout) String() string {
	if r == nil {
		return ""
	}
	target := string(r.Target)
	if r.Settings {
		target = newSettings
	}
	switch r.State {
	case StepWaits:
		return "to " + target + ": waits" + with(": ", r.Reason)
	case StepDraining:
		return "to " + target + ": draining" + with(", ", r.Reason)
	case StepEnding:
		return "to " + target + ": the minion ends"
	case StepStarting:
		return "to " + target + ": the new minion starts"
	case StepFailed:
		return target + " failed: " + r.Reason
	case StepStuck:
		return target + " stuck: " + r.Reason
	case StepKept:
		return "kept: " + r.Reason
	}
	return r.Reason
}

// UnmarshalJSON also accepts the plain text that older schedulers sent instead of an object.
func (r *NodeRollout) UnmarshalJSON(data []byte) error {
	type plain NodeRollout
	if json.Unmarshal(data, &r.Reason) == nil {
		return nil
	}
	return json.Unmarshal(data, (*plain)(r))
}

// step returns the progress of replacing the agent's minion; pause is why no rollout begins now.
func (rs *rollouts) step(a *agent, residents func(node string) []*pod, pause string) *NodeRollout {
	u, node, own := rs.core.disruptions.of(a.ID), rs.core.agents.nodeOf(a), api.KMVersion(rs.core.cfg.Version)
	if node == nil {
		return nil
	}
	if u != nil {
		switch r := u.rollout; {
		case r.State == api.RolloutFailed:
			return &NodeRollout{State: StepFailed, Target: r.Target, Reason: r.Reason}
		case r.State == api.RolloutStuck:
			return &NodeRollout{State: StepStuck, Target: r.Target, Reason: r.Reason}
		case r.State == api.RolloutRolling && !r.gone.IsZero():
			return &NodeRollout{State: StepStarting, Target: r.Target, Settings: r.Reason == newSettings}
		case r.State == api.RolloutRolling && !r.asked.IsZero():
			return &NodeRollout{State: StepEnding, Target: r.Target, Settings: r.Reason == newSettings}
		case r.State == api.RolloutRolling:
			return &NodeRollout{State: StepDraining, Target: r.Target, Settings: r.Reason == newSettings, Reason: u.held(rs.core.disruptions.leaving(a.ID))}
		}
	}
	if own == "" || !a.hasExecutor || !rs.outdated(node) {
		return nil
	}
	if why := rs.forbids(a); why != "" {
		return &NodeRollout{State: StepKept, Reason: why}
	}
	return &NodeRollout{State: StepWaits, Target: own, Settings: rs.oldSettings(node), Reason: cmp.Or(rs.keepsMinion(a, residents), pause)}
}

// settingsOf returns the node's LiveNode.Settings.
func (rs *rollouts) settingsOf(node *v1.Node) string {
	switch {
	case rs.oldSettings(node):
		return SettingsOld
	case rs.settings != "" && node.Annotations[api.AnnotationSettings] == rs.settings && !rs.outdated(node):
		return SettingsCurrent
	}
	return ""
}

// pause returns why no rollout begins on any node; "" if the next node's may begin.
func (rs *rollouts) pause(now time.Time) string {
	if rs.core.cfg.MaxUnavailable == 0 {
		return "paused by --max-unavailable-nodes=0"
	}
	if why := rs.waitsForServers(); why != "" {
		return why
	}
	for _, a := range rs.core.agents.inOrder() {
		if u := rs.core.disruptions.of(a.ID); u != nil && u.rollout.GivenUp() {
			return "stopped at node " + a.Node
		}
	}
	if begins := rs.core.session.begun().Add(rs.core.cfg.RolloutDelay); now.Before(begins) {
		return "begins at " + begins.UTC().Format(time.RFC3339)
	}
	return ""
}
