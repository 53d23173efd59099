package differential

import (
	"context"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	kuberuntime "k8s.io/apimachinery/pkg/runtime"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	kube "k8s.io/kubernetes/pkg/scheduler"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/defaultpreemption"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/feature"
	"k8s.io/kubernetes/pkg/scheduler/profile"
)

// stock is a kube-scheduler that has read the cluster from an API server in memory. It schedules nothing by itself: its
// plugins are called in the order in which it calls them.
type stock struct {
	ctx     context.Context
	cluster *cluster
	profile framework.Framework
	nodes   []fwk.NodeInfo // by name
}

func newStock(t *testing.T, c *cluster) *stock {
	t.Helper()
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), klog.NewKlogr()))
	t.Cleanup(cancel)
	client := fake.NewClientset(c.objects()...)
	recorders := profile.NewRecorderFactory(events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()}))
	informers := kube.NewInformerFactory(client, 0)
	scheduler, err := kube.New(ctx, client, informers, nil, recorders)
	if err != nil {
		t.Fatalf("cannot make a kube-scheduler: %v", err)
	}
	informers.Start(ctx.Done())
	informers.WaitForCacheSync(ctx.Done())
	if err := scheduler.WaitForHandlersSync(ctx); err != nil {
		t.Fatalf("kube-scheduler does not get to know the cluster: %v", err)
	}
	s := &stock{ctx: ctx, cluster: c, profile: scheduler.Profiles[corev1.DefaultSchedulerName]}
	if err := scheduler.Cache.UpdateSnapshot(klog.FromContext(ctx), s.profile.SnapshotSharedLister().(*cache.Snapshot)); err != nil {
		t.Fatal(err)
	}
	if s.nodes, err = s.profile.SnapshotSharedLister().NodeInfos().List(); err != nil || len(s.nodes) != len(c.nodes) {
		t.Fatalf("kube-scheduler knows %d of %d nodes (%v)", len(s.nodes), len(c.nodes), err)
	}
	return s
}

// objects are what the API server has.
func (c *cluster) objects() (list []kuberuntime.Object) {
	for _, object := range c.nodes {
		list = append(list, object)
	}
	for _, object := range c.pods {
		list = append(list, object)
	}
	for _, object := range c.namespaces {
		list = append(list, object)
	}
	for _, object := range c.budgets {
		list = append(list, object)
	}
	for _, object := range c.volumes {
		list = append(list, object)
	}
	for _, object := range c.claims {
		list = append(list, object)
	}
	for _, object := range c.classes {
		list = append(list, object)
	}
	return list
}

// verdict is what kube-scheduler's filters say of a pod.
type verdict struct {
	pod      *corev1.Pod
	state    fwk.CycleState
	fits     []fwk.NodeInfo
	refusals *framework.NodeToStatus
	why      string // of the refusals, for people
}

// filter asks for each node if the pod may run there.
func (s *stock) filter(t *testing.T, pod *corev1.Pod) verdict {
	t.Helper()
	v := verdict{pod: pod, state: framework.NewCycleState(), refusals: framework.NewDefaultNodeToStatus()}
	only, status, _ := s.profile.RunPreFilterPlugins(s.ctx, v.state, pod)
	if status.Code() == fwk.Error {
		t.Fatalf("kube-scheduler cannot look at the pod: %s", status.Message())
	}
	for _, node := range s.nodes {
		name := node.Node().Name
		refusal := status
		switch {
		case !status.IsSuccess():
		case !only.AllNodes() && !only.NodeNames.Has(name):
			refusal = fwk.NewStatus(fwk.UnschedulableAndUnresolvable, "a plugin is about other nodes")
		default:
			refusal = s.profile.RunFilterPluginsWithNominatedPods(s.ctx, v.state, pod, node)
		}
		if refusal.Code() == fwk.Error {
			t.Fatalf("kube-scheduler cannot look at node %s: %s", name, refusal.Message())
		}
		if refusal.IsSuccess() {
			v.fits = append(v.fits, node)
			continue
		}
		v.refusals.Set(name, refusal)
		v.why += name + ": " + refusal.Message() + "; "
	}
	return v
}

// has reports whether the pod may run on the node.
func (v *verdict) has(name string) bool {
	return slices.ContainsFunc(v.fits, func(node fwk.NodeInfo) bool { return node.Node().Name == name })
}

// names are the nodes that it may run on.
func (v *verdict) names() (names []string) {
	for _, node := range v.fits {
		names = append(names, node.Node().Name)
	}
	slices.Sort(names)
	return names
}

// score returns for each node that fits what these plugins give it, with their weights, by plugin.
func (s *stock) score(t *testing.T, v *verdict, plugins []string) map[string]map[string]int64 {
	t.Helper()
	if status := s.profile.RunPreScorePlugins(s.ctx, v.state, v.pod, v.fits); !status.IsSuccess() {
		t.Fatalf("kube-scheduler cannot prepare its scores: %s", status.Message())
	}
	all, status := s.profile.RunScorePlugins(s.ctx, v.state, v.pod, v.fits)
	if !status.IsSuccess() {
		t.Fatalf("kube-scheduler cannot score: %s", status.Message())
	}
	scores := map[string]map[string]int64{}
	for _, node := range all {
		scores[node.Name] = map[string]int64{}
		for _, score := range node.Scores {
			if slices.Contains(plugins, score.Name) {
				scores[node.Name][score.Name] = score.Score
			}
		}
	}
	return scores
}

// preempt returns on which node others would have to make room for the pod, and who; "" if that helps nowhere.
func (s *stock) preempt(t *testing.T, v *verdict) (node string, victims []string) {
	t.Helper()
	args := &config.DefaultPreemptionArgs{MinCandidateNodesPercentage: 100, MinCandidateNodesAbsolute: 100}
	plugin, err := defaultpreemption.New(s.ctx, args, s.profile, feature.NewSchedulerFeaturesFromGates(utilfeature.DefaultFeatureGate))
	if err != nil {
		t.Fatal(err)
	}
	if ok, _ := plugin.PodEligibleToPreemptOthers(s.ctx, v.pod, nil); !ok {
		return "", nil
	}
	promising, err := v.refusals.NodesForStatusCode(s.profile.SnapshotSharedLister().NodeInfos(), fwk.Unschedulable)
	if err != nil {
		t.Fatal(err)
	}
	if len(promising) == 0 {
		return "", nil
	}
	candidates, _, err := plugin.Evaluator.DryRunPreemption(s.ctx, v.state, v.pod, promising, s.cluster.budgets, 0, int32(len(promising)))
	if err != nil {
		t.Fatal(err)
	}
	best := plugin.Evaluator.SelectCandidate(s.ctx, candidates)
	if best == nil {
		return "", nil
	}
	for _, victim := range best.Victims().Pods {
		victims = append(victims, victim.Name)
	}
	slices.Sort(victims)
	return best.Name(), victims
}
