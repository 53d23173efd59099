package scheduler

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/skew"
	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler/match"
)

var update = flag.Bool("update", false, "rewrite the actions in testdata/*.txt")

// TestScripts plays testdata/*.txt: an unindented line is an event, and the indented lines below it are the actions that it must
// cause. Empty lines and lines with # are comments.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(strings.Split(string(text), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("-written +played:\n%s", diff)
			}
		})
	}
}

// player turns the lines of a script into events.
type player struct {
	t        *testing.T
	core     *Core
	now      time.Time
	prepared map[api.AgentID]PrepareExecutor
	nodes    map[string]*v1.Node         // as they were seen last
	marks    map[string]MarkNode         // the latest of each node
	kept     map[api.AgentID]bool        // whether the latest record belongs to a running executor
	claims   map[types.UID]PrepareClaims // the latest of each pod
	asked    AssignAddresses             // the latest
	sweeps   bool                        // shows KeepAddresses

	namespaces map[string]*v1.Namespace
	others     map[types.UID]*v1.Pod // that are not ours
}

// scriptStart is when each script begins.
var scriptStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func testConfig() Config {
	var cfg Config
	cfg.AddFlags(pflag.NewFlagSet("", pflag.PanicOnError))
	cfg.Roles, cfg.KMPath, cfg.Gather, cfg.ExecutorCPUs = []string{"*"}, "/km", 0, 0.1
	return cfg
}

func play(t *testing.T, script string) string {
	p := &player{
		t: t, core: NewCore(testConfig()), now: scriptStart,
		prepared: map[api.AgentID]PrepareExecutor{}, kept: map[api.AgentID]bool{}, marks: map[string]MarkNode{}, claims: map[types.UID]PrepareClaims{},
	}
	var out bytes.Buffer
	for _, line := range strings.Split(strings.TrimSuffix(script, "\n"), "\n") {
		if strings.HasPrefix(line, " ") {
			continue
		}
		fmt.Fprintln(&out, line)
		if line == "" || line[0] == '#' {
			continue
		}
		for _, act := range p.step(line) {
			if prepare, ok := act.(PrepareExecutor); ok && (prepare.MayReplace || p.prepared[prepare.Agent].Agent == "") {
				p.prepared[prepare.Agent] = prepare
			}
			if prepare, ok := act.(PrepareExecutor); ok {
				p.kept[prepare.Agent] = !prepare.MayReplace
			}
			if mark, ok := act.(MarkNode); ok {
				p.marks[mark.Node.Name] = mark
			}
			if prepare, ok := act.(PrepareClaims); ok {
				p.claims[prepare.Pod.UID] = prepare
			}
			if assign, ok := act.(AssignAddresses); ok {
				p.asked = assign
			}
			fmt.Fprintln(&out, "    "+act.String())
		}
	}
	return out.String()
}

// step plays one line. "+DURATION" advances the time in ticks of a second, or by less than a second without a tick. "algorithm
// NAME", "leads CORDON DRAIN", "roles LIST", "role-namespaces ROLE=NAMESPACES...", "revocable", "kubelet VERSION" and "suicide DURATION" set flags. "sweeps" shows KeepAddresses.
// "scheduler VERSION FLAG..." configures the scheduler; "successor VERSION FLAG..." replaces it by a new one with no state.
// Anything else is an event.
func (p *player) step(line string) []Action {
	words := strings.Fields(line)
	if passing, ok := strings.CutPrefix(words[0], "+"); ok {
		if d := p.duration(passing); d < time.Second {
			return p.sleep(d)
		}
		var acts []Action
		for end := p.now.Add(p.duration(passing)); p.now.Before(end); {
			p.now = p.now.Add(time.Second)
			for _, act := range p.core.Step(p.now, Tick{}) {
				_, lease := act.(RenewLease)
				_, sweep := act.(KeepAddresses)
				if !lease && (!sweep || p.sweeps) { // too many to show
					acts = append(acts, act)
				}
			}
		}
		return acts
	}
	if p.flag(words) {
		p.core.index.Configure(p.core.cfg.matching())
		return nil
	}
	options := map[string]string{}
	var plain []string
	for _, word := range words[1:] {
		if key, value, ok := strings.Cut(word, "="); ok {
			options[key] = value
			continue
		}
		plain = append(plain, word)
	}
	ev := p.event(words[0], plain, options)
	p.note(ev)
	return p.core.Step(p.now, ev)
}

