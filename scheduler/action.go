package scheduler

import (
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// Action is something that the core's owner has to do. String is for logs and for the tests' scripts.
type Action interface{ String() string }

// MesosAction is an Action on the Mesos master
// (https://mesos.apache.org/documentation/latest/scheduler-http-api/#calls).
type MesosAction interface {
	Action
	mesosAction()
}

// ClusterAction is an Action on the Kubernetes API. Actions on the same object are performed in the order given.
type ClusterAction interface {
	Action
	// Object names the action's object: actions with equal names keep their order.
	Object() string
}

// Subscribe starts the connection to Mesos. The core returns it once.
type Subscribe struct{}

func (Subscribe) String() string { return "subscribe" }

// NewTask is a task to launch: for a pod, or without a pod to keep the executor running.
type NewTask struct {
	ID        api.TaskID
	Pod       *v1.Pod // nil for none
	Node      string  // where the executor shall keep running, if Pod is nil
	Resources offers.Resources
	Ports     []api.PortMapping // the pod's container ports, with their host ports among Resources
}

// Name returns the task's name in Mesos: the pod's, or "warm node NODE".
func (t NewTask) Name() string {
	if t.Pod == nil {
		return "warm node " + t.Node
	}
	return t.Pod.Namespace + "/" + t.Pod.Name
}

// Launch accepts the offers, which belong to one agent and role, and launches the tasks in them. Mesos shall offer the
// rest again at once.
type Launch struct {
	Agent    api.AgentID
	Offers   []api.OfferID
	Executor []byte // the record from ExecutorReady
	Tasks    []NewTask
}

func (a Launch) String() string {
	lines := make([]string, len(a.Tasks))
	for i, t := range a.Tasks {
		lines[i] = fmt.Sprintf(" %s %s [%s]", t.ID, t.Name(), t.Resources)
	}
	return fmt.Sprintf("launch on %s in %v:%s", a.Agent, a.Offers, strings.Join(lines, ","))
}

// Decline gives offers back; Mesos does not offer these resources again for Refuse.
type Decline struct {
	Offers []api.OfferID
	Refuse time.Duration
}

func (a Decline) String() string { return fmt.Sprintf("decline %v for %s", a.Offers, a.Refuse) }

// Revive removes the filters of all earlier Declines.
type Revive struct{}

func (Revive) String() string { return "revive" }

// AnswerInverse accepts or declines an inverse offer; Mesos sends it again after Refuse.
type AnswerInverse struct {
	Offer  api.OfferID
	Agent  api.AgentID
	Accept bool
	Refuse time.Duration
	Why    string
	News   bool // Why differs from the agent's last answer
}

func (a AnswerInverse) String() string {
	verb := "decline"
	if a.Accept {
		verb = "accept"
	}
	return fmt.Sprintf("%s inverse offer %s for %s: %s", verb, a.Offer, a.Refuse, a.Why)
}

// Kill asks Mesos to kill a task.
type Kill struct {
	Task  api.TaskID
	Agent api.AgentID
}

func (a Kill) String() string { return fmt.Sprintf("kill %s", a.Task) }

// ShutdownExecutor asks Mesos to end an executor with all its tasks.
type ShutdownExecutor struct {
	Agent    api.AgentID
	Executor api.ExecutorID
}

func (a ShutdownExecutor) String() string {
	return fmt.Sprintf("shut down %s on %s", a.Executor, a.Agent)
}

// Acknowledge tells Mesos that an update was handled, so that the agent stops sending it.
type Acknowledge struct {
	Task  api.TaskID
	Agent api.AgentID
	UUID  []byte
}

func (a Acknowledge) String() string { return fmt.Sprintf("acknowledge %s %s", a.Task, a.UUID) }

// TaskRef names a task and its agent.
type TaskRef struct {
	Task  api.TaskID
	Agent api.AgentID
}

// Reconcile asks for the states of the tasks; with no tasks, for those of all tasks that Mesos knows
// (https://mesos.apache.org/documentation/latest/reconciliation/).
type Reconcile struct{ Tasks []TaskRef }

func (a Reconcile) String() string {
	if len(a.Tasks) == 0 {
		return "reconcile all"
	}
	names := make([]string, len(a.Tasks))
	for i, t := range a.Tasks {
		names[i] = string(t.Task)
	}
	return "reconcile " + strings.Join(names, " ")
}

func (Subscribe) mesosAction()        {}
func (Launch) mesosAction()           {}
func (Decline) mesosAction()          {}
func (Revive) mesosAction()           {}
func (AnswerInverse) mesosAction()    {}
func (Kill) mesosAction()             {}
func (ShutdownExecutor) mesosAction() {}
func (Acknowledge) mesosAction()      {}
func (Reconcile) mesosAction()        {}

// PodRef names a pod and, by its UID, which pod of that name.
type PodRef struct {
	Key api.PodKey
	UID types.UID
}

// Bind binds a pod to a node and sets the annotations in the same write. BindDone answers.
type Bind struct {
	Task        api.TaskID
	Pod         PodRef
	Node        string
	Annotations map[string]string
}

func (a Bind) String() string {
	return fmt.Sprintf("bind %s to %s for %s%s", a.Pod.Key, a.Node, a.Task, portsText(a.Annotations)+addressText(a.Annotations))
}

// Object implements ClusterAction.
func (a Bind) Object() string { return "pod/" + string(a.Pod.UID) }

// Annotate sets the annotations of a bound pod's new task. BindDone answers.
type Annotate struct {
	Task        api.TaskID
	Pod         PodRef
	Annotations map[string]string
}

func (a Annotate) String() string {
	return fmt.Sprintf("annotate %s for %s%s", a.Pod.Key, a.Task, portsText(a.Annotations)+addressText(a.Annotations))
}

// portsText describes the ports that a binding publishes.
func portsText(annotations map[string]string) string {
	return with(" with ports ", annotations[api.AnnotationPortMappings])
}

// Object implements ClusterAction.
func (a Annotate) Object() string { return "pod/" + string(a.Pod.UID) }

// Report says why a pod waits, in an event and in the pod's condition PodScheduled.
type Report struct {
	Pod     *v1.Pod
	Message string
}

func (a Report) String() string {
	return fmt.Sprintf("report %s/%s: %s", a.Pod.Namespace, a.Pod.Name, a.Message)
}

// Object implements ClusterAction.
func (a Report) Object() string { return "pod/" + string(a.Pod.UID) }

// PrepareClaims binds a pod's claims, or requests new volumes for them, for the node that was chosen for the pod
// (https://kubernetes.io/docs/concepts/storage/storage-classes/#volume-binding-mode). ClaimsPrepared answers.
type PrepareClaims struct {
	Pod     PodRef
	Node    string
	Volumes []*v1.PersistentVolume      // with claimRef set
	Claims  []*v1.PersistentVolumeClaim // annotated with the node to provision their volumes for
}

func (a PrepareClaims) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "prepare claims of %s for node %s:", a.Pod.Key, a.Node)
	for _, pv := range a.Volumes {
		fmt.Fprintf(&b, " volume %s for %s", pv.Name, pv.Spec.ClaimRef.Name)
	}
	for _, claim := range a.Claims {
		fmt.Fprintf(&b, " a new volume for %s", claim.Name)
	}
	return b.String()
}

