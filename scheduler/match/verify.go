package match

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
)

// Verify goes through all that the Index spares its owner to look at, and returns an error if what it remembers is not so. It
// is for tests. Unless it is nil, allows tells by going through all pods whether those around a node let the pod run there; pods
// with claims are not asked about.
func (x *Index) Verify(allows func(pod *v1.Pod, node *v1.Node) bool) error {
	for s := range x.Classes() {
		for p := range s.Pods() {
			if err := x.verifyWaits(p); err != nil {
				return err
			}
			if allows == nil || p.Node != "" || p.constraints != nil && len(p.constraints.claims) > 0 {
				continue
			}
			if err := x.verifyTopology(p, allows); err != nil {
				return err
			}
		}
	}
	for _, a := range x.byID {
		for _, v := range a.views {
			for i, amount := range v.have {
				if amount < 0 {
					return fmt.Errorf("agent %s has %s %s", a.ID, amount, ScalarNames[i])
				}
			}
		}
	}
	return nil
}

// verifyWaits shows a pod that waits to every agent whose views are up to date.
func (x *Index) verifyWaits(p *Pod) error {
	s := newClass(keyOf(p), p)
	for a := range x.Agents() {
		for _, v := range a.views {
			if r := v.check(s); !a.changed && (r.ok() || r.reserve) {
				return fmt.Errorf("pod %s waits, but fits on %s", p.Obj.Name, a.ID)
			}
		}
	}
	return nil
}

// verifyTopology holds what was counted for the class of a pod, and what is counted anew, against allows.
func (x *Index) verifyTopology(p *Pod, allows func(pod *v1.Pod, node *v1.Node) bool) error {
	for _, n := range x.nodes {
		if n.obj == nil {
			continue
		}
		want := allows(p.Obj, n.obj)
		if p.constraints == nil {
			if !want {
				return fmt.Errorf("plain pod %s may not run on %s", p.Obj.Name, n.name)
			}
			continue
		}
		for _, t := range []*topology{p.class.topology, newTopology(p.constraints)} {
			if r := t.check(n.obj); r.ok() != want {
				return fmt.Errorf("pod %s on %s: got %v, want %v", p.Obj.Name, n.name, r, want)
			}
		}
	}
	return nil
}