// note remembers what the core does not keep.
func (p *player) note(ev Event) {
	if p.namespaces == nil {
		p.namespaces, p.others = map[string]*v1.Namespace{}, map[types.UID]*v1.Pod{}
	}
	switch ev := ev.(type) {
	case NamespaceSeen:
		p.namespaces[ev.Namespace.Name] = ev.Namespace
	case NamespaceGone:
		delete(p.namespaces, ev.Name)
	case PodSeen:
		if !concernsUs(ev.Pod) {
			p.others[ev.Pod.UID] = ev.Pod
		}
	case PodGone:
		delete(p.others, ev.UID)
	}
}

// flag plays a line that sets flags.
func (p *player) flag(words []string) bool {
	if words[0] == "algorithm" {
		if err := p.core.cfg.Algorithm.Set(words[1]); err != nil {
			p.t.Fatal(err)
		}
		return true
	}
	if words[0] == "leads" {
		p.core.cfg.CordonLead, p.core.cfg.DrainLead = p.duration(words[1]), p.duration(words[2])
		return true
	}
	if words[0] == "scheduler" {
		p.configure(words[1], words[2:])
		return true
	}
	if words[0] == "successor" {
		p.core = NewCore(testConfig())
		p.configure(words[1], words[2:])
		return true
	}
	if words[0] == "nodeports" {
		var err error
		first, last, _ := strings.Cut(words[1], "-")
		if p.core.cfg.NodePorts.Begin, err = strconv.ParseUint(first, 10, 16); err == nil {
			p.core.cfg.NodePorts.End, err = strconv.ParseUint(last, 10, 16)
		}
		if err != nil {
			p.t.Fatal(err)
		}
		return true
	}
	if words[0] == "kubelet" {
		p.core.cfg.Kubelet = words[1]
		return true
	}
	if words[0] == "sweeps" {
		p.sweeps = true
		return true
	}
	if words[0] == "revocable" {
		p.core.cfg.Revocable = true
		return true
	}
	if words[0] == "suicide" {
		p.core.cfg.IdleTimeout = p.duration(words[1])
		return true
	}
	if words[0] == "role-namespaces" {
		if err := p.core.cfg.RoleNamespaces.Replace(words[1:]); err != nil {
			p.t.Fatal(err)
		}
		return true
	}
	if words[0] == "roles" {
		p.core.cfg.Roles = strings.Split(words[1], ",")
		return true
	}
	return false
}

// sleep advances the time by less than a second, without a tick, and sends Wake when the core wants it.
func (p *player) sleep(d time.Duration) []Action {
	var acts []Action
	for end := p.now.Add(d); ; {
		at := p.core.offering.wakeAt(p.now)
		if at.IsZero() || at.After(end) {
			p.now = end
			return acts
		}
		p.now = at
		acts = append(acts, p.core.Step(p.now, Wake{})...)
	}
}

// configure sets the scheduler's version and flags, and the defaults for everything else.
func (p *player) configure(version string, flags []string) {
	cfg := testConfig()
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	cfg.AddFlags(fs)
	cfg.Gather = 0
	if err := fs.Parse(append([]string{"--executor-cpus=0.1"}, flags...)); err != nil {
		p.t.Fatal(err)
	}
	cfg.Version, cfg.Roles = version, []string{"*"}
	p.core.cfg = cfg
}

