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

// Action is something to be done. Its String is for logs and for the tests' scripts.
type Action interface{ String() string }

// MesosAction is an Action that the Master does
// (https://mesos.apache.org/documentation/latest/scheduler-http-api/#calls).
type MesosAction interface {
	Action
	mesosAction()
}

// ClusterAction is an Action that the Cluster does. Actions on one object are done in the order given.
type ClusterAction interface {
	Action
	// Object names what the action is about: actions with equal names keep their order.
	Object() string
}

// Subscribe starts the connection to Mesos. It comes once.
type Subscribe struct{}

func (Subscribe) String() string { return "subscribe" }

// NewTask is a task to be launched: for a pod, or without one to keep the executor up.
type NewTask struct {
	ID        api.TaskID
	Pod       *v1.Pod // nil for none
	Node      string  // whose executor shall stay up, if there is no pod
	Resources offers.Resources
	Ports     []api.PortMapping // of the pod that are published at ports among the resources
}

// Name says for what the task is.
func (t NewTask) Name() string {
	if t.Pod == nil {
		return "warm node " + t.Node
	}
	return t.Pod.Namespace + "/" + t.Pod.Name
}

// Launch accepts all the offers, which are of one agent and role, and launches the tasks in them; what is left of the
// offers shall be offered again at once.
type Launch struct {
	Agent    api.AgentID
	Offers   []api.OfferID
	Executor []byte // the record that ExecutorReady brought
	Tasks    []NewTask
}

func (a Launch) String() string {
	lines := make([]string, len(a.Tasks))
	for i, t := range a.Tasks {
		lines[i] = fmt.Sprintf(" %s %s [%s]", t.ID, t.Name(), t.Resources)
	}
	return fmt.Sprintf("launch on %s in %v:%s", a.Agent, a.Offers, strings.Join(lines, ","))
}

// Decline gives offers back and asks for no such offer for a while.
type Decline struct {
	Offers []api.OfferID
	Refuse time.Duration
}

func (a Decline) String() string { return fmt.Sprintf("decline %v for %s", a.Offers, a.Refuse) }

// Revive ends all that was asked for by Decline.
type Revive struct{}

func (Revive) String() string { return "revive" }

// AnswerInverse accepts or declines an inverse offer; Mesos asks again after Refuse.
type AnswerInverse struct {
	Offer  api.OfferID
	Agent  api.AgentID
	Accept bool
	Refuse time.Duration
	Why    string
	News   bool // it is another reason than that of the agent's last answer
}

func (a AnswerInverse) String() string {
	verb := "decline"
	if a.Accept {
		verb = "accept"
	}
	return fmt.Sprintf("%s inverse offer %s for %s: %s", verb, a.Offer, a.Refuse, a.Why)
}

// Kill asks for the end of a task.
type Kill struct {
	Task  api.TaskID
	Agent api.AgentID
}

func (a Kill) String() string { return fmt.Sprintf("kill %s", a.Task) }

// ShutdownExecutor asks for the end of an executor with all that it runs.
type ShutdownExecutor struct {
	Agent    api.AgentID
	Executor api.ExecutorID
}

func (a ShutdownExecutor) String() string {
	return fmt.Sprintf("shut down %s on %s", a.Executor, a.Agent)
}

// Acknowledge tells Mesos that an update has had its effect and need not be sent again.
type Acknowledge struct {
	Task  api.TaskID
	Agent api.AgentID
	UUID  []byte
}

func (a Acknowledge) String() string { return fmt.Sprintf("acknowledge %s %s", a.Task, a.UUID) }

// TaskRef names a task and the agent that it should be on.
type TaskRef struct {
	Task  api.TaskID
	Agent api.AgentID
}

// Reconcile asks for the states of the tasks; of all that Mesos knows if there are none
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

// PodRef names one incarnation of a pod.
type PodRef struct {
	Key api.PodKey
	UID types.UID
}

// Bind binds a pod to a node and gives it the annotations in the same write. BindDone answers.
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

// Annotate gives a bound pod the annotations of its new task. BindDone answers.
type Annotate struct {
	Task        api.TaskID
	Pod         PodRef
	Annotations map[string]string
}

func (a Annotate) String() string {
	return fmt.Sprintf("annotate %s for %s%s", a.Pod.Key, a.Task, portsText(a.Annotations)+addressText(a.Annotations))
}

// portsText tells which ports a binding publishes.
func portsText(annotations map[string]string) string {
	return with(" with ports ", annotations[api.AnnotationPortMappings])
}

// Object implements ClusterAction.
func (a Annotate) Object() string { return "pod/" + string(a.Pod.UID) }

// Report tells by an event and by the pod's condition PodScheduled why the pod waits.
type Report struct {
	Pod     *v1.Pod
	Message string
}

func (a Report) String() string {
	return fmt.Sprintf("report %s/%s: %s", a.Pod.Namespace, a.Pod.Name, a.Message)
}