// Object implements ClusterAction.
func (a PrepareClaims) Object() string { return "pod/" + string(a.Pod.UID) }

// CreateNode creates the node object of an agent.
type CreateNode struct{ Node *v1.Node }

func (a CreateNode) String() string {
	return fmt.Sprintf("create node %s for %s", a.Node.Name, a.Node.Spec.ProviderID)
}

// Object implements ClusterAction.
func (a CreateNode) Object() string { return "node/" + a.Node.Name }

// AmendNode sets labels on a node (a nil value removes the label) and the address of its agent. It sets the provider id
// if a kubelet created the node without one.
type AmendNode struct {
	Name       string
	Labels     map[string]*string
	Address    string // of the agent's endpoint; "" if unknown
	ProviderID string // "" if the node already has it
}

func (a AmendNode) String() string {
	return strings.TrimRight(fmt.Sprintf("amend node %s: %s %s %s", a.Name, a.Address, labelText(a.Labels), a.ProviderID), " ")
}

// Object implements ClusterAction.
func (a AmendNode) Object() string { return "node/" + a.Name }

// MarkNode cordons or uncordons a node and annotates what is planned for its agent. An empty text removes the
// annotation. If the node has changed meanwhile nothing is written; the core decides again.
type MarkNode struct {
	Node          *v1.Node // as it was seen
	Maintenance   string   // api.AnnotationMaintenance
	Cordoned      string   // api.AnnotationCordoned
	Rollout       api.Rollout
	Failed        bool // the rollout has just been given up
	Unschedulable bool
}