func (p *player) event(name string, args []string, options map[string]string) Event {
	arg := func(i int) string {
		if i >= len(args) {
			p.t.Fatalf("%s wants more words than %v", name, args)
		}
		return args[i]
	}
	switch name {
	case "synced":
		return Synced{}
	case "subscribed":
		return Subscribed{Framework: "fw"}
	case "disconnected":
		return Disconnected{}
	case "missed":
		return SubscribeFailed{Why: strings.Join(args, " ")}
	case "offer":
		return Offered{Offers: []offers.Offer{p.offer(arg(0), arg(1), options)}}
	case "inverse":
		return InverseOffered{Offers: []InverseOffer{{ID: api.OfferID(arg(0)), Agent: api.AgentID(strings.Trim(arg(1), `"`)), Unavailable: *p.window(options)}}}
	case "rescind-inverse":
		return InverseOfferRescinded{Offer: api.OfferID(arg(0))}
	case "evicted":
		outcome := map[string]EvictOutcome{"ok": EvictOK, "gone": EvictGone, "blocked": EvictBlocked, "failed": EvictFailed}
		return EvictDone{Agent: api.AgentID(arg(0)), Pod: types.UID(arg(1)), Outcome: outcome[arg(2)]}
	case "rescind":
		return OfferRescinded{Offer: api.OfferID(arg(0))}
	case "pod":
		return PodSeen{Pod: p.pod(arg(0), options)}
	case "pod-gone":
		return PodGone{UID: types.UID(arg(0))}
	case "node":
		node := p.node(arg(0), arg(1), options)
		return p.seen(node)
	case "marked": // as the last MarkNode wanted it
		node, mark := p.nodes[arg(0)].DeepCopy(), p.marks[arg(0)]
		node.Spec.Unschedulable = mark.Unschedulable
		for key, value := range map[string]string{
			api.AnnotationCordoned: mark.Cordoned, api.AnnotationMaintenance: mark.Maintenance, api.AnnotationRollout: mark.Rollout.Annotation(),
		} {
			if delete(node.Annotations, key); value != "" {
				node.Annotations[key] = value
			}
		}
		return p.seen(node)
	case "reported": // the node's minion, and its kubelet
		node := p.node(arg(0), "", options)
		have := p.nodes[node.Name].DeepCopy()
		maps.Copy(have.Annotations, node.Annotations)
		have.Status = node.Status
		return p.seen(have)
	case "node-gone":
		return NodeGone{Name: arg(0)}
	case "budget":
		return p.budget(arg(0), options)
	case "budget-gone":
		return BudgetGone{UID: types.UID(arg(0))}
	case "namespace":
		labels := map[string]string{}
		if team := options["team"]; team != "" {
			labels["team"] = team
		}
		return NamespaceSeen{Namespace: &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: arg(0), Labels: labels}}}
	case "class", "class-gone", "volume", "volume-gone", "claim", "claim-gone", "prepared":
		return p.storageEvent(name, arg(0), options)
	case "assigned": // POD=ADDRESS or POD=PROBLEM
		return p.assigned(options)
	case "released":
		return AddressReleased{OK: arg(0) == "ok"}
	case "servers": // ADDRESS=VERSION
		ev := ServersSeen{}
		for _, address := range slices.Sorted(maps.Keys(options)) {
			ev.Servers = append(ev.Servers, skew.Server{Address: address, Version: options[address]})
		}
		return ev
	case "settings":
		return SettingsSeen{Minions: settingsNamed(arg(0))}
	case "bound":
		outcome := map[string]BindOutcome{"ok": BindOK, "gone": BindGone, "conflict": BindConflict, "failed": BindFailed}
		return BindDone{Task: api.TaskID(arg(0)), Outcome: outcome[arg(1)]}
	case "executor":
		return p.executor(api.AgentID(arg(0)), arg(1))
	case "lost":
		return AgentLost{Agent: api.AgentID(arg(0))}
	case "exited":
		return ExecutorExited{Agent: api.AgentID(arg(0)), Executor: api.MinionExecutorID}
	case "update":
		return p.update(arg(0), arg(1), arg(2), options)
	}
	p.t.Fatalf("%q is no event", name)
	return nil
}

// settingsNamed are settings of minions that differ by their name.
func settingsNamed(name string) api.MinionConfig { return api.MinionConfig{ClusterDomain: name} }

// assigned answers the latest AssignAddresses.
func (p *player) assigned(options map[string]string) AddressesAssigned {
	done := AddressesAssigned{Action: p.asked}
	for _, claim := range p.asked.Claims {
		answer := api.AddressAnswer{UID: claim.UID, IP: options[claim.Pod.Name]}
		if strings.Contains(answer.IP, "_") {
			answer.IP, answer.Problem = "", strings.ReplaceAll(answer.IP, "_", " ")
		}
		done.Answers = append(done.Answers, answer)
	}
	return done
}

