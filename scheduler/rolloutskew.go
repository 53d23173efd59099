package scheduler

import (
	"cmp"

	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/skew"
	"github.com/k8sm/k8sm/offers"
)

// A kubelet must not be newer than any API server (https://kubernetes.io/releases/version-skew-policy/#kubelet). So while one is older,
// no minion is started, be it for a pod, to stay warm, or in place of another. Minions that run go on, and take pods.

// serversSeen learns which API servers there are. It says when they begin to keep minions from starting.
func (rs *rollouts) serversSeen(servers []skew.Server) []Action {
	before := rs.holdsMinions()
	rs.servers = append([]skew.Server{}, servers...)
	after := rs.holdsMinions()
	if after == before {
		return nil
	}
	rs.core.agents.allChanged()
	rs.core.requestCycle()
	if after == "" {
		return nil
	}
	return []Action{Complain{Reason: "MinionsHeld", Text: "no minion is started or replaced: " + after}}
}

// holdsMinions returns why no minion may start; "" if one may.
func (rs *rollouts) holdsMinions() string {
	switch {
	case rs.core.cfg.Kubelet == "":
		return ""
	case rs.servers == nil:
		return "the versions of the API servers are not known yet"
	}
	return skew.Newer(rs.core.cfg.Kubelet, rs.servers)
}

// waitsForServers returns why no minion may be replaced now; "" if one may. To start one where none runs, it is enough that no server is
// known to be too old.
func (rs *rollouts) waitsForServers() string {
	if rs.core.cfg.Kubelet == "" {
		return ""
	}
	return cmp.Or(rs.holdsMinions(), skew.Unknown(rs.servers))
}

// reportWait tells once, at the first node whose minion would be replaced, why it is not.
func (rs *rollouts) reportWait(a *agent, why string) []Action {
	if rs.waitReported == why {
		return nil
	}
	rs.waitReported = why
	return []Action{RecordNodeEvent{Node: rs.core.agents.nodeOf(a), Type: v1.EventTypeWarning, Reason: "RolloutWaits", Message: why}}
}

// engineOfMinions returns the Docker Engine of minions that start.
func (rs *rollouts) engineOfMinions() Engine { return rs.engine }

// settingsSeen learns the settings of minions, and takes over those that schedulers use, too.
func (rs *rollouts) settingsSeen(minions api.MinionConfig) []Action {
	rs.settings = minions.Settings()
	rs.engine = Engine{}
	if minions.DockerHost != api.DefaultDockerHost {
		rs.engine = Engine{Host: minions.DockerHost, CertPath: minions.DockerCertPath}
	}
	rs.core.cfg.IdleTimeout = api.DefaultIdleTimeout
	if minions.IdleTimeout != nil {
		rs.core.cfg.IdleTimeout = minions.IdleTimeout.Duration
	}
	first, last, err := minions.NodePortRange()
	if err != nil {
		return []Action{Complain{Reason: "SettingsRefused", Text: "cannot use the new range of node ports: " + err.Error()}}
	}
	rs.core.cfg.NodePorts = offers.Range{Begin: first, End: last}
	return nil
}