func (a MarkNode) String() string {
	text := with(", maintenance ", a.Maintenance) + with(", rollout ", a.Rollout.String())
	switch {
	case a.Unschedulable && !a.Node.Spec.Unschedulable:
		return fmt.Sprintf("cordon node %s for %s%s", a.Node.Name, a.Cordoned, text)
	case !a.Unschedulable && a.Node.Spec.Unschedulable:
		return fmt.Sprintf("uncordon node %s%s", a.Node.Name, text)
	case text == "" && a.Node.Annotations[api.AnnotationMaintenance] == "":
		return fmt.Sprintf("mark node %s: no rollout", a.Node.Name)
	case text == "":
		return fmt.Sprintf("mark node %s: no maintenance", a.Node.Name)
	}
	return fmt.Sprintf("mark node %s%s", a.Node.Name, text)
}

// Object implements ClusterAction.
func (a MarkNode) Object() string { return "node/" + a.Node.Name }

// Evict evicts a pod through the Eviction API, which respects PodDisruptionBudgets
// (https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/), or deletes a pod whose containers have
// already ended. EvictDone answers.
type Evict struct {
	Agent   api.AgentID
	Pod     *v1.Pod
	Delete  bool
	Message string // why
}

func (a Evict) String() string {
	verb := "evict"
	if a.Delete {
		verb = "delete"
	}
	return fmt.Sprintf("%s %s/%s: %s", verb, a.Pod.Namespace, a.Pod.Name, a.Message)
}

// Object implements ClusterAction.
func (a Evict) Object() string { return "pod/" + string(a.Pod.UID) }

// MarkReady sets the node's condition Ready while no kubelet runs there.
type MarkReady struct {
	Name  string
	Unfit string // why no minion can run pods there, so that the node is not ready; "" for ready
}

func (a MarkReady) String() string {
	if a.Unfit != "" {
		return "mark node " + a.Name + " not ready: " + a.Unfit
	}
	return "mark node " + a.Name + " ready"
}

// Object implements ClusterAction.
func (a MarkReady) Object() string { return "node/" + a.Name }

// RenewLease renews the node's lease unless its kubelet does.
type RenewLease struct {
	Name string
	// Minion says that a minion runs there. If its kubelet stops renewing the lease, the node has to become NotReady: it
	// may be partitioned, and Kubernetes notices that earlier than Mesos.
	Minion bool
}

func (a RenewLease) String() string { return "renew lease of " + a.Name }

// Object implements ClusterAction.
func (a RenewLease) Object() string { return "lease/" + a.Name }

// DeleteNode deletes the node, and the lease, of an agent that will not come back.
type DeleteNode struct{ Name string }

func (a DeleteNode) String() string { return "delete node " + a.Name }

// Object implements ClusterAction.
func (a DeleteNode) Object() string { return "node/" + a.Name }

// Engine is the Docker Engine on the agents, as an api.MinionConfig has it. The zero value is that at the default address.
type Engine struct{ Host, CertPath string }

// PrepareExecutor creates the record of an agent's executor with a new bootstrap token, or loads that of the one that runs.
// ExecutorReady answers.
type PrepareExecutor struct {
	Framework api.FrameworkID
	Agent     api.AgentID
	Node      string
	Address   string           // of the agent's endpoint; "" if unknown
	Resources offers.Resources // what to charge a new executor
	Engine    Engine           // where the minion finds it
	// MayReplace says that Mesos knows no executor of ours on the agent, so that a new record may replace the old one.
	MayReplace bool
}

func (a PrepareExecutor) String() string {
	return fmt.Sprintf("prepare executor on %s for node %s [%s]", a.Agent, a.Node, a.Resources)
}

// ForgetExecutor deletes the executor's record of an agent that will not come back.
type ForgetExecutor struct{ Agent api.AgentID }

func (a ForgetExecutor) String() string { return fmt.Sprintf("forget executor on %s", a.Agent) }

// Complain tells of something that an operator should fix, in the log and by an event of the cluster about the framework.
type Complain struct {
	Reason, Text string
	Over         bool // it is good again
}

func (a Complain) String() string {
	if a.Over {
		return "no more complaint, " + a.Reason + ": " + a.Text
	}
	return "complain of " + a.Reason + ": " + a.Text
}

// Object implements ClusterAction.
func (a Complain) Object() string { return "framework" }