// Object implements ClusterAction.
func (a Report) Object() string { return "pod/" + string(a.Pod.UID) }

// PrepareClaims writes the objects that have the claims of a pod bound, or volumes for them made, for the node that was
// chosen for it (https://kubernetes.io/docs/concepts/storage/storage-classes/#volume-binding-mode). ClaimsPrepared answers.
type PrepareClaims struct {
	Pod     PodRef
	Node    string
	Volumes []*v1.PersistentVolume      // with references to their claims
	Claims  []*v1.PersistentVolumeClaim // with the node that their volumes shall be made for
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

// CreateNode makes the node object of an agent.
type CreateNode struct{ Node *v1.Node }

func (a CreateNode) String() string {
	return fmt.Sprintf("create node %s for %s", a.Node.Name, a.Node.Spec.ProviderID)
}

// Object implements ClusterAction.
func (a CreateNode) Object() string { return "node/" + a.Node.Name }

// AmendNode sets labels on a node, of which a nil value removes one, and the address of its agent; and the provider id
// where a kubelet has made the node without one.
type AmendNode struct {
	Name       string
	Labels     map[string]*string
	Address    string // of the agent's endpoint; "" if not known
	ProviderID string // "" if the node has it
}

func (a AmendNode) String() string {
	return strings.TrimRight(fmt.Sprintf("amend node %s: %s %s %s", a.Name, a.Address, labelText(a.Labels), a.ProviderID), " ")
}

// Object implements ClusterAction.
func (a AmendNode) Object() string { return "node/" + a.Name }

// MarkNode makes a node say what is planned for its agent, unless the node has changed meanwhile; then it is decided
// upon again. An empty text takes the annotation away.
type MarkNode struct {
	Node          *v1.Node // as it was seen
	Maintenance   string   // api.AnnotationMaintenance
	Cordoned      string   // api.AnnotationCordoned
	Rollout       api.Rollout
	Failed        bool // the rollout was given up, which is news
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
		return fmt.Sprintf("mark node %s: no rollout has to be told of", a.Node.Name)
	case text == "":
		return fmt.Sprintf("mark node %s: no maintenance is planned", a.Node.Name)
	}
	return fmt.Sprintf("mark node %s%s", a.Node.Name, text)
}

// Object implements ClusterAction.
func (a MarkNode) Object() string { return "node/" + a.Node.Name }

// Evict asks for the end of a pod through the Eviction API, which asks the PodDisruptionBudgets
// (https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/); or deletes it, where its containers have ended
// already. EvictDone answers.
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

// MarkReady sets the node's condition Ready on behalf of the kubelet that does not run there yet.
type MarkReady struct {
	Name  string
	Unfit string // why the node is not ready: no minion can run pods there; "" for a ready one
}

func (a MarkReady) String() string {
	if a.Unfit != "" {
		return "mark node " + a.Name + " not ready: " + a.Unfit
	}
	return "mark node " + a.Name + " ready"
}

// Object implements ClusterAction.
func (a MarkReady) Object() string { return "node/" + a.Name }

// RenewLease renews the node's lease unless its kubelet does so.
type RenewLease struct {
	Name string
	// Minion says that a minion runs there. If its kubelet, having begun to renew the lease, does so no more, the node is to
	// become NotReady: it may be cut off, which Mesos finds out later than Kubernetes.
	Minion bool
}

func (a RenewLease) String() string { return "renew lease of " + a.Name }

// Object implements ClusterAction.
func (a RenewLease) Object() string { return "lease/" + a.Name }

// DeleteNode deletes the node of an agent that is gone for good, and its lease.
type DeleteNode struct{ Name string }

func (a DeleteNode) String() string { return "delete node " + a.Name }

// Object implements ClusterAction.
func (a DeleteNode) Object() string { return "node/" + a.Name }

// PrepareExecutor fetches or makes the record of the executor of an agent and sees to it that the bootstrap token in it
// is valid. ExecutorReady answers.
type PrepareExecutor struct {
	Framework api.FrameworkID
	Agent     api.AgentID
	Node      string
	Address   string           // of the agent's endpoint; "" if not known
	Resources offers.Resources // what a new executor shall be charged
	// MayReplace says that Mesos knows no executor of ours on the agent, so that the record may be made anew.
	MayReplace bool
}

func (a PrepareExecutor) String() string {
	return fmt.Sprintf("prepare executor on %s for node %s [%s]", a.Agent, a.Node, a.Resources)
}

// ForgetExecutor drops the record of the executor of an agent that is gone for good.
type ForgetExecutor struct{ Agent api.AgentID }

func (a ForgetExecutor) String() string { return fmt.Sprintf("forget executor on %s", a.Agent) }

// Complain is something that an operator should know and do something about.
type Complain struct{ Text string }

func (a Complain) String() string { return "complain: " + a.Text }
