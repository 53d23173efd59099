package match

import (
	"iter"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// Config is the part of the configuration that decides where pods run.
type Config struct {
	Algorithm Algorithm
	// Roles are the roles of the framework, the preferred one first.
	Roles []string
	// RoleNamespaces has the namespaces whose pods may use a role, by role. All namespaces may use a role without an entry.
	RoleNamespaces map[string][]string
	// DefaultCPUs and DefaultMem are charged for pods that request none.
	DefaultCPUs, DefaultMem offers.Milli
	// Revocable says that offers may have revocable cpus, which Mesos may take back.
	Revocable bool
	// MaxInstalls is how many agents may fetch km at a time; 0 is no limit.
	MaxInstalls int
}

// Index holds the agents, nodes, pods and volumes that decide where pods run. A change costs work only for what it affects.
type Index struct {
	cfg     Config
	source  Source
	fleet   fleet
	byID    map[api.AgentID]*Agent
	nodes   map[string]*Node
	others  map[types.UID]*occupant // pods on nodes that another scheduler or the kubelet placed
	terms   termIndex
	version int // changes with the pods on nodes, and with the nodes
	storage storage
	classes classes
	// Installs limits how many agents fetch km at a time.
	Installs Installs
	nominees map[string][]*Pod // nominated pods, by node
	buffers
	retry bool // a waiting pod may fit now
}

// buffers is memory that calls reuse.
type buffers struct {
	scored     []scored        // for findPreferred
	heldOffers []*offers.Offer // for Rebuild
	scratch    v1.ResourceList // for DemandOf
}

// NewIndex returns an empty index. It reads the state of agents from the source when it rebuilds their views.
func NewIndex(cfg Config, source Source) *Index {
	x := &Index{
		source: source, byID: map[api.AgentID]*Agent{}, nodes: map[string]*Node{}, others: map[types.UID]*occupant{},
		terms: newTermIndex(), storage: newStorage(), classes: newClasses(), nominees: map[string][]*Pod{}, buffers: buffers{scratch: v1.ResourceList{}},
	}
	x.Installs = newInstalls(&x.fleet)
	x.Configure(cfg)
	return x
}

// Configure changes the configuration.
func (x *Index) Configure(cfg Config) { x.cfg, x.Installs.limit = cfg, cfg.MaxInstalls }

// TakeRetry tells whether, since the last call, something has changed that may make a waiting pod fit.
func (x *Index) TakeRetry() bool {
	retry := x.retry
	x.retry = false
	return retry
}

// Changed returns the next agent whose views are out of date; nil if there is none. The owner then calls Rebuild for it.
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

// AgentOfNode returns the agent of a node; nil if the node does not exist, or its agent is unknown.
func (x *Index) AgentOfNode(name string) *Agent {
	n := x.nodes[name]
	if n == nil || n.obj == nil {
		return nil
	}
	return n.agent(x)
}

// Agents iterates over the agents in order of arrival.
func (x *Index) Agents() iter.Seq[*Agent] {
	return func(yield func(*Agent) bool) {
		for _, a := range x.fleet.agents {
			if a != nil && !yield(a) {
				return
			}
		}
	}
}
