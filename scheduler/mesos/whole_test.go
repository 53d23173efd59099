package mesos_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/pflag"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/localmesos"
	"github.com/k8sm/k8sm/executor"
	executormesos "github.com/k8sm/k8sm/executor/mesos"
	"github.com/k8sm/k8sm/scheduler/kube"
	"github.com/k8sm/k8sm/scheduler/mesos"
	"github.com/k8sm/k8sm/scheduler/run"
)

// TestMain lets this binary be the minion that the scheduler has launched: an executor that says of each task that it
// runs, until it is told to end it, and that outlives its agent for a while.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "minion" {
		if err := start(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	manyInParallel()
	os.Exit(m.Run())
}

// manyInParallel runs more tests at a time than there are CPUs, unless -parallel says otherwise. Each has a Mesos of its own, and
// waits for the time-outs of that most of the time.
func manyInParallel() {
	flag.Parse()
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == parallel.DefValue {
		_ = parallel.Value.Set("8")
	}
}

func start(ctx context.Context) error {
	if err := refuseToStart(); err != nil {
		return err
	}
	return minion(ctx)
}

func minion(ctx context.Context) error {
	cfg, err := executormesos.ConfigFromEnv()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	agent, events, ended := executormesos.New(cfg), make(chan executor.Event, 64), make(chan error, 1)
	go func() { ended <- agent.Run(ctx, func(e executor.Event) { events <- e }) }()
	defer func() {
		cancel()
		<-ended
	}()
	agent.Subscribe(executor.Subscribe{})
	for deadline := time.Now().Add(20 * time.Second); ; {
		shutdown, err := obey(ctx, agent, <-events, &deadline)
		if err != nil || shutdown {
			return err
		}
	}
}

// obey does what the agent says; shutdown is true if the minion has to end.
func obey(ctx context.Context, agent *executormesos.Agent, event executor.Event, deadline *time.Time) (shutdown bool, err error) {
	say := func(task api.TaskID, states ...executor.State) error {
		for _, state := range states {
			if err := agent.Update(ctx, executor.Update{ID: uuid.New(), Task: task, State: state}); err != nil {
				return err
			}
		}
		return nil
	}
	switch e := event.(type) {
	case executor.Subscribed:
		*deadline = time.Now().Add(20 * time.Second)
	case executor.Disconnected:
		if time.Now().After(*deadline) {
			return false, errors.New(e.Reason)
		}
		agent.Subscribe(executor.Subscribe{})
	case executor.Launch:
		err = say(e.Task, executor.Starting, executor.Running)
	case executor.Kill:
		err = say(e.Task, executor.Killed)
	case executor.Shutdown:
		return true, nil
	}
	if err != nil { // the agent is about to go; so is the connection
		fmt.Fprintln(os.Stderr, err)
	}
	return false, nil
}

// memory is a Store that forgets when the process ends.
type memory struct {
	mu        sync.Mutex // guards what follows
	framework api.FrameworkID
	records   map[api.AgentID][]byte
}

func (m *memory) Lead(context.Context, string) (<-chan struct{}, error) {
	return make(chan struct{}), nil
}

func (m *memory) FrameworkID(context.Context) (api.FrameworkID, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.framework, nil
}

func (m *memory) ReplaceFrameworkID(_ context.Context, old, new api.FrameworkID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.framework != old {
		return fmt.Errorf("the framework id is %q, not %q", m.framework, old)
	}
	m.framework = new
	return nil
}

func (m *memory) Executor(_ context.Context, agent api.AgentID) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.records[agent], nil
}

func (m *memory) PutExecutor(_ context.Context, agent api.AgentID, record []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records[agent] = record
	return nil
}

func (m *memory) DeleteExecutor(_ context.Context, agent api.AgentID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.records, agent)
	return nil
}

// newAPI returns an API server's fake that binds pods as the real one does.
func newAPI() *fake.Clientset {
	client := fake.NewSimpleClientset()
	client.PrependReactor("create", "pods", func(action k8stesting.Action) (bool, runtime.Object, error) {
		if action.GetSubresource() != "binding" {
			return false, nil, nil
		}
		binding := action.(k8stesting.CreateAction).GetObject().(*v1.Binding)
		object, err := client.Tracker().Get(v1.SchemeGroupVersion.WithResource("pods"), action.GetNamespace(), binding.Name)
		if err != nil {
			return true, nil, err
		}
		pod := object.(*v1.Pod).DeepCopy()
		if pod.Spec.NodeName != "" || pod.UID != binding.UID {
			return true, nil, apierrors.NewConflict(v1.Resource("pods"), pod.Name, fmt.Errorf("is bound to %q", pod.Spec.NodeName))
		}
		pod.Spec.NodeName = binding.Target.Name
		metav1.SetMetaDataAnnotation(&pod.ObjectMeta, api.AnnotationTaskID, "")
		maps.Copy(pod.Annotations, binding.Annotations)
		return true, binding, client.Tracker().Update(v1.SchemeGroupVersion.WithResource("pods"), pod, pod.Namespace)
	})
	return client
}