// seen remembers a node, for later events that give only what has changed.
func (p *player) seen(node *v1.Node) NodeSeen {
	if p.nodes == nil {
		p.nodes = map[string]*v1.Node{}
	}
	p.nodes[node.Name] = node
	return NodeSeen{Node: node}
}

func (p *player) number(text string) float64 {
	number, err := strconv.ParseFloat(text, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return number
}

func (p *player) duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		p.t.Fatal(err)
	}
	return d
}

func (p *player) ranges(text string) []offers.Range {
	begin, end, _ := strings.Cut(text, "-")
	return []offers.Range{{Begin: uint64(p.number(begin)), End: uint64(p.number(end))}}
}

func (p *player) offer(id, agent string, options map[string]string) offers.Offer {
	o := offers.Offer{
		ID: api.OfferID(id), Agent: api.AgentID(agent), Hostname: options["host"], IP: "10.0.0.1", Port: 5051, Role: "*",
	}
	if role := options["role"]; role != "" {
		o.Role = role
	}
	o.Region, o.Zone = options["region"], options["zone"]
	if port := options["port"]; port != "" {
		o.Port = int(p.number(port))
	}
	if executor := options["executor"]; executor == "ours" {
		o.Executors = []api.ExecutorID{api.MinionExecutorID}
	} else if executor != "" {
		o.Executors = []api.ExecutorID{api.ExecutorID(executor)}
	}
	if rack := options["rack"]; rack != "" {
		o.Attributes = []offers.Attribute{{Name: "rack", Value: rack}}
	}
	for _, name := range match.ScalarNames {
		if options[name] != "" {
			o.Resources = append(o.Resources, offers.Resource{
				Name: name, Role: o.Role, Scalar: offers.MilliOf(p.number(options[name])),
				Reserved: options["reservation"] != "", Origin: []byte(options["reservation"]),
			})
		}
	}
	o.Unavailable = p.window(options)
	if options["revocable"] != "" {
		o.Resources = append(o.Resources,
			offers.Resource{Name: offers.RevocableCPUs, Role: o.Role, Scalar: offers.MilliOf(p.number(options["revocable"]))})
	}
	if options["ports"] != "" {
		o.Resources = append(o.Resources, offers.Resource{Name: offers.Ports, Role: o.Role, Ranges: p.ranges(options["ports"])})
	}
	if options["reserved-ports"] != "" {
		o.Resources = append(o.Resources,
			offers.Resource{Name: offers.Ports, Role: o.Role, Reserved: true, Ranges: p.ranges(options["reserved-ports"])})
	}
	return o
}

// window returns maintenance that begins this long after the script's start; nil for none.
func (p *player) window(options map[string]string) *offers.Unavailability {
	if options["away"] == "" {
		return nil
	}
	u := &offers.Unavailability{Start: scriptStart.Add(p.duration(options["away"]))}
	if options["for"] != "" {
		u.End = u.Start.Add(p.duration(options["for"]))
	}
	return u
}

// dongle is a device that some nodes have.
const dongle = "example.com/dongle"

