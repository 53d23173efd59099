package match

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
)

// Verify recomputes everything that the Index caches, and returns an error if a cached result is wrong. It is for tests. If
// allows is not nil, it says whether the other pods let a pod run on a node; Verify does not ask about pods with claims.
func (x *Index) Verify(allows func(pod *v1.Pod, node *v1.Node) bool) error {
	for c := range x.Classes() {
		for p := range c.Pods() {
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

// verifyWaits checks that a waiting pod fits in no view that is up to date.
func (x *Index) verifyWaits(p *Pod) error {
	c := newClass(keyOf(p), p)
	for a := range x.Agents() {
		for _, v := range a.views {
			if r := v.check(c); !a.changed && (r.ok() || r.reserve) {
				return fmt.Errorf("pod %s waits, but fits on %s", p.Obj.Name, a.ID)
			}
		}
	}
	return nil
}

// verifyTopology compares the topology of the pod's class, and a recounted one, with allows.
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
