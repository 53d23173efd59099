package scheduler

import (
	"cmp"
	"slices"
	"time"

	"github.com/k8sm/k8sm/api"
)

// LiveNode is a node that stands for an agent.
type LiveNode struct {
	Node  string      `json:"node"`
	Agent api.AgentID `json:"agent"`
	// Minion says that the minion runs, as far as the scheduler knows. What follows is empty if it does not.
	Minion bool `json:"minion"`
	// KM is the version of the minion; empty, too, while it has not told it.
	KM string `json:"km,omitempty"`
	// Since is when the minion started.
	Since *time.Time `json:"since,omitempty"`
	// Kubelet is the version of the kubelet that ran there last; empty if none has yet.
	Kubelet string `json:"kubelet,omitempty"`
	// Tasks counts the tasks there, whether they have a pod or not.
	Tasks int `json:"tasks"`
	// Warm says that one of them has no pod, and keeps the minion up.
	Warm  bool `json:"warm,omitempty"`
	Ready bool `json:"ready"`
	// CordonedFor is "maintenance", "draining" or "rollout" for a cordon of the scheduler's, "somebody" for one of others, and
	// empty if the node takes pods.
	CordonedFor string `json:"cordonedFor,omitempty"`
	// Rollout tells how it stands with the replacement of a minion of another version; empty if there is nothing to tell.
	Rollout string `json:"rollout,omitempty"`
	// Failing is how tasks failed on the agent before they ran, or were rejected by its kubelet, and when the next one is tried;
	// empty if the last one ran.
	Failing string `json:"failing,omitempty"`
}

// LiveNodes returns the nodes that stand for agents, by name.
func (c *Core) LiveNodes(now time.Time) []LiveNode {
	live := []LiveNode{}
	residents, pause := c.residents(), c.rolloutPause(now)
	for _, a := range c.agentsInOrder() {
		node := c.nodes[a.node]
		if node == nil {
			continue
		}
		seen := LiveNode{
			Node: a.node, Agent: a.id, Minion: a.hasExecutor, Kubelet: node.Status.NodeInfo.KubeletVersion,
			Tasks: len(c.owners[a.id]), Warm: a.warm != nil, Ready: ready(node), Failing: a.failing(),
		}
		if node.Spec.Unschedulable {
			seen.CordonedFor = cmp.Or(node.Annotations[api.AnnotationCordoned], "somebody")
		}
		if a.hasExecutor {
			seen.KM = node.Annotations[api.AnnotationKMVersion]
			if since, err := time.Parse(time.RFC3339Nano, node.Annotations[api.AnnotationMinionStarted]); err == nil {
				seen.Since = &since
			}
		}
		seen.Rollout = c.rolloutState(a, residents, pause)
		live = append(live, seen)
	}
	slices.SortFunc(live, func(a, b LiveNode) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Agent, b.Agent)) })
	return live
}

// rolloutState tells how it stands with the replacement of the agent's minion; pause is why none begins now.
func (c *Core) rolloutState(a *agent, residents func(node string) []*pod, pause string) string {
	u, node := c.upkeep[a.id], c.nodeOf(a)
	other := c.cfg.Version != "" && a.hasExecutor && node != nil && node.Annotations[api.AnnotationKMVersion] != c.cfg.Version
	switch {
	case node == nil:
		return ""
	case u != nil && u.rollout.givenUp():
		return u.rollout.String()
	case u != nil && u.rollout.phase == rolloutRolling && !u.rollout.gone.IsZero():
		return "to " + u.rollout.target + ": the new minion starts"
	case u != nil && u.rollout.phase == rolloutRolling && !u.rollout.asked.IsZero():
		return "to " + u.rollout.target + ": the minion ends"
	case u != nil && u.rollout.phase == rolloutRolling:
		return "to " + u.rollout.target + ": draining" + with(", ", u.held(c.leaving(a.id)))
	case !other:
		return ""
	}
	if why := c.keepsMinion(a, residents); why != "" {
		return "to " + c.cfg.Version + ": waits: " + why
	}
	return "to " + c.cfg.Version + ": waits" + with(": ", pause)
}

// rolloutPause tells why no rollout begins anywhere; "" if it is only a question of whose turn it is.
func (c *Core) rolloutPause(now time.Time) string {
	if c.cfg.MaxUnavailable == 0 {
		return "paused by --max-unavailable-nodes=0"
	}
	for _, a := range c.agentsInOrder() {
		if u := c.upkeep[a.id]; u != nil && u.rollout.givenUp() {
			return "stopped at node " + a.node
		}
	}
	if begins := c.begun.Add(c.cfg.RolloutDelay); now.Before(begins) {
		return "begins at " + begins.UTC().Format(time.RFC3339)
	}
	return ""
}
