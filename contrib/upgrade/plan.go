// Package upgrade plans the upgrade of a cluster: what is to be upgraded, in which order, and what is in the way. It decides by values
// that others have read, and changes nothing. It must never import a package that reads a cluster.
//
// Start reading at Make.
package upgrade

import (
	"fmt"
	"strings"
	"time"

	"github.com/k8sm/k8sm/api/skew"
)

// Versions are those of a km and of what is in it. Empty ones are not known.
type Versions struct {
	KM         string `json:"km,omitempty"`
	Kubernetes string `json:"kubernetes,omitempty"`
	Etcd       string `json:"etcd,omitempty"`
}

// String tells those that are known.
func (v Versions) String() string {
	var known []string
	for _, part := range []struct{ name, version string }{{"km ", v.KM}, {"Kubernetes ", v.Kubernetes}, {"etcd ", v.Etcd}} {
		if part.version != "" {
			known = append(known, part.name+part.version)
		}
	}
	if len(known) == 0 {
		return "<unknown>"
	}
	return strings.Join(known, ", ")
}

// Part is a process of the cluster.
type Part struct {
	Name string
	Versions
	// Problem is why it is not well; "" if it is.
	Problem string
}

// Node is a node with a minion.
type Node struct {
	Part
	// OldSettings says that the minion has not taken the cluster's settings.
	OldSettings bool
	// Stopped is why the replacement of its minion was given up; "" if it was not.
	Stopped string
}

// API is a deprecated API that somebody has requested since an API server started.
type API struct {
	Name string // such as "flowschemas.v1beta3.flowcontrol.apiserver.k8s.io"
	// Removed is the release without it, such as "1.32"; "" if none is known.
	Removed string
}

// Certificate is one that a part uses.
type Certificate struct {
	Name         string
	Since, Until time.Time
}

// State is what is known of a cluster.
type State struct {
	Now time.Time
	// Target is the km that plans.
	Target Versions
	// EtcdMembers are processes of their own; there are none if etcd runs in the API server's process.
	EtcdMembers, Schedulers []Part
	// Servers are named by their addresses.
	Servers      []Part
	Nodes        []Node
	Deprecated   []API
	Budgets      []string // that allow no eviction
	Certificates []Certificate
	// Snapshot is when the last one was saved; zero for never.
	Snapshot time.Time
	// Unread is what could not be read, and why.
	Unread []string
}

// Step is the upgrade of one part.
type Step struct {
	Kind string   `json:"kind"`
	Name string   `json:"name"`
	From Versions `json:"from,omitzero"`
	To   Versions `json:"to,omitzero"`
	// What is done if it is not another version.
	What string `json:"what,omitempty"`
}

// Plan is what an upgrade does.
type Plan struct {
	Target Versions `json:"target"`
	// Steps are in their order. The scheduler takes those of nodes by itself.
	Steps []Step `json:"steps"`
	// Blocks are what must be settled first. Warnings are what an operator should know.
	Blocks   []string `json:"blocks"`
	Warnings []string `json:"warnings"`
}

// snapshotAge is how old the last snapshot may be.
const snapshotAge = 24 * time.Hour

// Make plans the upgrade of the cluster to the target.
func Make(s State) Plan {
	p := Plan{Target: s.Target, Steps: []Step{}, Blocks: []string{}, Warnings: []string{}}
	p.parts("etcd", s.EtcdMembers, Versions{Etcd: s.Target.Etcd})
	p.parts("apiserver", s.Servers, Versions{KM: s.Target.KM, Kubernetes: s.Target.Kubernetes})
	p.parts("scheduler", s.Schedulers, Versions{KM: s.Target.KM, Kubernetes: s.Target.Kubernetes})
	p.nodes(s)
	p.data(s)
	p.skew(s)
	p.inUse(s)
	p.certificates(s)
	if age := s.Now.Sub(s.Snapshot); s.Snapshot.IsZero() {
		p.block("no snapshot is known: run km snapshot save FILE and give --snapshot=FILE, or start the control plane with --snapshot-dir")
	} else if age > snapshotAge {
		p.block("the last snapshot is %s old: run km snapshot save FILE and give --snapshot=FILE", age.Round(time.Hour))
	}
	for _, what := range s.Unread {
		p.block("%s", what)
	}
	return p
}

func (p *Plan) block(format string, args ...any) {
	p.Blocks = append(p.Blocks, fmt.Sprintf(format, args...))
}
func (p *Plan) warn(format string, args ...any) {
	p.Warnings = append(p.Warnings, fmt.Sprintf(format, args...))
}

// differs reports whether a known version is not that of the target.
func differs(have, target Versions) bool {
	for _, pair := range [][2]string{{have.KM, target.KM}, {have.Kubernetes, target.Kubernetes}, {have.Etcd, target.Etcd}} {
		if pair[0] != "" && pair[1] != "" && pair[0] != pair[1] {
			return true
		}
	}
	return false
}