type cluster struct {
	t      *testing.T
	config localmesos.Config
	flags  []string          // of the schedulers' connection to Mesos
	change func(*run.Config) // of the schedulers' configuration; nil for none
	mesos  *localmesos.Cluster
	master string // that the schedulers speak to; "" for that of mesos
	client kubernetes.Interface
	store  *memory
	window *run.Window // of the scheduler that was started last
	last   *mesos.Master
}

func newCluster(t *testing.T, agents int) *cluster {
	return newClusterWith(t, func(cfg *localmesos.Config) { cfg.Agents = agents })
}

// newClusterWith starts a cluster of one agent unless change makes it another one; flags are the schedulers'.
func newClusterWith(t *testing.T, change func(*localmesos.Config), flags ...string) *cluster {
	var cfg localmesos.Config
	cfg.AddFlags(pflag.NewFlagSet("", pflag.PanicOnError))
	cfg.Agents, cfg.Port, cfg.WorkDir, cfg.Hostname = 1, 0, t.TempDir(), "laptop"
	cfg.Resources, cfg.Attributes = "cpus:4;mem:4096;disk:10000;ports:[31000-32000]", "rack:r1"
	cfg.AllocationInterval = 50 * time.Millisecond
	change(&cfg)
	c := &cluster{t: t, config: cfg, flags: flags, client: newAPI(), store: &memory{records: map[api.AgentID][]byte{}}}
	c.startMesos()
	return c
}

func (c *cluster) startMesos() {
	c.t.Helper()
	local, err := localmesos.Start(c.t.Context(), c.config)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(local.Stop)
	c.mesos = local
}

// masterURL returns a URL of the master with an operator's credentials.
func (c *cluster) masterURL(path string) string {
	c.t.Helper()
	principal, file := c.mesos.Credential()
	secret, err := os.ReadFile(file)
	if err != nil {
		c.t.Fatal(err)
	}
	return (&url.URL{Scheme: "http", User: url.UserPassword(principal, strings.TrimSpace(string(secret))), Host: c.mesos.MasterAddr(), Path: path}).String()
}

// self is the path of this binary, which can be a minion.
func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// schedule starts a scheduler and returns what stops it.
func (c *cluster) schedule() (stop func()) { return c.scheduleWith(c.store, "test") }

// scheduleWith starts a scheduler that has a store of its own, and returns what stops it.
func (c *cluster) scheduleWith(store run.Store, identity string) (stop func()) {
	c.t.Helper()
	var cfg run.Config
	cfg.AddFlags(pflag.NewFlagSet("", pflag.PanicOnError))
	cfg.Identity, cfg.Cluster, cfg.APIServer, cfg.CA = identity, "test", "https://127.0.0.1:6443", func() ([]byte, error) { return []byte("pem"), nil }
	cfg.OfferTTL, cfg.RefuseIdle, cfg.KMPath = 2*time.Second, time.Hour, self(c.t)
	var mesosConfig mesos.Config
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	mesosConfig.AddFlags(flags)
	if err := flags.Parse(c.flags); err != nil {
		c.t.Fatal(err)
	}
	mesosConfig.Masters = []string{cmp.Or(c.master, c.mesos.MasterAddr())}
	mesosConfig.Principal, mesosConfig.SecretFile = c.mesos.Credential()
	cfg.Roles, cfg.Revocable = mesosConfig.Roles, mesosConfig.Revocable
	if c.change != nil {
		c.change(&cfg)
	}
	master, err := mesos.New(mesosConfig)
	if err != nil {
		c.t.Fatal(err)
	}
	kubernetes := kube.New(c.client)
	ctx, cancel := context.WithCancel(c.t.Context())
	parts := run.Parts{
		Master: master, Cluster: kubernetes, Store: store, Tokens: kubernetes, Codec: mesos.Codec{}, Window: run.NewWindow(),
	}
	c.window, c.last = parts.Window, master
	ended := make(chan error, 1)
	go func() { ended <- run.Run(ctx, cfg, parts) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				c.t.Errorf("the scheduler ended: %v", err)
			}
		})
	}
	c.t.Cleanup(stop)
	return stop
}

// createPod creates a pod; the changes are to its specification.
func (c *cluster) createPod(name string, cpus string, changes ...func(*v1.PodSpec)) {
	c.createPodWith(name, cpus, nil, changes...)
}

