package match

import (
	"iter"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// Config is what an operator chooses about the matching.
type Config struct {
	Algorithm Algorithm
	// Roles are those that offers come for, the preferred one first.
	Roles []string
	// DefaultCPUs and DefaultMem are charged for pods that request none.
	DefaultCPUs, DefaultMem offers.Milli
	// Revocable says that offers have cpus that Mesos may take back.
	Revocable bool
	// MaxInstalls is how many agents may fetch km at a time; 0 bounds nothing.
	MaxInstalls int
}

// Index is what the matching depends on, kept so that little has to be looked at when little has changed.
type Index struct {
	cfg     Config
	source  Source
	fleet   fleet
	byID    map[api.AgentID]*Agent
	nodes   map[string]*Node
	others  map[types.UID]*occupant // pods that are not ours to place but occupy a node
	terms   termIndex
	version int // of all that occupies nodes
	storage storage
	classes classes
	// Installs bounds how many agents fetch km at a time.
	Installs Installs
	nominees map[string][]*Pod // for whom a place is kept, by node
	buffers
	retry bool // something has changed that may let a pod in
}

// room is memory that is used again and again.
type buffers struct {
	scored     []scored        // for findPreferred
	heldOffers []*offers.Offer // for Rebuild
	scratch    v1.ResourceList // for DemandOf
}

// NewIndex returns an index of nothing. It asks the source when it views an agent anew.
func NewIndex(cfg Config, source Source) *Index {
	x := &Index{
		source: source, byID: map[api.AgentID]*Agent{}, nodes: map[string]*Node{}, others: map[types.UID]*occupant{},
		terms: newTermIndex(), storage: newStorage(), classes: newClasses(), nominees: map[string][]*Pod{}, buffers: buffers{scratch: v1.ResourceList{}},
	}
	x.Installs = newInstalls(&x.fleet)
	x.Configure(cfg)
	return x
}

// Configure lets the operator choose otherwise.
func (x *Index) Configure(cfg Config) { x.cfg, x.Installs.limit = cfg, cfg.MaxInstalls }

// Stirred tells whether something has changed, since this was asked last, that may let a pod in which nothing fitted before.
func (x *Index) TakeRetry() bool {
	stirred := x.retry
	x.retry = false
	return stirred
}

// Changed returns the agents whose views are out of date, until there are no more. Its owner gives each its views by View.
func (x *Index) Changed() *Agent {
	f := &x.fleet
	for f.viewed < len(f.changed) {
		a := f.changed[f.viewed]
		f.viewed++
		a.changed = false
		if x.byID[a.ID] == a {
			return a
		}
	}
	f.changed, f.viewed = f.changed[:0], 0
	return nil
}

// AgentOfNode returns the agent that a node stands for; nil if the node does not exist, or its agent is not known.
func (x *Index) AgentOfNode(name string) *Agent {
	n := x.nodes[name]
	if n == nil || n.obj == nil {
		return nil
	}
	return n.agent(x)
}

// Agents goes through the agents in order of their coming.
func (x *Index) Agents() iter.Seq[*Agent] {
	return func(yield func(*Agent) bool) {
		for _, a := range x.fleet.agents {
			if a != nil && !yield(a) {
				return
			}
		}
	}
}
