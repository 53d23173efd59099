package api

import (
	"encoding/json"
	"slices"
	"strings"
)

// AnnotationRollout, on a node, is the Rollout of its minion: how far its replacement is, by one of another version or with other
// settings. Without the annotation there is none; who takes it away lets a rollout that has failed be tried again. Any text that is no
// Rollout is an operator's, and keeps the minion as it is.
const AnnotationRollout = "k8sm.io/rollout"

// RolloutState is how far the replacement of a node's minion is.
type RolloutState string

// States of a Rollout.
const (
	RolloutNone    RolloutState = ""
	RolloutRolling RolloutState = "Rolling" // it is under way
	RolloutFailed  RolloutState = "Failed"  // it was given up, and the node is as good as before
	RolloutStuck   RolloutState = "Stuck"   // it was given up, and the new minion is not ready
	// RolloutReverted is a node where an operator had a version replaced that is not older: schedulers of that version, and of
	// those before it, leave the node as it is.
	RolloutReverted RolloutState = "Reverted"
	RolloutHeld     RolloutState = "Held" // an operator wants none
)

// Rollout is what schedulers tell each other, by AnnotationRollout, of the replacement of a node's minion.
type Rollout struct {
	State RolloutState `json:"state"`
	// Target is the version that is to run, or runs.
	Target KMVersion `json:"target,omitempty"`
	// Replaces is the AnnotationMinionStarted of the minion that is replaced; "" if it has none.
	Replaces string `json:"replaces,omitempty"`
	// Settings are the MinionConfig.Settings that the new minion is to take; "" if its scheduler knew none.
	Settings string `json:"settings,omitempty"`
	// Reason is why it was given up, or what the operator wrote; while it is under way, what is new if it is not the version.
	Reason string `json:"reason,omitempty"`
	// RevertedFrom are the versions that an operator had replaced by others that are not newer.
	RevertedFrom []KMVersion `json:"revertedFrom,omitempty"`
}

// ParseRollout reads an annotation. It understands, too, what km wrote before it wrote JSON: "VERSION replaces STARTED",
// "VERSION failed: WHY" and "VERSION stuck: WHY".
func ParseRollout(text string) Rollout {
	text = strings.ToValidUTF8(text, "\uFFFD") // as JSON would have it
	if text == "" {
		return Rollout{}
	}
	var r Rollout
	if err := json.Unmarshal([]byte(text), &r); err == nil && r.complete() {
		if len(r.RevertedFrom) == 0 {
			r.RevertedFrom = nil
		}
		return r
	}
	target, rest, _ := strings.Cut(text, " ")
	if started, ok := strings.CutPrefix(rest, "replaces "); ok && target != "" {
		return Rollout{State: RolloutRolling, Target: KMVersion(target), Replaces: strings.TrimPrefix(started, "-")}
	}
	if why, ok := strings.CutPrefix(rest, "failed: "); ok && target != "" {
		return Rollout{State: RolloutFailed, Target: KMVersion(target), Reason: why}
	}
	if why, ok := strings.CutPrefix(rest, "stuck: "); ok && target != "" {
		return Rollout{State: RolloutStuck, Target: KMVersion(target), Reason: why}
	}
	return Rollout{State: RolloutHeld, Reason: text}
}

// complete reports whether a scheduler has written it.
func (r Rollout) complete() bool {
	written := []RolloutState{RolloutRolling, RolloutFailed, RolloutStuck, RolloutReverted}
	return slices.Contains(written, r.State) && r.Target != ""
}

// Annotation is the inverse of ParseRollout.
func (r Rollout) Annotation() string {
	switch r.State {
	case RolloutNone:
		return ""
	case RolloutHeld:
		return r.Reason
	}
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // no field is of a type that could fail
	}
	return string(text)
}

// String tells it to people.
func (r Rollout) String() string {
	switch r.State {
	case RolloutRolling:
		started := r.Replaces
		if started == "" {
			started = "-"
		}
		return string(r.Target) + " replaces " + started
	case RolloutFailed:
		return string(r.Target) + " failed: " + r.Reason
	case RolloutStuck:
		return string(r.Target) + " stuck: " + r.Reason
	case RolloutReverted:
		return string(r.Target) + " was chosen over " + joined(r.RevertedFrom)
	}
	return r.Reason
}

// Equal reports whether both say the same.
func (r Rollout) Equal(other Rollout) bool {
	return r.State == other.State && r.Target == other.Target && r.Replaces == other.Replaces && r.Reason == other.Reason &&
		r.Settings == other.Settings && slices.Equal(r.RevertedFrom, other.RevertedFrom)
}

// GivenUp reports whether the rollout ended without success.
func (r Rollout) GivenUp() bool { return r.State == RolloutFailed || r.State == RolloutStuck }

// Allows reports whether a node with this rollout may go from one version to another: forward to one that is newer, and newer
// than all that were reverted; otherwise only if an operator allows any, and never back to one that was reverted. So schedulers
// that take turns never send a node in a circle.
func (r Rollout) Allows(from, to KMVersion, anyWay bool) bool {
	if to.Compare(from) == VersionNewer {
		return r.newest(to)
	}
	return anyWay && !slices.ContainsFunc(r.RevertedFrom, func(v KMVersion) bool { return v.Compare(to) == VersionSame })
}

// Leave returns the rollout after the decision to go from one version to another.
func (r Rollout) Leave(from, to KMVersion) Rollout {
	if from != "" && from != to && to.Compare(from) != VersionNewer && !slices.Contains(r.RevertedFrom, from) {
		r.RevertedFrom = append(slices.Clone(r.RevertedFrom), from)
	}
	return r
}

// Stay returns the rollout after the decision to keep the minion of this version after all.
func (r Rollout) Stay(version KMVersion) Rollout {
	r.RevertedFrom = slices.DeleteFunc(slices.Clone(r.RevertedFrom), func(v KMVersion) bool { return v == version })
	return r.Over(version)
}

// Over is the rollout when nothing is under way any more on a node that runs this version: what was reverted is forgotten once
// a newer version runs.
func (r Rollout) Over(version KMVersion) Rollout {
	if r.newest(version) || version == "" {
		return Rollout{}
	}
	return Rollout{State: RolloutReverted, Target: version, RevertedFrom: r.RevertedFrom}
}

// newest reports whether the version is newer than all that were reverted.
func (r Rollout) newest(version KMVersion) bool {
	return !slices.ContainsFunc(r.RevertedFrom, func(v KMVersion) bool { return version.Compare(v) != VersionNewer })
}

func joined(versions []KMVersion) string {
	texts := make([]string, len(versions))
	for i, v := range versions {
		texts[i] = string(v)
	}
	return strings.Join(texts, ", ")
}