// pod returns a pod whose UID is its name.
func (p *player) pod(name string, options map[string]string) *v1.Pod {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Annotations: map[string]string{}},
		Spec: v1.PodSpec{
			NodeName: options["node"], SchedulerName: options["scheduler"],
			Containers: []v1.Container{{Resources: v1.ResourceRequirements{Requests: v1.ResourceList{}}}},
		},
		Status: v1.PodStatus{Phase: v1.PodPhase(options["phase"]), Reason: options["reason"], NominatedNodeName: options["nominated"]},
	}
	if options["started"] != "" {
		pod.Status.StartTime = &metav1.Time{Time: p.now}
	}
	if options["cpus"] != "" {
		pod.Spec.Containers[0].Resources.Requests[v1.ResourceCPU] = resource.MustParse(options["cpus"])
	}
	if options["mem"] != "" {
		pod.Spec.Containers[0].Resources.Requests[v1.ResourceMemory] = resource.MustParse(options["mem"])
	}
	if options[dongle] != "" {
		pod.Spec.Containers[0].Resources.Requests[dongle] = resource.MustParse(options[dongle])
	}
	if options["port"] != "" {
		pod.Spec.Containers[0].Ports = []v1.ContainerPort{{HostPort: int32(p.number(options["port"]))}}
	}
	for key, annotation := range map[string]string{
		"roles": api.AnnotationRoles, "revocable": api.AnnotationRevocable, "mapping": api.AnnotationPortMapping, "mapped": api.AnnotationPortMappings,
		"pool": api.AnnotationIPPool, "ip": api.AnnotationIP, "assigned": api.AnnotationIPAssigned,
	} {
		if value, given := options[key]; given {
			pod.Annotations[annotation] = value
		}
	}
	for _, port := range strings.Split(options["containerports"], ",") {
		if number, protocol, _ := strings.Cut(port, "/"); number != "" {
			pod.Spec.Containers[0].Ports = append(pod.Spec.Containers[0].Ports,
				v1.ContainerPort{ContainerPort: int32(p.number(number)), Protocol: v1.Protocol(protocol)})
		}
	}
	if options["rack"] != "" {
		pod.Spec.NodeSelector = map[string]string{api.AttributeLabel("rack"): options["rack"]}
	}
	if options["priority"] != "" {
		priority := int32(p.number(options["priority"]))
		pod.Spec.Priority = &priority
	}
	if options["preempts"] != "" {
		policy := v1.PreemptionPolicy(options["preempts"])
		pod.Spec.PreemptionPolicy = &policy
	}
	if options["tolerates"] != "" {
		pod.Spec.Tolerations = []v1.Toleration{{Key: options["tolerates"], Operator: v1.TolerationOpExists}}
	}
	if options["app"] != "" {
		pod.Labels = map[string]string{"app": options["app"]}
	}
	if options["preempted"] != "" {
		pod.Status.Conditions = []v1.PodCondition{
			{Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonPreemptionByScheduler},
		}
	}
	if options["gated"] != "" {
		pod.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: options["gated"]}}
	}
	if options["only"] != "" { // as the controller of a DaemonSet writes it
		pod.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
				MatchFields: []v1.NodeSelectorRequirement{
					{Key: "metadata.name", Operator: v1.NodeSelectorOpIn, Values: []string{options["only"]}},
				},
			}}},
		}}
	}
	p.nearOptions(pod, options)
	if options["task"] != "" {
		pod.Annotations[api.AnnotationTaskID] = options["task"]
		pod.Annotations[api.AnnotationAgentID] = options["agent"]
	}
	if options["owner"] != "" {
		controller := true
		pod.OwnerReferences = []metav1.OwnerReference{{Kind: options["owner"], Controller: &controller}}
	}
	if options["deleting"] != "" { // "yes", or the grace period
		grace, _ := time.ParseDuration(options["deleting"])
		pod.DeletionTimestamp = &metav1.Time{Time: p.now.Add(grace)}
	}
	return pod
}

func (p *player) budget(name string, options map[string]string) BudgetSeen {
	return BudgetSeen{Budget: &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)},
		Spec: policyv1.PodDisruptionBudgetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": options["app"]}},
		},
		Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: int32(p.number(options["allowed"]))},
	}}
}

