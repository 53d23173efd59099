package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/match"
)

// fleetSizes are the numbers of agents. The peer places only some of the pods, or none, if all would take minutes per round. That
// favours the peer, because the nodes are still empty.
var fleetSizes = []struct{ agents, peerPods int }{{500, 2_000}, {5_000, 2_000}, {50_000, 0}}

// outcome is the result of one scheduler with one workload.
type outcome struct {
	times  []time.Duration // a decision each, of pods that were placed
	allocs uint64          // heap objects in all
	hosts  map[string]int64
}

// place notes that a pod was placed on a host.
func (o *outcome) place(host string, pod *corev1.Pod) {
	o.hosts[host] += pod.Spec.Containers[0].Resources.Requests.Cpu().MilliValue()
}

func (o *outcome) rate() float64 {
	total := time.Duration(0)
	for _, d := range o.times {
		total += d
	}
	return float64(len(o.times)) / total.Seconds()
}

// p99 is in microseconds.
func (o *outcome) p99() float64 {
	sorted := slices.Sorted(slices.Values(o.times))
	return float64(sorted[len(sorted)*99/100].Nanoseconds()) / 1000
}

// stranded is the percentage of unused cpus on hosts with pods (fragmentation).
func (o *outcome) stranded() float64 {
	used := int64(0)
	for _, cpus := range o.hosts {
		used += cpus
	}
	return 100 - 100*float64(used)/float64(int64(len(o.hosts))*hostCPUs)
}

// decisions measures how fast pods are placed, without any network or disk, beside the stock kube-scheduler.
func (b *bench) decisions(ctx context.Context) error {
	for _, size := range fleetSizes {
		suffix := "_" + strconv.Itoa(size.agents)
		rate := figure{name: "decision_rate" + suffix, unit: "pods/s"}
		p99 := figure{name: "decision_p99" + suffix, unit: "us"}
		allocs := figure{name: "decision_allocs" + suffix, unit: "objects/pod"}
		hosts := map[match.Algorithm]*figure{}
		stranded := map[match.Algorithm]*figure{}
		for _, algorithm := range []match.Algorithm{match.FCFS, match.Spread} {
			hosts[algorithm] = &figure{name: fmt.Sprintf("decision_hosts_%s%s", algorithm, suffix), unit: "hosts"}
			stranded[algorithm] = &figure{name: fmt.Sprintf("decision_stranded_%s%s", algorithm, suffix), unit: "%"}
		}
		for range b.rounds {
			load := newWorkload(size.agents)
			var peer outcome
			if size.peerPods > 0 {
				var err error
				if peer, err = kubeScheduler(ctx, load.nodes, load.pods[:size.peerPods]); err != nil {
					return err
				}
				rate.peer = append(rate.peer, peer.rate())
				p99.peer = append(p99.peer, peer.p99())
				allocs.peer = append(allocs.peer, float64(peer.allocs)/float64(size.peerPods))
			}
			for algorithm := range hosts {
				runtime.GC()
				o, err := k8sm(load, algorithm)
				if err != nil {
					return err
				}
				hosts[algorithm].rounds = append(hosts[algorithm].rounds, float64(len(o.hosts)))
				stranded[algorithm].rounds = append(stranded[algorithm].rounds, o.stranded())
				if size.peerPods == len(load.pods) {
					hosts[algorithm].peer = append(hosts[algorithm].peer, float64(len(peer.hosts)))
					stranded[algorithm].peer = append(stranded[algorithm].peer, peer.stranded())
				}
				if algorithm == match.FCFS {
					rate.rounds = append(rate.rounds, o.rate())
					p99.rounds = append(p99.rounds, o.p99())
					allocs.rounds = append(allocs.rounds, float64(o.allocs)/float64(len(load.pods)))
				}
			}
		}
		for _, f := range []*figure{
			&rate, &p99, &allocs, hosts[match.FCFS], stranded[match.FCFS], hosts[match.Spread], stranded[match.Spread],
		} {
			f.print(os.Stdout)
		}
	}
	return nil
}

