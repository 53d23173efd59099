package scheduler

import "slices"

// fleet finds agents by something that mostly one has, but two may for a while.
type fleet struct {
	byNode    directory
	byAddress directory
	nodeless  int // how many agents wait for their nodes
}

// directory is the agents by a name; nothing is found by "".
type directory map[string][]*agent

// move notes that what the agent is found by has changed.
func (d directory) move(a *agent, from, to string) {
	if from == to {
		return
	}
	left := slices.DeleteFunc(d[from], func(other *agent) bool { return other == a })
	if d[from] = left; len(left) == 0 {
		delete(d, from)
	}
	if to != "" {
		d[to] = append(d[to], a)
	}
}

func newFleet() fleet { return fleet{byNode: directory{}, byAddress: directory{}} }

// setNode gives the agent its node's name.
func (f *fleet) setNode(a *agent, name string) {
	f.byNode.move(a, a.Node, name)
	a.Node = name
}

// setAddress notes where the agent's endpoint is.
func (f *fleet) setAddress(a *agent, address string) {
	f.byAddress.move(a, a.address, address)
	a.address = address
}

// remove forgets an agent.
func (f *fleet) remove(a *agent) {
	f.byNode.move(a, a.Node, "")
	f.byAddress.move(a, a.address, "")
	if a.nodeless {
		f.nodeless--
	}
}