func (p *player) node(name, agent string, options map[string]string) *v1.Node {
	node := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Labels:      map[string]string{v1.LabelHostname: name, v1.LabelOSStable: "linux", v1.LabelArchStable: "any"},
			Annotations: map[string]string{api.AnnotationAgentAddress: "10.0.0.1:5051"},
		},
		Spec:   v1.NodeSpec{ProviderID: api.ProviderID(api.AgentID(agent)), Unschedulable: options["cordoned"] != ""},
		Status: v1.NodeStatus{Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}},
	}
	if agent == "none" {
		node.Spec.ProviderID, node.Annotations = "", map[string]string{}
		node.Status.Addresses = []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "10.0.0.1"}}
	}
	if options["prefixes"] != "" {
		node.Annotations[api.AnnotationPodPrefixes] = options["prefixes"]
	}
	if options["mark"] != "" {
		node.Annotations[api.AnnotationCordoned] = options["mark"]
	}
	if version, started, ok := strings.Cut(options["minion"], "@"); ok {
		node.Annotations[api.AnnotationKMVersion] = version
		node.Annotations[api.AnnotationMinionStarted] = scriptStart.Add(p.duration(started)).Format(time.RFC3339Nano)
	}
	if options["settings"] != "" {
		node.Annotations[api.AnnotationSettings] = settingsNamed(options["settings"]).Settings()
	}
	if options["kubelet"] != "" { // when it said that it is ready
		node.Status.Conditions[0].Reason = "KubeletReady"
		node.Status.Conditions[0].LastHeartbeatTime = metav1.NewTime(scriptStart.Add(p.duration(options["kubelet"])))
	}
	if options["rollout"] != "" {
		text := strings.ReplaceAll(options["rollout"], "_", " ")
		if before, rest, ok := strings.Cut(text, "SETTINGS("); ok {
			name, after, _ := strings.Cut(rest, ")")
			text = before + settingsNamed(name).Settings() + after
		}
		node.Annotations[api.AnnotationRollout] = text
	}
	if options["maintenance"] != "" {
		node.Annotations[api.AnnotationMaintenance] = options["maintenance"]
	}
	if options["port"] != "" {
		node.Annotations[api.AnnotationAgentAddress] = "10.0.0.1:" + options["port"]
	}
	if options["rack"] != "" {
		node.Labels[api.AttributeLabel("rack")] = options["rack"]
	}
	if options["ready"] != "" {
		node.Status.Conditions[0].Status = v1.ConditionStatus(options["ready"])
	}
	if options["unfit"] != "" {
		node.Status.Conditions[0].Reason = match.UnfitReason
	}
	if options["taint"] != "" {
		node.Spec.Taints = []v1.Taint{{Key: options["taint"], Effect: v1.TaintEffectNoSchedule}}
	}
	if options["shun"] != "" {
		node.Spec.Taints = []v1.Taint{{Key: options["shun"], Effect: v1.TaintEffectPreferNoSchedule}}
	}
	if options["region"] != "" {
		node.Labels[v1.LabelTopologyRegion] = options["region"]
	}
	if options["zone"] != "" {
		node.Labels[v1.LabelTopologyZone] = options["zone"]
	}
	node.Status.Allocatable = v1.ResourceList{}
	for i, name := range match.RequestNames { // what its kubelet has reported
		if amount := options["admits-"+match.ScalarNames[i]]; amount != "" {
			node.Status.NodeInfo.KubeletVersion = "v1"
			node.Status.Allocatable[name] = resource.MustParse(amount)
		}
	}
	node.Status.Capacity = node.Status.Allocatable.DeepCopy()
	if options["capacity-cpus"] != "" {
		node.Status.Capacity[v1.ResourceCPU] = resource.MustParse(options["capacity-cpus"])
	}
	for _, name := range []v1.ResourceName{v1.ResourcePods, dongle} {
		if options[string(name)] != "" {
			node.Status.Allocatable[name] = resource.MustParse(options[string(name)])
		}
	}
	return node
}

func (p *player) executor(agent api.AgentID, outcome string) ExecutorReady {
	switch outcome {
	case "failed":
		return ExecutorReady{Agent: agent, Why: "its record is lost"}
	case "charged": // it was launched with cpus
		return ExecutorReady{Agent: agent, Record: []byte("record"), Resources: offers.Resources{{Name: offers.CPUs, Role: "*", Scalar: 100}}}
	}
	return ExecutorReady{Agent: agent, Record: []byte("record"), Kept: p.kept[agent], Resources: p.prepared[agent].Resources}
}

func (p *player) update(task, agent, state string, options map[string]string) TaskUpdated {
	parsed, ok := ParseTaskState("TASK_" + state)
	if !ok {
		p.t.Fatalf("%q is no task state", state)
	}
	return TaskUpdated{Status: TaskStatus{
		Task: api.TaskID(task), Agent: api.AgentID(agent), State: parsed, Reason: options["reason"],
		Message: options["message"], UUID: []byte(options["uuid"]), ByExecutor: options["by"] == "executor",
	}}
}