// parts adds a step for each part that is of another version.
func (p *Plan) parts(kind string, list []Part, target Versions) {
	for _, part := range list {
		if part.Problem != "" {
			p.block("%s %s: %s", kind, part.Name, part.Problem)
		}
		if differs(part.Versions, target) {
			p.Steps = append(p.Steps, Step{Kind: kind, Name: part.Name, From: part.Versions, To: target})
		}
	}
}

// nodes adds the steps of the nodes, which come last, and what keeps nodes from being drained.
func (p *Plan) nodes(s State) {
	target, before := Versions{KM: s.Target.KM, Kubernetes: s.Target.Kubernetes}, len(p.Steps)
	for _, n := range s.Nodes {
		switch {
		case differs(n.Versions, target):
			p.Steps = append(p.Steps, Step{Kind: "node", Name: n.Name, From: n.Versions, To: target})
		case n.OldSettings:
			p.Steps = append(p.Steps, Step{Kind: "node", Name: n.Name, What: "new settings"})
		}
		if n.Problem != "" {
			p.block("node %s: %s", n.Name, n.Problem)
		}
		if n.Stopped != "" {
			p.block("node %s: its rollout was given up, and no other begins: %s", n.Name, n.Stopped)
		}
	}
	if len(p.Steps) == before {
		return
	}
	for _, budget := range s.Budgets {
		p.block("PodDisruptionBudget %s allows no eviction: the nodes of its pods cannot be drained", budget)
	}
}

// data checks whether the target may take over what is in etcd.
func (p *Plan) data(s State) {
	told := map[string]bool{} // members are alike
	for _, part := range s.Servers {
		warning, err := skew.Step(s.Target.Kubernetes, part.Kubernetes)
		if err != nil && !told[part.Kubernetes] {
			p.block("apiserver %s: %v", part.Name, err)
		}
		if warning != "" && !told[part.Kubernetes] {
			p.warn("apiserver %s: %s", part.Name, warning)
		}
		told[part.Kubernetes] = true
	}
	for _, part := range s.EtcdMembers {
		by, ok := skew.Behind(part.Etcd, s.Target.Etcd)
		switch {
		case ok && by < 0:
			p.block("etcd %s: %s does not go back to %s: etcd has a command for that, etcdctl downgrade", part.Name, part.Etcd, s.Target.Etcd)
		case ok && by > 1:
			p.block("etcd %s: %s is more than one minor version older than %s: none may be skipped", part.Name, part.Etcd, s.Target.Etcd)
		}
	}
}

// skew checks what will run side by side.
func (p *Plan) skew(s State) {
	var servers []skew.Server
	for _, part := range s.Servers {
		servers = append(servers, skew.Server{Address: part.Name, Version: part.Kubernetes})
	}
	if why := skew.Apart(servers); why != "" {
		p.block("%s", why)
	}
	after := []skew.Server{{Address: "the target", Version: s.Target.Kubernetes}}
	for _, n := range s.Nodes {
		if why := skew.TooOld(n.Kubernetes, after); why != "" {
			p.block("node %s: %s: let the scheduler of a version in between replace its minion first", n.Name, why)
		}
	}
	for _, part := range s.Schedulers {
		if part.Versions == (Versions{}) && part.Problem == "" {
			p.warn("scheduler %s serves its status to its own machine only: its version is not known here", part.Name)
		}
		if why := skew.Newer(part.Kubernetes, servers); why != "" {
			p.warn("scheduler %s starts and replaces no minion: %s", part.Name, why)
		}
	}
	if why := skew.Newer(s.Target.Kubernetes, servers); why != "" {
		p.warn("upgrade all API servers before the schedulers, which start no minion until then: %s", why)
	}
}

// inUse checks the deprecated APIs.
func (p *Plan) inUse(s State) {
	for _, a := range s.Deprecated {
		if by, ok := skew.Behind(a.Removed, s.Target.Kubernetes); ok && by >= 0 {
			p.block("API %s is in use, and Kubernetes %s has it no more", a.Name, a.Removed)
			continue
		}
		p.warn("API %s is in use, and deprecated%s", a.Name, removal(a.Removed))
	}
}

func removal(release string) string {
	if release == "" {
		return ""
	}
	return "; Kubernetes " + release + " has it no more"
}

// certificates checks that none ends during the upgrade, or has not been renewed.
func (p *Plan) certificates(s State) {
	for _, c := range s.Certificates {
		left, soon := c.Until.Sub(s.Now), min(7*24*time.Hour, c.Until.Sub(c.Since)/10)
		switch {
		case left <= 0:
			p.block("certificate %s has ended: run km certs renew %s", c.Name, c.Name)
		case left < soon:
			p.block("certificate %s ends in %s, and nobody has renewed it: see km certs", c.Name, left.Round(time.Minute))
		}
	}
}
