package differential

import (
	"slices"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/match"
)

// firstPort and lastPort bound what Mesos offers of each agent.
const firstPort, lastPort = 31000, 31003

// core is our scheduler, to which all agents have offered what their nodes' pods leave.
type core struct {
	core *scheduler.Core
	now  time.Time
}

// newCore shows the cluster to a new scheduler; offered names the nodes whose agents have made an offer.
func newCore(c *cluster, algorithm match.Algorithm, offered []*corev1.Node) *core {
	var cfg scheduler.Config
	cfg.AddFlags(pflag.NewFlagSet("", pflag.PanicOnError))
	cfg.Algorithm, cfg.Gather, cfg.Roles = algorithm, 0, []string{"*"}
	o := &core{core: scheduler.NewCore(cfg), now: epoch}
	for _, namespace := range c.namespaces {
		o.step(scheduler.NamespaceSeen{Namespace: namespace})
	}
	for _, class := range c.classes {
		o.step(scheduler.ClassSeen{Class: class})
	}
	for _, volume := range c.volumes {
		o.step(scheduler.VolumeSeen{Volume: volume})
	}
	for _, claim := range c.claims {
		o.step(scheduler.ClaimSeen{Claim: claim})
	}
	for _, node := range c.nodes {
		o.step(scheduler.NodeSeen{Node: node})
	}
	for _, budget := range c.budgets {
		o.step(scheduler.BudgetSeen{Budget: budget})
	}
	for _, pod := range c.pods {
		o.step(scheduler.PodSeen{Pod: pod})
	}
	o.step(scheduler.Synced{})
	o.step(scheduler.Subscribed{Framework: "differential"})
	for _, pod := range c.pods {
		o.step(scheduler.TaskUpdated{Status: scheduler.TaskStatus{
			Task: api.TaskID(pod.Annotations[api.AnnotationTaskID]), Agent: api.AgentID(pod.Spec.NodeName),
			State: scheduler.Running, ByExecutor: true,
		}})
	}
	for _, node := range offered {
		o.step(scheduler.Offered{Offers: []offers.Offer{c.offer(node)}})
		o.step(scheduler.ExecutorReady{Agent: api.AgentID(node.Name), Record: []byte("record")})
	}
	return o
}

// offer is what the node's pods have left.
func (c *cluster) offer(node *corev1.Node) offers.Offer {
	cpus, mebibytes := node.Status.Allocatable.Cpu().MilliValue(), node.Status.Allocatable.Memory().Value()>>20
	var taken []int32
	for _, pod := range c.on(node.Name) {
		podCPUs, podMebibytes := requested(pod)
		cpus, mebibytes = cpus-podCPUs, mebibytes-podMebibytes
		taken = append(taken, hostPorts(pod)...)
	}
	ports := offers.Resource{Name: offers.Ports, Role: "*"}
	for port := uint64(firstPort); port <= lastPort; port++ {
		if !slices.Contains(taken, int32(port)) {
			ports.Ranges = append(ports.Ranges, offers.Range{Begin: port, End: port})
		}
	}
	return offers.Offer{
		ID: api.OfferID("offer-" + node.Name), Agent: api.AgentID(node.Name), Hostname: node.Name, Role: "*",
		Executors: []api.ExecutorID{api.MinionExecutorID},
		Resources: offers.Resources{
			{Name: offers.CPUs, Role: "*", Scalar: offers.Milli(cpus)},
			{Name: offers.Mem, Role: "*", Scalar: offers.Milli(mebibytes * 1000)},
			{Name: offers.Disk, Role: "*", Scalar: 100 << 10 * 1000},
			ports,
		},
	}
}

func (o *core) step(event scheduler.Event) []scheduler.Action { return o.core.Step(o.now, event) }

// answer is what our scheduler does for a pod.
type answer struct {
	node     string   // where it is launched, or its claims are prepared for; "" for nowhere
	promised string   // where others have to make room for it
	victims  []string // who they are, by name
	why      string   // the last that was reported of it
}

// ask shows the pod to the scheduler, and lets so much time pass until it is placed, or others have to make room for it.
func (o *core) ask(pod *corev1.Pod, patience time.Duration) (a answer) {
	a.read(o.step(scheduler.PodSeen{Pod: pod}))
	for end := o.now.Add(patience); a.node == "" && a.promised == "" && o.now.Before(end); {
		o.now = o.now.Add(time.Second)
		a.read(o.step(scheduler.Tick{}))
	}
	slices.Sort(a.victims)
	return a
}

func (a *answer) read(acts []scheduler.Action) {
	for _, act := range acts {
		switch act := act.(type) {
		case scheduler.Launch:
			a.node = string(act.Agent)
		case scheduler.PrepareClaims:
			a.node = act.Node
		case scheduler.Nominate:
			a.promised = act.Node
		case scheduler.Preempt:
			a.victims = append(a.victims, act.Victim.Name)
		case scheduler.Report:
			a.why = act.Message
		}
	}
}
