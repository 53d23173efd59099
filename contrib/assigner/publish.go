package assigner

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"time"

	log "github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go4.org/netipx"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/resolve"
)

const (
	// publishEvery is how often a Publisher looks for changed pools, lookEvery for masters and nodes.
	publishEvery = 2 * time.Second
	lookEvery    = time.Minute
	// publishTimeout bounds one attempt.
	publishTimeout = 15 * time.Second
)

// Publisher is the Assigner of a scheduler. It assigns no address of the cluster's machines, even if it is in a pool, and it tells
// the minions which addresses pods may have (api.AddressPools).
type Publisher struct {
	*Assigner
	client    kubernetes.Interface
	apiServer string
	masters   func(context.Context) []netip.Addr

	publishing sync.Mutex // serializes publish, and guards the fields below: the masters, what was written, and when it looked for machines
	known      []netip.Addr
	published  map[string]string
	looked     time.Time
}

// NewPublisher returns a Publisher with pools in kv. apiServer is the URL of the API server, and masters returns the addresses of the
// Mesos masters.
func NewPublisher(kv clientv3.KV, client kubernetes.Interface, apiServer string, masters func(context.Context) []netip.Addr) *Publisher {
	return &Publisher{Assigner: New(kv), client: client, apiServer: apiServer, masters: masters}
}

// Run publishes until ctx ends. It retries what fails. It may be called again after that, when others may have published.
func (p *Publisher) Run(ctx context.Context) error {
	p.forget()
	ticker := time.NewTicker(publishEvery)
	defer ticker.Stop()
	logged := ""
	for {
		problem := ""
		if err := p.publish(ctx, time.Now()); err != nil && ctx.Err() == nil {
			problem = err.Error()
		}
		if problem != logged && problem != "" {
			log.Warn(problem)
		}
		logged = problem
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

func (p *Publisher) forget() {
	p.publishing.Lock()
	defer p.publishing.Unlock()
	p.looked, p.published = time.Time{}, nil
}

// Assign is that of the Assigner. It publishes new pools first, so that minions route the address when the pod starts.
func (p *Publisher) Assign(ctx context.Context, claims []api.AddressClaim) []api.AddressAnswer {
	_ = p.publish(ctx, time.Now()) // Run retries it, and logs why: a control plane of an older version does not let it
	return p.Assigner.Assign(ctx, claims)
}

// publish does what is due.
func (p *Publisher) publish(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	p.publishing.Lock()
	defer p.publishing.Unlock()
	pools, err := p.readPools(ctx)
	if err != nil {
		return err
	}
	if now.Sub(p.looked) >= lookEvery {
		if err := p.reserveMachines(ctx, len(pools) > 0); err != nil {
			return err
		}
		p.looked, p.published = now, nil // write it anew: somebody else may have changed it
	}
	prefixes, err := prefixesOf(pools)
	if err != nil {
		return err
	}
	data, err := api.AddressPools{Prefixes: prefixes, Masters: p.known}.Data()
	if err != nil || maps.Equal(data, p.published) {
		return err
	}
	patch, err := json.Marshal(map[string]any{"data": data})
	if err != nil {
		return err
	}
	_, err = p.client.CoreV1().ConfigMaps(api.AddressPoolsNamespace).Patch(ctx, api.AddressPoolsName, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("cannot tell minions which addresses pods may have: %w", err)
	}
	p.published = data
	return nil
}

// reserveMachines notes the addresses that no pod may have. The nodes' matter only while there are pools.
func (p *Publisher) reserveMachines(ctx context.Context, pools bool) error {
	p.known = p.masters(ctx)
	var around Surroundings
	if pools {
		var err error
		if around, err = LookAround(ctx, p.client); err != nil {
			return err
		}
	}
	around.takeAll(p.known, masterText)
	around.takeAll(resolve.Hosts(ctx, p.apiServer), apiServerText)
	p.reserve(around.Taken)
	return nil
}

// prefixesOf returns the prefixes that cover the pools.
func prefixesOf(pools []pool) ([]netip.Prefix, error) {
	var all netipx.IPSetBuilder
	for _, p := range pools {
		all.AddSet(p.set)
	}
	set, err := all.IPSet()
	if err != nil {
		return nil, fmt.Errorf("cannot add up the address pools: %w", err)
	}
	return append([]netip.Prefix{}, set.Prefixes()...), nil
}