func (c *cluster) createPodWith(name, cpus string, annotations map[string]string, changes ...func(*v1.PodSpec)) {
	c.t.Helper()
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), Annotations: annotations},
		Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{
			Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpus)},
		}}}},
	}
	for _, change := range changes {
		change(&pod.Spec)
	}
	if _, err := c.client.CoreV1().Pods("default").Create(c.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// wait looks at a pod until what is awaited is true.
func (c *cluster) wait(name, what string, awaited func(*v1.Pod) bool) *v1.Pod {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	for {
		pod, err := c.client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		if err == nil && awaited(pod) {
			return pod
		}
		select {
		case <-ctx.Done():
			c.inVain("%s of pod %s, which is %+v", what, name, pod)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func bound(pod *v1.Pod) bool { return pod.Spec.NodeName != "" }

func hasTask(id string) func(*v1.Pod) bool {
	return func(pod *v1.Pod) bool { return pod.Annotations[api.AnnotationTaskID] == id }
}

// hasOtherTask recognises a pod with a later task than its first. It need not be the second: an agent drops one that comes before all
// updates of the tasks of the executor before are acknowledged.
func hasOtherTask(pod *v1.Pod) bool {
	id := api.TaskID(pod.Annotations[api.AnnotationTaskID])
	return id != "" && id != api.NewTaskID(pod.UID, 1)
}

func TestPodIsBoundThroughARealMasterAndNodesAppear(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.schedule()
	c.createPod("web", "500m")
	pod := c.wait("web", "a node", bound)
	if !hasTask("uid-web.1")(pod) || pod.Annotations[api.AnnotationAgentID] == "" {
		t.Errorf("annotations %v", pod.Annotations)
	}
	node, err := c.client.CoreV1().Nodes().Get(t.Context(), pod.Spec.NodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if agent, _ := api.AgentOfProviderID(node.Spec.ProviderID); string(agent) != pod.Annotations[api.AnnotationAgentID] {
		t.Errorf("node %s has provider id %s", node.Name, node.Spec.ProviderID)
	}
	if got := node.Status.Allocatable.Cpu().String(); got != "3750m" || node.Labels["k8sm.io/attribute-rack"] != "r1" {
		t.Errorf("allocatable cpu %s, labels %v", got, node.Labels)
	}
	secrets, err := c.client.CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{LabelSelector: api.LabelNode + "=" + node.Name})
	if err != nil || len(secrets.Items) != 1 {
		t.Errorf("bootstrap tokens of the node: %d, %v", len(secrets.Items), err)
	}
}

func TestPodThatComesLateIsNotKeptWaitingByTheLongFilter(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.schedule()
	c.createPod("first", "1")
	c.wait("first", "a node", bound)
	c.createPod("big", "100")
	c.wait("big", "to be told why it waits", func(pod *v1.Pod) bool {
		return len(pod.Status.Conditions) == 1 && pod.Status.Conditions[0].Reason == v1.PodReasonUnschedulable
	})
	c.createPod("second", "1")
	c.wait("second", "a node", bound)
}

func TestExecutorThatDiesIsReplacedOnItsAgentForTheSamePods(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.schedule()
	c.createPod("web", "500m")
	pod := c.wait("web", "a node", bound)
	for i, id := range c.mesos.AgentIDs() {
		if string(id) == pod.Annotations[api.AnnotationAgentID] {
			if err := c.mesos.KillExecutor(i, c.store.framework, api.MinionExecutorID); err != nil {
				t.Fatal(err)
			}
		}
	}
	again := c.wait("web", "another task", hasOtherTask)
	if again.Spec.NodeName != pod.Spec.NodeName {
		t.Errorf("it went from %s to %s", pod.Spec.NodeName, again.Spec.NodeName)
	}
}

func TestSchedulerThatIsRestartedFindsItsPodsAndGoesOn(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	stop := c.schedule()
	c.createPod("web", "500m")
	c.wait("web", "a node", bound)
	framework := c.store.framework
	stop()
	c.schedule()
	c.createPod("next", "500m")
	c.wait("next", "a node", bound)
	c.wait("web", "its first task still", hasTask("uid-web.1"))
	if c.store.framework != framework {
		t.Errorf("framework %s became %s", framework, c.store.framework)
	}
}

func TestMasterThatIsRestartedKeepsThePods(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.schedule()
	c.createPod("web", "500m")
	c.wait("web", "a node", bound)
	c.mesos.KillMaster()
	if err := c.mesos.RestartMaster(); err != nil {
		t.Fatal(err)
	}
	c.createPod("next", "500m")
	c.wait("next", "a node", bound)
	c.wait("web", "its first task still", hasTask("uid-web.1"))
}

func TestEverythingThatIsRestartedRunsThePodsAgainOnTheirNodes(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	stop := c.schedule()
	nodes := map[string]string{}
	for _, name := range []string{"one", "two", "three"} {
		c.createPod(name, "1500m")
		nodes[name] = c.wait(name, "a node", bound).Spec.NodeName
	}
	stop()
	c.mesos.Stop()
	c.startMesos()
	c.schedule()
	for name, node := range nodes {
		pod := c.wait(name, "another task", hasOtherTask)
		if pod.Spec.NodeName != node {
			t.Errorf("%s went from %s to %s", name, node, pod.Spec.NodeName)
		}
	}
	left, err := c.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(left.Items) != 2 {
		t.Errorf("%d nodes, %v", len(left.Items), err)
	}
}