// k8sm gives the pods one by one to a core that holds an offer of each agent. A decision is the time from the pod to its Launch,
// plus the time to add the new offer with the rest of the resources.
func k8sm(load *workload, algorithm match.Algorithm) (outcome, error) {
	m := newMesos(load, algorithm)
	o := outcome{hosts: map[string]int64{}, times: make([]time.Duration, 0, len(load.pods))}
	before := heapObjects()
	for _, pod := range load.pods {
		begin := time.Now()
		acts := m.core.Step(m.now, scheduler.PodSeen{Pod: pod})
		took := time.Since(begin)
		launch, ok := launched(acts)
		if !ok {
			return o, fmt.Errorf("pod %s was not placed: %v", pod.Name, acts)
		}
		rest := scheduler.Offered{Offers: []offers.Offer{m.rest(launch)}}
		begin = time.Now()
		m.core.Step(m.now, rest)
		o.times = append(o.times, took+time.Since(begin))
		o.place(string(launch.Agent), pod)
	}
	o.allocs = heapObjects() - before
	return o, nil
}

func launched(acts []scheduler.Action) (scheduler.Launch, bool) {
	for _, act := range acts {
		if launch, ok := act.(scheduler.Launch); ok {
			return launch, true
		}
	}
	return scheduler.Launch{}, false
}

func heapObjects() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.Mallocs
}

// mesos plays Mesos for a core: it knows the free resources of each agent.
type mesos struct {
	core   *scheduler.Core
	now    time.Time
	free   map[api.AgentID]offers.Resources
	offers int
}

// newMesos returns a core that knows the nodes, and holds an offer of each agent, where an executor of ours runs.
func newMesos(load *workload, algorithm match.Algorithm) *mesos {
	var cfg scheduler.Config
	cfg.AddFlags(pflag.NewFlagSet("", pflag.PanicOnError))
	cfg.Algorithm, cfg.Gather = algorithm, 0 // what a decision takes, not what it waits for
	m := &mesos{core: scheduler.NewCore(cfg), now: time.Now(), free: map[api.AgentID]offers.Resources{}}
	for _, node := range load.nodes {
		m.core.Step(m.now, scheduler.NodeSeen{Node: node})
	}
	m.core.Step(m.now, scheduler.Synced{})
	m.core.Step(m.now, scheduler.Subscribed{Framework: "bench"})
	for _, node := range load.nodes {
		agent := api.AgentID(node.Name)
		m.free[agent] = hostResources()
		m.core.Step(m.now, scheduler.Offered{Offers: []offers.Offer{m.offer(agent)}})
		m.core.Step(m.now, scheduler.ExecutorReady{Agent: agent, Record: []byte("record")})
	}
	return m
}

func (m *mesos) offer(agent api.AgentID) offers.Offer {
	m.offers++
	return offers.Offer{
		ID: api.OfferID("o" + strconv.Itoa(m.offers)), Agent: agent, Hostname: string(agent), Role: "*",
		Resources: m.free[agent], Executors: []api.ExecutorID{api.MinionExecutorID},
	}
}

// rest returns the offer of what is left on an agent after a launch.
func (m *mesos) rest(launch scheduler.Launch) offers.Offer {
	free := slices.Clone(m.free[launch.Agent])
	for _, task := range launch.Tasks {
		for _, r := range task.Resources {
			if r.Name != offers.Ports {
				free.Draw(r.Name, r.Scalar, nil)
				continue
			}
			free.DrawPort(r.Ranges[0].Begin)
		}
	}
	m.free[launch.Agent] = free
	return m.offer(launch.Agent)
}

// offerStorage measures the events per second of the offer storage with 50,000 live offers: each offer is added, and is then rescinded or
// expires.
func (b *bench) offerStorage() {
	const live, events = 50_000, 1_000_000
	f := figure{name: "offers_events", unit: "events/s"}
	for range b.rounds {
		runtime.GC()
		now := time.Now()
		s := offers.New(5*time.Second, 2*time.Minute)
		ids := make([]api.OfferID, live+events/2)
		for i := range ids {
			ids[i] = api.OfferID("offer-" + strconv.Itoa(i))
		}
		add := func(i int) {
			now = now.Add(5 * time.Second / live)
			s.Add(now, offers.Offer{ID: ids[i], Agent: api.AgentID(ids[i%live])})
		}
		for i := range live {
			add(i)
		}
		begin, count := time.Now(), 0
		for i := live; count < events && i < len(ids); i++ {
			add(i)
			count++
			if i%2 == 0 && s.Rescind(now, ids[i-live/2]) {
				count++
			}
			count += len(s.Expire(now, func(*offers.Offer) offers.Detail { return offers.Detail{} }))
		}
		f.rounds = append(f.rounds, float64(count)/time.Since(begin).Seconds())
	}
	f.print(os.Stdout)
}

// uid of the i-th pod.
func uid(i int) types.UID { return types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012d", i)) }
